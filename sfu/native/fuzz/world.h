/* A relay without socket and SRTP, with the clients and the policy that fuzzers put around it. */
#ifndef LIANXIN_FUZZ_WORLD_H
#define LIANXIN_FUZZ_WORLD_H

#include "../relay.h"
#include "script.h"

#define LEGS 4
#define FEEDS 6
#define ROUTES 8
#define TAG 16 /* bytes that our SRTP adds and checks */
#define SEEN_SSRCS 20
#define SEEN 128

/* Stands for one srtp_t.  Remembers what was sent under which number: with AES-GCM, other bytes under a number
 * that was used would give away the key stream. */
typedef struct {
    uint32_t ssrc;
    int64_t highest;
    int64_t number[SEEN];
    uint64_t hash[SEEN];
} SentStream;

typedef struct {
    bool is_sending;
    SentStream *stream[SEEN_SSRCS];
} Session;

typedef struct {
    Relay *relay;
    double now_ms;
    uint64_t next_id;
    Leg *leg[LEGS];
    uint64_t leg_id[LEGS];
    Session *session[LEGS][4];
    Feed *feed[FEEDS];
    uint64_t feed_id[FEEDS];
    int feed_leg[FEEDS];
    Route *route[ROUTES];
    int route_leg[ROUTES];               /* -1: a tap */
    int64_t last_sequence[LEGS][ROUTES]; /* of a route's SSRC on a leg, -1 = never used */
    int64_t last_rtx[LEGS][ROUTES];
    uint16_t sequence[8]; /* of the streams that are sent to us */
    uint32_t timestamp[8];
} World;

static const uint32_t stream_ssrc = 0x1000, rtx_ssrc = 0x2000, out_ssrc = 0x9000;
static uint16_t first_port = 4000; /* of the legs' addresses */

/* ------------------------------------------------------------------ SRTP that does nothing but check */

static uint64_t hash_of(const uint8_t *data, int size)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (int i = 0; i < size; i++)
        hash = (hash ^ data[i]) * 0x100000001B3u;
    return hash;
}

static void check_number(Session *session, const uint8_t *data, int size)
{
    uint32_t ssrc = (uint32_t)data[8] << 24 | (uint32_t)data[9] << 16 | (uint32_t)data[10] << 8 | data[11];
    uint16_t sequence = (uint16_t)(data[2] << 8 | data[3]);
    SentStream *stream = NULL;
    for (int i = 0; i < SEEN_SSRCS && !stream; i++) {
        if (!session->stream[i]) {
            stream = session->stream[i] = calloc(1, sizeof *stream);
            MUST(stream);
            stream->ssrc = ssrc;
            stream->highest = (int64_t)sequence + 0x10000;
        } else if (session->stream[i]->ssrc == ssrc) {
            stream = session->stream[i];
        }
    }
    if (!stream)
        return;
    int64_t number = stream->highest + (int16_t)(sequence - (uint16_t)stream->highest);
    if (number > stream->highest)
        stream->highest = number;
    uint64_t hash = hash_of(data, size);
    if (stream->number[number % SEEN] == number)
        MUST(stream->hash[number % SEEN] == hash); /* else: a nonce is used twice */
    stream->number[number % SEEN] = number;
    stream->hash[number % SEEN] = hash;
}

static int world_protect(void *context, void *packet, int *size)
{
    Session *session = context;
    uint8_t *data = packet;
    MUST(session->is_sending && *size >= 12 && *size <= MAX_PLAIN);
    ExtensionIds ids = {.transport_cc = 2};
    Packet parsed;
    memset(&parsed, 0, sizeof parsed);
    if (*size <= MAX_PACKET)
        MUST(!packet_parse(&parsed, data, *size, &ids));
    check_number(session, data, *size);
    memset(data + *size, 0xA5, TAG);
    *size += TAG;
    return 0;
}

static int world_protect_rtcp(void *context, void *packet, int *size)
{
    uint8_t *data = packet;
    MUST(((Session *)context)->is_sending && *size >= 8 && *size % 4 == 0 && data[0] >> 6 == 2);
    memset(data + *size, 0xA5, TAG);
    *size += TAG;
    return 0;
}

