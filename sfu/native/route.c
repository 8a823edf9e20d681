/* A receiver's way through the relay: which packets go on and under which numbers (twin: sfu/route.py). */
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "codec.h"
#include "internal.h"

/* ---------------------------------------------------------------- which feed */

static void set_binding(Relay *relay, Bound **place, Bound *bound)
{
    if (bound)
        bound->references++;
    bound_drop(relay, *place);
    *place = bound;
}

static void remember(Route *route, const Feed *feed)
{
    route->last_feed = feed->id;
    route->has_report = feed->counts.report_ntp;
    if (!route->has_report)
        return;
    route->report_ms = feed->report_local_ms;
    route->report_rtp = feed->report_rtp;
    route->report_shift = route->timestamp_shift;
}

static void set_target(Route *route, Feed *feed)
{
    Feed *old = route->target;
    if (old == feed)
        return;
    route->target = feed;
    if (old && old != route->feed)
        feed_remove_route(old, route);
    if (feed && !feed_add_route(feed, route))
        route->target = NULL; /* as if the feed were silent; it doesn't know us when it goes away */
}

static void leave(Route *route)
{
    Feed *feed = route->feed;
    if (!feed)
        return;
    route->feed = NULL;
    remember(route, feed);
    if (feed != route->target)
        feed_remove_route(feed, route);
}

static void aim(Route *route, Feed *feed, Bound *bound)
{
    if (feed == route->feed) {
        set_target(route, NULL);
        set_binding(route->relay, &route->binding, bound);
        return;
    }
    set_binding(route->relay, &route->target_binding, bound);
    set_target(route, feed);
}

void route_aim(Route *route, Feed *feed, const Binding *binding)
{
    Bound *bound = bound_new(route->relay, binding);
    if (!bound)
        return;
    aim(route, feed, bound);
    bound_drop(route->relay, bound);
}

/* What was sent before a stop is not sent again: the next aim begins with a key frame. */
void route_stop(Route *route)
{
    if (route->is_video && (route->feed || route->target))
        ring_free(&route->ring, &route->relay->pool);
    set_target(route, NULL);
    leave(route);
}

/* Leaves and aims again, but stays in the feed's list: with a thousand receivers, a publisher that begins anew all
 * the time could else keep us busy with copies of it. */
void route_restart(Route *route, Feed *feed)
{
    if (feed != route->feed)
        return;
    remember(route, feed);
    route->last_feed = 0;
    set_target(route, NULL);
    route->feed = NULL;
    route->target = feed;
    set_binding(route->relay, &route->target_binding, route->binding);
}

/* ---------------------------------------------------------------- switching */

/* Timestamp shift that lets the packet follow what was sent: by capture time where both feeds' sender reports
 * tell it, else by arrival (RFC 3550 6.4.1 on the relation of NTP and RTP time). */
static int64_t shift_for(const Route *route, const Feed *feed, const Packet *packet)
{
    double rate = feed_codec(feed, packet->payload_type)->clock_rate;
    int64_t last = route->last_timestamp;
    int64_t elapsed = to_int((packet->arrival_ms - route->last_sent_ms) * rate / 1000);
    int64_t by_arrival = last + (elapsed > 1 ? elapsed : 1), wanted = by_arrival;
    if (route->has_report && feed->counts.report_ntp) {
        int64_t since_report = signed32((int64_t)packet->timestamp - feed->report_rtp);
        double captured_ms = feed->report_local_ms + (double)(since_report * 1000) / rate;
        int64_t by_capture = (int64_t)route->report_rtp + route->report_shift +
                             to_int((captured_ms - route->report_ms) * rate / 1000);
        int64_t apart = signed32(by_capture - by_arrival);
        if ((double)(apart < 0 ? -apart : apart) < rate)
            wanted = by_capture;
    }
    if (signed32(wanted - last) <= 0)
        wanted = last + 1;
    return signed32(wanted - packet->timestamp);
}

