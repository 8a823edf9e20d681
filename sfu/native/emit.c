/* The packet that one receiver gets: header patch, ring, pacer, protect, send; and its retransmissions
 * (twins: sfu/leg_route.py, sfu/tap_route.py). */
#include <string.h>

#include "bytes.h"
#include "codec.h"
#include "internal.h"

#define MIN_RESEND_MS 20.0
#define MAX_RESEND_MS 100.0

/* ---------------------------------------------------------------- payload */

typedef struct {
    Span bytes;
    Buffer **copy; /* where all receivers find their copy; NULL = these bytes are this receiver's only */
} Outgoing;

void relay_forget_payload(Relay *relay)
{
    buffer_drop(&relay->pool, relay->payload_buffer);
    buffer_drop(&relay->pool, relay->primary_buffer);
    relay->payload_buffer = relay->primary_buffer = NULL;
    relay->has_primary = false;
}

/* A reference that outlives the packet in hand. */
static Buffer *keep(Relay *relay, const Outgoing *payload)
{
    if (!payload->copy)
        return buffer_new(&relay->pool, payload->bytes.at, payload->bytes.size);
    if (!*payload->copy)
        *payload->copy = buffer_new(&relay->pool, payload->bytes.at, payload->bytes.size);
    return buffer_share(*payload->copy);
}

static int take_red_off(Relay *relay, Outgoing *payload)
{
    if (!relay->has_primary) {
        relay->has_primary = true;
        relay->primary_error = red_primary(relay->payload, &relay->primary);
    }
    *payload = (Outgoing){relay->primary, &relay->primary_buffer};
    return relay->primary_error;
}

/* The payload in the receiver's terms; -1 when it is no RED. */
static int outgoing_payload(Relay *relay, const OutCodec *codec, bool is_red, Outgoing *payload)
{
    *payload = (Outgoing){relay->payload, &relay->payload_buffer};
    if (!is_red)
        return 0;
    if (codec->strip_red)
        return take_red_off(relay, payload);
    if (codec->red_inner < 0)
        return 0;
    memcpy(relay->scratch, relay->payload.at, (size_t)relay->payload.size);
    *payload = (Outgoing){{relay->scratch, relay->payload.size}, NULL};
    return red_renumber(relay->scratch, relay->payload.size, (uint8_t)codec->red_inner);
}

/* Opus as RED with the one before it, if that was lately. */
static void make_redundant(Route *route, const OutCodec *codec, uint32_t timestamp, Outgoing *payload)
{
    Relay *relay = route->relay;
    Span previous = {NULL, 0};
    if (route->red_payload)
        previous = (Span){route->red_payload->data, route->red_payload->size};
    int64_t step = signed32((int64_t)timestamp - route->red_timestamp);
    int size = red_make(relay->scratch, payload->bytes, codec->out_type, previous, step);
    if (step > 0 || !previous.size) {
        buffer_drop(&relay->pool, route->red_payload);
        route->red_payload = keep(relay, payload);
        route->red_timestamp = timestamp;
    }
    *payload = (Outgoing){{relay->scratch, size}, NULL};
}

/* ---------------------------------------------------------------- writing */

static void write_header(uint8_t *out, bool has_block, uint8_t marker_type, uint16_t sequence, uint32_t timestamp,
                         uint32_t ssrc)
{
    out[0] = has_block ? 0x90 : 0x80;
    out[1] = marker_type;
    write16(out + 2, sequence);
    write32(out + 4, timestamp);
    write32(out + 8, ssrc);
}

static void patch_pictures(uint8_t *payload, int picture_at, uint16_t picture, uint16_t mask, int tl0_at, uint8_t tl0)
{
    if (picture_at < 0)
        return;
    if (mask == 0x7F)
        payload[picture_at] = (uint8_t)picture;
    else
        write16(payload + picture_at, picture | 0x8000);
    if (tl0_at >= 0)
        payload[tl0_at] = tl0;
}

/* Place of a block's first element's value in the packet. */
static uint8_t stamp_place(const uint8_t *packet)
{
    return packet[12] == 0xBE ? 17 : 18;
}

/* What the stamp would say if the packet left now. */
static uint32_t stamp_value(const Leg *leg, Stamp stamp, double now_ms)
{
    if (stamp == STAMP_NUMBER)
        return (leg->transport_seq + 1u) & 0xFFFF;
    return stamp == STAMP_TIME ? (uint32_t)to_int(now_ms * 262.144) & 0xFFFFFF : 0;
}

