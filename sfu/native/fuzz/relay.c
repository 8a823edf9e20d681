/* The whole engine: a script of datagrams, policy calls, time and closings, see world.h.
 *
 * What must hold beside memory safety: every packet that goes out is RTP, and none has the number of an earlier
 * one with other bytes. */
#include "world.h"

static uint8_t datagram[SLOT_SIZE];

static void give(World *world, int leg, int which, int size)
{
    uint32_t ip;
    uint16_t port;
    world_address(leg, which, &ip, &port);
    relay_input(world->relay, datagram, size, ip, port, world->now_ms);
}

/* ------------------------------------------------------------------ packets */

static int put_payload(Script *script, uint8_t *out, int room)
{
    static const uint8_t vp8_key[] = {0x90, 0xE0, 0x80, 1, 1, 0, 0x10, 0, 0, 0x9D, 1, 0x2A, 0x80, 2, 0x68, 1};
    static const uint8_t vp8_delta[] = {0x90, 0xE0, 0x80, 2, 2, 0x20, 0x11, 0, 0};
    static const uint8_t vp9_key[] = {0xAE, 0x80, 3, 0x10, 4, 0x18, 1, 64, 0, 48, 0x10, 0x82, 0x49};
    static const uint8_t h264[] = {0x78, 0, 5, 0x67, 0x42, 0, 0x1F, 0x96, 0, 2, 0x65, 0x88};
    static const uint8_t red[] = {0xEF, 0, 4, 3, 0x6F, 1, 2, 3, 9, 9, 9, 9};
    static const uint8_t av1[] = {0x18, 0x0A, 3, 0, 0, 0, 0x32, 1, 1};
    static const struct {
        const uint8_t *data;
        int size;
    } known[] = {{vp8_key, sizeof vp8_key}, {vp8_delta, sizeof vp8_delta}, {vp9_key, sizeof vp9_key},
                 {h264, sizeof h264}, {red, sizeof red}, {av1, sizeof av1}};
    unsigned kind = read8(script) % 8;
    int size = 0;
    if (kind < 6) {
        size = known[kind].size;
        memcpy(out, known[kind].data, (size_t)size);
        unsigned at = read8(script), with = read8(script); /* one byte of it is another */
        if (at < (unsigned)size)
            out[at] = (uint8_t)with;
    }
    int more = (int)read8(script) * (kind == 7 ? 8 : 1);
    if (more > room - size)
        more = room - size;
    int told = kind == 7 && more > 24 ? 24 : more; /* large packets shall not need large scripts */
    told = read_bytes(script, out + size, told);
    if (kind != 7)
        return size + told;
    memset(out + size + told, 0x55, (size_t)(more - told));
    return size + more;
}

static int put_extensions(Script *script, uint8_t *out, unsigned flags, unsigned stream)
{
    int at = 4;
    if (flags & 1) {
        out[at++] = 0x31; /* transport-wide number */
        out[at++] = (uint8_t)read8(script);
        out[at++] = (uint8_t)read8(script);
    }
    if (flags & 2) {
        out[at++] = 0x40; /* MID */
        out[at++] = (uint8_t)('0' + stream);
    }
    if (flags & 4) {
        out[at++] = 0x10; /* audio level */
        out[at++] = (uint8_t)read8(script);
    }
    if (flags & 8) { /* dependency descriptor */
        int size = 1 + (int)(read8(script) & 15);
        out[at++] = (uint8_t)(0x80 | (size - 1));
        memset(out + at, 0, (size_t)size);
        read_bytes(script, out + at, size);
        at += size;
    }
    while (at % 4)
        out[at++] = 0;
    out[0] = 0xBE;
    out[1] = 0xDE;
    out[2] = 0;
    out[3] = (uint8_t)((at - 4) / 4);
    return at;
}

static void send_rtp(World *world, Script *script)
{
    static const uint8_t types[] = {96, 97, 102, 103, 111, 63, 98, 99, 45, 46, 35, 0, 127};
    unsigned who = read8(script), stream = who >> 2 & 7, flags = read8(script), type = read8(script);
    unsigned step = read8(script);
    bool is_rtx = flags & 0x80;
    uint16_t *sequence = &world->sequence[stream];
    if (step < 0xD0)
        *sequence += 1;
    else if (step < 0xF8)
        *sequence += (uint16_t)((int)step - 0xE0);
    else
        *sequence += (uint16_t)read16(script);
    world->timestamp[stream] += read8(script) * 90;
    uint32_t ssrc = (is_rtx ? rtx_ssrc : stream_ssrc) + stream, timestamp = world->timestamp[stream];
    datagram[0] = (uint8_t)(0x80 | (flags & 0x0F ? 0x10 : 0) | (flags & 0x20));
    datagram[1] = (uint8_t)((flags & 0x40 ? 0x80 : 0) | types[type % sizeof types]);
    datagram[2] = (uint8_t)(*sequence >> 8);
    datagram[3] = (uint8_t)*sequence;
    for (int i = 0; i < 4; i++) {
        datagram[4 + i] = (uint8_t)(timestamp >> (24 - 8 * i));
        datagram[8 + i] = (uint8_t)(ssrc >> (24 - 8 * i));
    }
    int size = 12;
    if (flags & 0x0F)
        size += put_extensions(script, datagram + size, flags, stream);
    size += put_payload(script, datagram + size, MAX_PACKET - TAG - size);
    if (flags & 0x20)
        datagram[size - 1] = (uint8_t)read8(script);
    memset(datagram + size, 0xA5, TAG);
    give(world, who & 3, 0, size + TAG);
}

