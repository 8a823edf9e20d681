/* One client: its address, its keys, whose its SSRCs are (twin: sfu/legs.py). */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

Leg *leg_new(Relay *relay, uint64_t id)
{
    Leg *leg = calloc(1, sizeof *leg);
    if (!leg)
        return NULL;
    leg->relay = relay;
    leg->id = id;
    pthread_mutex_init(&leg->history_lock, NULL);
    leg->next = relay->legs;
    if (leg->next)
        leg->next->previous = leg;
    relay->legs = leg;
    return leg;
}

static void stop_waiting(Leg *leg)
{
    Relay *relay = leg->relay;
    Leg *before = NULL;
    for (Leg *other = relay->first_waiting; other; before = other, other = other->next_waiting) {
        if (other != leg)
            continue;
        if (before)
            before->next_waiting = leg->next_waiting;
        else
            relay->first_waiting = leg->next_waiting;
        if (relay->last_waiting == leg)
            relay->last_waiting = before;
        break;
    }
    leg->waiting = false;
}

static void forget_address(Leg *leg, uint64_t address)
{
    if (address && map_get(&leg->relay->by_address, address) == leg)
        map_remove(&leg->relay->by_address, address);
}

/* Feeds and routes of this leg may live on: they lose it. */
static void let_go(Leg *leg)
{
    for (Feed *feed = leg->relay->feeds; feed; feed = feed->next)
        if (feed->leg == leg)
            feed->leg = NULL;
    for (Route *route = leg->first_route, *next; route; route = next) {
        next = route->next;
        route->leg = NULL;
        route->previous = route->next = NULL;
    }
}

void leg_free(Leg *leg)
{
    if (!leg)
        return;
    Relay *relay = leg->relay;
    output_forget(relay->output, &leg->to);
    forget_address(leg, leg->address);
    forget_address(leg, leg->old_address);
    stop_waiting(leg);
    let_go(leg);
    leg_drop_held(leg);
    pacer_free(&leg->pacer, &relay->pool);
    arrivals_free(leg->arrivals);
    history_free(leg->history);
    pthread_mutex_destroy(&leg->history_lock);
    map_free(&leg->by_ssrc);
    map_free(&leg->by_rtx);
    map_free(&leg->known);
    map_free(&leg->routes);
    free(leg->feeds);
    if (leg->next)
        leg->next->previous = leg->previous;
    if (leg->previous)
        leg->previous->next = leg->next;
    else
        relay->legs = leg->next;
    free(leg);
}

void leg_set_ids(Leg *leg, const ExtensionIds *ids)
{
    leg->ids = *ids;
}

void leg_set_srtp(Leg *leg, void *receive, void *receive_rtcp, void *send, void *send_rtcp)
{
    leg->receive = receive;
    leg->receive_rtcp = receive_rtcp;
    leg->send = send;
    leg->send_rtcp = send_rtcp;
}

/* ---------------------------------------------------------------- address */

static void point_at(Leg *leg, uint32_t ip, uint16_t port)
{
    output_forget(leg->relay->output, &leg->to); /* what is queued goes where it was meant to go */
    memset(&leg->to, 0, sizeof leg->to);
    leg->to.address.sin_family = AF_INET;
    leg->to.address.sin_addr.s_addr = htonl(ip);
    leg->to.address.sin_port = htons(port);
}

/* The same client has made a new transport from the same port, or an address was reused. */
static void lose_address(Leg *leg, uint64_t address)
{
    if (leg->old_address == address)
        leg->old_address = 0;
    if (leg->address != address)
        return;
    leg->address = 0;
    point_at(leg, 0, 0);
}

void leg_bind_address(Leg *leg, uint32_t ip, uint16_t port)
{
    Relay *relay = leg->relay;
    uint64_t address = (uint64_t)ip << 16 | port;
    if (leg->address == address)
        return;
    Leg *other = map_get(&relay->by_address, address);
    if (other && other != leg)
        lose_address(other, address);
    if (!map_put(&relay->by_address, address, leg))
        return;
    /* packets that were sent before the change still come from the old address: keep the newest two */
    if (leg->old_address != address)
        forget_address(leg, leg->old_address);
    leg->old_address = leg->address;
    leg->address = address;
    point_at(leg, ip, port);
}

