/* Writing a plain RTP packet: header, pictures, and the stamp (number or time) of its leaving. */
#ifndef LIANXIN_PLAIN_H
#define LIANXIN_PLAIN_H

#include "bytes.h"
#include "internal.h"

static inline void write_header(uint8_t *out, bool has_block, uint8_t marker_type, uint16_t sequence, uint32_t timestamp,
                         uint32_t ssrc)
{
    out[0] = has_block ? 0x90 : 0x80;
    out[1] = marker_type;
    write16(out + 2, sequence);
    write32(out + 4, timestamp);
    write32(out + 8, ssrc);
}

static inline void patch_pictures(uint8_t *payload, int picture_at, uint16_t picture, uint16_t mask, int tl0_at, uint8_t tl0)
{
    if (picture_at < 0)
        return;
    if (mask == 0x7F)
        payload[picture_at] = (uint8_t)picture;
    else
        write16(payload + picture_at, picture | 0x8000);
    if (tl0_at >= 0)
        payload[tl0_at] = tl0;
}

/* Place of a block's first element's value in the packet. */
static inline uint8_t stamp_place(const uint8_t *packet)
{
    return packet[12] == 0xBE ? 17 : 18;
}

/* What the stamp would say if the packet left now. */
static inline uint32_t stamp_value(const Leg *leg, Stamp stamp, double now_ms)
{
    if (stamp == STAMP_NUMBER)
        return (leg->transport_seq + 1u) & 0xFFFF;
    return stamp == STAMP_TIME ? (uint32_t)to_int(now_ms * 262.144) & 0xFFFFFF : 0;
}

static inline void write_stamp(uint8_t *at, Stamp stamp, uint32_t value)
{
    if (stamp == STAMP_NUMBER)
        write16(at, (uint16_t)value);
    else if (stamp == STAMP_TIME)
        write24(at, value);
}

#endif