static void send_rtcp(World *world, Script *script)
{
    unsigned who = read8(script), route = read8(script) % ROUTES;
    int size = 0;
    if (who & 4) { /* a NACK for what a route may have sent */
        int64_t last = 0;
        int64_t rtx;
        if (world->route[route])
            route_last_numbers(world->route[route], &last, &rtx);
        uint32_t ssrc = out_ssrc + route * 2;
        uint16_t first = (uint16_t)(last - read8(script));
        uint8_t nack[] = {0x81, 205, 0, 3, 0, 0, 0, 1, (uint8_t)(ssrc >> 24), (uint8_t)(ssrc >> 16),
                          (uint8_t)(ssrc >> 8), (uint8_t)ssrc, (uint8_t)(first >> 8), (uint8_t)first,
                          (uint8_t)read8(script), (uint8_t)read8(script)};
        memcpy(datagram, nack, sizeof nack);
        size = sizeof nack;
    }
    size += read_bytes(script, datagram + size, (int)read8(script));
    if (size < 2)
        return;
    if (who & 8) {
        datagram[0] = (uint8_t)(0x80 | (datagram[0] & 0x3F));
        datagram[1] = (uint8_t)(200 + datagram[1] % 8);
    }
    memset(datagram + size, 0xA5, TAG);
    give(world, who & 3, who >> 4 & 3, size + TAG);
}

static void send_raw(World *world, Script *script)
{
    unsigned who = read8(script);
    memset(datagram, 0, sizeof datagram);
    int size = read_bytes(script, datagram, (int)(read16(script) % (MAX_PACKET + 100)));
    if (size)
        give(world, who & 3, who >> 2 & 3, size);
}

/* ------------------------------------------------------------------ policy */

static int slot_of(const uint64_t *ids, int count, uint64_t id)
{
    for (int i = 0; i < count; i++)
        if (ids[i] == id)
            return i;
    return -1;
}

static void answer_events(World *world, Script *script)
{
    const uint8_t *data = NULL;
    const EventHead *head;
    for (unsigned left = 1 + read8(script); left && (head = events_pop(relay_events(world->relay), &data)); left--) {
        uint64_t subject = head->subject;
        MUST(head->kind >= EVENT_STUN && head->kind <= EVENT_TAP);
        if (head->kind == EVENT_RESOLVE) {
            FirstPacket first;
            MUST(head->size == sizeof first);
            memcpy(&first, data, sizeof first);
            MUST(first.mid_size <= 16 && first.rid_size <= 16 && first.repaired_rid_size <= 16);
            int leg = slot_of(world->leg_id, LEGS, subject);
            if (leg < 0 || !world->leg[leg])
                continue;
            unsigned answer = read8(script);
            int feed = (int)(answer & 7);
            if (feed < FEEDS && world->feed[feed] && world->feed_leg[feed] == leg) {
                if (answer & 8)
                    leg_bind_rtx(world->leg[leg], first.ssrc, world->feed[feed]);
                else
                    leg_bind_ssrc(world->leg[leg], first.ssrc, world->feed[feed]);
            }
            leg_release(world->leg[leg], first.ssrc, world->now_ms);
        } else if (head->kind == EVENT_ALIVE) {
            int feed = slot_of(world->feed_id, FEEDS, subject);
            if (feed >= 0 && world->feed[feed])
                feed_release(world->feed[feed], world->now_ms);
        } else if (head->kind == EVENT_TAP) {
            MUST(head->size >= 12 && head->size <= MAX_PLAIN && data[0] >> 6 == 2);
        }
    }
}