static int world_unprotect(void *context, void *packet, int *size)
{
    MUST(!((Session *)context)->is_sending);
    if (*size < 12 + TAG || ((uint8_t *)packet)[*size - 1] != 0xA5)
        return 7; /* srtp_err_status_auth_fail */
    *size -= TAG;
    return 0;
}

static void world_sink(void *context, const uint8_t *data, int size, const struct sockaddr_in *to)
{
    (void)context;
    MUST(size > TAG && size <= SLOT_SIZE && data[size - 1] == 0xA5);
    MUST(to->sin_family == AF_INET && to->sin_port != 0);
}

/* ------------------------------------------------------------------ legs, feeds, routes */

static void world_set_keys(World *world, int leg, bool with_keys)
{
    Session *fresh[4] = {0};
    for (int i = 0; with_keys && i < 4; i++) {
        fresh[i] = calloc(1, sizeof *fresh[i]);
        MUST(fresh[i]);
        fresh[i]->is_sending = i >= 2;
    }
    if (world->leg[leg])
        leg_set_srtp(world->leg[leg], fresh[0], fresh[1], fresh[2], fresh[3]);
    for (int i = 0; i < 4; i++) {
        Session *old = world->session[leg][i];
        for (int stream = 0; old && stream < SEEN_SSRCS; stream++)
            free(old->stream[stream]);
        free(old);
        world->session[leg][i] = fresh[i];
    }
}

static void world_address(int leg, int which, uint32_t *ip, uint16_t *port)
{
    *ip = 0x7F000001;
    *port = (uint16_t)(first_port + leg * 4 + which);
}

static void world_open_leg(World *world, int leg)
{
    ExtensionIds ids = {.mid = 4, .rid = 10, .repaired_rid = 11, .audio_level = 1, .transport_cc = 3,
                        .abs_send_time = 2, .dependency = 8};
    uint32_t ip;
    uint16_t port;
    if (world->leg[leg])
        return;
    ids.passed[1] = ids.passed[8] = ids.passed[13] = true;
    world->leg_id[leg] = ++world->next_id;
    world->leg[leg] = leg_new(world->relay, world->leg_id[leg]);
    MUST(world->leg[leg]);
    leg_set_ids(world->leg[leg], &ids);
    world_set_keys(world, leg, true);
    world_address(leg, 0, &ip, &port);
    leg_bind_address(world->leg[leg], ip, port);
    for (int i = 0; i < ROUTES; i++)
        world->last_sequence[leg][i] = -1;
}

static void world_close_leg(World *world, int leg)
{
    if (!world->leg[leg])
        return;
    leg_free(world->leg[leg]);
    world->leg[leg] = NULL;
    world_set_keys(world, leg, false); /* a session that is used after this is found */
}

static void world_open_feed(World *world, int feed, int leg)
{
    static const FeedCodec kinds[3][4] = {
        {{96, 97, CODEC_VP8, 90000}, {102, 103, CODEC_H264, 90000}, {35, -1, CODEC_OTHER, 90000}},
        {{111, -1, CODEC_OPUS, 48000}, {63, -1, CODEC_RED, 48000}, {0, -1, CODEC_OTHER, 8000}},
        {{98, 99, CODEC_VP9, 90000}, {45, 46, CODEC_AV1, 90000}, {96, 97, CODEC_VP8, 90000}},
    };
    if (world->feed[feed] || !world->leg[leg])
        return;
    world->feed_id[feed] = ++world->next_id;
    world->feed[feed] =
        feed_new(world->relay, world->feed_id[feed], feed % 3 != 1, kinds[feed % 3], 3, feed % 3 != 1);
    MUST(world->feed[feed]);
    world->feed_leg[feed] = leg;
}

static void world_close_feed(World *world, int feed)
{
    if (world->feed[feed])
        feed_free(world->feed[feed]);
    world->feed[feed] = NULL;
}

