/* The packet that one receiver gets: header patch, ring, pacer, protect, send (twins: sfu/leg_route.py,
 * sfu/tap_route.py). */
#include <string.h>

#include "bytes.h"
#include "codec.h"
#include "internal.h"
#include "plain.h"

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

/* ---------------------------------------------------------------- leaving */

static void depart(Route *route, uint8_t *slot, int start, int end, Stamp stamp, double now_ms, double arrival_ms)
{
    route->counts.packets++;
    route->counts.bytes += (uint64_t)end;
    route->counts.octets += (uint64_t)(end - start);
    leg_send_plain(route->leg, slot, end, stamp, now_ms, arrival_ms);
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
        leg_send_plain(leg, slot, end, queued->stamp, now_ms, queued->arrival_ms);
}

/* ---------------------------------------------------------------- to a client */

/* Remembers the packet for retransmission. */
static void keep_sent(Route *route, const Packet *packet, const Outgoing *payload, const uint8_t *slot, int start,
                      Numbers numbers, Stamp stamp, uint32_t value, bool stamped_late)
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
        .marker_type = slot[1], .stamp = (uint8_t)stamp, .stamped_late = stamped_late,
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
                  paced ? 0 : stamp_value(leg, stamp, relay->now_ms), paced && stamp != STAMP_NONE);
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
