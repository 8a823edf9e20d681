/* What the relay must know of payloads (twin: sfu/codecs).  A reader fills the packet's payload fields and
 * returns -1 for bytes that are no such payload; a size is written only when it was found. */
#ifndef LIANXIN_CODEC_H
#define LIANXIN_CODEC_H

#include <stdbool.h>

#include "packet.h"

void packet_forget_payload(Packet *packet);

int vp8_read(Packet *packet);
bool vp8_picture_size(const Packet *packet, int *width, int *height);
int h264_read(Packet *packet);
bool h264_picture_size(const Packet *packet, int *width, int *height);
int vp9_read(Packet *packet);
bool vp9_picture_size(const Packet *packet, int *width, int *height);
int av1_read(Packet *packet);

/* Opus with redundancy (RED, RFC 2198). */
#define SILENCE_SIZE 3
#define SILENCE_TICKS 960
extern const uint8_t opus_silence[SILENCE_SIZE];
/* The primary (newest) block.  -1 when the bytes are no RED payload. */
int red_primary(Span payload, Span *primary);
/* Changes the payload in place: its blocks carry payload_type.  -1 when the bytes are no RED payload. */
int red_renumber(uint8_t *payload, int size, uint8_t payload_type);
/* RED of `payload` and, where a block header can tell it, `previous`, `offset` ticks older.  Writes into out
 * (RED_ROOM bytes more than the payload) and returns the size. */
#define RED_ROOM 1040
int red_make(uint8_t *out, Span payload, uint8_t payload_type, Span previous, int64_t offset);

/* Big-endian bits; reading beyond the end sets `failed` and gives zeros. */
typedef struct {
    const uint8_t *data;
    int bits, at;
    bool failed;
} Bits;
uint32_t bits_take(Bits *bits, int count); /* at most 32 */

#endif
