/* RTCP that a client sends: NACKs are answered here, the rest is the policy's (twin: sfu/rtcp.py parse). */
#include <string.h>

#include "bytes.h"
#include "internal.h"

enum { SRTP_AUTH_FAIL = 7, SRTP_REPLAY_FAIL = 9, SRTP_REPLAY_OLD = 10 };
enum { SR = 200, RR = 201, BYE = 203, RTPFB = 205, PSFB = 206 };
enum { FMT_NACK = 1 };

#define MAX_COMPOUND 64 /* packets in one compound */
#define MAX_NACKED 1024 /* numbers taken from one compound */

typedef struct { /* one packet of a compound; places are in the compound */
    int at, end;
    int stop; /* end without padding */
    int number, kind;
} Piece;

/* Reads the header at `at`.  False when the compound is malformed. */
static bool read_piece(const uint8_t *data, int size, int at, Piece *piece)
{
    if (at + 4 > size || data[at] >> 6 != 2)
        return false;
    int end = at + 4 + read16(data + at + 2) * 4;
    if (end > size)
        return false;
    int stop = end;
    if (data[at] & 0x20) {
        int padding = data[end - 1];
        if (!padding || padding > end - at - 4)
            return false;
        stop = end - padding;
    }
    *piece = (Piece){at, end, stop, data[at] & 0x1F, data[at + 1]};
    return true;
}

static bool is_nack(const Piece *piece)
{
    return piece->kind == RTPFB && piece->number == FMT_NACK;
}

static int bits_of(unsigned mask)
{
    int count = 0;
    for (; mask; mask &= mask - 1)
        count++;
    return count;
}

static int count_nacked(const uint8_t *data, const Piece *piece)
{
    int count = 0;
    for (int entry = piece->at + 12; entry < piece->stop - 3; entry += 4)
        count += 1 + bits_of(read16(data + entry + 2));
    return count;
}

/* Whether the policy could read it. */
static bool is_sound(const uint8_t *data, const Piece *piece, int *nacked)
{
    int body = piece->at + 4;
    switch (piece->kind) {
    case SR: return body + 24 + piece->number * 24 <= piece->stop;
    case RR: return body + 4 + piece->number * 24 <= piece->stop;
    case BYE: return body + piece->number * 4 <= piece->stop;
    case RTPFB:
    case PSFB:
        if (body + 8 > piece->stop)
            return false;
        if (is_nack(piece))
            *nacked += count_nacked(data, piece);
        return *nacked <= MAX_NACKED;
    default: return piece->kind >= 192 && piece->kind <= 223;
    }
}

static bool is_sound_compound(const uint8_t *data, int size)
{
    int count = 0, nacked = 0;
    Piece piece;
    for (int at = 0; at < size; at = piece.end)
        if (++count > MAX_COMPOUND || !read_piece(data, size, at, &piece) || !is_sound(data, &piece, &nacked))
            return false;
    return size >= 4;
}

static void answer_nack(Leg *leg, const uint8_t *data, const Piece *piece)
{
    Relay *relay = leg->relay;
    double now_ms = relay->now_ms; /* when the answers leave; the question may have waited in the socket */
    Route *route = map_get(&leg->routes, read32(data + piece->at + 8));
    if (!route)
        return;
    int nacked = count_nacked(data, piece);
    relay->nacks_received += (uint64_t)nacked;
    if (route->is_video && now_ms < leg->mending_until_ms) {
        relay->drops[DROP_NACK_OUTAGE] += (uint64_t)nacked;
        return;
    }
    for (int entry = piece->at + 12; entry < piece->stop - 3; entry += 4) {
        uint16_t pid = read16(data + entry), mask = read16(data + entry + 2);
        route_resend(route, pid, now_ms);
        for (int bit = 0; bit < 16; bit++)
            if (mask >> bit & 1)
                route_resend(route, (uint16_t)(pid + bit + 1), now_ms);
    }
}

/* Answers the NACKs and closes the gaps that they leave; returns the size of what is left. */
static int take_nacks(Leg *leg, uint8_t *data, int size)
{
    int left = 0;
    Piece piece;
    for (int at = 0; at < size; at = piece.end) {
        read_piece(data, size, at, &piece); /* known to be sound */
        if (is_nack(&piece)) {
            answer_nack(leg, data, &piece);
            continue;
        }
        memmove(data + left, data + at, (size_t)(piece.end - at));
        left += piece.end - at;
    }
    return left;
}

static Drop rtcp_failure(int status)
{
    if (status == SRTP_AUTH_FAIL)
        return DROP_SRTCP_AUTH;
    return status == SRTP_REPLAY_FAIL || status == SRTP_REPLAY_OLD ? DROP_SRTCP_REPLAY : DROP_SRTCP_FAILED;
}

void leg_input_rtcp(Leg *leg, uint8_t *data, int size, double now_ms)
{
    Relay *relay = leg->relay;
    int status = relay->config.srtp.unprotect_rtcp(leg->receive_rtcp, data, &size);
    if (status) {
        drop(relay, rtcp_failure(status));
        return;
    }
    leg->counts.bytes_in += (uint64_t)size;
    if (is_sound_compound(data, size))
        size = take_nacks(leg, data, size);
    if (!size)
        return;
    EventHead head = {.kind = EVENT_RTCP, .subject = leg->id, .now_ms = now_ms, .size = (uint32_t)size};
    relay_notify(relay, &head, data);
}
