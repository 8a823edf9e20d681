#include "twcc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "packet.h" /* MAX_PACKET */

#define TICKS_PER_MS 4      /* deltas are multiples of 250 us */
#define REFERENCE_TICKS 256 /* the reference time is a multiple of 64 ms */

enum { NOT_RECEIVED, SMALL_DELTA, LARGE_DELTA };

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

/* Signed distance of two 16-bit numbers, -32768...32767. */
static int distance(uint16_t newer, uint16_t older)
{
    return (int)((newer - older + 0x8000) & 0xFFFF) - 0x8000;
}

/* ------------------------------------------------------------------ Arrivals: the writer */

#define SLOTS 4096         /* must be more than twice MAX_GAP: a duplicate is known while it could be reported again */
#define HISTORY_MS 500.0   /* late packets are reported together with what is known around them */
#define MAX_GAP 2000       /* beyond it the sender has started anew */
#define MAX_STATUS 2000    /* statuses in one message; FEEDBACK_MAX holds them in the worst case: */
#define MAX_DELTAS 400     /* 8 + 2 * (2000 / 7 + 1) + 2 * 400 bytes */
#define NOTHING (-INFINITY)

struct Arrivals {
    int64_t highest; /* unwrapped, -1 = nothing yet */
    int64_t next;    /* first number that no report has covered */
    int64_t late;    /* oldest number that came after it had been reported as lost, -1 = none */
    uint8_t count;   /* of messages */
    /* while a report is being written in several messages */
    bool writing;
    int64_t at, end;
    double ms[SLOTS]; /* of the numbers highest - SLOTS + 1 ... highest; NOTHING = not received or forgotten */
};

static double *arrival(Arrivals *arrivals, int64_t ext)
{
    return &arrivals->ms[ext & (SLOTS - 1)];
}

Arrivals *arrivals_new(void)
{
    Arrivals *arrivals = calloc(1, sizeof *arrivals);
    if (!arrivals)
        return NULL;
    arrivals->highest = arrivals->next = arrivals->late = -1;
    for (int i = 0; i < SLOTS; i++)
        arrivals->ms[i] = NOTHING;
    return arrivals;
}

void arrivals_free(Arrivals *arrivals)
{
    free(arrivals);
}

void arrivals_record(Arrivals *arrivals, uint16_t sequence, double now_ms)
{
    int64_t highest = arrivals->highest;
    int64_t ext;
    if (highest < 0) {
        /* room below, so that a reordered start doesn't become negative */
        ext = (int64_t)sequence + 0x10000;
        arrivals->highest = arrivals->next = ext;
    } else {
        ext = highest + distance(sequence, (uint16_t)highest);
        if (ext > highest) {
            int64_t from = ext - highest >= SLOTS ? ext - SLOTS + 1 : highest + 1;
            for (; from < ext; from++)
                *arrival(arrivals, from) = NOTHING;
            arrivals->highest = ext;
        } else {
            bool held = ext > highest - SLOTS;
            if (held && *arrival(arrivals, ext) > NOTHING)
                return;
            if (ext < arrivals->next && (arrivals->late < 0 || ext < arrivals->late))
                arrivals->late = ext;
            if (!held)
                return; /* too old to be reported */
        }
    }
    *arrival(arrivals, ext) = now_ms;
}

/* Chunks of section 3.1.3 and 3.1.4: runs where they pay, vectors of 1 or 2 bits elsewhere.  Returns bytes written. */
static int write_chunks(const uint8_t *symbols, int size, uint8_t *out)
{
    int written = 0;
    for (int at = 0; at < size; written += 2) {
        int run = 1;
        while (at + run < size && run < 0x1FFF && symbols[at + run] == symbols[at])
            run++;
        if (run >= 7 || at + run == size) {
            put16(out + written, (unsigned)symbols[at] << 13 | (unsigned)run);
            at += run;
            continue;
        }
        int window = size - at < 14 ? size - at : 14;
        unsigned word = 0x8000;
        if (!memchr(symbols + at, LARGE_DELTA, (size_t)window)) {
            for (int i = 0; i < window; i++)
                word |= (unsigned)symbols[at + i] << (13 - i);
            at += 14;
        } else {
            word = 0xC000;
            for (int i = 0; i < window && i < 7; i++)
                word |= (unsigned)symbols[at + i] << (12 - 2 * i);
            at += 7;
        }
        put16(out + written, word);
    }
    return written;
}

