/* The relay itself: life, lock, demultiplexing, time. */
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

const char *const drop_names[DROP_COUNT] = {
    "oversize", "unknown_protocol", "unbound_address", "no_keys", "send_buffer_full", "send_failed",
    "srtp_auth", "srtp_replay", "srtp_failed", "srtcp_auth", "srtcp_replay", "srtcp_failed",
    "malformed_rtp", "malformed_payload", "too_many_ssrcs", "unknown_ssrc", "unknown_payload_type",
    "producer_paused", "duplicate", "padding", "not_connected", "waiting_for_key_frame",
    "temporal_layer", "spatial_layer", "no_codec", "too_old", "tap_overflow", "nack_miss",
    "nack_limit", "nack_too_soon", "nack_outage", "pacer_full", "held", "channel_full",
};

/* ---------------------------------------------------------------- life */

static bool open_parts(Relay *relay)
{
    const RelayConfig *config = &relay->config;
    relay->output = output_new(config->fd, config->gso, config->sink, config->context);
    relay->events = events_new();
    relay->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    relay->batch = config->fd >= 0 ? batch_new(config->batch) : NULL;
    return relay->output && relay->events && relay->wake_fd >= 0 && (config->fd < 0 || relay->batch);
}

Relay *relay_new(const RelayConfig *config)
{
    Relay *relay = calloc(1, sizeof *relay);
    if (!relay)
        return NULL;
    relay->config = *config;
    if (relay->config.batch < 1 || relay->config.batch > 64)
        relay->config.batch = 64;
    relay->config.kernel_times = config->kernel_times && config->fd >= 0 && ask_for_kernel_times(config->fd);
    relay->next_release_ms = -1;
    for (int level = 0; level < 128; level++)
        relay->level_power[level] = pow(10.0, level / -10.0);
    pthread_mutex_init(&relay->next, NULL);
    pthread_mutex_init(&relay->main, NULL);
    if (!open_parts(relay)) {
        relay_free(relay);
        return NULL;
    }
    return relay;
}

void relay_free(Relay *relay)
{
    if (!relay)
        return;
    output_free(relay->output);
    events_free(relay->events);
    batch_free(relay->batch);
    if (relay->wake_fd >= 0)
        close(relay->wake_fd);
    map_free(&relay->by_address);
    buffers_free(&relay->pool);
    pthread_mutex_destroy(&relay->next);
    pthread_mutex_destroy(&relay->main);
    free(relay);
}

/* ---------------------------------------------------------------- lock */

/* Who waits for `main` holds `next`, so that the thread, when it lets go and comes back, finds the door taken:
 * a plain mutex would give it the lock again before a waiter has woken up. */
void relay_lock(Relay *relay)
{
    atomic_fetch_add(&relay->waiting, 1);
    pthread_mutex_lock(&relay->next);
    pthread_mutex_lock(&relay->main);
    pthread_mutex_unlock(&relay->next);
    atomic_fetch_sub(&relay->waiting, 1);
}

void relay_unlock(Relay *relay)
{
    pthread_mutex_unlock(&relay->main);
}

void relay_wake(Relay *relay)
{
    uint64_t one = 1;
    ssize_t written = write(relay->wake_fd, &one, sizeof one);
    (void)written; /* full: it will wake up in any case */
}

void relay_stop(Relay *relay)
{
    atomic_store(&relay->stopping, true);
    relay_wake(relay);
}

/* ---------------------------------------------------------------- datagrams in */

static void notify_datagram(Relay *relay, EventKind kind, const uint8_t *data, int size, uint32_t ip,
                            uint16_t port, double now_ms)
{
    EventHead head = {.kind = (uint8_t)kind, .port = port, .ip = ip, .now_ms = now_ms, .size = (uint32_t)size};
    relay_notify(relay, &head, data);
}

/* Media or its control: of a leg whose address is known. */
static void take_media(Relay *relay, uint8_t *data, int size, uint32_t ip, uint16_t port, double arrival_ms)
{
    Leg *leg = map_get(&relay->by_address, (uint64_t)ip << 16 | port);
    if (!leg)
        drop(relay, DROP_UNBOUND_ADDRESS);
    else if (size > MAX_PACKET)
        drop(relay, DROP_OVERSIZE);
    else if (size < 12)
        drop(relay, DROP_MALFORMED_RTP);
    else if (!leg->receive)
        drop(relay, DROP_NO_KEYS);
    else if (data[1] > 191 && data[1] < 224)
        leg_input_rtcp(leg, data, size, arrival_ms);
    else
        leg_input_rtp(leg, data, size, arrival_ms);
}

