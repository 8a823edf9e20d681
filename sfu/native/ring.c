#include "ring.h"

#include <stddef.h>
#include <stdlib.h>

#define NEVER_MS (-1e12)

void ring_free(Ring *ring, BufferPool *pool)
{
    for (int i = 0; ring->slots && i < ring->size; i++) {
        buffer_drop(pool, ring->slots[i].payload);
        buffer_drop(pool, ring->slots[i].block);
    }
    free(ring->slots);
    ring->slots = NULL;
}

static bool allocate(Ring *ring)
{
    ring->slots = aligned_alloc(64, (size_t)ring->size * sizeof *ring->slots);
    for (int i = 0; ring->slots && i < ring->size; i++)
        ring->slots[i] = (Sent){.asked_ms = NEVER_MS};
    return ring->slots;
}

void ring_put(Ring *ring, BufferPool *pool, const Sent *sent)
{
    if (!ring->slots && !allocate(ring)) {
        buffer_drop(pool, sent->payload);
        buffer_drop(pool, sent->block);
        return;
    }
    Sent *slot = &ring->slots[sent->sequence & (ring->size - 1)];
    buffer_drop(pool, slot->payload);
    buffer_drop(pool, slot->block);
    uint16_t asked_sequence = slot->asked_sequence;
    double asked_ms = slot->asked_ms;
    *slot = *sent;
    slot->asked_sequence = asked_sequence;
    slot->asked_ms = asked_ms;
}

Sent *ring_find(Ring *ring, uint16_t sequence)
{
    if (!ring->slots)
        return NULL;
    Sent *slot = &ring->slots[sequence & (ring->size - 1)];
    return slot->payload && slot->sequence == sequence ? slot : NULL;
}

bool ring_may_resend(Sent *sent, double now_ms, double interval_ms)
{
    if (sent->asked_sequence == sent->sequence && now_ms - sent->asked_ms < interval_ms)
        return false;
    sent->asked_sequence = sent->sequence;
    sent->asked_ms = now_ms;
    return true;
}
