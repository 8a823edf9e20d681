#include "nack.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TRIES 8
#define MAX_AGE_MS 1500.0
#define REORDER_PACKETS 3
#define REORDER_MS 20.0
#define MIN_INTERVAL_MS 40.0
#define FIRST_RTT_MS 60.0
#define MAX_RTT_MS 500.0

#define RESENDS_PER_S 300.0
#define RESEND_BURST 200.0

void nack_init(NackTracker *tracker)
{
    memset(tracker, 0, sizeof *tracker);
    tracker->rtt_ms = FIRST_RTT_MS;
}

void nack_free(NackTracker *tracker)
{
    free(tracker->missing);
    tracker->missing = NULL;
    tracker->count = 0;
}

void nack_gap(NackTracker *tracker, int64_t first, int64_t end, double now_ms)
{
    if (end - first + tracker->count > MAX_MISSING) {
        nack_clear(tracker);
        tracker->overflowed = true;
        return;
    }
    if (!tracker->missing)
        tracker->missing = malloc(MAX_MISSING * sizeof *tracker->missing);
    if (!tracker->missing)
        return;
    for (int64_t ext_seq = first; ext_seq < end; ext_seq++)
        tracker->missing[tracker->count++] = (Missing){ext_seq, now_ms, 0.0, 0};
    tracker->newly_missing = true;
}

static int find(const NackTracker *tracker, int64_t ext_seq)
{
    int low = 0, high = tracker->count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (tracker->missing[middle].ext_seq < ext_seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low < tracker->count && tracker->missing[low].ext_seq == ext_seq ? low : -1;
}

bool nack_found(NackTracker *tracker, int64_t ext_seq, double now_ms)
{
    int at = find(tracker, ext_seq);
    if (at < 0)
        return false;
    Missing state = tracker->missing[at];
    tracker->count--;
    memmove(tracker->missing + at, tracker->missing + at + 1,
            (size_t)(tracker->count - at) * sizeof state);
    if (state.tries == 1) {
        tracker->rtt_ms += (now_ms - state.asked_ms - tracker->rtt_ms) / 4;
    } else if (state.tries > 1) { /* which question was answered is unknown (Karn): perhaps we ask too soon */
        double longer = tracker->rtt_ms * 1.1;
        tracker->rtt_ms = longer < MAX_RTT_MS ? longer : MAX_RTT_MS;
    }
    return true;
}

int nack_due(NackTracker *tracker, int64_t highest, double now_ms, double rtt_ms, uint16_t *asked)
{
    if (!tracker->count)
        return 0;
    /* a little more than a round trip, or we ask again for what is already coming */
    double interval_ms = (rtt_ms != 0.0 ? rtt_ms : tracker->rtt_ms) * 1.2;
    if (interval_ms < MIN_INTERVAL_MS)
        interval_ms = MIN_INTERVAL_MS;
    bool waiting = false;
    int count = 0, kept = 0;
    for (int i = 0; i < tracker->count; i++) {
        Missing state = tracker->missing[i];
        bool ask = true;
        if (state.tries == 0) {
            if (highest - state.ext_seq < REORDER_PACKETS && now_ms - state.since_ms < REORDER_MS) {
                waiting = true;
                ask = false;
            }
        } else if (state.tries >= MAX_TRIES || now_ms - state.since_ms > MAX_AGE_MS) {
            continue; /* given up */
        } else if (now_ms - state.asked_ms < interval_ms) {
            ask = false;
        }
        if (ask) {
            state.asked_ms = now_ms;
            state.tries++;
            asked[count++] = (uint16_t)state.ext_seq;
        }
        tracker->missing[kept++] = state;
    }
    tracker->count = kept;
    tracker->newly_missing = waiting;
    return count;
}

bool nack_take_overflow(NackTracker *tracker)
{
    bool overflowed = tracker->overflowed;
    tracker->overflowed = false;
    return overflowed;
}

void nack_clear(NackTracker *tracker)
{
    tracker->count = 0;
    tracker->newly_missing = false;
}

void budget_init(ResendBudget *budget)
{
    *budget = (ResendBudget){RESEND_BURST, 0.0};
}

bool budget_take(ResendBudget *budget, double now_ms)
{
    double elapsed_ms = now_ms - budget->at_ms;
    if (elapsed_ms > 0.0)
        budget->tokens += elapsed_ms * RESENDS_PER_S / 1000;
    if (budget->tokens > RESEND_BURST)
        budget->tokens = RESEND_BURST;
    budget->at_ms = now_ms;
    if (budget->tokens < 1)
        return false;
    budget->tokens -= 1;
    return true;
}
