#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "events.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A record is an EventHead and its data, rounded up so that the next head is aligned.  Records never
 * straddle the end: what does not fit there is left out, and `wrap` remembers where.
 *
 *     |  free  | tail ... records ... head |  free  |        |... head | free | tail ... wrap | free |
 */
#ifndef RING_SIZE /* fuzzers take a smaller one */
#define RING_SIZE (4u << 20)
#endif
#define ALIGNMENT 8u

/* Who fills the ring must not keep out what matters more, nor let it wait for long: taps are many, strangers
 * are unknown, and one client can send as many reports as it likes. */
enum { STRANGERS, CLIENTS, TAPS, OURS, SHARES };
static const uint32_t share[SHARES] = {
    [STRANGERS] = RING_SIZE / 8, [CLIENTS] = RING_SIZE / 4, [TAPS] = RING_SIZE / 2, [OURS] = RING_SIZE / 8};

static int share_of(uint8_t kind)
{
    switch (kind) {
    case EVENT_STUN:
    case EVENT_DTLS: return STRANGERS;
    case EVENT_RTCP: return CLIENTS;
    case EVENT_TAP: return TAPS;
    default: return OURS;
    }
}

struct Events {
    uint8_t *ring;
    uint32_t head, tail; /* where the next record goes, where the oldest one is */
    uint32_t wrap;       /* end of the records above tail, while head is below it */
    uint32_t used;       /* bytes of records, the one that was handed out included */
    uint32_t given;      /* size of the record that the reader still looks at */
    uint32_t *given_of;  /* whose share it is taken from */
    uint32_t used_by[SHARES];
    int fd;
    bool signalled;
    uint64_t lost;
};

Events *events_new(void)
{
    Events *events = calloc(1, sizeof *events);
    if (!events)
        return NULL;
    events->ring = malloc(RING_SIZE); /* untouched pages cost nothing */
    events->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!events->ring || events->fd < 0) {
        events_free(events);
        return NULL;
    }
    return events;
}

void events_free(Events *events)
{
    if (!events)
        return;
    if (events->fd >= 0)
        close(events->fd);
    free(events->ring);
    free(events);
}

int events_fd(const Events *events)
{
    return events->fd;
}

uint64_t events_lost(const Events *events)
{
    return events->lost;
}

/* Where a record of `size` bytes fits, or -1. */
static int64_t place_for(Events *events, uint32_t size)
{
    if (!events->used) {
        events->head = events->tail = 0;
        return 0;
    }
    if (events->head < events->tail)
        return events->tail - events->head >= size ? (int64_t)events->head : -1;
    if (events->head == events->tail) /* full to the last byte */
        return -1;
    if (RING_SIZE - events->head >= size)
        return events->head;
    if (events->tail < size)
        return -1;
    events->wrap = events->head;
    events->head = 0;
    return 0;
}

bool events_push(Events *events, const EventHead *head, const uint8_t *data)
{
    if (head->size > RING_SIZE / 4) {
        events->lost++;
        return false;
    }
    uint32_t size = ((uint32_t)sizeof *head + head->size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    int whose = share_of(head->kind);
    int64_t at = events->used_by[whose] + size > share[whose] ? -1 : place_for(events, size);
    if (at < 0) {
        events->lost++;
        return false;
    }
    memcpy(events->ring + at, head, sizeof *head);
    if (head->size)
        memcpy(events->ring + at + sizeof *head, data, head->size);
    events->head = (uint32_t)at + size;
    events->used += size;
    events->used_by[whose] += size;
    if (!events->signalled) {
        uint64_t one = 1;
        events->signalled = write(events->fd, &one, sizeof one) == (ssize_t)sizeof one;
    }
    return true;
}

const EventHead *events_pop(Events *events, const uint8_t **data)
{
    if (events->given) {
        events->used -= events->given;
        *events->given_of -= events->given;
        events->tail += events->given;
        events->given = 0;
    }
    if (!events->used) {
        if (events->signalled) {
            uint64_t count;
            if (read(events->fd, &count, sizeof count) == (ssize_t)sizeof count)
                events->signalled = false;
        }
        return NULL;
    }
    if (events->wrap && events->tail == events->wrap) {
        events->tail = 0;
        events->wrap = 0;
    }
    const EventHead *head = (const EventHead *)(const void *)(events->ring + events->tail);
    events->given = ((uint32_t)sizeof *head + head->size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    events->given_of = &events->used_by[share_of(head->kind)];
    *data = events->ring + events->tail + sizeof *head;
    return head;
}
