/* Packets that wait for an answer of the policy. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static void move(Span *span, const uint8_t *from, const uint8_t *to)
{
    if (span->at)
        span->at = to + (span->at - from);
}

static void append(HeldQueue *queue, Held *held)
{
    held->next = NULL;
    if (queue->last)
        queue->last->next = held;
    else
        queue->first = held;
    queue->last = held;
    queue->count++;
}

bool held_put(HeldQueue *queue, const Packet *packet, bool newest)
{
    Held *held = malloc(sizeof *held + (size_t)packet->size);
    if (!held)
        return false;
    held->packet = *packet;
    held->newest = newest;
    held->restart = false;
    memcpy(held->data, packet->data, (size_t)packet->size);
    Packet *copy = &held->packet;
    copy->data = held->data;
    move(&copy->mid, packet->data, held->data);
    move(&copy->rid, packet->data, held->data);
    move(&copy->repaired_rid, packet->data, held->data);
    move(&copy->descriptor, packet->data, held->data);
    for (int i = 0; i < copy->elements; i++)
        move(&copy->element[i].value, packet->data, held->data);
    append(queue, held);
    return true;
}

bool held_put_restart(HeldQueue *queue, double now_ms)
{
    if (queue->last && queue->last->restart) /* nothing between them */
        return true;
    Held *held = calloc(1, sizeof *held);
    if (!held)
        return false;
    held->restart = true;
    held->packet.arrival_ms = now_ms;
    append(queue, held);
    return true;
}

Held *held_take(HeldQueue *queue)
{
    Held *held = queue->first;
    if (!held)
        return NULL;
    queue->first = held->next;
    if (!queue->first)
        queue->last = NULL;
    queue->count--;
    return held;
}

void held_free(HeldQueue *queue)
{
    for (Held *held; (held = held_take(queue));)
        free(held);
}