static void carry_pictures_on(Route *route, const Packet *packet)
{
    if (packet->picture_at >= 0) {
        bool goes_on = route->last_picture >= 0;
        numbers_begin_pictures(&route->numbers, goes_on ? packet->picture_id - route->last_picture - 1 : 0,
                               goes_on ? packet->tl0 - route->last_tl0 - 1 : 0);
    }
    if (packet->descriptor.size >= 3 && route->last_frame >= 0)
        route->frame_shift = (read16(packet->descriptor.at + 1) - route->last_frame - 1) & 0xFFFF;
}

static void switch_to(Route *route, Feed *feed, const Packet *packet)
{
    Feed *old = route->feed;
    if (old) {
        remember(route, old);
        feed_remove_route(old, route);
    }
    route->feed = feed;
    route->target = NULL;
    set_binding(route->relay, &route->binding, route->target_binding);
    numbers_begin(&route->numbers, packet->ext_seq);
    carry_pictures_on(route, packet);
    if (route->is_video) {
        route->spatial = route->max_spatial;
        route->temporal = route->max_temporal;
    }
    if (!route->started) {
        route->started = true;
        route->timestamp_shift = 0;
    } else if (feed->id != route->last_feed) {
        route->timestamp_shift = shift_for(route, feed, packet);
    } /* a resumed feed keeps its shift: its clock went on meanwhile */
}

/* ---------------------------------------------------------------- layers */

/* Down at any frame, up where it is decodable (RFC 7741 Y bit) or at a key frame. */
static void choose_temporal(Route *route, const Packet *packet)
{
    if (!packet->first)
        return;
    int wanted = route->max_temporal;
    if (wanted <= route->temporal || packet->key_frame)
        route->temporal = wanted;
    else if (packet->temporal > route->temporal && packet->sync)
        route->temporal = wanted < packet->temporal ? wanted : packet->temporal;
}

/* At a picture's first packet: down at once, spatial layers up at a key frame, temporal ones where the sender
 * says that it is possible (RFC 9628 U bit, decode target indications). */
static void choose_layers(Route *route, const Packet *packet)
{
    if (packet->key_frame) {
        route->spatial = route->max_spatial;
        route->temporal = route->max_temporal;
        return;
    }
    if (route->max_spatial < route->spatial)
        route->spatial = route->max_spatial;
    int wanted = route->max_temporal;
    if (wanted < route->temporal)
        route->temporal = wanted;
    else if (wanted > route->temporal && packet->sync) {
        if (packet->temporal <= route->temporal)
            route->temporal = wanted;
        else if (!packet->descriptor.at) /* libwebrtc sets U like VP8's Y: this one needs lower layers only */
            route->temporal = wanted < packet->temporal ? wanted : packet->temporal;
    }
}

/* ---------------------------------------------------------------- hot path */

static Numbers map_numbers(const Route *route, const Packet *packet, Shifts shifts)
{
    return (Numbers){
        .sequence = (uint16_t)(packet->ext_seq - shifts.sequence),
        .timestamp = packet->timestamp + (uint32_t)route->timestamp_shift,
        .picture = (uint16_t)((packet->picture_id - shifts.picture) & packet->picture_mask),
        .tl0 = (uint8_t)(packet->tl0 - shifts.tl0),
    };
}

/* The newest packet so far. */
static void note_sent(Route *route, const Packet *packet, Numbers numbers)
{
    route->numbers.high = packet->ext_seq;
    route->last_timestamp = numbers.timestamp;
    route->last_sent_ms = packet->arrival_ms;
    if (packet->picture_at >= 0) {
        route->last_picture = numbers.picture;
        route->last_tl0 = numbers.tl0;
    }
}

/* With the feed's frame numbers going on across a switch of source: in bytes 1 and 2 of the descriptor. */
static int renumber_frame(const Route *route, Packet *packet, uint8_t *room)
{
    int frame = (read16(packet->descriptor.at + 1) - route->frame_shift) & 0xFFFF;
    if (!route->frame_shift)
        return frame;
    memcpy(room, packet->descriptor.at, (size_t)packet->descriptor.size);
    write16(room + 1, (uint16_t)frame);
    for (int i = 0; i < packet->elements; i++)
        if (packet->element[i].value.at == packet->descriptor.at)
            packet->element[i].value.at = room;
    return frame;
}

