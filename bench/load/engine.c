/* See engine.h.  One lock guards everything; the engine's thread holds it during a tick only. */
#define _GNU_SOURCE
#include "engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64
#define ROOM 2048
#define MAX_HEARD 128          /* SSRCs that one leg may hear; a power of two, kept half empty */
#define ARRIVALS 4096          /* transport-wide numbers remembered until the next feedback */
#define FEEDBACK_NS 100000000ull
#define REPORT_NS 1000000000ull
#define CONSENT_NS 5000000000ull
#define NTP_OFFSET 2208988800ull
#define STAMP 16               /* last bytes of a video payload: magic and the time of sending */
static const char MAGIC[8] = "lxbench";

typedef struct {
    uint32_t ssrc;
    int used;
    uint32_t first, highest;   /* extended sequence numbers */
    uint64_t received;
    uint32_t last_sr;          /* middle of the NTP time of the last sender report */
    uint64_t last_sr_ns;
    uint64_t expected_before, received_before; /* at the last receiver report */
} heard;

typedef struct {
    int fd;
    srtp_sessions srtp;
    uint8_t consent[256];
    int consent_size, twcc_id, rtx_pt;
    uint64_t next_consent, next_feedback, next_report;
    uint16_t twcc_out;         /* of what this leg sends */
    /* arrivals of the server's transport-wide numbers since the last feedback; 0 = not come */
    uint64_t arrivals[ARRIVALS];
    uint32_t twcc_next, twcc_highest; /* extended */
    int twcc_begun;
    uint8_t feedback_count;
    uint32_t own_ssrc;         /* in reports */
    unsigned since_sample;
    heard streams[MAX_HEARD];
    leg_counts counts;
} leg;

typedef struct {
    int leg, on, key;
    stream_spec spec;
    uint16_t sequence, picture;
    uint32_t timestamp;
    uint64_t frame, next_ns, packets, octets;
    int at;                    /* packets of the current frame that are out */
} stream;

struct engine {
    srtp_calls calls;
    pthread_mutex_t lock;
    volatile int stopping;
    int tick_us;
    unsigned sample_every;
    leg **legs;
    stream *streams;
    int leg_count, stream_count;
    load_counts counts;
    uint32_t delays[DELAY_BUCKETS];
    uint64_t began_ns;
    int used;                  /* of the following, by the last call */
    struct mmsghdr heads[BATCH];
    struct iovec vectors[BATCH];
    uint8_t buffers[BATCH][ROOM];
    uint8_t controls[BATCH][CMSG_SPACE(sizeof(struct timespec))];
};

