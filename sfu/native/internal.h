/* The structures behind relay.h, and what its files ask of each other.  Not for users of the relay. */
#ifndef LIANXIN_INTERNAL_H
#define LIANXIN_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "buffer.h"
#include "dependency.h"
#include "map.h"
#include "nack.h"
#include "pacer.h"
#include "relay.h"
#include "ring.h"
#include "seq.h"

#define MAX_SSRCS 512     /* authenticated SSRCs of one leg; libsrtp keeps state for each */
#define MAX_PENDING 8     /* SSRCs of one leg that policy is asked about at a time */
#define MAX_HELD_SSRC 128 /* packets that wait for such an answer */
#define MAX_HELD_FEED 128 /* packets that wait for feed_release() */
#define SEEN 1024         /* numbers remembered to tell duplicates */

/* ---------------------------------------------------------------- packets that wait for policy */
typedef struct Held {
    struct Held *next;
    Packet packet; /* its spans point into data */
    bool newest;   /* when it came; see Feed.newest */
    bool restart;  /* no packet: here the feed's numbers have begun anew */
    uint8_t data[];
} Held;

typedef struct {
    Held *first, *last;
    int count;
} HeldQueue;

bool held_put(HeldQueue *queue, const Packet *packet, bool newest); /* a copy; false without memory */
bool held_put_restart(HeldQueue *queue, double now_ms);
Held *held_take(HeldQueue *queue);                                  /* to be freed; NULL = empty */
void held_free(HeldQueue *queue);

/* ---------------------------------------------------------------- lists */
/* Routes of a feed.  Replaced, never edited, so that a switch in mid-packet is safe. */
typedef struct {
    int references, count;
    Route *route[];
} RouteList;

typedef struct { /* feeds of a leg, in order of their binding */
    uint32_t ssrc;
    Feed *feed;
} BoundFeed;

typedef struct {
    uint32_t ssrc;
    HeldQueue held;
} Pending;

/* ---------------------------------------------------------------- the four */
struct Leg {
    Relay *relay;
    uint64_t id;
    Leg *previous, *next; /* all of the relay */
    Leg *next_waiting;    /* of those whose pacer holds something */
    bool waiting;
    Destination to; /* address.sin_port 0 = none */
    uint64_t address, old_address; /* keys of relay->by_address, 0 = none */
    void *receive, *receive_rtcp, *send, *send_rtcp;
    ExtensionIds ids;
    Map by_ssrc, by_rtx; /* feeds */
    Map known;           /* SSRCs that were authenticated */
    Map routes;          /* by their SSRC */
    BoundFeed *feeds;
    int feed_count, feed_room;
    Route *first_route, *last_route; /* in order of their opening */
    Pending pending[MAX_PENDING];
    int pending_count;
    Arrivals *arrivals; /* NULL until the first packet */
    History *history;   /* NULL until the first packet */
    pthread_mutex_t history_lock; /* of it alone: leg_acknowledge() comes without the relay's */
    uint16_t transport_seq;
    int cluster; /* of the probe that runs */
    Pacer pacer;
    double rtt_ms, mending_until_ms;
    LegCounts counts;
};

struct Feed {
    Relay *relay;
    Leg *leg; /* NULL = none yet, or gone */
    Feed *previous, *next; /* all of the relay */
    uint64_t id;
    bool is_video, paused, asks_again;
    bool missed; /* in relay->missed */
    Feed *next_missed;
    FeedCodec codec[MAX_CODECS];
    int codecs;
    int8_t codec_of[128];    /* payload type -> index in codec, -1 = none */
    int16_t original_of[128]; /* RTX payload type -> payload type, -1 = none */
    RouteList *routes;        /* NULL = none */
    bool asking;              /* EVENT_ALIVE is not answered yet */
    HeldQueue held;
    bool newest; /* the packet in hand was the newest when it came */
    NackTracker nack;
    Dependencies dependencies;
    /* numbers (RFC 3550 A.1, A.8) */
    int64_t seen[SEEN];
    int bad_next;
    double transit;
    int64_t expected_prior, received_prior;
    int64_t key_timestamp;
    /* audio since feed_take_level */
    double level_power;
    uint32_t level_count;
    /* newest sender report; counts.report_ntp 0 = none */
    uint32_t report_rtp;
    double report_local_ms;
    FeedCounts counts;
};

/* What a block's first element is, to be written when the packet leaves. */
typedef enum { STAMP_NONE, STAMP_NUMBER, STAMP_TIME } Stamp;

/* A binding as it is used: shared by the places that refer to it. */
typedef struct {
    int references;
    int codecs;
    OutCodec codec[MAX_CODECS];
    int8_t codec_of[128]; /* producer's payload type -> index in codec */
    ExtensionPlan plan;
    bool passes; /* the plan passes anything on */
    uint8_t plain_bytes[80], rtx_bytes[80]; /* blocks of packets that bring nothing to pass on */
    int plain_size, rtx_size;
    Buffer *plain; /* plain_bytes for the ring; NULL = empty */
    Stamp stamp, rtx_stamp;
    bool same_blocks; /* retransmissions carry what the originals do */
} Bound;

