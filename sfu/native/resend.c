/* What a receiver asks for again, and padding on its retransmission stream (twin: sfu/leg_route.py). */
#include <string.h>

#include "bytes.h"
#include "internal.h"
#include "plain.h"

#define MIN_RESEND_MS 20.0
#define MAX_RESEND_MS 100.0

/* -1: the same packet again. */
static int rtx_type_of(const Route *route, uint8_t out_type)
{
    const Bound *bound = route->binding;
    for (int i = 0; route->rtx_ssrc && i < bound->codecs; i++)
        if (bound->codec[i].out_type == out_type)
            return bound->codec[i].rtx_type;
    return -1;
}

/* False when a NACK for this number must not be answered now; counted. */
static bool may_resend(Route *route, Sent *sent, double now_ms)
{
    bool paced = route->is_video && route->rtx_ssrc;
    if (paced && !pacer_affords(&route->leg->pacer, now_ms)) {
        drop(route->relay, DROP_NACK_LIMIT);
        return false;
    }
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
    write_header(slot, size, (sent->marker_type & 0x80) | (uint8_t)rtx_type, (uint16_t)++route->rtx_sequence,
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
    if (!sent || !leg || !leg->send || !route->binding) {
        drop(relay, DROP_NACK_MISS);
        return false;
    }
    int rtx_type = rtx_type_of(route, sent->marker_type & 0x7F);
    if (rtx_type < 0 && sent->stamped_late) { /* of a source before: other bytes would use a nonce twice */
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
    if (!leg_send_plain(leg, slot, end, stamped ? route->binding->rtx_stamp : STAMP_NONE, now_ms, 0))
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
    write_header(slot, true, (uint8_t)rtx_type, (uint16_t)++route->rtx_sequence, route->last_timestamp,
                 route->rtx_ssrc);
    slot[0] |= 0x20;
    memcpy(slot + 12, bound->rtx_bytes, (size_t)bound->rtx_size);
    memset(slot + at, 0, PROBE_PADDING - 1);
    slot[end - 1] = PROBE_PADDING;
    if (!leg_send_plain(route->leg, slot, end, STAMP_NUMBER, now_ms, 0))
        return 0;
    route->counts.resent++;
    route->counts.resent_bytes += (uint64_t)end;
    return end;
}