/* The next number from `ext` on, below `end`, that was received; `end` if there is none. */
static int64_t next_received(Arrivals *arrivals, int64_t ext, int64_t end)
{
    while (ext < end && !(*arrival(arrivals, ext) > NOTHING))
        ext++;
    return ext;
}

/* One message from arrivals->at on, in which `ext` is the first number received; moves arrivals->at on. */
static int write_message(Arrivals *arrivals, int64_t ext, uint8_t *out)
{
    uint8_t symbols[MAX_STATUS + 1];
    uint8_t deltas[2 * MAX_DELTAS];
    int statuses = 0, delta_bytes = 0, received = 0;
    int64_t base = arrivals->at, at = base;
    int64_t reference = (int64_t)(*arrival(arrivals, ext) * TICKS_PER_MS) >> 8;
    int64_t tick = reference * REFERENCE_TICKS;

    while (ext < arrivals->end) {
        int64_t arrived = (int64_t)(*arrival(arrivals, ext) * TICKS_PER_MS);
        int64_t delta = arrived - tick;
        bool full = statuses + ext - at + 1 > MAX_STATUS || received >= MAX_DELTAS;
        if (received && (full || delta < -32768 || delta > 32767))
            break;
        while (at < ext) {
            symbols[statuses++] = NOT_RECEIVED;
            at++;
        }
        if (delta >= 0 && delta <= 255) {
            symbols[statuses++] = SMALL_DELTA;
            deltas[delta_bytes++] = (uint8_t)delta;
        } else {
            symbols[statuses++] = LARGE_DELTA;
            put16(deltas + delta_bytes, (unsigned)(delta & 0xFFFF));
            delta_bytes += 2;
        }
        tick = arrived;
        at = ext + 1;
        received++;
        ext = next_received(arrivals, at, arrivals->end);
    }
    arrivals->at = at;
    put16(out, (unsigned)(base & 0xFFFF));
    put16(out + 2, (unsigned)statuses);
    out[4] = (uint8_t)(reference >> 16);
    out[5] = (uint8_t)(reference >> 8);
    out[6] = (uint8_t)reference;
    out[7] = arrivals->count++;
    int size = 8 + write_chunks(symbols, statuses, out + 8);
    memcpy(out + size, deltas, (size_t)delta_bytes);
    size += delta_bytes;
    while (size % 4)
        out[size++] = 0;
    return size;
}

int arrivals_take(Arrivals *arrivals, double now_ms, uint8_t *out)
{
    if (!arrivals->writing) {
        int64_t start = arrivals->next, end = arrivals->highest + 1;
        if (arrivals->late >= 0 && arrivals->late < start)
            start = arrivals->late;
        arrivals->late = -1;
        if (start >= end)
            return 0;
        if (start < end - MAX_GAP)
            start = end - MAX_GAP;
        int64_t first = next_received(arrivals, start, end);
        arrivals->at = first - start > MAX_GAP / 2 ? first : start;
        arrivals->end = end;
        arrivals->writing = true;
    }
    int64_t ext = next_received(arrivals, arrivals->at, arrivals->end);
    if (ext < arrivals->end)
        return write_message(arrivals, ext, out);

    /* all is reported; forget what is too old to be reported once more beside a late packet */
    arrivals->writing = false;
    arrivals->next = arrivals->end;
    for (int64_t old = arrivals->end - SLOTS; old < arrivals->end; old++)
        if (old < arrivals->end - MAX_GAP || *arrival(arrivals, old) < now_ms - HISTORY_MS)
            *arrival(arrivals, old) = NOTHING;
    return 0;
}