/* RFC 7983. */
void relay_take(Relay *relay, uint8_t *data, int size, uint32_t ip, uint16_t port, double arrival_ms)
{
    if (size <= 0)
        return;
    if (data[0] > 127 && data[0] < 192)
        take_media(relay, data, size, ip, port, arrival_ms);
    else if (size >= SLOT_SIZE)
        drop(relay, DROP_OVERSIZE);
    else if (data[0] < 4)
        notify_datagram(relay, EVENT_STUN, data, size, ip, port, arrival_ms);
    else if (data[0] > 19 && data[0] < 64)
        notify_datagram(relay, EVENT_DTLS, data, size, ip, port, arrival_ms);
    else
        drop(relay, DROP_UNKNOWN_PROTOCOL);
}

void relay_input(Relay *relay, uint8_t *data, int size, uint32_t ip, uint16_t port, double now_ms)
{
    relay->now_ms = now_ms;
    relay_take(relay, data, size, ip, port, now_ms);
}

/* ---------------------------------------------------------------- out */

bool relay_notify(Relay *relay, const EventHead *head, const void *data)
{
    if (events_push(relay->events, head, data))
        return true;
    drop(relay, head->kind == EVENT_TAP ? DROP_TAP_OVERFLOW : DROP_CHANNEL_FULL);
    return false;
}

void relay_pay_attention(Relay *relay, Feed *feed)
{
    if (feed->missed)
        return;
    feed->missed = true;
    feed->next_missed = NULL;
    if (relay->last_missed)
        relay->last_missed->next_missed = feed;
    else
        relay->first_missed = feed;
    relay->last_missed = feed;
}

static void ask_for_missed(Relay *relay, double now_ms)
{
    Feed *feed = relay->first_missed;
    relay->first_missed = relay->last_missed = NULL;
    while (feed) {
        Feed *next = feed->next_missed;
        feed->missed = false;
        feed_ask_again(feed, now_ms);
        feed = next;
    }
}

void relay_flush_output(Relay *relay, double now_ms)
{
    output_flush(relay->output, now_ms);
    const OutputCounts *counts = output_counts(relay->output);
    relay->drops[DROP_SEND_BUFFER_FULL] += counts->full - relay->full_seen;
    relay->drops[DROP_SEND_FAILED] += counts->failed - relay->failed_seen;
    relay->full_seen = counts->full;
    relay->failed_seen = counts->failed;
}

/* The end of a batch; without a time (a call of Python's) nobody is asked for what is missing yet.  Amid the
 * thread's batch it waits for its end: part of it sent alone would be many small messages instead of few. */
void relay_flush(Relay *relay, double now_ms)
{
    if (relay->amid_batch)
        return;
    if (now_ms > 0)
        ask_for_missed(relay, now_ms);
    relay_flush_output(relay, now_ms);
}

/* ---------------------------------------------------------------- time */

void relay_wait_for(Relay *relay, Leg *leg)
{
    if (leg->waiting)
        return;
    leg->waiting = true;
    leg->next_waiting = NULL;
    if (relay->last_waiting)
        relay->last_waiting->next_waiting = leg;
    else
        relay->first_waiting = leg;
    relay->last_waiting = leg;
    relay_wake(relay); /* the thread may be sleeping without an end */
}

double relay_release(Relay *relay, double now_ms)
{
    relay->now_ms = now_ms;
    Leg *leg = relay->first_waiting;
    relay->first_waiting = relay->last_waiting = NULL;
    for (Leg *next; leg; leg = next) {
        next = leg->next_waiting;
        bool more = leg_release_pacer(leg, now_ms);
        leg->waiting = more;
        if (!more)
            continue;
        leg->next_waiting = NULL;
        if (relay->last_waiting)
            relay->last_waiting->next_waiting = leg;
        else
            relay->first_waiting = leg;
        relay->last_waiting = leg;
    }
    return relay->first_waiting ? RELEASE_MS : -1;
}

void relay_tend(Relay *relay, double now_ms)
{
    for (Leg *leg = relay->legs; leg; leg = leg->next) {
        if (!leg_ready(leg))
            continue;
        leg_send_feedback(leg, now_ms);
        leg_ask_again(leg, now_ms);
    }
}

/* ---------------------------------------------------------------- what is counted */

Events *relay_events(Relay *relay)
{
    return relay->events;
}

const uint64_t *relay_drops(const Relay *relay)
{
    return relay->drops;
}

const OutputCounts *relay_output_counts(const Relay *relay)
{
    return output_counts(relay->output);
}

uint64_t relay_nacks_sent(const Relay *relay)
{
    return relay->nacks_sent;
}

uint64_t relay_nacks_received(const Relay *relay)
{
    return relay->nacks_received;
}
