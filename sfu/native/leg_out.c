/* What leaves towards one client: protection, RTCP of ours, feedback, pacing and probes. */
#include <string.h>

#include "bytes.h"
#include "internal.h"
#include "plain.h"

static bool protect_and_send(Leg *leg, uint8_t *slot, int size, double arrival_ms)
{
    Relay *relay = leg->relay;
    int plain = size;
    if (relay->config.srtp.protect(leg->send, slot, &size)) {
        drop(relay, DROP_SRTP_FAILED);
        return false;
    }
    leg->counts.bytes_out += (uint64_t)plain;
    if (leg->address)
        output_commit(relay->output, &leg->to, size, arrival_ms);
    else
        drop(relay, DROP_SEND_FAILED);
    return true;
}

bool leg_send_plain(Leg *leg, uint8_t *slot, int size, Stamp stamp, double now_ms, double arrival_ms)
{
    if (stamp != STAMP_NONE)
        write_stamp(slot + stamp_place(slot), stamp, stamp_value(leg, stamp, now_ms));
    if (stamp == STAMP_NUMBER) {
        leg->transport_seq++;
        pthread_mutex_lock(&leg->history_lock);
        if (!leg->history)
            leg->history = history_new();
        if (leg->history)
            history_record(leg->history, leg->transport_seq, now_ms, size, leg->cluster);
        pthread_mutex_unlock(&leg->history_lock);
    }
    return protect_and_send(leg, slot, size, arrival_ms);
}

int leg_send_rtcp(Leg *leg, const uint8_t *data, int size)
{
    Relay *relay = leg->relay;
    if (!leg->send_rtcp || !leg->address) {
        drop(relay, DROP_NOT_CONNECTED);
        return -1;
    }
    if (size > MAX_PLAIN || size < 0) {
        drop(relay, DROP_OVERSIZE);
        return -1;
    }
    uint8_t *slot = output_reserve(relay->output);
    memcpy(slot, data, (size_t)size);
    int protected = size;
    if (relay->config.srtp.protect_rtcp(leg->send_rtcp, slot, &protected)) {
        drop(relay, DROP_SRTCP_FAILED);
        return -1;
    }
    leg->counts.bytes_out += (uint64_t)size;
    output_commit(relay->output, &leg->to, protected, 0);
    return 0;
}

void leg_ask_again(Leg *leg, double now_ms)
{
    for (int i = 0; i < leg->feed_count; i++)
        feed_ask_again(leg->feeds[i].feed, now_ms);
}

void leg_send_feedback(Leg *leg, double now_ms)
{
    if (!leg->arrivals)
        return;
    uint8_t packet[12 + FEEDBACK_MAX];
    uint32_t media_ssrc = leg->feed_count ? leg->feeds[0].ssrc : 0;
    for (int size; (size = arrivals_take(leg->arrivals, now_ms, packet + 12)) > 0;) {
        packet[0] = 0x80 | 15;
        packet[1] = 205;
        write16(packet + 2, (uint16_t)(2 + size / 4));
        write32(packet + 4, 1);
        write32(packet + 8, media_ssrc);
        leg_send_rtcp(leg, packet, 12 + size);
    }
}

/* ---------------------------------------------------------------- what the line carries */

int leg_acknowledge(Leg *leg, const uint8_t *body, int size, double now_ms, Digest *digest)
{
    pthread_mutex_lock(&leg->history_lock);
    if (!leg->history)
        leg->history = history_new();
    int status = leg->history ? history_acknowledge(leg->history, body, size, now_ms, digest) : -1;
    pthread_mutex_unlock(&leg->history_lock);
    return status;
}

void leg_set_pacing(Leg *leg, double rate_bps)
{
    pacer_set_rate(&leg->pacer, rate_bps);
}

static Route *padding_route(const Leg *leg)
{
    for (Route *route = leg->first_route; route; route = route->next)
        if (route_pads(route))
            return route;
    return NULL;
}

bool leg_probe(Leg *leg, int cluster, double rate_bps, int size, double now_ms)
{
    (void)now_ms; /* its time begins with the next release */
    if (!leg_ready(leg) || !(rate_bps > 0) || size <= 0 || !padding_route(leg))
        return false;
    leg->cluster = 0;
    leg->pacer.probe = (Probe){.runs = true, .cluster = cluster, .rate_bps = rate_bps, .left = size, .credit = 1};
    relay_wait_for(leg->relay, leg);
    return true;
}

/* False when the probe is over. */
static bool pad(Leg *leg, Probe *probe, double now_ms)
{
    Route *route = padding_route(leg);
    if (!route)
        return false;
    if (probe->looked) {
        double elapsed_ms = now_ms - probe->at_ms;
        elapsed_ms = elapsed_ms > MAX_STEP_MS ? MAX_STEP_MS : elapsed_ms;
        if (elapsed_ms > 0)
            probe->credit += elapsed_ms * probe->rate_bps / 8000;
    }
    probe->looked = true;
    probe->at_ms = now_ms;
    leg->cluster = probe->cluster;
    while (probe->credit > 0 && probe->left > 0) {
        int size = route_send_padding(route, now_ms);
        if (!size)
            return false;
        probe->credit -= size;
        probe->left -= size;
    }
    return probe->left > 0;
}

bool leg_release_pacer(Leg *leg, double now_ms)
{
    Pacer *pacer = &leg->pacer;
    Queued queued;
    pacer_look(pacer, now_ms);
    while (pacer_next(pacer, &queued)) {
        route_depart_late(leg, &queued, now_ms);
        buffer_drop(&leg->relay->pool, queued.packet);
    }
    if (pacer->probe.runs && !pad(leg, &pacer->probe, now_ms)) {
        pacer->probe.runs = false;
        leg->cluster = 0;
    }
    return pacer_waits(pacer);
}
