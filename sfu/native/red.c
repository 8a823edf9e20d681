/* Opus with redundancy (RED, RFC 2198 and RFC 7587; twin: sfu/codecs/opus.py). */
#include <string.h>

#include "bytes.h"
#include "codec.h"

#define MAX_BLOCKS 8
#define MAX_OFFSET (1 << 14) /* ticks that a block header can tell */
#define MAX_BLOCK (1 << 10)  /* bytes that it can tell */
#define MAX_MADE 1200        /* bytes of a payload that we make */

/* 20 ms of nothing (RFC 6716 3.1: CELT, fullband, mono, code 0), which a decoder takes over without a click */
const uint8_t opus_silence[SILENCE_SIZE] = {0xf8, 0xff, 0xfe};

int red_primary(Span payload, Span *primary)
{
    int at = 0, skipped = 0;
    for (int i = 0; i < MAX_BLOCKS; i++) {
        if (at >= payload.size)
            return -1;
        if (!(payload.at[at] & 0x80)) {
            at += 1 + skipped;
            if (at > payload.size)
                return -1;
            *primary = (Span){payload.at + at, payload.size - at};
            return 0;
        }
        if (at + 4 > payload.size)
            return -1;
        skipped += (payload.at[at + 2] & 0x03) << 8 | payload.at[at + 3];
        at += 4;
    }
    return -1;
}

int red_renumber(uint8_t *payload, int size, uint8_t payload_type)
{
    for (int i = 0, at = 0; i < MAX_BLOCKS && at < size; i++, at += 4) {
        uint8_t more = payload[at] & 0x80;
        payload[at] = more | payload_type;
        if (!more)
            return 0;
    }
    return -1;
}

int red_make(uint8_t *out, Span payload, uint8_t payload_type, Span previous, int64_t offset)
{
    int at = 0;
    if (previous.size && offset > 0 && offset < MAX_OFFSET && previous.size < MAX_BLOCK &&
        5 + previous.size + payload.size <= MAX_MADE) {
        write32(out, (uint32_t)(0x80 | payload_type) << 24 | (uint32_t)offset << 10 | (uint32_t)previous.size);
        at = 4;
    } else {
        previous.size = 0;
    }
    out[at++] = payload_type;
    if (previous.size)
        memcpy(out + at, previous.at, (size_t)previous.size);
    at += previous.size;
    memcpy(out + at, payload.at, (size_t)payload.size);
    return at + payload.size;
}
