/* The native relay: everything that happens once per packet, in one thread per worker, without the GIL.
 *
 *     datagram -> demultiplex (RFC 7983) -> leg by address -> unprotect -> parse -> feed -> routes -> protect -> send
 *
 * The C twin of sfu/{relay,legs,feed,route,leg_route,tap_route,ring,nack,seq,pacer}.py; those files say why.
 * Python.h is not included here: the engine is built into sfu/_relay.c, and alone into its fuzzers.
 *
 * Rules: every function below wants relay_lock() held unless it says otherwise, but for relay_new, relay_lock, relay_run, relay_stop and
 * relay_free.  Who makes a leg, feed or route frees it; freeing detaches it from the others.  Strangers' bytes
 * can make any function refuse or drop (counted by reason), never fail.  All times are ms since 1970 on a
 * clock that never goes back. */
#ifndef LIANXIN_RELAY_H
#define LIANXIN_RELAY_H

#include "events.h"
#include "output.h"
#include "packet.h"
#include "twcc.h"

/* Values of sfu.drops.DropReason, in the order of drop_names[]; the binding checks the names at import. */
typedef enum {
    DROP_OVERSIZE, DROP_UNKNOWN_PROTOCOL, DROP_UNBOUND_ADDRESS, DROP_NO_KEYS, DROP_SEND_BUFFER_FULL, DROP_SEND_FAILED,
    DROP_SRTP_AUTH, DROP_SRTP_REPLAY, DROP_SRTP_FAILED, DROP_SRTCP_AUTH, DROP_SRTCP_REPLAY, DROP_SRTCP_FAILED,
    DROP_MALFORMED_RTP, DROP_MALFORMED_PAYLOAD, DROP_TOO_MANY_SSRCS, DROP_UNKNOWN_SSRC, DROP_UNKNOWN_PAYLOAD_TYPE,
    DROP_PRODUCER_PAUSED, DROP_DUPLICATE, DROP_PADDING, DROP_NOT_CONNECTED, DROP_WAITING_FOR_KEY_FRAME,
    DROP_TEMPORAL_LAYER, DROP_SPATIAL_LAYER, DROP_NO_CODEC, DROP_TOO_OLD, DROP_TAP_OVERFLOW, DROP_NACK_MISS,
    DROP_NACK_LIMIT, DROP_NACK_TOO_SOON, DROP_NACK_OUTAGE, DROP_PACER_FULL, DROP_HELD, DROP_CHANNEL_FULL, DROP_COUNT
} Drop;
extern const char *const drop_names[DROP_COUNT];

typedef struct Relay Relay;
typedef struct Leg Leg;
typedef struct Feed Feed;
typedef struct Route Route;

/* libsrtp, by the addresses of its functions (srtp_err_status_t is an int, srtp_t a pointer). */
typedef struct {
    int (*protect)(void *session, void *packet, int *size);
    int (*unprotect)(void *session, void *packet, int *size);
    int (*protect_rtcp)(void *session, void *packet, int *size);
    int (*unprotect_rtcp)(void *session, void *packet, int *size);
    int (*remove_stream)(void *session, unsigned ssrc_network_order); /* may be NULL */
} SrtpFunctions;

typedef struct {
    int fd;            /* a bound, non-blocking UDP socket (IPv4), not owned; -1 = none: relay_input() and sink */
    SrtpFunctions srtp;
    bool kernel_times; /* arrival times by SO_TIMESTAMPNS (set here) */
    bool gso;
    int batch;         /* datagrams per recvmmsg, 1...64 */
    double epoch_ms;   /* ms since 1970 at CLOCK_MONOTONIC 0: the thread's clock */
    OutputSink sink;   /* with fd -1 */
    void *context;
} RelayConfig;

/* ---------------------------------------------------------------- life and time */
Relay *relay_new(const RelayConfig *config); /* NULL without memory */
void relay_free(Relay *relay);               /* after its legs, feeds and routes, and after relay_run returned */
void relay_lock(Relay *relay);               /* preferred to the thread, which yields between packets */
void relay_unlock(Relay *relay);
void relay_run(Relay *relay);                /* the thread: receives, releases, flushes until relay_stop */
void relay_stop(Relay *relay);               /* any thread, also signal safe: an eventfd */
/* One batch from the socket; the number of datagrams taken.  For tests and without a thread. */
int relay_receive(Relay *relay, double now_ms);
/* One datagram; `data` (of at least SLOT_SIZE bytes) is changed.  ip and port in host order. */
void relay_input(Relay *relay, uint8_t *data, int size, uint32_t ip, uint16_t port, double now_ms);
/* Lets go what pacers hold and sends probes.  Returns ms until it wants to be called again, -1 = not at all. */
double relay_release(Relay *relay, double now_ms);
/* leg_send_feedback() and leg_ask_again() for every leg that is ready. */
void relay_tend(Relay *relay, double now_ms);
void relay_flush(Relay *relay, double now_ms);
Events *relay_events(Relay *relay);
const uint64_t *relay_drops(const Relay *relay); /* DROP_COUNT counters */
const OutputCounts *relay_output_counts(const Relay *relay);
uint64_t relay_nacks_sent(const Relay *relay), relay_nacks_received(const Relay *relay); /* numbers asked for */