static void write_stamp(uint8_t *at, Stamp stamp, uint32_t value)
{
    if (stamp == STAMP_NUMBER)
        write16(at, (uint16_t)value);
    else if (stamp == STAMP_TIME)
        write24(at, value);
}

/* Numbers, remembers, protects and sends the plain packet in the slot. */
static bool send_plain(Leg *leg, uint8_t *slot, int size, Stamp stamp, double now_ms, double arrival_ms)
{
    if (stamp != STAMP_NONE)
        write_stamp(slot + stamp_place(slot), stamp, stamp_value(leg, stamp, now_ms));
    if (stamp == STAMP_NUMBER) {
        leg->transport_seq++;
        if (!leg->history)
            leg->history = history_new();
        if (leg->history)
            history_record(leg->history, leg->transport_seq, now_ms, size, leg->cluster);
    }
    return leg_protect_and_send(leg, slot, size, arrival_ms);
}

static void depart(Route *route, uint8_t *slot, int start, int end, Stamp stamp, double now_ms, double arrival_ms)
{
    route->counts.packets++;
    route->counts.bytes += (uint64_t)end;
    route->counts.octets += (uint64_t)(end - start);
    send_plain(route->leg, slot, end, stamp, now_ms, arrival_ms);
}

void route_depart_late(Leg *leg, const Queued *queued, double now_ms)
{
    Relay *relay = leg->relay;
    int end = queued->packet->size;
    if (!leg->send) {
        drop(relay, DROP_NOT_CONNECTED);
        return;
    }
    uint8_t *slot = output_reserve(relay->output);
    memcpy(slot, queued->packet->data, (size_t)end);
    if (queued->route)
        depart(queued->route, slot, queued->start, end, queued->stamp, now_ms, queued->arrival_ms);
    else /* its route is closed; the number is given, so it goes */
        send_plain(leg, slot, end, queued->stamp, now_ms, queued->arrival_ms);
}

/* ---------------------------------------------------------------- to a client */

/* Remembers the packet for retransmission. */
static void keep_sent(Route *route, const Packet *packet, const Outgoing *payload, const uint8_t *slot, int start,
                      Numbers numbers, Stamp stamp, uint32_t value)
{
    Relay *relay = route->relay;
    const Bound *bound = route->binding;
    Buffer *copy = keep(relay, payload), *block = NULL;
    if (!copy)
        return;
    if (start > 12) /* mostly the plain one */
        block = packet->elements && bound->passes ? buffer_new(&relay->pool, slot + 12, start - 12)
                                                  : buffer_share(bound->plain);
    if (start > 12 && !block) {
        buffer_drop(&relay->pool, copy);
        return;
    }
    Sent sent = {
        .payload = copy, .block = block, .timestamp = numbers.timestamp, .stamp_value = value,
        .sequence = numbers.sequence, .picture_id = numbers.picture, .picture_mask = packet->picture_mask,
        .picture_at = (int16_t)packet->picture_at, .tl0_at = (int16_t)packet->tl0_at, .tl0 = numbers.tl0,
        .marker_type = slot[1], .stamp = (uint8_t)stamp,
    };
    ring_put(&route->ring, &relay->pool, &sent);
}

/* Lets it go now, or with the pacer's next look. */
static void pace(Route *route, uint8_t *slot, int start, int end, Stamp stamp, double arrival_ms)
{
    Relay *relay = route->relay;
    Leg *leg = route->leg;
    if (pacer_admits(&leg->pacer, end, relay->now_ms)) {
        depart(route, slot, start, end, stamp, relay->now_ms, arrival_ms);
        return;
    }
    Queued queued = {.route = route, .packet = buffer_new(&relay->pool, slot, end), .arrival_ms = arrival_ms,
                     .start = (uint16_t)start, .stamp = (uint8_t)stamp};
    if (queued.packet && pacer_put(&leg->pacer, &queued)) {
        relay_wait_for(relay, leg);
        return;
    }
    buffer_drop(&relay->pool, queued.packet);
    drop(relay, DROP_PACER_FULL);
}