static uint64_t clock_ns(clockid_t which) {
    struct timespec now;
    clock_gettime(which, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void put16(uint8_t *at, uint32_t v) { at[0] = (uint8_t)(v >> 8); at[1] = (uint8_t)v; }
static void put32(uint8_t *at, uint32_t v) { put16(at, v >> 16); put16(at + 2, v & 0xFFFF); }
static uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }
static uint32_t get32(const uint8_t *at) { return get16(at) << 16 | get16(at + 2); }

/* The extended number nearest to `near` with these low 16 bits. */
static uint32_t extend(uint32_t low, uint32_t near) {
    return near + (uint32_t)(int32_t)(int16_t)(uint16_t)(low - near);
}

/* ------------------------------------------------------------------ set-up */

engine *load_new(const srtp_calls *calls, int tick_us, int sample_every) {
    engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->calls = *calls;
    e->tick_us = tick_us;
    e->sample_every = sample_every > 0 ? (unsigned)sample_every : 0;
    e->used = BATCH;
    pthread_mutex_init(&e->lock, NULL);
    for (int i = 0; i < BATCH; i++) {
        e->vectors[i].iov_base = e->buffers[i];
        e->heads[i].msg_hdr.msg_iov = &e->vectors[i];
        e->heads[i].msg_hdr.msg_iovlen = 1;
    }
    return e;
}

void load_free(engine *e) {
    for (int i = 0; i < e->leg_count; i++) free(e->legs[i]);
    free(e->legs);
    free(e->streams);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

int load_add_leg(engine *e, int fd, const srtp_sessions *srtp, const void *consent, int consent_size,
                 int twcc_id, int rtx_payload_type) {
    int on = 1, index = -1;
    leg *l = calloc(1, sizeof *l);
    if (!l || consent_size > (int)sizeof l->consent) { free(l); return -1; }
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    l->fd = fd;
    l->srtp = *srtp;
    memcpy(l->consent, consent, (size_t)consent_size);
    l->consent_size = consent_size;
    l->twcc_id = twcc_id;
    l->rtx_pt = rtx_payload_type;
    pthread_mutex_lock(&e->lock);
    leg **grown = realloc(e->legs, (size_t)(e->leg_count + 1) * sizeof *grown);
    if (grown) {
        e->legs = grown;
        index = e->leg_count++;
        e->legs[index] = l;
        l->own_ssrc = 0x10000u + (uint32_t)index;
        /* spread, so that a thousand legs do not all report in one tick */
        uint64_t now = clock_ns(CLOCK_MONOTONIC), spread = (uint64_t)index * 7919000ull;
        l->next_consent = now + spread % CONSENT_NS;
        l->next_feedback = now + spread % FEEDBACK_NS;
        l->next_report = now + spread % REPORT_NS;
    } else free(l);
    pthread_mutex_unlock(&e->lock);
    return index;
}

int load_add_stream(engine *e, int on_leg, const stream_spec *spec) {
    int index = -1;
    if (spec->size > ROOM - 200 || spec->size < 64) return -1;
    pthread_mutex_lock(&e->lock);
    stream *grown = realloc(e->streams, (size_t)(e->stream_count + 1) * sizeof *grown);
    if (grown && on_leg >= 0 && on_leg < e->leg_count) {
        e->streams = grown;
        index = e->stream_count++;
        stream *s = &grown[index];
        memset(s, 0, sizeof *s);
        s->leg = on_leg;
        s->spec = *spec;
        s->sequence = (uint16_t)(spec->ssrc * 31);
        s->timestamp = spec->ssrc * 7919;
        s->key = 1;
        e->legs[on_leg]->own_ssrc = spec->ssrc;
    }
    pthread_mutex_unlock(&e->lock);
    return index;
}

void load_set_stream(engine *e, int index, int on) {
    pthread_mutex_lock(&e->lock);
    stream *s = &e->streams[index];
    if (on && !s->on) s->next_ns = clock_ns(CLOCK_MONOTONIC) + (uint64_t)s->spec.phase_us * 1000;
    s->on = on;
    s->at = 0;
    s->key = 1;
    pthread_mutex_unlock(&e->lock);
}

/* ------------------------------------------------------------------ sending */

/* One plain packet of a stream; its length. */
static int write_packet(engine *e, stream *s, uint8_t *out) {
    const stream_spec *k = &s->spec;
    leg *l = e->legs[s->leg];
    int first = s->at == 0, last = s->at == k->packets_per_frame - 1;
    uint8_t *at = out + 16, *block = at;
    out[0] = 0x90;
    out[1] = (uint8_t)(k->payload_type | (last && k->video ? 0x80 : 0));
    put16(out + 2, s->sequence++);
    put32(out + 4, s->timestamp);
    put32(out + 8, k->ssrc);
    put16(out + 12, 0xBEDE);
    if (k->mid_id) {
        size_t n = strlen(k->mid);
        *at++ = (uint8_t)(k->mid_id << 4 | (int)(n - 1));
        memcpy(at, k->mid, n);
        at += n;
    }
    if (k->twcc_id) {
        *at++ = (uint8_t)(k->twcc_id << 4 | 1);
        put16(at, l->twcc_out++);
        at += 2;
    }
    if (k->level_id) {
        *at++ = (uint8_t)(k->level_id << 4);
        *at++ = 0x80 | 35; /* voice, -35 dBov */
    }
    while ((at - block) % 4) *at++ = 0;
    put16(out + 14, (uint32_t)(at - block) / 4);
    if (k->video) { /* VP8 payload descriptor with picture id, TL0PICIDX and temporal layer (RFC 7741) */
        *at++ = first ? 0x90 : 0x80;
        *at++ = 0xE0;
        put16(at, 0x8000u | (s->picture & 0x7FFF));
        at[2] = (uint8_t)s->picture;
        at[3] = 0;
        at += 4;
        if (first && s->key) {
            static const uint8_t key[] = {0x10, 0, 0, 0x9d, 0x01, 0x2a, 0, 5, 0xd0, 2}; /* 1280x720 */
            memcpy(at, key, sizeof key);
            at += sizeof key;
        } else *at++ = first ? 0x11 : 0x55;
    }
    memset(at, 0xA5, (size_t)(out + k->size - at));
    uint8_t *stamp = out + k->size - STAMP;
    uint64_t now = clock_ns(CLOCK_REALTIME);
    memcpy(stamp, MAGIC, 8);
    memcpy(stamp + 8, &now, 8);
    s->packets++;
    s->octets += (uint64_t)k->size;
    if (last) {
        if (k->video) { s->picture++; s->key = 0; }
        s->timestamp += k->video ? 90000u / (uint32_t)k->frames_per_s : 48000u / (uint32_t)k->frames_per_s;
        s->frame++;
        if (k->video && k->key_every && s->frame % (uint64_t)k->key_every == 0) s->key = 1;
    }
    return k->size;
}

static void send_due(engine *e, stream *s, uint64_t now) {
    leg *l = e->legs[s->leg];
    const stream_spec *k = &s->spec;
    uint64_t frame_ns = 1000000000ull / (uint64_t)k->frames_per_s;
    if (now > s->next_ns + 4 * frame_ns) s->next_ns = now; /* we were late: no flood afterwards */
    while (s->next_ns <= now) {
        int n = 0;
        while (n < BATCH && s->next_ns <= now) {
            int size = write_packet(e, s, e->buffers[n]);
            if (e->calls.protect(l->srtp.send, e->buffers[n], &size)) { e->counts.send_failures++; }
            e->vectors[n++].iov_len = (size_t)size;
            if (++s->at == k->packets_per_frame) {
                s->at = 0;
                s->next_ns += frame_ns - (uint64_t)k->gap_us * 1000 * (uint64_t)(k->packets_per_frame - 1);
            } else s->next_ns += (uint64_t)k->gap_us * 1000;
        }
        for (int i = 0; i < n; i++) { e->heads[i].msg_hdr.msg_control = NULL; e->heads[i].msg_hdr.msg_controllen = 0; }
        if (n > e->used) e->used = n;
        int out = sendmmsg(l->fd, e->heads, (unsigned)n, 0);
        e->counts.sent += (uint64_t)n;
        if (out < n) e->counts.send_failures += (uint64_t)(n - (out < 0 ? 0 : out));
    }
}

/* ------------------------------------------------------------------ receiving */

static heard *find(leg *l, uint32_t ssrc) {
    for (uint32_t i = 0, at = ssrc * 2654435761u >> 25; i < MAX_HEARD; i++, at = (at + 1) % MAX_HEARD) {
        heard *h = &l->streams[at];
        if (h->used && h->ssrc == ssrc) return h;
        if (!h->used) {
            if (l->counts.streams >= MAX_HEARD / 2) return NULL;
            h->used = 1;
            h->ssrc = ssrc;
            l->counts.streams++;
            return h;
        }
    }
    return NULL;
}

/* The value of a one-byte header extension (RFC 8285), or NULL. */
static const uint8_t *extension(const uint8_t *p, int size, int id) {
    int at = 12 + 4 * (p[0] & 15);
    if (!(p[0] & 0x10) || size < at + 4 || get16(p + at) != 0xBEDE) return NULL;
    int end = at + 4 + 4 * (int)get16(p + at + 2);
    if (end > size) return NULL;
    for (at += 4; at < end;) {
        if (!p[at]) { at++; continue; }
        int n = (p[at] & 15) + 1;
        if (at + 1 + n > end) return NULL;
        if (p[at] >> 4 == id) return p + at + 1;
        at += 1 + n;
    }
    return NULL;
}

static void note_arrival(leg *l, uint32_t number, uint64_t when) {
    if (!l->twcc_begun) {
        l->twcc_begun = 1;
        l->twcc_next = l->twcc_highest = 0x10000u + number;
    }
    uint32_t full = extend(number, l->twcc_highest);
    if ((int32_t)(full - l->twcc_highest) > 0) {
        if (full - l->twcc_next >= ARRIVALS) { /* a jump: begin anew */
            memset(l->arrivals, 0, sizeof l->arrivals);
            l->twcc_next = full;
        }
        l->twcc_highest = full;
    }
    if ((int32_t)(full - l->twcc_next) >= 0) l->arrivals[full % ARRIVALS] = when;
}

static void receive_rtp(engine *e, leg *l, uint8_t *p, int size, uint64_t when) {
    if (size < 12) return;
    int payload_type = p[1] & 127;
    const uint8_t *twcc = l->twcc_id ? extension(p, size, l->twcc_id) : NULL;
    if (twcc) note_arrival(l, get16(twcc), when);
    if (payload_type == l->rtx_pt) { l->counts.rtx++; e->counts.rtx++; return; }
    heard *h = find(l, get32(p + 8));
    if (!h) return;
    uint32_t sequence = get16(p + 2);
    if (!h->received) h->first = h->highest = 0x10000u + sequence;
    uint32_t full = extend(sequence, h->highest);
    if ((int32_t)(full - h->highest) > 0) h->highest = full;
    h->received++;
    l->counts.received++;
    l->counts.bytes += (uint64_t)size;
    e->counts.received++;
    e->counts.bytes += (uint64_t)size;
    if (!e->sample_every || ++l->since_sample < e->sample_every) return;
    l->since_sample = 0;
    if (e->calls.unprotect(l->srtp.receive, p, &size)) { l->counts.undecryptable++; e->counts.undecryptable++; return; }
    l->counts.decrypted++;
    e->counts.decrypted++;
    if (size > 12 + STAMP && !memcmp(p + size - STAMP, MAGIC, 8)) {
        uint64_t sent;
        memcpy(&sent, p + size - 8, 8);
        uint64_t step = when > sent ? (when - sent) / DELAY_STEP_NS : 0;
        e->delays[step < DELAY_BUCKETS ? step : DELAY_BUCKETS - 1]++;
    }
}

static void receive_rtcp(engine *e, leg *l, uint8_t *p, int size, uint64_t now) {
    l->counts.rtcp++;
    e->counts.rtcp_in++;
    if (e->calls.unprotect_rtcp(l->srtp.receive_rtcp, p, &size)) { l->counts.undecryptable++; e->counts.undecryptable++; return; }
    for (int at = 0; at + 8 <= size;) {
        int type = p[at + 1], format = p[at] & 31, length = 4 * ((int)get16(p + at + 2) + 1);
        if (at + length > size) return;
        if (type == 200 && length >= 28) {
            heard *h = find(l, get32(p + at + 4));
            if (h) { h->last_sr = get32(p + at + 8) << 16 | get32(p + at + 12) >> 16; h->last_sr_ns = now; }
        } else if (type == 206 && (format == 1 || format == 4) && length >= 12) {
            e->counts.plis++;
            uint32_t media = get32(p + at + 8);
            if (format == 4 && length >= 20) media = get32(p + at + 12);
            for (int i = 0; i < e->stream_count; i++)
                if (e->streams[i].spec.ssrc == media && e->legs[e->streams[i].leg] == l && !e->streams[i].at)
                    e->streams[i].key = 1;
        } else if (type == 205 && format == 1) e->counts.nacks++;
        at += length;
    }
}

static void drain(engine *e, leg *l, uint64_t now) {
    for (;;) {
        /* only what the last call has used: most sockets of a thousand silent legs are empty */
        for (int i = 0; i < e->used; i++) {
            e->vectors[i].iov_len = ROOM;
            e->heads[i].msg_hdr.msg_control = e->controls[i];
            e->heads[i].msg_hdr.msg_controllen = sizeof e->controls[i];
        }
        int n = recvmmsg(l->fd, e->heads, BATCH, MSG_DONTWAIT, NULL);
        e->used = n > 0 ? n : 0;
        for (int i = 0; i < n; i++) {
            uint8_t *p = e->buffers[i];
            int size = (int)e->heads[i].msg_len;
            if (size < 8 || p[0] < 128 || p[0] > 191) continue; /* answers to our STUN checks */
            if (p[1] >= 192 && p[1] <= 223) { receive_rtcp(e, l, p, size, now); continue; }
            struct cmsghdr *c = CMSG_FIRSTHDR(&e->heads[i].msg_hdr);
            struct timespec when = {0, 0};
            if (c && c->cmsg_type == SO_TIMESTAMPNS) memcpy(&when, CMSG_DATA(c), sizeof when);
            uint64_t arrival = (uint64_t)when.tv_sec * 1000000000ull + (uint64_t)when.tv_nsec;
            receive_rtp(e, l, p, size, arrival ? arrival : clock_ns(CLOCK_REALTIME));
        }
        if (n < BATCH) return;
    }
}

/* ------------------------------------------------------------------ reports */

static void send_rtcp(engine *e, leg *l, uint8_t *p, int size) {
    if (e->calls.protect_rtcp(l->srtp.send_rtcp, p, &size)) return;
    (void)!send(l->fd, p, (size_t)size, MSG_DONTWAIT);
}

/* draft-holmer-rmcat-transport-wide-cc-extensions-01: 2-bit vectors, or a run where it is shorter. */
static void send_feedback(engine *e, leg *l) {
    uint8_t p[ROOM], deltas[1400];
    while (l->twcc_begun && (int32_t)(l->twcc_highest + 1 - l->twcc_next) > 0) {
        uint32_t base = l->twcc_next, count = l->twcc_highest + 1 - base;
        if (count > 600) count = 600;
        uint8_t symbols[600];
        int64_t reference = -1, last = 0;
        int filled = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint64_t *when = &l->arrivals[(base + i) % ARRIVALS];
            if (!*when) { symbols[i] = 0; continue; }
            int64_t tick = (int64_t)(*when / 250000);
            *when = 0;
            if (reference < 0) { reference = tick / 256; last = reference * 256; }
            int64_t delta = tick - last;
            if (delta < -32768 || delta > 32767) { count = i; break; } /* the rest has its own reference */
            last = tick;
            if (delta >= 0 && delta < 256) { symbols[i] = 1; deltas[filled++] = (uint8_t)delta; }
            else { symbols[i] = 2; put16(deltas + filled, (uint32_t)(delta & 0xFFFF)); filled += 2; }
        }
        l->twcc_next = base + (count ? count : 1);
        if (reference < 0) continue;
        put32(p + 4, l->own_ssrc);
        put32(p + 8, l->own_ssrc);
        put16(p + 12, base & 0xFFFF);
        put16(p + 14, count);
        put32(p + 16, (uint32_t)(reference & 0xFFFFFF) << 8 | l->feedback_count++);
        int at = 20;
        for (uint32_t i = 0; i < count;) {
            uint32_t run = 1;
            while (i + run < count && symbols[i + run] == symbols[i]) run++;
            if (run >= 7) { put16(p + at, (uint32_t)symbols[i] << 13 | run); i += run; }
            else {
                uint32_t chunk = 0xC000;
                for (uint32_t k = 0; k < 7 && i + k < count; k++) chunk |= (uint32_t)symbols[i + k] << (12 - 2 * k);
                put16(p + at, chunk);
                i += 7;
            }
            at += 2;
        }
        memcpy(p + at, deltas, (size_t)filled);
        at += filled;
        while (at % 4) p[at++] = 0;
        p[0] = 0x80 | 15;
        p[1] = 205;
        put16(p + 2, (uint32_t)at / 4 - 1);
        e->counts.feedback_out++;
        send_rtcp(e, l, p, at);
    }
}

static void count_lost(engine *e, leg *l) {
    uint64_t lost = 0;
    for (int i = 0; i < MAX_HEARD; i++) {
        heard *h = &l->streams[i];
        if (h->used && h->received && h->highest - h->first + 1 > h->received) lost += h->highest - h->first + 1 - h->received;
    }
    e->counts.lost += lost - l->counts.lost;
    l->counts.lost = lost;
}

static void send_reports(engine *e, int index, uint64_t now) {
    leg *l = e->legs[index];
    uint8_t p[ROOM];
    uint64_t wall = clock_ns(CLOCK_REALTIME);
    int sending = 0;
    for (int i = 0; i < e->stream_count; i++) {
        stream *s = &e->streams[i];
        if (s->leg != index || !s->on || !s->packets) continue;
        sending = 1;
        p[0] = 0x80;
        p[1] = 200;
        put16(p + 2, 6);
        put32(p + 4, s->spec.ssrc);
        put32(p + 8, (uint32_t)(wall / 1000000000ull + NTP_OFFSET));
        put32(p + 12, (uint32_t)(((wall % 1000000000ull) << 32) / 1000000000ull));
        put32(p + 16, s->timestamp);
        put32(p + 20, (uint32_t)s->packets);
        put32(p + 24, (uint32_t)s->octets);
        send_rtcp(e, l, p, 28);
    }
    int blocks = 0, at = 8;
    for (int i = 0; i < MAX_HEARD && blocks < 31; i++) {
        heard *h = &l->streams[i];
        if (!h->used || !h->received) continue;
        uint64_t expected = h->highest - h->first + 1;
        uint64_t due = expected - h->expected_before, came = h->received - h->received_before;
        uint32_t fraction = due > came ? (uint32_t)(((due - came) << 8) / due) : 0;
        h->expected_before = expected;
        h->received_before = h->received;
        put32(p + at, h->ssrc);
        put32(p + at + 4, fraction << 24 | (uint32_t)((expected > h->received ? expected - h->received : 0) & 0xFFFFFF));
        put32(p + at + 8, h->highest - 0x10000u);
        put32(p + at + 12, 0);
        put32(p + at + 16, h->last_sr);
        put32(p + at + 20, h->last_sr ? (uint32_t)((now - h->last_sr_ns) * 65536 / 1000000000ull) : 0);
        at += 24;
        blocks++;
    }
    if (blocks || !sending) {
        p[0] = (uint8_t)(0x80 | blocks);
        p[1] = 201;
        put16(p + 2, (uint32_t)at / 4 - 1);
        put32(p + 4, l->own_ssrc);
        send_rtcp(e, l, p, at);
    }
    count_lost(e, l);
}

/* ------------------------------------------------------------------ the thread */

static void tick(engine *e) {
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < e->stream_count; i++)
        if (e->streams[i].on) send_due(e, &e->streams[i], now);
    for (int i = 0; i < e->leg_count; i++) {
        leg *l = e->legs[i];
        drain(e, l, now);
        if (now >= l->next_feedback) { send_feedback(e, l); l->next_feedback = now + FEEDBACK_NS; }
        if (now >= l->next_report) { send_reports(e, i, now); l->next_report += REPORT_NS; }
        if (now >= l->next_consent) {
            (void)!send(l->fd, l->consent, (size_t)l->consent_size, MSG_DONTWAIT);
            l->next_consent += CONSENT_NS;
        }
    }
    e->counts.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - e->began_ns;
}