/* ------------------------------------------------------------------ History: the reader */

#define GROUP_MS 5.0 /* packets of one frame leave together and queue behind each other: one measurement */

enum { EMPTY, OUTSTANDING, LOST, RECEIVED };

typedef struct {
    double send_ms;
    int32_t size, cluster;
    uint16_t number;
    uint8_t state;
} Sent;

struct History {
    bool referenced;
    int64_t reference; /* unwrapped, of the newest feedback */
    int32_t newest;    /* newest number that is in a group, -1 = none */
    double first_ms;   /* the open group: when its first packet left */
    Group open;
    Sent sent[HISTORY_SIZE];
};

History *history_new(void)
{
    History *history = calloc(1, sizeof *history);
    if (history)
        history->newest = -1;
    return history;
}

void history_free(History *history)
{
    free(history);
}

void history_record(History *history, uint16_t number, double send_ms, int size, int cluster)
{
    history->sent[number & (HISTORY_SIZE - 1)] = (Sent){
        .send_ms = send_ms, .size = size, .cluster = cluster, .number = number, .state = OUTSTANDING};
}

static Sent *sent_with(History *history, uint16_t number)
{
    Sent *sent = &history->sent[number & (HISTORY_SIZE - 1)];
    return sent->state != EMPTY && sent->number == number ? sent : NULL;
}

typedef struct {
    int offset; /* number - base */
    int64_t tick;
} Arrived;

/* The symbol that stands at `place` of a vector chunk; `bits` is 1 or 2. */
static unsigned symbol_in(unsigned word, int place, int bits)
{
    return bits == 2 ? word >> (12 - 2 * place) & 3 : word >> (13 - place) & 1;
}

/* All that was received, in order of number; how many, or -1 for bytes that are no feedback.  Each has a byte
 * of delta at least, so `arrived` needs room for `size`. */
static int read_feedback(const uint8_t *body, int size, Arrived *arrived)
{
    if (size < 8 || size > MAX_PACKET)
        return -1;
    int total = (int)get16(body + 2);
    int delta_at = 8; /* the deltas follow the chunks, so those are walked twice */
    for (int offset = 0; offset < total; delta_at += 2) {
        if (delta_at + 2 > size)
            return -1;
        unsigned word = get16(body + delta_at);
        int run = word & 0x8000 ? (word & 0x4000 ? 7 : 14) : (int)(word & 0x1FFF);
        if (!run)
            return -1;
        offset += run;
    }
    int count = 0;
    int64_t tick = ((int64_t)body[4] << 16 | (int64_t)body[5] << 8 | body[6]) * REFERENCE_TICKS;
    for (int offset = 0, chunk_at = 8; offset < total; chunk_at += 2) {
        unsigned word = get16(body + chunk_at);
        int bits = word & 0x8000 ? (word & 0x4000 ? 2 : 1) : 0; /* 0: a run */
        int run = bits ? 14 / bits : (int)(word & 0x1FFF);
        if (!bits && !(word >> 13 & 3)) { /* a long hole costs nothing */
            offset += run;
            continue;
        }
        for (int place = 0; place < run && offset < total; place++, offset++) {
            unsigned symbol = bits ? symbol_in(word, place, bits) : word >> 13 & 3;
            if (symbol == NOT_RECEIVED)
                continue;
            if (symbol == SMALL_DELTA && delta_at < size) {
                tick += body[delta_at];
                delta_at += 1;
            } else if (symbol == LARGE_DELTA && delta_at + 2 <= size) {
                tick += (int16_t)get16(body + delta_at);
                delta_at += 2;
            } else {
                return -1;
            }
            arrived[count++] = (Arrived){offset, tick};
        }
    }
    return count;
}