bool leg_ready(const Leg *leg)
{
    return leg->receive && leg->address;
}

void leg_address(const Leg *leg, uint32_t *ip, uint16_t *port)
{
    *ip = ntohl(leg->to.address.sin_addr.s_addr);
    *port = ntohs(leg->to.address.sin_port);
}

/* ---------------------------------------------------------------- feeds */

static void remove_bound(Leg *leg, uint32_t ssrc)
{
    for (int i = 0; i < leg->feed_count; i++) {
        if (leg->feeds[i].ssrc != ssrc)
            continue;
        leg->feed_count--;
        memmove(leg->feeds + i, leg->feeds + i + 1, (size_t)(leg->feed_count - i) * sizeof *leg->feeds);
        return;
    }
}

static bool put_bound(Leg *leg, uint32_t ssrc, Feed *feed)
{
    for (int i = 0; i < leg->feed_count; i++) {
        if (leg->feeds[i].ssrc == ssrc) { /* taken over from another feed, in its place */
            leg->feeds[i].feed = feed;
            return true;
        }
    }
    if (leg->feed_count == leg->feed_room) {
        int room = leg->feed_room ? leg->feed_room * 2 : 4;
        BoundFeed *feeds = realloc(leg->feeds, (size_t)room * sizeof *feeds);
        if (!feeds)
            return false;
        leg->feeds = feeds;
        leg->feed_room = room;
    }
    leg->feeds[leg->feed_count++] = (BoundFeed){ssrc, feed};
    return true;
}

/* A feed that was bound on another leg is no more. */
static void adopt(Leg *leg, Feed *feed)
{
    if (feed->leg && feed->leg != leg)
        leg_unbind(feed->leg, feed);
    feed->leg = leg;
}

void leg_bind_ssrc(Leg *leg, uint32_t ssrc, Feed *feed)
{
    uint32_t old = feed->counts.ssrc;
    if (old == ssrc && feed->leg == leg)
        return;
    adopt(leg, feed);
    if (old && map_get(&leg->by_ssrc, old) == feed) {
        map_remove(&leg->by_ssrc, old);
        remove_bound(leg, old);
    }
    if (!put_bound(leg, ssrc, feed))
        return;
    if (!map_put(&leg->by_ssrc, ssrc, feed)) {
        remove_bound(leg, ssrc);
        return;
    }
    feed_bind(feed, ssrc);
}

void leg_bind_rtx(Leg *leg, uint32_t ssrc, Feed *feed)
{
    adopt(leg, feed);
    uint32_t old = feed->counts.rtx_ssrc;
    if (old && map_get(&leg->by_rtx, old) == feed)
        map_remove(&leg->by_rtx, old);
    if (map_put(&leg->by_rtx, ssrc, feed))
        feed->counts.rtx_ssrc = ssrc;
}

/* libsrtp keeps its state of a feed's SSRCs, and we keep them in `known`, as long as the leg lives.  Were the
 * state removed, the window against replays would begin anew, and whoever recorded the old packets on the way
 * could have them resolved by their MID to the feed that came next.  MAX_SSRCS bounds what that costs. */
void leg_unbind(Leg *leg, Feed *feed)
{
    if (map_get(&leg->by_ssrc, feed->counts.ssrc) == feed) {
        map_remove(&leg->by_ssrc, feed->counts.ssrc);
        remove_bound(leg, feed->counts.ssrc);
    }
    if (map_get(&leg->by_rtx, feed->counts.rtx_ssrc) == feed)
        map_remove(&leg->by_rtx, feed->counts.rtx_ssrc);
    if (feed->leg == leg)
        feed->leg = NULL;
}

void leg_drop_feed(Leg *leg, Feed *feed)
{
    feed_stop_routes(feed);
    leg_unbind(leg, feed);
}

void leg_set_rtt(Leg *leg, double rtt_ms)
{
    leg->rtt_ms = rtt_ms;
}

void leg_set_mending(Leg *leg, double until_ms)
{
    leg->mending_until_ms = until_ms;
}

void leg_counts(const Leg *leg, LegCounts *counts)
{
    *counts = leg->counts;
    counts->queued = (uint64_t)leg->pacer.count;
}
