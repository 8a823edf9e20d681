#include "pacer.h"

#include <stdlib.h>
#include <string.h>

#define BURST_MS 40.0    /* of the rate may leave at once */
#define MIN_BURST 3000.0 /* bytes: two full packets */

static double cap(const Pacer *pacer)
{
    double bytes = pacer->rate_bps * BURST_MS / 8000;
    return bytes > MIN_BURST ? bytes : MIN_BURST;
}

static void refill(Pacer *pacer, double now_ms)
{
    if (pacer->looked && now_ms > pacer->at_ms) {
        pacer->tokens += (now_ms - pacer->at_ms) * pacer->rate_bps / 8000;
        if (pacer->tokens > cap(pacer))
            pacer->tokens = cap(pacer);
    }
    pacer->looked = true;
    pacer->at_ms = now_ms;
}

bool pacer_waits(const Pacer *pacer)
{
    return pacer->count || pacer->probe.runs;
}

void pacer_set_rate(Pacer *pacer, double rate_bps)
{
    bool was_off = pacer->rate_bps == 0.0;
    pacer->rate_bps = rate_bps > 0.0 ? rate_bps : 0.0;
    if (was_off) {
        pacer->tokens = cap(pacer);
        pacer->looked = false;
    }
}

bool pacer_admits(Pacer *pacer, int size, double now_ms)
{
    if (pacer->count)
        return false;
    if (pacer->rate_bps == 0.0)
        return true;
    refill(pacer, now_ms);
    if (pacer->tokens <= 0)
        return false;
    pacer->tokens -= size;
    return true;
}

bool pacer_put(Pacer *pacer, const Queued *queued)
{
    if (!pacer->queue)
        pacer->queue = malloc(MAX_QUEUE * sizeof *pacer->queue);
    if (!pacer->queue || pacer->count == MAX_QUEUE)
        return false;
    pacer->queue[(pacer->head + pacer->count++) & (MAX_QUEUE - 1)] = *queued;
    return true;
}

bool pacer_affords(Pacer *pacer, double now_ms)
{
    if (pacer->rate_bps == 0.0)
        return true;
    refill(pacer, now_ms);
    return pacer->tokens > -cap(pacer);
}

void pacer_charge(Pacer *pacer, int size, double now_ms)
{
    if (pacer->rate_bps == 0.0)
        return;
    refill(pacer, now_ms);
    pacer->tokens -= size;
    if (pacer->tokens < -cap(pacer))
        pacer->tokens = -cap(pacer);
}

void pacer_look(Pacer *pacer, double now_ms)
{
    if (pacer->rate_bps != 0.0)
        refill(pacer, now_ms);
}

bool pacer_next(Pacer *pacer, Queued *queued)
{
    if (!pacer->count || (pacer->rate_bps != 0.0 && pacer->tokens <= 0))
        return false;
    *queued = pacer->queue[pacer->head];
    pacer->head = (pacer->head + 1) & (MAX_QUEUE - 1);
    pacer->count--;
    pacer->tokens -= queued->packet->size;
    return true;
}

void pacer_forget(Pacer *pacer, const struct Route *route)
{
    for (int i = 0; i < pacer->count; i++) {
        Queued *queued = &pacer->queue[(pacer->head + i) & (MAX_QUEUE - 1)];
        if (queued->route == route)
            queued->route = NULL;
    }
}

void pacer_free(Pacer *pacer, BufferPool *pool)
{
    for (int i = 0; i < pacer->count; i++)
        buffer_drop(pool, pacer->queue[(pacer->head + i) & (MAX_QUEUE - 1)].packet);
    free(pacer->queue);
    memset(pacer, 0, sizeof *pacer);
}
