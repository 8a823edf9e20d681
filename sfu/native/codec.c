#include "codec.h"

#include <string.h>

#include "bytes.h"

void packet_forget_payload(Packet *packet)
{
    packet->key_frame = packet->last = packet->sync = packet->layered = false;
    packet->first = true;
    packet->temporal = packet->spatial = 0;
    packet->picture_at = packet->tl0_at = -1;
    packet->picture_id = packet->picture_mask = 0;
    packet->tl0 = 0;
}

uint32_t bits_take(Bits *bits, int count)
{
    if (bits->failed || count > bits->bits - bits->at) {
        bits->failed = true;
        return 0;
    }
    uint64_t value = 0;
    for (int end = bits->at + count; bits->at < end; bits->at++)
        value = value << 1 | (bits->data[bits->at >> 3] >> (7 - (bits->at & 7)) & 1);
    return (uint32_t)value;
}

/* A picture id of 7 or 15 bits (VP8 and VP9).  Returns its end, -1 when it is cut off. */
static int read_picture_id(Packet *packet, const uint8_t *payload, int size, int at)
{
    if (at >= size)
        return -1;
    packet->picture_at = at;
    if (!(payload[at] & 0x80)) {
        packet->picture_id = payload[at];
        packet->picture_mask = 0x7F;
        return at + 1;
    }
    if (at + 1 >= size)
        return -1;
    packet->picture_id = read16(payload + at) & 0x7FFF;
    packet->picture_mask = 0x7FFF;
    return at + 2;
}

/* ---------------------------------------------------------------- VP8 (RFC 7741) */

static int read_vp8_extension(Packet *packet, const uint8_t *payload, int size)
{
    if (size < 2)
        return -1;
    int bits = payload[1], at = 2;
    if (bits & 0x80 && (at = read_picture_id(packet, payload, size, at)) < 0) /* I */
        return -1;
    if (bits & 0x40) { /* L: TL0PICIDX */
        if (at >= size)
            return -1;
        packet->tl0 = payload[at];
        packet->tl0_at = at++;
    }
    if (bits & 0x30) { /* T or K: TID, Y, KEYIDX */
        if (at >= size)
            return -1;
        if (bits & 0x20) {
            packet->temporal = payload[at] >> 6;
            packet->sync = payload[at] & 0x20;
        }
        at++;
    }
    return at;
}

int vp8_read(Packet *packet)
{
    const uint8_t *payload = packet->data + packet->start;
    int size = packet->end - packet->start, at = 1;
    packet_forget_payload(packet);
    if (size < 1)
        return -1;
    if (payload[0] & 0x80 && (at = read_vp8_extension(packet, payload, size)) < 0)
        return -1;
    packet->first = (payload[0] & 0x17) == 0x10; /* S bit and partition 0 */
    packet->key_frame = packet->first && at < size && !(payload[at] & 0x01);
    return 0;
}

bool vp8_picture_size(const Packet *packet, int *width, int *height)
{
    const uint8_t *payload = packet->data + packet->start;
    int size = packet->end - packet->start;
    /* the start code comes after the descriptor (at most 6 bytes) and the frame tag (3 bytes) */
    for (int at = 4; at <= 9 && at + 3 <= size; at++) {
        if (memcmp(payload + at, "\x9d\x01\x2a", 3))
            continue;
        if (at + 7 > size)
            return false;
        int w = (payload[at + 3] | payload[at + 4] << 8) & 0x3FFF;
        int h = (payload[at + 5] | payload[at + 6] << 8) & 0x3FFF;
        if (!w || !h)
            return false;
        *width = w;
        *height = h;
        return true;
    }
    return false;
}

/* ---------------------------------------------------------------- VP9 (RFC 9628), AV1 */

int vp9_read(Packet *packet)
{
    const uint8_t *payload = packet->data + packet->start;
    int size = packet->end - packet->start, at = 1;
    packet_forget_payload(packet);
    if (size < 1)
        return -1;
    int head = payload[0];
    if (head & 0x80 && (at = read_picture_id(packet, payload, size, at)) < 0) /* I */
        return -1;
    if (head & 0x20) { /* L: TID, U, SID, D */
        if (at >= size)
            return -1;
        int layer = payload[at++];
        packet->temporal = (uint8_t)(layer >> 5);
        packet->spatial = layer >> 1 & 0x07;
        packet->layered = true;
        packet->sync = layer & 0x10;
        if (!(head & 0x10)) { /* not F: TL0PICIDX */
            if (at >= size)
                return -1;
            packet->tl0 = payload[at];
            packet->tl0_at = at;
        }
    }
    packet->last = head & 0x04;                           /* E: ends a layer's frame */
    packet->first = head & 0x08 && packet->spatial == 0;  /* B: begins one */
    packet->key_frame = packet->first && !(head & 0x40);  /* P: predicted from earlier pictures */
    return 0;
}

bool vp9_picture_size(const Packet *packet, int *width, int *height)
{
    const uint8_t *payload = packet->data + packet->start;
    int size = packet->end - packet->start, at = 1, head = payload[0];
    if (!(head & 0x02)) /* V: scalability structure */
        return false;
    if (head & 0x80)
        at += at < size && payload[at] & 0x80 ? 2 : 1;
    if (head & 0x20)
        at += head & 0x10 ? 1 : 2;
    if ((head & 0x50) == 0x50) { /* F and P: at most 3 reference indices, the lowest bit says another follows */
        for (int i = 0; i < 3; i++) {
            at++;
            if (at > size || !(payload[at - 1] & 0x01))
                break;
        }
    }
    if (at >= size || !(payload[at] & 0x10)) /* Y: sizes are there */
        return false;
    at += 1 + 4 * (payload[at] >> 5); /* N_S: the last one is the highest */
    if (at + 4 > size)
        return false;
    int w = read16(payload + at), h = read16(payload + at + 2);
    if (!w || !h)
        return false;
    *width = w;
    *height = h;
    return true;
}

int av1_read(Packet *packet)
{
    packet_forget_payload(packet);
    if (packet->start >= packet->end)
        return -1;
    int head = packet->data[packet->start];
    packet->first = !(head & 0x80);    /* Z: goes on with the last packet's unit */
    packet->key_frame = head & 0x08;   /* N: a coded video sequence begins */
    return 0;
}
