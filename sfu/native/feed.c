/* One encoding as the relay sees it: numbers, statistics, loss, then its routes (twin: sfu/feed.py).
 *
 * A packet goes through two stages.  The first accounts for its number and time.  The second looks into the
 * payload and forwards; it waits when policy must first hear that the feed is alive. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "codec.h"
#include "internal.h"

#define MAX_JUMP 3000 /* packets; a larger step is a restart (RFC 3550 A.1 MAX_DROPOUT) */
#define ALIVE_MS 1500.0
#define ROUTE_HOT 320 /* bytes of a Route that every packet touches */
#define MAX_JITTER_STEP 450000 /* the first packet and wraps are no jitter */

bool codec_has_reader(Codec codec)
{
    return codec == CODEC_VP8 || codec == CODEC_H264 || codec == CODEC_VP9 || codec == CODEC_AV1;
}

const FeedCodec *feed_codec(const Feed *feed, uint8_t payload_type)
{
    int at = feed->codec_of[payload_type & 0x7F];
    return at >= 0 ? &feed->codec[at] : NULL;
}

/* ---------------------------------------------------------------- restarts */

static void notify(Feed *feed, EventKind kind, int number, double now_ms)
{
    EventHead head = {
        .kind = (uint8_t)kind, .number = (uint8_t)number, .subject = feed->id, .now_ms = now_ms};
    relay_notify(feed->relay, &head, NULL);
}

/* Another stream of numbers begins: a new SSRC, or a restart. */
static void renew(Feed *feed)
{
    FeedCounts *counts = &feed->counts;
    counts->highest = -1;
    counts->base_seq = 0;
    counts->received = 0;
    counts->jitter = 0;
    counts->report_ntp = 0;
    feed->bad_next = -1;
    memset(feed->seen, 0xFF, sizeof feed->seen);
    feed->transit = 0;
    feed->expected_prior = feed->received_prior = 0;
    nack_clear(&feed->nack);
}

/* The second stage's part of a restart. */
static void renew_pictures(Feed *feed, bool tell, double now_ms)
{
    feed->key_timestamp = -1;
    dependencies_clear(&feed->dependencies);
    if (!tell)
        return;
    RouteList *routes = feed->routes;
    if (routes) {
        routes->references++;
        for (int i = 0; i < routes->count; i++)
            route_restart(routes->route[i], feed);
        if (!--routes->references)
            free(routes);
    }
    notify(feed, EVENT_RESTART, 0, now_ms);
}

/* After what is held, which belongs to the old numbers. */
static void restart(Feed *feed, double now_ms)
{
    renew(feed);
    if (!feed->asking || !held_put_restart(&feed->held, now_ms))
        renew_pictures(feed, true, now_ms);
}

void feed_bind(Feed *feed, uint32_t ssrc)
{
    bool restarted = feed->counts.ssrc != 0;
    feed->counts.ssrc = ssrc;
    if (restarted) {
        restart(feed, feed->relay->now_ms);
        return;
    }
    renew(feed);
    renew_pictures(feed, false, 0);
}

/* RFC 3550 A.1: two packets in a row after a large jump are a restart.  True when renewed. */
static bool restarts(Feed *feed, const Packet *packet)
{
    if (packet->sequence != feed->bad_next) {
        feed->bad_next = (packet->sequence + 1) & 0xFFFF;
        drop(feed->relay, DROP_TOO_OLD);
        return false;
    }
    restart(feed, packet->arrival_ms);
    return true;
}

/* ---------------------------------------------------------------- first stage: numbers */