static void add_to_cluster(Digest *digest, const Sent *sent, double arrival_ms)
{
    Cluster *cluster = digest->cluster;
    while (cluster < digest->cluster + digest->clusters && cluster->cluster != sent->cluster)
        cluster++;
    if (cluster == digest->cluster + MAX_CLUSTERS)
        return;
    if (cluster == digest->cluster + digest->clusters) {
        digest->clusters++;
        *cluster = (Cluster){sent->cluster, 0, 0, sent->send_ms, sent->send_ms, arrival_ms, arrival_ms};
    }
    cluster->packets++;
    cluster->size += sent->size;
    cluster->first_send_ms = fmin(cluster->first_send_ms, sent->send_ms);
    cluster->last_send_ms = fmax(cluster->last_send_ms, sent->send_ms);
    cluster->first_arrival_ms = fmin(cluster->first_arrival_ms, arrival_ms);
    cluster->last_arrival_ms = fmax(cluster->last_arrival_ms, arrival_ms);
}

/* Takes a packet into the open group; one that began more than GROUP_MS before is given out. */
static void add_to_group(History *history, const Sent *sent, double arrival_ms, Digest *digest)
{
    if (history->newest >= 0) {
        int step = distance(sent->number, (uint16_t)history->newest);
        if (step <= 0 && step > -HISTORY_SIZE)
            return; /* reordered or reported late: its group has been given out */
        if (sent->send_ms - history->first_ms > GROUP_MS) {
            if (digest->groups < MAX_GROUPS)
                digest->group[digest->groups++] = history->open;
            history->open.size = 0;
        }
    }
    if (!history->open.size)
        history->first_ms = sent->send_ms;
    history->newest = sent->number;
    history->open.send_ms = sent->send_ms;
    history->open.arrival_ms = arrival_ms;
    history->open.size += sent->size;
}

int history_acknowledge(History *history, const uint8_t *body, int size, double now_ms, Digest *digest)
{
    Arrived arrived[MAX_PACKET];
    (void)now_ms; /* the receiver's clock says when packets came, ours when they left */
    digest->groups = digest->clusters = digest->received = digest->lost = 0;
    digest->acked_bytes = 0;
    digest->newest_send_ms = 0;
    int count = read_feedback(body, size, arrived);
    if (count < 0)
        return -1;

    /* the reference time has 24 bits of 64 ms: the turn that is nearest to the last feedback's */
    int64_t reference = (int64_t)body[4] << 16 | (int64_t)body[5] << 8 | body[6];
    int64_t known = history->referenced ? history->reference : reference;
    history->reference = known + ((reference - known + 0x800000) & 0xFFFFFF) - 0x800000;
    history->referenced = true;
    int64_t shift = (history->reference - reference) * REFERENCE_TICKS;

    unsigned base = get16(body), total = get16(body + 2);
    for (int i = 0; i < count; i++) {
        Sent *sent = sent_with(history, (uint16_t)(base + (unsigned)arrived[i].offset));
        if (!sent || sent->state == RECEIVED)
            continue;
        sent->state = RECEIVED;
        double arrival_ms = (double)(arrived[i].tick + shift) / TICKS_PER_MS;
        digest->received++;
        digest->acked_bytes += sent->size;
        digest->newest_send_ms = fmax(digest->newest_send_ms, sent->send_ms);
        if (sent->cluster)
            add_to_cluster(digest, sent, arrival_ms);
        add_to_group(history, sent, arrival_ms, digest);
    }
    for (unsigned offset = total > HISTORY_SIZE ? total - HISTORY_SIZE : 0; offset < total; offset++) {
        Sent *sent = sent_with(history, (uint16_t)(base + offset));
        if (sent && sent->state == OUTSTANDING) {
            sent->state = LOST;
            digest->lost++;
        }
    }
    return 0;
}