/* ---------------------------------------------------------------- legs */
Leg *leg_new(Relay *relay, uint64_t id);
void leg_free(Leg *leg);
void leg_set_ids(Leg *leg, const ExtensionIds *ids);
/* Sessions of libsrtp, owned by the caller and alive until replaced or the leg is freed; NULL = no keys. */
void leg_set_srtp(Leg *leg, void *receive, void *receive_rtcp, void *send, void *send_rtcp);
/* ICE's choice: packets from and to here.  The one before stays valid for receiving.  Takes it from another leg. */
void leg_bind_address(Leg *leg, uint32_t ip, uint16_t port);
/* These two need no relay_lock() on the thread that binds legs and gives them keys. */
bool leg_ready(const Leg *leg);
void leg_address(const Leg *leg, uint32_t *ip, uint16_t *port); /* 0:0 = none (also: taken by another leg) */
void leg_bind_ssrc(Leg *leg, uint32_t ssrc, Feed *feed);        /* twin: Leg.bind */
void leg_bind_rtx(Leg *leg, uint32_t ssrc, Feed *feed);
void leg_drop_feed(Leg *leg, Feed *feed);
/* The answer to EVENT_RESOLVE: what is held of this SSRC goes on, or is counted and dropped if it is not bound. */
void leg_release(Leg *leg, uint32_t ssrc, double now_ms);
void leg_set_rtt(Leg *leg, double rtt_ms);
/* Until then NACKs for video are not answered (DROP_NACK_OUTAGE): a key frame mends an outage. */
void leg_set_mending(Leg *leg, double until_ms);
int leg_send_rtcp(Leg *leg, const uint8_t *data, int size); /* 0; -1 = dropped and counted */
void leg_ask_again(Leg *leg, double now_ms);                 /* NACKs that are due to this publisher */
void leg_send_feedback(Leg *leg, double now_ms);             /* transport-wide feedback that is due */
/* Needs no relay_lock(), which a thousand receivers' feedback would wait for: only that the leg isn't freed. */
int leg_acknowledge(Leg *leg, const uint8_t *body, int size, double now_ms, Digest *digest);
void leg_set_pacing(Leg *leg, double rate_bps);
bool leg_probe(Leg *leg, int cluster, double rate_bps, int size, double now_ms);
typedef struct {
    uint64_t bytes_in, bytes_out, other_packets, other_bytes, queued; /* queued: packets in the pacer */
} LegCounts;
void leg_counts(const Leg *leg, LegCounts *counts);

/* ---------------------------------------------------------------- feeds */
typedef enum { CODEC_OTHER, CODEC_VP8, CODEC_H264, CODEC_VP9, CODEC_AV1, CODEC_OPUS, CODEC_RED } Codec;
typedef struct {
    uint8_t payload_type;
    int rtx_type; /* -1 = none */
    Codec codec;
    uint32_t clock_rate;
} FeedCodec;
#define MAX_CODECS 24
Feed *feed_new(Relay *relay, uint64_t id, bool is_video, const FeedCodec *codecs, int count, bool asks_again);
void feed_free(Feed *feed);
void feed_set_paused(Feed *feed, bool paused);
void feed_release(Feed *feed, double now_ms); /* the answer to EVENT_ALIVE */
void feed_note_report(Feed *feed, uint64_t ntp, uint32_t rtp_timestamp, double local_ms, double arrival_ms);
void feed_take_level(Feed *feed, double *power, uint32_t *count);
int feed_take_fraction(Feed *feed);
typedef struct {
    uint32_t ssrc, rtx_ssrc, clock_rate;
    bool wanted;
    uint64_t packets, bytes, rtx_packets, rtx_bytes, frames, received, recovered, report_ntp;
    uint64_t layer_bytes[MAX_LAYERS]; /* by spatial layer, of feeds that hold several */
    int width, height;
    int64_t highest, base_seq;
    double last_ms, jitter, report_arrival_ms;
} FeedCounts;
void feed_counts(const Feed *feed, FeedCounts *counts);

/* ---------------------------------------------------------------- routes */
typedef struct { /* sfu.route.OutCodec for one payload type of the producer */
    uint8_t in_type, out_type;
    bool strip_red;
    int red_inner, rtx_type, make_red; /* -1 = no */
} OutCodec;
typedef struct { /* sfu.rtp.ExtensionPlan */
    uint8_t fixed[64]; /* elements already encoded would depend on the form, so: id, size, bytes, ... */
    int fixed_size;
    uint8_t transport_cc; /* id, 0 = none; its element is the first of `fixed` */
    uint8_t abs_send_time; /* id, 0 = none; element of 3 bytes within `fixed` */
    uint8_t passed[256];  /* incoming id -> outgoing id, 0 = not passed on */
} ExtensionPlan;
typedef struct {
    int codecs;
    OutCodec codec[MAX_CODECS];
    ExtensionPlan plan, rtx_plan;
} Binding;
/* leg NULL: a tap, whose packets are EVENT_TAP.  first_sequence, rtx_sequence: chosen by the caller (random at
 * first; where a predecessor of the same SSRC on this leg ended, for SRTP's nonces must never repeat). */
Route *route_new(Relay *relay, uint64_t id, Leg *leg, bool is_video, uint32_t ssrc, uint32_t rtx_ssrc, bool resends,
                 int64_t first_sequence, int64_t rtx_sequence);
void route_last_numbers(const Route *route, int64_t *last_sequence, int64_t *rtx_sequence); /* both unwrapped */
void route_free(Route *route);
void route_aim(Route *route, Feed *feed, const Binding *binding); /* the binding is copied */
void route_stop(Route *route);
void route_hush(Route *route, double now_ms);
bool route_resend(Route *route, uint16_t sequence, double now_ms);
void route_set_layers(Route *route, int max_spatial, int max_temporal);
bool route_out_timestamp(const Route *route, double now_ms, uint32_t *timestamp); /* false = unknown */
typedef struct {
    uint64_t feed, target; /* ids, 0 = none */
    uint64_t packets, bytes, octets, resent, resent_bytes;
    int64_t timestamp_shift;
    int spatial; /* highest spatial layer in force */
} RouteCounts;
void route_counts(const Route *route, RouteCounts *counts);

#endif