/* leg -1: a tap */
static void world_open_route(World *world, int route, int leg, unsigned flags)
{
    bool is_video = route % 4 != 1;
    uint32_t ssrc = out_ssrc + (uint32_t)route * 2;
    int64_t first = 30 + (int64_t)(flags << 7);
    int64_t rtx = 500;
    if (world->route[route] || (leg >= 0 && !world->leg[leg]))
        return;
    if (leg >= 0 && world->last_sequence[leg][route] >= 0) {
        first = world->last_sequence[leg][route] + 1;
        rtx = world->last_rtx[leg][route];
    }
    world->route_leg[route] = leg;
    world->route[route] = route_new(world->relay, ++world->next_id, leg < 0 ? NULL : world->leg[leg], is_video, ssrc,
                                    flags & 1 ? 0 : ssrc + 1, !(flags & 2), first, rtx);
    MUST(world->route[route]);
}

static void world_close_route(World *world, int route)
{
    int leg = world->route_leg[route];
    if (!world->route[route])
        return;
    if (leg >= 0)
        route_last_numbers(world->route[route], &world->last_sequence[leg][route], &world->last_rtx[leg][route]);
    route_free(world->route[route]);
    world->route[route] = NULL;
}

static void world_aim(World *world, int route, int feed, unsigned flags)
{
    static const uint8_t plain[] = {2, 2, 0, 0, 1, 1, '7'}; /* transport-wide number, MID */
    Binding binding;
    memset(&binding, 0, sizeof binding);
    if (!world->route[route] || !world->feed[feed])
        return;
    if ((route % 4 == 1) != (feed % 3 == 1))
        return; /* audio can't take over from video */
    const OutCodec codecs[] = {
        {96, 120, false, -1, flags & 1 ? -1 : 121, -1},
        {102, 125, false, -1, 126, -1},
        {98, 100, false, -1, 101, -1},
        {45, 47, false, -1, 48, -1},
        {111, 109, false, -1, -1, flags & 2 ? 108 : -1},
        {63, flags & 4 ? 109 : 108, (flags & 4) != 0, flags & 4 ? -1 : 109, -1, -1},
    };
    binding.codecs = 6 - (flags >> 7 & 1);
    memcpy(binding.codec, codecs, sizeof codecs);
    if (!(flags & 8)) {
        memcpy(binding.plan.fixed, plain, sizeof plain);
        binding.plan.fixed_size = sizeof plain;
        binding.plan.transport_cc = 2;
        binding.rtx_plan = binding.plan;
    }
    if (flags & 16) {
        binding.plan.passed[1] = 5;
        binding.plan.passed[8] = flags & 32 ? 40 : 9; /* 40: the two-byte form */
        binding.plan.passed[13] = 13;
    }
    route_aim(world->route[route], world->feed[feed], &binding);
}

/* fd -1: without a socket.  The relay stays locked. */
static void world_open(World *world, int fd)
{
    RelayConfig config = {
        .fd = fd,
        .kernel_times = fd >= 0,
        .gso = true,
        .srtp = {world_protect, world_unprotect, world_protect_rtcp, world_unprotect, NULL},
        .batch = 16,
        .sink = world_sink,
    };
    memset(world, 0, sizeof *world);
    world->now_ms = 1.79e12;
    world->relay = relay_new(&config);
    MUST(world->relay);
    relay_lock(world->relay);
    for (int leg = 0; leg < LEGS; leg++)
        world_open_leg(world, leg);
    for (int feed = 0; feed < 4; feed++) {
        world_open_feed(world, feed, feed / 3);
        leg_bind_ssrc(world->leg[feed / 3], stream_ssrc + (uint32_t)feed, world->feed[feed]);
        leg_bind_rtx(world->leg[feed / 3], rtx_ssrc + (uint32_t)feed, world->feed[feed]);
    }
    for (int route = 0; route < ROUTES; route++) {
        world_open_route(world, route, route < 4 ? 2 : route < 6 ? 3 : -1, route == 3 ? 1 : 0);
        world_aim(world, route, route % 4, route < 4 ? 16 : 4);
    }
}

static void world_close(World *world, bool legs_first)
{
    for (int leg = 0; legs_first && leg < LEGS; leg++)
        world_close_leg(world, leg);
    for (int route = 0; route < ROUTES; route++)
        world_close_route(world, route);
    for (int feed = 0; feed < FEEDS; feed++)
        world_close_feed(world, feed);
    for (int leg = 0; leg < LEGS; leg++)
        world_close_leg(world, leg);
    relay_unlock(world->relay);
    relay_free(world->relay);
}

#endif
