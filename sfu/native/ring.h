/* What was sent lately, for retransmission: a ring indexed by the receiver's number (twin: sfu/ring.py). */
#ifndef LIANXIN_RING_H
#define LIANXIN_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"

#define VIDEO_SLOTS 512 /* powers of two */
#define AUDIO_SLOTS 64

/* One packet as its receiver knows it.  Places are in the payload, -1 = nothing to patch.  A cache line each:
 * with many receivers every slot is cold when its turn comes. */
typedef struct {
    _Alignas(64) Buffer *payload; /* shared by all receivers of a feed; NULL = empty slot */
    Buffer *block;                /* header extensions, NULL = none */
    uint32_t timestamp, stamp_value;
    uint16_t sequence, picture_id, picture_mask;
    int16_t picture_at, tl0_at;
    uint8_t tl0, marker_type; /* marker_type: second byte of the RTP header */
    uint8_t stamp;            /* what was written into the block when it left (Stamp), and which */
    bool stamped_late;        /* paced: the stamp was given when it left, so its bytes are not known here */
    /* when a number of this slot was asked for last */
    uint16_t asked_sequence;
    double asked_ms;
} Sent;

typedef struct {
    int size;
    Sent *slots; /* allocated at the first packet */
} Ring;

void ring_free(Ring *ring, BufferPool *pool);
/* Takes over the references of sent->payload and sent->block. */
void ring_put(Ring *ring, BufferPool *pool, const Sent *sent);
Sent *ring_find(Ring *ring, uint16_t sequence); /* NULL = gone, or never was */
/* A packet with about this number comes soon. */
static inline void ring_expect(const Ring *ring, int64_t sequence)
{
    if (ring->slots)
        __builtin_prefetch(&ring->slots[sequence & (ring->size - 1)], 1);
}
/* False when this number was sent again less than interval_ms ago: it is still on its way. */
bool ring_may_resend(Sent *sent, double now_ms, double interval_ms);

#endif
