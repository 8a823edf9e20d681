/* What the relay tells the policy above it: a bounded ring of records, and a descriptor to wait on.
 *
 * Written by the relay's thread, read by Python, both under the relay's lock.  Subjects are ids, not
 * pointers: a leg may be gone when its record is read. */
#ifndef LIANXIN_EVENTS_H
#define LIANXIN_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    EVENT_STUN = 1,  /* data; from */
    EVENT_DTLS,      /* data; from */
    EVENT_RTCP,      /* subject: leg; data: the decrypted compound without the NACKs that were answered here */
    EVENT_RESOLVE,   /* subject: leg; data: FirstPacket; packets of this SSRC are held until leg_release() */
    EVENT_ALIVE,     /* subject: feed; number: payload type; its packets are held until feed_release() */
    EVENT_KEY_FRAME, /* subject: feed */
    EVENT_RESTART,   /* subject: feed */
    EVENT_LOST,      /* subject: feed: more is missing than retransmission can mend */
    EVENT_TAP,       /* subject: route; data: a plain RTP packet */
} EventKind;

typedef struct {
    uint8_t kind;
    uint8_t number;
    uint16_t port; /* host order */
    uint32_t ip;   /* host order */
    uint64_t subject;
    double now_ms;
    uint32_t size; /* bytes of data that follow */
} EventHead;

/* Data of EVENT_RESOLVE. */
typedef struct {
    uint32_t ssrc;
    uint8_t payload_type;
    uint8_t mid_size, rid_size, repaired_rid_size;
    uint8_t mid[16], rid[16], repaired_rid[16]; /* longer ones are cut: they name nobody */
} FirstPacket;

typedef struct Events Events;
Events *events_new(void); /* NULL without memory or descriptor */
void events_free(Events *events);
int events_fd(const Events *events); /* readable while records wait; an eventfd */
/* False when the ring or its kind's share is full: STUN and DTLS an eighth, RTCP a quarter, taps a half. */
bool events_push(Events *events, const EventHead *head, const uint8_t *data);
/* The oldest record: NULL when there is none.  The data is contiguous and valid until the next call. */
const EventHead *events_pop(Events *events, const uint8_t **data);
uint64_t events_lost(const Events *events);

#endif
