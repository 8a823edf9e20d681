/* RTP that a client sends: to its feed, or to the policy first (twin: PythonRelay._on_rtp). */
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "internal.h"

enum { SRTP_AUTH_FAIL = 7, SRTP_REPLAY_FAIL = 9, SRTP_REPLAY_OLD = 10 };

static Drop rtp_failure(int status)
{
    if (status == SRTP_AUTH_FAIL)
        return DROP_SRTP_AUTH;
    return status == SRTP_REPLAY_FAIL || status == SRTP_REPLAY_OLD ? DROP_SRTP_REPLAY : DROP_SRTP_FAILED;
}

static void to_feed(Feed *feed, Packet *packet)
{
    feed->counts.packets++;
    feed->counts.bytes += (uint64_t)packet->size;
    feed_receive(feed, packet, false);
    if (feed->nack.newly_missing)
        relay_pay_attention(feed->relay, feed);
}

/* False when the packet is nobody's. */
static bool deliver(Leg *leg, Packet *packet)
{
    Feed *feed = map_get(&leg->by_ssrc, packet->ssrc);
    if (feed) {
        to_feed(feed, packet);
        return true;
    }
    feed = map_get(&leg->by_rtx, packet->ssrc);
    if (feed)
        feed_receive_rtx(feed, packet);
    return feed;
}

/* ---------------------------------------------------------------- unknown SSRCs */

static Pending *find_pending(Leg *leg, uint32_t ssrc)
{
    for (int i = 0; i < leg->pending_count; i++)
        if (leg->pending[i].ssrc == ssrc)
            return &leg->pending[i];
    return NULL;
}

static uint8_t cut_name(Span name, uint8_t out[16])
{
    int size = name.size < 16 ? name.size : 16;
    if (size)
        memcpy(out, name.at, (size_t)size);
    return (uint8_t)size;
}

static bool ask_whose(Leg *leg, const Packet *packet)
{
    FirstPacket first = {.ssrc = packet->ssrc, .payload_type = packet->payload_type};
    first.mid_size = cut_name(packet->mid, first.mid);
    first.rid_size = cut_name(packet->rid, first.rid);
    first.repaired_rid_size = cut_name(packet->repaired_rid, first.repaired_rid);
    EventHead head = {
        .kind = EVENT_RESOLVE, .subject = leg->id, .now_ms = packet->arrival_ms, .size = sizeof first};
    return relay_notify(leg->relay, &head, &first);
}

static void hold(Leg *leg, Pending *pending, const Packet *packet)
{
    if (pending->held.count >= MAX_HELD_SSRC || !held_put(&pending->held, packet, false))
        drop(leg->relay, DROP_HELD);
}

static void hold_unknown(Leg *leg, const Packet *packet)
{
    if (leg->pending_count == MAX_PENDING) {
        drop(leg->relay, DROP_HELD);
        return;
    }
    if (!ask_whose(leg, packet))
        return;
    Pending *pending = &leg->pending[leg->pending_count++];
    *pending = (Pending){.ssrc = packet->ssrc};
    hold(leg, pending, packet);
}

void leg_release(Leg *leg, uint32_t ssrc, double now_ms)
{
    Pending *pending = find_pending(leg, ssrc);
    if (!pending)
        return;
    leg->relay->now_ms = now_ms;
    HeldQueue queue = pending->held;
    *pending = leg->pending[--leg->pending_count];
    for (Held *held; (held = held_take(&queue)); free(held)) {
        if (deliver(leg, &held->packet))
            continue;
        leg->counts.other_packets++;
        leg->counts.other_bytes += (uint64_t)held->packet.size;
        drop(leg->relay, DROP_UNKNOWN_SSRC);
    }
}

void leg_drop_held(Leg *leg)
{
    for (int i = 0; i < leg->pending_count; i++)
        held_free(&leg->pending[i].held);
    leg->pending_count = 0;
}

/* ---------------------------------------------------------------- each packet */

static void note_arrival(Leg *leg, const Packet *packet)
{
    if (packet->transport_seq < 0)
        return;
    if (!leg->arrivals)
        leg->arrivals = arrivals_new();
    if (leg->arrivals)
        arrivals_record(leg->arrivals, (uint16_t)packet->transport_seq, packet->arrival_ms);
}

void leg_input_rtp(Leg *leg, uint8_t *data, int size, double now_ms)
{
    Relay *relay = leg->relay;
    uint32_t ssrc = read32(data + 8);
    bool is_known = map_get(&leg->by_ssrc, ssrc) || map_get(&leg->known, ssrc);
    if (!is_known && leg->known.count >= MAX_SSRCS) {
        drop(relay, DROP_TOO_MANY_SSRCS);
        return;
    }
    int status = relay->config.srtp.unprotect(leg->receive, data, &size);
    if (status) {
        drop(relay, rtp_failure(status));
        return;
    }
    Packet *packet = &relay->packet;
    packet->arrival_ms = now_ms;
    leg->counts.bytes_in += (uint64_t)size;
    if (packet_parse(packet, data, size, &leg->ids)) {
        drop(relay, DROP_MALFORMED_RTP);
        return;
    }
    note_arrival(leg, packet);
    Pending *pending = leg->pending_count ? find_pending(leg, ssrc) : NULL;
    if (pending)
        hold(leg, pending, packet);
    else if (!deliver(leg, packet) && (is_known || map_put(&leg->known, ssrc, leg)))
        hold_unknown(leg, packet);
}