static void emit_to_leg(Route *route, const Packet *packet, const OutCodec *codec, Outgoing payload, Numbers numbers)
{
    Relay *relay = route->relay;
    Leg *leg = route->leg;
    const Bound *bound = route->binding;
    uint8_t *slot = output_reserve(relay->output);
    int start = 12 + bound_block(bound, packet, slot + 12), end = start + payload.bytes.size;
    if (end > MAX_PLAIN) {
        drop(relay, DROP_OVERSIZE);
        return;
    }
    bool made_red = payload.bytes.at == relay->scratch && codec->make_red >= 0;
    uint8_t type = made_red ? (uint8_t)codec->make_red : codec->out_type;
    write_header(slot, start > 12, packet->marker | type, numbers.sequence, numbers.timestamp, route->ssrc);
    memcpy(slot + start, payload.bytes.at, (size_t)payload.bytes.size);
    patch_pictures(slot + start, packet->picture_at, numbers.picture, packet->picture_mask, packet->tl0_at,
                   numbers.tl0);
    /* without RTX a packet must keep the number it was given: it can't wait */
    bool paced = route->is_video && route->rtx_ssrc && codec->rtx_type >= 0;
    Stamp stamp = start > 12 ? bound->stamp : STAMP_NONE;
    if (route->resends)
        keep_sent(route, packet, &payload, slot, start, numbers, stamp,
                  paced ? 0 : stamp_value(leg, stamp, relay->now_ms));
    if (paced)
        pace(route, slot, start, end, stamp, packet->arrival_ms);
    else
        depart(route, slot, start, end, stamp, relay->now_ms, packet->arrival_ms);
}

/* ---------------------------------------------------------------- to a tap */

static void emit_to_tap(Route *route, const Packet *packet, const OutCodec *codec, Outgoing payload, Numbers numbers)
{
    Relay *relay = route->relay;
    uint8_t *out = output_reserve(relay->output); /* never committed */
    int end = 12 + payload.bytes.size;
    write_header(out, false, packet->marker | codec->out_type, numbers.sequence, numbers.timestamp, route->ssrc);
    memcpy(out + 12, payload.bytes.at, (size_t)payload.bytes.size);
    patch_pictures(out + 12, packet->picture_at, numbers.picture, packet->picture_mask, packet->tl0_at, numbers.tl0);
    route->counts.packets++;
    route->counts.bytes += (uint64_t)end;
    EventHead head = {.kind = EVENT_TAP, .subject = route->id, .now_ms = packet->arrival_ms, .size = (uint32_t)end};
    relay_notify(relay, &head, out);
}

void route_emit(Route *route, const Packet *packet, bool is_red, Numbers numbers)
{
    Relay *relay = route->relay;
    const Bound *bound = route->binding;
    if (!bound || (!route->is_tap && (!route->leg || !route->leg->send))) {
        if (!route->is_tap)
            drop(relay, DROP_NOT_CONNECTED);
        return;
    }
    const OutCodec *codec = bound_codec(bound, packet->payload_type);
    if (!codec) {
        drop(relay, DROP_NO_CODEC);
        return;
    }
    Outgoing payload;
    if (outgoing_payload(relay, codec, is_red, &payload)) {
        drop(relay, DROP_MALFORMED_PAYLOAD);
        return;
    }
    if (route->is_tap) {
        emit_to_tap(route, packet, codec, payload, numbers);
        return;
    }
    if (codec->make_red >= 0 && !is_red)
        make_redundant(route, codec, numbers.timestamp, &payload);
    emit_to_leg(route, packet, codec, payload, numbers);
}

/* ---------------------------------------------------------------- retransmission */

/* False: of a source before, whose codec the present one does not have.  Such a packet was numbered when it
 * left, so nobody knows its bytes, and other bytes would use a nonce twice.  rtx_type -1: the same bytes again. */
static bool find_rtx_type(const Route *route, uint8_t out_type, int *rtx_type)
{
    const Bound *bound = route->binding;
    *rtx_type = -1;
    if (!route->rtx_ssrc)
        return true;
    for (int i = 0; i < bound->codecs; i++) {
        if (bound->codec[i].out_type == out_type) {
            *rtx_type = bound->codec[i].rtx_type;
            return true;
        }
    }
    return false;
}

/* False when a NACK for this number must not be answered now; counted. */
static bool may_resend(Route *route, Sent *sent, double now_ms)
{
    double interval_ms = route->leg->rtt_ms * 0.5;
    interval_ms = interval_ms < MIN_RESEND_MS ? MIN_RESEND_MS : interval_ms;
    interval_ms = interval_ms > MAX_RESEND_MS ? MAX_RESEND_MS : interval_ms;
    if (!ring_may_resend(sent, now_ms, interval_ms)) {
        drop(route->relay, DROP_NACK_TOO_SOON);
        return false;
    }
    if (!budget_take(&route->budget, now_ms)) {
        drop(route->relay, DROP_NACK_LIMIT);
        return false;
    }
    return true;
}