/* Unwraps the packet's number.  False when the packet ends here. */
static bool place(Feed *feed, Packet *packet, bool recovered)
{
    FeedCounts *counts = &feed->counts;
    Relay *relay = feed->relay;
    if (counts->highest < 0) {
        if (recovered) { /* probing before any original */
            drop(relay, DROP_DUPLICATE);
            return false;
        }
        packet->ext_seq = packet->sequence + 0x10000; /* room below for a reordered start */
        counts->highest = counts->base_seq = packet->ext_seq;
        return true;
    }
    int step = distance16(packet->sequence, counts->highest);
    int64_t ext = counts->highest + step;
    packet->ext_seq = ext;
    if (step == 1) {
        counts->highest = ext;
        return true;
    }
    if (step > 0) {
        if (step > MAX_JUMP) {
            if (restarts(feed, packet))
                return place(feed, packet, recovered);
            return false;
        }
        if (feed->asks_again)
            nack_gap(&feed->nack, counts->highest + 1, ext, packet->arrival_ms);
        counts->highest = ext;
        return true;
    }
    if (feed->seen[ext & (SEEN - 1)] == ext) {
        drop(relay, DROP_DUPLICATE);
        return false;
    }
    if (step <= -SEEN) {
        if (recovered) {
            drop(relay, DROP_TOO_OLD);
            return false;
        }
        return restarts(feed, packet) && place(feed, packet, recovered);
    }
    if (feed->asks_again && nack_found(&feed->nack, ext, packet->arrival_ms) && recovered)
        counts->recovered++;
    return true;
}

/* RFC 3550 A.8. */
static void measure_jitter(Feed *feed, const Packet *packet, const FeedCodec *codec)
{
    double rate = codec->clock_rate / 1000.0;
    double transit = packet->arrival_ms * rate - packet->timestamp;
    double difference = fabs(transit - feed->transit);
    feed->transit = transit;
    if (difference < MAX_JITTER_STEP)
        feed->counts.jitter += (difference - feed->counts.jitter) / 16;
}

/* ---------------------------------------------------------------- second stage: payload, routes */

static void skip(Feed *feed, const Packet *packet, Drop reason)
{
    drop(feed->relay, reason);
    for (int i = 0; feed->routes && i < feed->routes->count; i++)
        route_skip(feed->routes->route[i], packet, feed);
}

static int read_payload(Feed *feed, Packet *packet, Codec codec)
{
    switch (codec) {
    case CODEC_VP8: return vp8_read(packet);
    case CODEC_H264: return h264_read(packet);
    case CODEC_VP9: if (vp9_read(packet)) return -1; break;
    default: if (av1_read(packet)) return -1; break;
    }
    /* layers by the dependency descriptor where there is one, else by the payload */
    if (packet->descriptor.at && dependencies_read(&feed->dependencies, packet))
        return -1;
    if (packet->layered) {
        int layer = packet->spatial < MAX_LAYERS ? packet->spatial : MAX_LAYERS - 1;
        feed->counts.layer_bytes[layer] += (uint64_t)packet->size;
    }
    return 0;
}

static void measure_picture(Feed *feed, const Packet *packet, Codec codec)
{
    int *width = &feed->counts.width, *height = &feed->counts.height;
    if (codec == CODEC_VP8)
        vp8_picture_size(packet, width, height);
    else if (codec == CODEC_H264)
        h264_picture_size(packet, width, height);
    else if (codec == CODEC_VP9)
        vp9_picture_size(packet, width, height);
    const Structure *structure = feed->dependencies.structure;
    if (structure && structure->width) {
        *width = structure->width;
        *height = structure->height;
    }
}

static void look_at_video(Feed *feed, const Packet *packet, Codec codec)
{
    if (packet->marker)
        feed->counts.frames++;
    if (packet->key_frame && feed->newest && packet->timestamp != feed->key_timestamp) {
        feed->key_timestamp = packet->timestamp;
        measure_picture(feed, packet, codec);
        notify(feed, EVENT_KEY_FRAME, 0, packet->arrival_ms);
    }
}

/* With many receivers what each needs is out of the caches: have it fetched while others are served. */
static void look_ahead(const RouteList *routes, int i, const Packet *packet)
{
    if (i + 3 < routes->count)
        for (int at = 0; at < ROUTE_HOT; at += 64)
            __builtin_prefetch((const char *)routes->route[i + 3] + at, 1);
    if (i + 1 < routes->count) {
        const Route *next = routes->route[i + 1];
        ring_expect(&next->ring, packet->ext_seq - next->numbers.shifts.sequence);
    }
}

