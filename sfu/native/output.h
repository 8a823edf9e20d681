/* Datagrams on their way out: gathered per destination, sent by sendmmsg, equal neighbours as one GSO send.
 *
 * The order of one destination's datagrams is kept; destinations are independent.  UDP_SEGMENT (Linux 4.18)
 * wants segments of equal size, of which only the last may be shorter, at most 64 and 65,000 bytes in all. */
#ifndef LIANXIN_OUTPUT_H
#define LIANXIN_OUTPUT_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "packet.h"

#define LATENCY_BUCKETS 12 /* upper bounds in ms: .05 .1 .2 .5 1 2 5 10 20 50 100 inf */

typedef struct Output Output;

/* Where datagrams go; part of a leg.  Zeroed but for the address. */
typedef struct Destination {
    struct sockaddr_in address;
    struct Destination *next; /* of those with something to send */
    int head, tail;           /* slots, valid while queued */
    bool queued;
} Destination;

typedef struct {
    uint64_t datagrams, system_calls, messages; /* messages: sendmmsg entries, so datagrams/messages is GSO's gain */
    uint64_t full, failed;                      /* datagrams that the kernel refused: buffer full, other errors */
    uint64_t latency[LATENCY_BUCKETS];          /* datagrams by ms between arrival at the kernel and our send */
    double latency_sum_ms;
} OutputCounts;

/* fd -1: nothing is sent, `sink` gets every datagram instead (tests, fuzzing).  NULL without memory.
 * gso: ask for it; whether the kernel knows it is found out here. */
typedef void (*OutputSink)(void *context, const uint8_t *data, int size, const struct sockaddr_in *to);
Output *output_new(int fd, bool gso, OutputSink sink, void *context);
void output_free(Output *output);
bool output_has_gso(const Output *output);

/* A slot of SLOT_SIZE bytes, valid until commit or the next reserve.  Flushes when all slots are taken. */
uint8_t *output_reserve(Output *output);
/* The reserved slot's first `size` bytes go to `to`.  arrival_ms: of the packet it copies (the clock of
 * output_flush), 0 = not measured. */
void output_commit(Output *output, Destination *to, int size, double arrival_ms);
/* now_ms: the clock of arrival_ms, for the latency histogram; 0 = read no clock, measure nothing. */
void output_flush(Output *output, double now_ms);
/* A destination that goes away with something queued is sent first. */
void output_forget(Output *output, Destination *to);
const OutputCounts *output_counts(const Output *output);

#endif
