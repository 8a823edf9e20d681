/* Routes: life, silence at an ordered end, what is counted (the other half of route.c). */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "internal.h"

#define FORGET_BELOW 49152 /* a successor's first packets may be lost in the pacer: far enough from 65536 */
#define HUSH_FRAMES 3 /* one would do; a lost one must not bring the sound back */

static void join_leg(Route *route)
{
    Leg *leg = route->leg;
    map_put(&leg->routes, route->ssrc, route);
    route->previous = leg->last_route;
    if (leg->last_route)
        leg->last_route->next = route;
    else
        leg->first_route = route;
    leg->last_route = route;
}

static void leave_leg(Route *route)
{
    Leg *leg = route->leg;
    if (map_get(&leg->routes, route->ssrc) == route)
        map_remove(&leg->routes, route->ssrc);
    if (route->previous)
        route->previous->next = route->next;
    else
        leg->first_route = route->next;
    if (route->next)
        route->next->previous = route->previous;
    else
        leg->last_route = route->previous;
    pacer_forget(&leg->pacer, route);
}

Route *route_new(Relay *relay, uint64_t id, Leg *leg, bool is_video, uint32_t ssrc, uint32_t rtx_ssrc, bool resends,
                 int64_t first_sequence, int64_t rtx_sequence)
{
    Route *route = calloc(1, sizeof *route);
    if (!route)
        return NULL;
    route->relay = relay;
    route->id = id;
    route->leg = leg;
    route->is_tap = !leg;
    route->is_video = is_video;
    route->resends = resends && leg;
    route->ssrc = ssrc;
    route->rtx_ssrc = rtx_ssrc;
    route->rtx_sequence = rtx_sequence;
    route->last_picture = route->last_tl0 = route->last_frame = -1;
    route->max_spatial = route->spatial = route->max_temporal = route->temporal = 7;
    route->ring.size = is_video ? VIDEO_SLOTS : AUDIO_SLOTS;
    numbers_init(&route->numbers, first_sequence);
    budget_init(&route->budget);
    if (leg)
        join_leg(route);
    return route;
}

void route_last_numbers(const Route *route, int64_t *last_sequence, int64_t *rtx_sequence)
{
    *last_sequence = numbers_last_out(&route->numbers);
    *rtx_sequence = route->rtx_sequence;
}

/* libsrtp looks for a packet's SSRC in a list: 1,000 that nobody uses any more cost 2 us per packet, and hours of
 * polling make 10,000.  A stream may be forgotten while its roll-over counter (RFC 3711 3.3.1) is zero and its
 * successor, who goes on with its numbers, begins there too: then no index, so no nonce, can come twice.  SRTCP's
 * index is not in the packet's numbers: its streams stay. */
static void forget_streams(const Route *route)
{
    const Leg *leg = route->leg;
    int (*remove)(void *, unsigned) = route->relay->config.srtp.remove_stream;
    if (!leg->send || !remove)
        return;
    if (numbers_last_out(&route->numbers) < FORGET_BELOW)
        remove(leg->send, htonl(route->ssrc));
    if (route->rtx_ssrc && route->rtx_sequence < FORGET_BELOW)
        remove(leg->send, htonl(route->rtx_ssrc));
}

void route_free(Route *route)
{
    if (!route)
        return;
    Relay *relay = route->relay;
    route_stop(route);
    if (route->leg) {
        leave_leg(route);
        forget_streams(route);
    }
    bound_drop(relay, route->binding);
    bound_drop(relay, route->target_binding);
    buffer_drop(&relay->pool, route->red_payload);
    ring_free(&route->ring, &relay->pool);
    free(route);
}

/* The payload type in which silence can be sent; -1 = there is none. */
static int opus_type(const Feed *feed, const Bound *bound)
{
    for (int i = 0; i < feed->codecs; i++)
        if (feed->codec[i].codec == CODEC_OPUS && bound_codec(bound, feed->codec[i].payload_type))
            return feed->codec[i].payload_type;
    return -1;
}

/* Speech ends here by order: a jitter buffer would stretch the last sound for another while. */
void route_hush(Route *route, double now_ms)
{
    Relay *relay = route->relay;
    if (route->is_video || !route->feed || !route->binding || !route->started)
        return;
    int type = opus_type(route->feed, route->binding);
    if (type < 0)
        return;
    relay->now_ms = now_ms;
    Packet silence = {.payload_type = (uint8_t)type, .arrival_ms = now_ms, .level = -1};
    packet_forget_payload(&silence);
    relay->payload = (Span){opus_silence, SILENCE_SIZE};
    for (int i = 0; i < HUSH_FRAMES; i++) {
        numbers_insert(&route->numbers); /* the feed may go on before the stop that follows is here */
        route->last_timestamp += SILENCE_TICKS;
        Numbers numbers = {.sequence = (uint16_t)numbers_last_out(&route->numbers),
                           .timestamp = route->last_timestamp};
        route_emit(route, &silence, false, numbers);
    }
    relay_forget_payload(relay);
}

void route_set_layers(Route *route, int max_spatial, int max_temporal)
{
    route->max_spatial = max_spatial;
    route->max_temporal = max_temporal;
}

/* The receiver's RTP timestamp of now_ms by the publisher's sender report. */
bool route_out_timestamp(const Route *route, double now_ms, uint32_t *timestamp)
{
    const Feed *feed = route->feed;
    if (!feed || !feed->counts.report_ntp || !route->started)
        return false;
    int64_t elapsed = to_int((now_ms - feed->report_local_ms) * feed->counts.clock_rate / 1000);
    *timestamp = (uint32_t)((int64_t)feed->report_rtp + route->timestamp_shift + elapsed);
    return true;
}

void route_counts(const Route *route, RouteCounts *counts)
{
    *counts = route->counts;
    counts->feed = route->feed ? route->feed->id : 0;
    counts->target = route->target ? route->target->id : 0;
    counts->timestamp_shift = route->timestamp_shift;
    counts->spatial = route->spatial;
}
