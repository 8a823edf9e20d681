/* Feeds: life, list of routes, reports (the other half of feed.c). */
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "internal.h"

static void learn_codecs(Feed *feed, const FeedCodec *codecs, int count)
{
    memset(feed->codec_of, 0xFF, sizeof feed->codec_of);
    memset(feed->original_of, 0xFF, sizeof feed->original_of);
    for (int i = 0; i < count && i < MAX_CODECS; i++) {
        feed->codec[i] = codecs[i];
        feed->codecs++;
        if (codecs[i].payload_type < 128)
            feed->codec_of[codecs[i].payload_type] = (int8_t)i;
        if (codecs[i].rtx_type >= 0 && codecs[i].rtx_type < 128)
            feed->original_of[codecs[i].rtx_type] = codecs[i].payload_type;
    }
    feed->counts.clock_rate = count ? codecs[0].clock_rate : 0;
}

Feed *feed_new(Relay *relay, uint64_t id, bool is_video, const FeedCodec *codecs, int count, bool asks_again)
{
    Feed *feed = calloc(1, sizeof *feed);
    if (!feed)
        return NULL;
    feed->relay = relay;
    feed->id = id;
    feed->is_video = is_video;
    feed->asks_again = asks_again;
    learn_codecs(feed, codecs, count);
    nack_init(&feed->nack);
    feed->counts.last_ms = -1e12;
    feed_bind(feed, 0); /* nothing has come */
    feed->next = relay->feeds;
    if (feed->next)
        feed->next->previous = feed;
    relay->feeds = feed;
    return feed;
}

static void pay_no_attention(Feed *feed)
{
    Relay *relay = feed->relay;
    Feed *before = NULL;
    for (Feed *other = relay->first_missed; other; before = other, other = other->next_missed) {
        if (other != feed)
            continue;
        if (before)
            before->next_missed = feed->next_missed;
        else
            relay->first_missed = feed->next_missed;
        if (relay->last_missed == feed)
            relay->last_missed = before;
        return;
    }
}

void feed_free(Feed *feed)
{
    if (!feed)
        return;
    feed_stop_routes(feed);
    if (feed->leg)
        leg_unbind(feed->leg, feed);
    pay_no_attention(feed);
    held_free(&feed->held);
    dependencies_clear(&feed->dependencies);
    nack_free(&feed->nack);
    if (feed->next)
        feed->next->previous = feed->previous;
    if (feed->previous)
        feed->previous->next = feed->next;
    else
        feed->relay->feeds = feed->next;
    free(feed);
}

void feed_set_paused(Feed *feed, bool paused)
{
    feed->paused = paused;
}

/* ---------------------------------------------------------------- routes */

static void replace_routes(Feed *feed, RouteList *routes)
{
    RouteList *old = feed->routes;
    feed->routes = routes;
    if (old && !--old->references)
        free(old);
}

static bool has_route(const Feed *feed, const Route *route)
{
    for (int i = 0; feed->routes && i < feed->routes->count; i++)
        if (feed->routes->route[i] == route)
            return true;
    return false;
}

static RouteList *list_of(int count)
{
    RouteList *routes = malloc(sizeof *routes + (size_t)count * sizeof routes->route[0]);
    if (routes)
        *routes = (RouteList){1, 0};
    return routes;
}

bool feed_add_route(Feed *feed, Route *route)
{
    if (has_route(feed, route))
        return true;
    int count = feed->routes ? feed->routes->count : 0;
    RouteList *routes = list_of(count + 1);
    if (!routes)
        return false;
    for (int i = 0; i < count; i++)
        routes->route[routes->count++] = feed->routes->route[i];
    routes->route[routes->count++] = route;
    replace_routes(feed, routes);
    return true;
}

