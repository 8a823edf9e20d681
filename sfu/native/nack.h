/* Asking publishers for lost packets, and a limit to answering receivers (twin: sfu/nack.py). */
#ifndef LIANXIN_NACK_H
#define LIANXIN_NACK_H

#include <stdbool.h>
#include <stdint.h>

#define MAX_MISSING 256 /* more is no loss but an outage: a key frame mends it */

typedef struct {
    int64_t ext_seq;
    double since_ms, asked_ms;
    int tries;
} Missing;

typedef struct {
    Missing *missing; /* oldest first; allocated at the first gap */
    int count;
    bool newly_missing; /* some were never asked for */
    bool overflowed;
    double rtt_ms; /* learnt from our own questions */
} NackTracker;

void nack_init(NackTracker *tracker);
void nack_free(NackTracker *tracker);
/* Numbers first ... end - 1 have been jumped over. */
void nack_gap(NackTracker *tracker, int64_t first, int64_t end, double now_ms);
/* A late packet came; true if it was missed. */
bool nack_found(NackTracker *tracker, int64_t ext_seq, double now_ms);
/* 16-bit numbers to ask for now, oldest first, into asked[MAX_MISSING]; returns how many.  rtt_ms 0 = unknown. */
int nack_due(NackTracker *tracker, int64_t highest, double now_ms, double rtt_ms, uint16_t *asked);
bool nack_take_overflow(NackTracker *tracker);
void nack_clear(NackTracker *tracker);

typedef struct {
    double tokens, at_ms;
} ResendBudget;

void budget_init(ResendBudget *budget);
bool budget_take(ResendBudget *budget, double now_ms);

#endif
