/* Transport-wide congestion control (draft-holmer-rmcat-transport-wide-cc-extensions-01), both directions.
 *
 * Arrivals: what a publisher sent us, until it is reported (twin: sfu/twcc.py ArrivalRecorder).
 * History: what we sent a receiver, until it reports (twin: sfu/history.py SendHistory). */
#ifndef LIANXIN_TWCC_H
#define LIANXIN_TWCC_H

#include <stdbool.h>
#include <stdint.h>

#define FEEDBACK_MAX 1400     /* bytes of one feedback message's contents */
#define HISTORY_SIZE 2048     /* packets; a power of two */
#define MAX_GROUPS 512        /* of one digest */
#define MAX_CLUSTERS 4

typedef struct Arrivals Arrivals; /* allocated at the first packet: most receivers send nothing */
Arrivals *arrivals_new(void);     /* NULL without memory */
void arrivals_free(Arrivals *arrivals);
void arrivals_record(Arrivals *arrivals, uint16_t sequence, double now_ms);
/* Writes the next message's contents (what follows the RTCP feedback header) into out[FEEDBACK_MAX], padded
 * to 4 bytes; returns its size, 0 when all is reported.  To be called until it returns 0. */
int arrivals_take(Arrivals *arrivals, double now_ms, uint8_t *out);

typedef struct {
    double send_ms, arrival_ms;
    int64_t size;
} Group;

typedef struct {
    int cluster, packets;
    int64_t size;
    double first_send_ms, last_send_ms, first_arrival_ms, last_arrival_ms;
} Cluster;

typedef struct { /* see sfu/seams.py Digest */
    int groups, clusters;
    int received, lost;
    int64_t acked_bytes;
    double newest_send_ms;
    Group group[MAX_GROUPS];
    Cluster cluster[MAX_CLUSTERS];
} Digest;

typedef struct History History; /* allocated at the first record */
History *history_new(void);
void history_free(History *history);
void history_record(History *history, uint16_t number, double send_ms, int size, int cluster);
/* Reads a receiver's feedback (what follows the RTCP feedback header).  -1 when it is malformed. */
int history_acknowledge(History *history, const uint8_t *body, int size, double now_ms, Digest *digest);

#endif