void feed_remove_route(Feed *feed, Route *route)
{
    if (!has_route(feed, route))
        return;
    RouteList *routes = feed->routes;
    if (routes->count == 1) {
        replace_routes(feed, NULL);
        return;
    }
    RouteList *fewer = routes->references == 1 ? routes : list_of(routes->count - 1);
    if (!fewer)
        abort(); /* a route that goes away must not stay in the list */
    int kept = 0;
    for (int i = 0; i < routes->count; i++)
        if (routes->route[i] != route)
            fewer->route[kept++] = routes->route[i];
    fewer->count = kept;
    if (fewer != routes)
        replace_routes(feed, fewer);
}

void feed_stop_routes(Feed *feed)
{
    RouteList *routes = feed->routes;
    if (!routes)
        return;
    routes->references++;
    for (int i = 0; i < routes->count; i++)
        route_stop(routes->route[i]);
    if (!--routes->references)
        free(routes);
}

/* ---------------------------------------------------------------- asking again */

/* Generic NACK (RFC 4585 6.2.1); `asked` in sending order.  Returns its size. */
static int write_nack(uint8_t *out, uint32_t media_ssrc, const uint16_t *asked, int count)
{
    int at = 12, pid = -1;
    uint16_t mask = 0;
    for (int i = 0; i < count; i++) {
        int after = (asked[i] - pid) & 0xFFFF;
        if (pid >= 0 && after >= 1 && after <= 16) {
            mask = (uint16_t)(mask | 1u << (after - 1));
            write16(out + at - 2, mask);
            continue;
        }
        pid = asked[i];
        mask = 0;
        write16(out + at, asked[i]);
        write16(out + at + 2, 0);
        at += 4;
    }
    out[0] = 0x80 | 1;
    out[1] = 205;
    write16(out + 2, (uint16_t)(at / 4 - 1));
    write32(out + 4, 1);
    write32(out + 8, media_ssrc);
    return at;
}

void feed_ask_again(Feed *feed, double now_ms)
{
    Leg *leg = feed->leg;
    NackTracker *tracker = &feed->nack;
    if (!feed->asks_again || !leg)
        return;
    if (nack_take_overflow(tracker)) {
        EventHead head = {.kind = EVENT_LOST, .subject = feed->id, .now_ms = now_ms};
        relay_notify(feed->relay, &head, NULL);
    }
    if (feed->paused) { /* nobody would see them */
        nack_clear(tracker);
        return;
    }
    uint16_t asked[MAX_MISSING];
    int count = nack_due(tracker, feed->counts.highest, now_ms, leg->rtt_ms, asked);
    if (!count)
        return;
    feed->relay->nacks_sent += (uint64_t)count;
    uint8_t packet[12 + 4 * MAX_MISSING];
    leg_send_rtcp(leg, packet, write_nack(packet, feed->counts.ssrc, asked, count));
}

/* ---------------------------------------------------------------- reports */

void feed_note_report(Feed *feed, uint64_t ntp, uint32_t rtp_timestamp, double local_ms, double arrival_ms)
{
    feed->counts.report_ntp = ntp;
    feed->counts.report_arrival_ms = arrival_ms;
    feed->report_rtp = rtp_timestamp;
    feed->report_local_ms = local_ms;
}

void feed_take_level(Feed *feed, double *power, uint32_t *count)
{
    *power = feed->level_power;
    *count = feed->level_count;
    feed->level_power = 0;
    feed->level_count = 0;
}

/* RFC 3550 A.3. */
int feed_take_fraction(Feed *feed)
{
    const FeedCounts *counts = &feed->counts;
    if (counts->highest < 0)
        return 0;
    int64_t expected = counts->highest - counts->base_seq + 1, received = (int64_t)counts->received;
    int64_t expected_now = expected - feed->expected_prior, received_now = received - feed->received_prior;
    feed->expected_prior = expected;
    feed->received_prior = received;
    int64_t lost = expected_now - received_now;
    if (expected_now <= 0 || lost <= 0)
        return 0;
    int64_t fraction = lost * 256 / expected_now;
    return fraction < 255 ? (int)fraction : 255;
}

void feed_counts(const Feed *feed, FeedCounts *counts)
{
    *counts = feed->counts;
    counts->wanted = feed->routes;
}