static void call_leg(World *world, Script *script)
{
    static Digest digest;
    unsigned what = read8(script);
    int slot = (int)(what & 3), size;
    Leg *leg = world->leg[slot];
    uint32_t ip;
    uint16_t port;
    LegCounts counts;
    if (!leg) {
        world_open_leg(world, slot);
        return;
    }
    switch (what >> 2 & 15) {
    case 0:
        world_close_leg(world, slot);
        break;
    case 1:
        world_set_keys(world, slot, what & 0x40);
        break;
    case 2: /* sometimes another leg's address */
        world_address(what & 0x80 ? (slot + 1) & 3 : slot, (int)(what >> 6 & 1), &ip, &port);
        leg_bind_address(leg, ip, port);
        break;
    case 3:
        leg_set_rtt(leg, read8(script) * 4.0);
        break;
    case 4:
        leg_ask_again(leg, world->now_ms);
        break;
    case 5:
        leg_send_feedback(leg, world->now_ms);
        break;
    case 6:
        leg_set_pacing(leg, read8(script) * 20000.0);
        break;
    case 7:
        leg_probe(leg, 1 + (int)(what >> 6), read8(script) * 40000.0, (int)read16(script), world->now_ms);
        break;
    case 8:
        size = read_bytes(script, datagram, (int)read8(script));
        leg_acknowledge(leg, datagram, size, world->now_ms, &digest);
        break;
    case 9: { /* all that was sent lately has come */
        uint8_t body[8 + 2 + 256] = {0, 0, 0, 0, 1, 0, 0, 0};
        unsigned count = 1 + read8(script) % 255, base = read16(script);
        body[0] = (uint8_t)(base >> 8);
        body[1] = (uint8_t)base;
        body[3] = (uint8_t)count;
        body[8] = 0x20;
        body[9] = (uint8_t)count;
        MUST(!leg_acknowledge(leg, body, (int)(10 + count), world->now_ms, &digest));
        break;
    }
    case 10:
        leg_set_mending(leg, world->now_ms + read8(script));
        break;
    case 11: {
        uint8_t report[8] = {0x80, 201, 0, 1, 0, 0, 0, 1};
        leg_send_rtcp(leg, report, sizeof report);
        break;
    }
    default:
        leg_counts(leg, &counts);
        leg_address(leg, &ip, &port);
        MUST(!leg_ready(leg) || port);
    }
}

static void call_feed(World *world, Script *script)
{
    unsigned what = read8(script);
    int slot = (int)((what & 7) % FEEDS);
    Feed *feed = world->feed[slot];
    FeedCounts counts;
    if (!feed) {
        world_open_feed(world, slot, (int)(what >> 3 & 3));
        return;
    }
    Leg *leg = world->leg[world->feed_leg[slot]];
    switch (what >> 3 & 7) {
    case 0:
        world_close_feed(world, slot);
        break;
    case 1:
        if (leg)
            leg_bind_ssrc(leg, stream_ssrc + (read8(script) & 7), feed);
        break;
    case 2:
        if (leg)
            leg_bind_rtx(leg, rtx_ssrc + (read8(script) & 7), feed);
        break;
    case 3:
        if (leg)
            leg_drop_feed(leg, feed);
        break;
    case 4:
        feed_set_paused(feed, what & 0x40);
        break;
    case 5:
        feed_note_report(feed, 0xE000000000000000u + read16(script), world->timestamp[slot],
                         world->now_ms - read8(script), world->now_ms);
        break;
    case 6:
        feed_release(feed, world->now_ms);
        break;
    default: {
        double power;
        uint32_t count;
        feed_counts(feed, &counts);
        feed_take_level(feed, &power, &count);
        int fraction = feed_take_fraction(feed);
        MUST(fraction >= 0 && fraction <= 255);
    }
    }
}

static void call_route(World *world, Script *script)
{
    unsigned what = read8(script);
    int slot = (int)(what & 7);
    Route *route = world->route[slot];
    RouteCounts counts;
    uint32_t timestamp;
    if (!route) {
        world_open_route(world, slot, (int)(what >> 3) % (LEGS + 1) - 1, read8(script));
        return;
    }
    switch (what >> 3 & 15) {
    case 0:
        world_close_route(world, slot);
        break;
    case 1:
        route_stop(route);
        break;
    case 2:
        route_hush(route, world->now_ms);
        break;
    case 3:
        route_set_layers(route, (int)read8(script) % 4, (int)read8(script) % 4);
        break;
    case 4:
        route_resend(route, (uint16_t)read16(script), world->now_ms);
        break;
    case 5:
        route_counts(route, &counts);
        route_out_timestamp(route, world->now_ms, &timestamp);
        break;
    default:
        world_aim(world, slot, (int)read8(script) % FEEDS, read8(script));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static World world;
    Script script = {data, data + size};
    world_open(&world, -1);
    bool legs_first = read8(&script) & 1;
    while (script.at < script.end) {
        unsigned what = read8(&script);
        if (what < 0x80) {
            send_rtp(&world, &script);
        } else if (what < 0xA0) {
            send_rtcp(&world, &script);
        } else if (what < 0xB0) {
            answer_events(&world, &script);
        } else if (what < 0xC0) {
            world.now_ms += read8(&script);
            relay_release(world.relay, world.now_ms);
            relay_flush(world.relay, world.now_ms);
        } else if (what < 0xC4) {
            world.now_ms += read16(&script);
        } else if (what < 0xD0) {
            send_raw(&world, &script);
        } else if (what < 0xE0) {
            call_leg(&world, &script);
        } else if (what < 0xF0) {
            call_feed(&world, &script);
        } else {
            call_route(&world, &script);
        }
    }
    relay_flush(world.relay, world.now_ms);
    world_close(&world, legs_first);
    return 0;
}