static void restore_descriptor(Packet *packet, const uint8_t *room)
{
    for (int i = 0; i < packet->elements; i++)
        if (packet->element[i].value.at == room)
            packet->element[i].value.at = packet->descriptor.at;
}

/* A packet of a feed that holds several layers (VP9, AV1). */
static void forward_layered(Route *route, Packet *packet, bool is_red)
{
    NumberMap *numbers = &route->numbers;
    bool newest = packet->ext_seq > numbers->high;
    Shifts shifts = numbers->shifts;
    if (newest) {
        if (packet->first)
            choose_layers(route, packet);
    } else if (!numbers_late(numbers, packet->ext_seq, &shifts)) {
        drop(route->relay, DROP_TOO_OLD);
        return;
    }
    bool too_high = packet->spatial > route->spatial;
    if (too_high || packet->temporal > route->temporal) {
        if (newest) /* picture ids stay: references of VP9 are told by their distance */
            numbers_skip(numbers, packet->ext_seq, -1);
        drop(route->relay, too_high ? DROP_SPATIAL_LAYER : DROP_TEMPORAL_LAYER);
        return;
    }
    Numbers mapped = map_numbers(route, packet, shifts);
    uint8_t room[256], marker = packet->marker;
    int frame = packet->descriptor.at ? renumber_frame(route, packet, room) : -1;
    if (newest) {
        note_sent(route, packet, mapped);
        if (frame >= 0)
            route->last_frame = frame;
    }
    if (packet->last && packet->spatial == route->spatial)
        packet->marker = 0x80; /* what else belongs to this picture is not sent */
    route_emit(route, packet, is_red, mapped);
    packet->marker = marker;
    if (frame >= 0)
        restore_descriptor(packet, room);
}

static void forward_late(Route *route, const Packet *packet, bool is_red)
{
    Shifts shifts;
    if (!numbers_late(&route->numbers, packet->ext_seq, &shifts))
        drop(route->relay, DROP_TOO_OLD);
    else if (packet->temporal > route->temporal)
        drop(route->relay, DROP_TEMPORAL_LAYER);
    else
        route_emit(route, packet, is_red, map_numbers(route, packet, shifts));
}

static void forward_newest(Route *route, const Packet *packet, bool is_red)
{
    if (packet->temporal > route->temporal || route->temporal != route->max_temporal) {
        choose_temporal(route, packet);
        if (packet->temporal > route->temporal) {
            numbers_skip(&route->numbers, packet->ext_seq, packet->picture_at >= 0 ? packet->picture_id : -1);
            drop(route->relay, DROP_TEMPORAL_LAYER);
            return;
        }
    }
    Numbers mapped = map_numbers(route, packet, route->numbers.shifts);
    note_sent(route, packet, mapped);
    route_emit(route, packet, is_red, mapped);
}

/* A key frame that comes in order, or a codec whose key frames we can't tell. */
static bool may_begin(const Route *route, const Packet *packet, const Feed *feed)
{
    return !route->is_video || (packet->key_frame && feed->newest) ||
           !codec_has_reader(feed_codec(feed, packet->payload_type)->codec);
}

void route_forward(Route *route, Packet *packet, Feed *feed, bool is_red)
{
    if (feed != route->feed) {
        if (feed != route->target)
            return;
        if (!may_begin(route, packet, feed)) {
            if (!route->feed)
                drop(route->relay, DROP_WAITING_FOR_KEY_FRAME);
            return; /* the old layer is still being sent: nothing is lost */
        }
        switch_to(route, feed, packet);
    }
    if (packet->layered)
        forward_layered(route, packet, is_red);
    else if (packet->ext_seq > route->numbers.high)
        forward_newest(route, packet, is_red);
    else
        forward_late(route, packet, is_red);
}

/* A packet of padding or rubbish: the receiver shall see no gap. */
void route_skip(Route *route, const Packet *packet, const Feed *feed)
{
    if (feed == route->feed && packet->ext_seq > route->numbers.high)
        numbers_skip(&route->numbers, packet->ext_seq, -1);
}
