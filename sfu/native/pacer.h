/* Spreading one leg's video over time (twin: sfu/pacer.py): a token bucket in bytes of plain RTP. */
#ifndef LIANXIN_PACER_H
#define LIANXIN_PACER_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"

#define RELEASE_MS 5.0      /* between two looks while anything waits */
#define MAX_QUEUE 512       /* packets; a key frame of 4 Mbit/s has 100; a power of two */
#define MAX_STEP_MS 20.0    /* a late look must not turn a probe into a burst */
#define PROBE_PADDING 255   /* bytes, the most that RFC 3550 5.1 can say */

struct Route;

typedef struct {
    struct Route *route; /* NULL = it has gone meanwhile */
    Buffer *packet;      /* plain, without its transport-wide number */
    double arrival_ms;
    uint16_t start;      /* of the payload */
    uint8_t stamp;       /* what is written into its block when it leaves (Stamp) */
} Queued;

typedef struct { /* padding that asks the line whether it carries more */
    bool runs, looked; /* looked: at_ms is set */
    int cluster;
    double rate_bps, left, credit, at_ms;
} Probe;

typedef struct { /* all zero = off, empty */
    double rate_bps, tokens, at_ms;
    bool looked; /* at_ms is set */
    Queued *queue; /* allocated when something waits for the first time */
    int head, count;
    Probe probe;
} Pacer;

bool pacer_waits(const Pacer *pacer);
void pacer_set_rate(Pacer *pacer, double rate_bps);
/* True when a packet may leave at once; its tokens are taken. */
bool pacer_admits(Pacer *pacer, int size, double now_ms);
/* Takes over the reference to queued->packet.  False (and untouched): the queue is full. */
bool pacer_put(Pacer *pacer, const Queued *queued);
/* May something be sent again?  Before what waits, but no faster than the rate. */
bool pacer_affords(Pacer *pacer, double now_ms);
/* A retransmission has left: it doesn't wait, but the line has to carry it. */
void pacer_charge(Pacer *pacer, int size, double now_ms);
/* To be called before a row of pacer_next. */
void pacer_look(Pacer *pacer, double now_ms);
/* The next packet that is due; the caller drops its reference.  False: nothing is. */
bool pacer_next(Pacer *pacer, Queued *queued);
/* Packets of a route that goes away. */
void pacer_forget(Pacer *pacer, const struct Route *route);
void pacer_free(Pacer *pacer, BufferPool *pool);

#endif