/* RFC 4588; returns where the original payload goes. */
static int write_rtx_head(Route *route, const Sent *sent, int rtx_type, uint8_t *slot)
{
    const Bound *bound = route->binding;
    const uint8_t *block = bound->rtx_bytes;
    int size = bound->rtx_size;
    if (bound->same_blocks) { /* descriptor and rotation belong to the frame, not to its way */
        block = sent->block ? sent->block->data : NULL;
        size = sent->block ? sent->block->size : 0;
    }
    write_header(slot, size, (sent->marker_type & 0x80) | (uint8_t)rtx_type, ++route->rtx_sequence,
                 sent->timestamp, route->rtx_ssrc);
    if (size)
        memcpy(slot + 12, block, (size_t)size);
    write16(slot + 12 + size, sent->sequence);
    return 14 + size;
}

/* Byte for byte what was sent: another header under the same SRTP index would use a GCM nonce twice. */
static int write_same_head(const Route *route, const Sent *sent, uint8_t *slot)
{
    int size = sent->block ? sent->block->size : 0;
    write_header(slot, size, sent->marker_type, sent->sequence, sent->timestamp, route->ssrc);
    if (size) {
        memcpy(slot + 12, sent->block->data, (size_t)size);
        write_stamp(slot + stamp_place(slot), sent->stamp, sent->stamp_value);
    }
    return 12 + size;
}

bool route_resend(Route *route, uint16_t sequence, double now_ms)
{
    Relay *relay = route->relay;
    Leg *leg = route->leg;
    Sent *sent = route->resends ? ring_find(&route->ring, sequence) : NULL;
    int rtx_type;
    if (!sent || !leg || !leg->send || !route->binding ||
        !find_rtx_type(route, sent->marker_type & 0x7F, &rtx_type)) {
        drop(relay, DROP_NACK_MISS);
        return false;
    }
    if (!may_resend(route, sent, now_ms))
        return false;
    uint8_t *slot = output_reserve(relay->output);
    int at = rtx_type >= 0 ? write_rtx_head(route, sent, rtx_type, slot) : write_same_head(route, sent, slot);
    int end = at + sent->payload->size;
    if (end > MAX_PLAIN) {
        drop(relay, DROP_OVERSIZE);
        return false;
    }
    memcpy(slot + at, sent->payload->data, sent->payload->size);
    patch_pictures(slot + at, sent->picture_at, sent->picture_id, sent->picture_mask, sent->tl0_at, sent->tl0);
    bool stamped = rtx_type >= 0 && slot[0] & 0x10;
    if (!send_plain(leg, slot, end, stamped ? route->binding->rtx_stamp : STAMP_NONE, now_ms, 0))
        return false;
    route->counts.resent++;
    route->counts.resent_bytes += (uint64_t)end;
    pacer_charge(&leg->pacer, end, now_ms);
    return true;
}

/* ---------------------------------------------------------------- padding */

static const Bound *padding_binding(const Route *route, int *rtx_type)
{
    const Bound *bound = route->binding ? route->binding : route->target_binding;
    if (!bound || bound->rtx_stamp != STAMP_NUMBER)
        return NULL;
    for (int i = 0; i < bound->codecs; i++) {
        *rtx_type = bound->codec[i].rtx_type;
        if (*rtx_type >= 0)
            return bound;
    }
    return NULL;
}

/* Whether padding can go out here: on a retransmission stream whose arrivals are reported. */
bool route_pads(const Route *route)
{
    int rtx_type;
    return route->is_video && route->rtx_ssrc && padding_binding(route, &rtx_type);
}

int route_send_padding(Route *route, double now_ms)
{
    int rtx_type;
    const Bound *bound = padding_binding(route, &rtx_type);
    if (!bound || !route->leg->send)
        return 0;
    uint8_t *slot = output_reserve(route->relay->output);
    int at = 12 + bound->rtx_size, end = at + PROBE_PADDING;
    write_header(slot, true, (uint8_t)rtx_type, ++route->rtx_sequence, route->last_timestamp, route->rtx_ssrc);
    slot[0] |= 0x20;
    memcpy(slot + 12, bound->rtx_bytes, (size_t)bound->rtx_size);
    memset(slot + at, 0, PROBE_PADDING - 1);
    slot[end - 1] = PROBE_PADDING;
    if (!send_plain(route->leg, slot, end, STAMP_NUMBER, now_ms, 0))
        return 0;
    route->counts.resent++;
    route->counts.resent_bytes += (uint64_t)end;
    return end;
}