static void forward_to_all(Feed *feed, Packet *packet, bool is_red)
{
    Relay *relay = feed->relay;
    RouteList *routes = feed->routes;
    if (!routes)
        return;
    relay->payload = (Span){packet->data + packet->start, packet->end - packet->start};
    routes->references++; /* a switch may replace the list */
    for (int i = 0; i < routes->count; i++) {
        look_ahead(routes, i, packet);
        route_forward(routes->route[i], packet, feed, is_red);
    }
    if (!--routes->references)
        free(routes);
    relay_forget_payload(relay);
}

static void second_stage(Feed *feed, Packet *packet)
{
    const FeedCodec *codec = feed_codec(feed, packet->payload_type);
    if (packet->start == packet->end) {
        skip(feed, packet, DROP_PADDING);
        return;
    }
    if (codec_has_reader(codec->codec)) {
        if (read_payload(feed, packet, codec->codec)) {
            skip(feed, packet, DROP_MALFORMED_PAYLOAD);
            return;
        }
        look_at_video(feed, packet, codec->codec);
    } else {
        packet_forget_payload(packet);
        if (packet->level >= 0 && !feed->paused) {
            feed->level_power += feed->relay->level_power[packet->level & 0x7F];
            feed->level_count++;
        }
    }
    if (feed->paused) {
        drop(feed->relay, DROP_PRODUCER_PAUSED);
        return;
    }
    forward_to_all(feed, packet, codec->codec == CODEC_RED);
}

static void forward_held(Feed *feed)
{
    for (Held *held; (held = held_take(&feed->held)); free(held)) {
        feed->newest = held->newest;
        if (held->restart)
            renew_pictures(feed, true, held->packet.arrival_ms);
        else
            second_stage(feed, &held->packet);
    }
}

void feed_release(Feed *feed, double now_ms)
{
    feed->relay->now_ms = now_ms;
    feed->asking = false;
    forward_held(feed);
}

/* ---------------------------------------------------------------- hot path */

/* Tells policy of the first packet, or the first after a silence. */
static void notice_alive(Feed *feed, const Packet *packet, const FeedCodec *codec)
{
    FeedCounts *counts = &feed->counts;
    bool was_silent = packet->arrival_ms - counts->last_ms > ALIVE_MS;
    counts->last_ms = packet->arrival_ms;
    if (!was_silent)
        return;
    counts->clock_rate = codec->clock_rate;
    EventHead head = {.kind = EVENT_ALIVE, .number = packet->payload_type, .subject = feed->id,
                      .now_ms = packet->arrival_ms};
    if (relay_notify(feed->relay, &head, NULL))
        feed->asking = true;
    else
        counts->last_ms = -1e12; /* the next packet tells it */
}

void feed_receive(Feed *feed, Packet *packet, bool recovered)
{
    const FeedCodec *codec = feed_codec(feed, packet->payload_type);
    if (!codec) {
        drop(feed->relay, DROP_UNKNOWN_PAYLOAD_TYPE);
        return;
    }
    if (!place(feed, packet, recovered))
        return;
    feed->seen[packet->ext_seq & (SEEN - 1)] = packet->ext_seq;
    if (!recovered) {
        feed->counts.received++;
        measure_jitter(feed, packet, codec);
    }
    notice_alive(feed, packet, codec);
    bool newest = packet->ext_seq == feed->counts.highest;
    if (feed->asking) {
        if (feed->held.count >= MAX_HELD_FEED || !held_put(&feed->held, packet, newest))
            drop(feed->relay, DROP_HELD);
        return;
    }
    feed->newest = newest;
    second_stage(feed, packet);
}

/* Unwraps RFC 4588: the packet is a late original from here on. */
void feed_receive_rtx(Feed *feed, Packet *packet)
{
    FeedCounts *counts = &feed->counts;
    counts->rtx_packets++;
    counts->rtx_bytes += (uint64_t)packet->size;
    int original = feed->original_of[packet->payload_type & 0x7F];
    if (packet->end - packet->start < 2) {
        drop(feed->relay, DROP_PADDING); /* probing for bandwidth */
        return;
    }
    if (original < 0 || !counts->ssrc) {
        drop(feed->relay, DROP_UNKNOWN_PAYLOAD_TYPE);
        return;
    }
    packet->sequence = read16(packet->data + packet->start);
    packet->start += 2;
    packet->payload_type = (uint8_t)original;
    packet->ssrc = counts->ssrc;
    feed_receive(feed, packet, true);
}