void load_run(engine *e) {
    e->stopping = 0;
    e->began_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - e->counts.cpu_ns;
    uint64_t next = clock_ns(CLOCK_MONOTONIC);
    while (!e->stopping) {
        pthread_mutex_lock(&e->lock);
        tick(e);
        pthread_mutex_unlock(&e->lock);
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        next += (uint64_t)e->tick_us * 1000;
        if (next < now) next = now + 200000; /* let others have the lock */
        struct timespec until = {(time_t)(next / 1000000000ull), (long)(next % 1000000000ull)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
}

void load_stop(engine *e) { e->stopping = 1; }

void load_read(engine *e, load_counts *out) {
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < e->leg_count; i++) count_lost(e, e->legs[i]);
    *out = e->counts;
    pthread_mutex_unlock(&e->lock);
}

void load_read_leg(engine *e, int index, leg_counts *out) {
    pthread_mutex_lock(&e->lock);
    *out = e->legs[index]->counts;
    pthread_mutex_unlock(&e->lock);
}

void load_reset_delays(engine *e) {
    pthread_mutex_lock(&e->lock);
    memset(e->delays, 0, sizeof e->delays);
    pthread_mutex_unlock(&e->lock);
}

void load_read_delays(engine *e, uint32_t *buckets) {
    pthread_mutex_lock(&e->lock);
    memcpy(buckets, e->delays, sizeof e->delays);
    pthread_mutex_unlock(&e->lock);
}