struct Route { /* first what every packet needs */
    Relay *relay;
    Leg *leg; /* NULL: a tap, or its leg has gone */
    Feed *feed, *target;
    Bound *binding;
    bool is_tap, is_video, resends, started;
    uint32_t ssrc, rtx_ssrc, last_timestamp;
    int64_t timestamp_shift;
    double last_sent_ms;
    int last_picture, last_tl0, last_frame; /* -1 = none yet */
    int frame_shift;
    int max_spatial, spatial, max_temporal, temporal; /* wanted, in force */
    Ring ring;
    RouteCounts counts;
    NumberMap numbers;
    /* then the rest */
    Route *previous, *next; /* of the leg */
    uint64_t id, last_feed; /* last_feed 0 = none */
    Bound *target_binding;
    bool has_report; /* last feed's sender report */
    uint32_t report_rtp;
    double report_ms;
    int64_t report_shift;
    Buffer *red_payload; /* the newest Opus packet, for the next one's redundancy; NULL = none */
    uint32_t red_timestamp;
    int64_t rtx_sequence; /* unwrapped */
    ResendBudget budget;
};

struct Batch; /* memory for recvmmsg */

struct Relay {
    RelayConfig config;
    pthread_mutex_t next, main; /* see relay_lock */
    atomic_int waiting;
    atomic_bool stopping;
    int wake_fd;
    Output *output;
    Events *events;
    struct Batch *batch;
    BufferPool pool;
    Map by_address; /* legs */
    Leg *legs;
    Feed *feeds;
    Leg *first_waiting, *last_waiting;
    double next_release_ms;
    bool amid_batch; /* of the thread, which flushes at its end */
    Feed *first_missed, *last_missed;
    double now_ms; /* the clock as it was last told or read */
    double level_power[128]; /* of an audio level */
    uint64_t drops[DROP_COUNT], nacks_sent, nacks_received;
    uint64_t full_seen, failed_seen; /* of the output's counts */
    /* the packet in hand, once for all its receivers */
    Packet packet;
    Span payload;
    Buffer *payload_buffer;  /* its copy, when a ring wants it */
    bool has_primary;        /* of RED */
    int primary_error;
    Span primary;
    Buffer *primary_buffer;
    uint8_t scratch[SLOT_SIZE + 1040];
};

static inline void drop(Relay *relay, Drop reason)
{
    relay->drops[reason]++;
}

static inline int64_t to_int(double number) /* Python's int(); garbage gives 0 */
{
    return number > -9e18 && number < 9e18 ? (int64_t)number : 0;
}

/* relay.c */
void relay_wake(Relay *relay);
bool relay_notify(Relay *relay, const EventHead *head, const void *data); /* false: no room */
void relay_pay_attention(Relay *relay, Feed *feed); /* it has noticed a gap: ask at the end of the batch */
void relay_wait_for(Relay *relay, Leg *leg);        /* its pacer has something */

void relay_take(Relay *relay, uint8_t *data, int size, uint32_t ip, uint16_t port, double arrival_ms);
void relay_flush_output(Relay *relay, double now_ms);

/* batch.c */
bool ask_for_kernel_times(int fd);
struct Batch *batch_new(int size);
void batch_free(struct Batch *batch);

/* leg.c, leg_in.c, leg_out.c */
void leg_input_rtp(Leg *leg, uint8_t *data, int size, double now_ms);
void leg_input_rtcp(Leg *leg, uint8_t *data, int size, double now_ms);
void leg_drop_held(Leg *leg);
void leg_unbind(Leg *leg, Feed *feed);
/* Stamps, remembers, protects and sends the plain packet in the slot. */
bool leg_send_plain(Leg *leg, uint8_t *slot, int size, Stamp stamp, double now_ms, double arrival_ms);
bool leg_release_pacer(Leg *leg, double now_ms); /* true while more waits */

/* feed.c */
void feed_receive(Feed *feed, Packet *packet, bool recovered);
void feed_receive_rtx(Feed *feed, Packet *packet);
void feed_bind(Feed *feed, uint32_t ssrc);
void feed_stop_routes(Feed *feed);
void feed_ask_again(Feed *feed, double now_ms);
bool codec_has_reader(Codec codec);
const FeedCodec *feed_codec(const Feed *feed, uint8_t payload_type);
bool feed_add_route(Feed *feed, Route *route); /* false without memory: it is not in the list */
void feed_remove_route(Feed *feed, Route *route);

/* route.c */
void route_forward(Route *route, Packet *packet, Feed *feed, bool is_red);
void route_skip(Route *route, const Packet *packet, const Feed *feed);
void route_restart(Route *route, Feed *feed);

/* bound.c */
Bound *bound_new(Relay *relay, const Binding *binding);
void bound_drop(Relay *relay, Bound *bound);
const OutCodec *bound_codec(const Bound *bound, uint8_t payload_type); /* NULL = none */
/* The block for a packet that brought elements; returns its size. */
int bound_block(const Bound *bound, const Packet *packet, uint8_t *out);

/* emit.c */
typedef struct {
    uint16_t sequence;
    uint32_t timestamp;
    uint16_t picture;
    uint8_t tl0;
} Numbers;
void route_emit(Route *route, const Packet *packet, bool is_red, Numbers numbers);
/* A packet that has waited in the pacer leaves. */
void route_depart_late(Leg *leg, const Queued *queued, double now_ms);
void relay_forget_payload(Relay *relay); /* copies of the packet in hand */
/* resend.c */
bool route_pads(const Route *route);
int route_send_padding(Route *route, double now_ms); /* bytes of plain RTP, 0 = none */

#endif
