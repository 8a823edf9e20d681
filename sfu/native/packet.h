/* RTP packets (RFC 3550) and their header extensions (RFC 8285): one parse per packet.
 *
 * The C twin of sfu/rtp.py and sfu/codecs: same fields, same refusals.  Nothing is allocated; all spans
 * point into the datagram, which is bounded by MAX_PACKET and outlives the Packet. */
#ifndef LIANXIN_PACKET_H
#define LIANXIN_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_PACKET 1600   /* bytes of one RTP or RTCP datagram */
#define MAX_PLAIN 1888    /* bytes of a packet that we write, before SRTP */
#define SLOT_SIZE 2048    /* MAX_PLAIN and room for SRTP's trailer (160 bytes) */
#define MAX_ELEMENTS 16   /* header extension elements passed on */
#define MAX_LAYERS 4

typedef struct {
    const uint8_t *at;
    int size;
} Span;

/* Extension ids of the packets that one leg sends us; 0 = not negotiated. */
typedef struct {
    uint8_t mid, rid, repaired_rid, audio_level, transport_cc, abs_send_time, dependency;
    bool passed[256]; /* ids whose elements are passed on */
} ExtensionIds;

typedef struct {
    uint8_t id;
    Span value;
} Element;

typedef struct {
    const uint8_t *data;
    int size;
    int start, end; /* of the payload, padding taken off */
    uint16_t sequence;
    uint32_t timestamp, ssrc;
    uint8_t payload_type, marker; /* marker: 0 or 0x80 */
    Span mid, rid, repaired_rid;
    Span descriptor; /* dependency descriptor, NULL = none */
    int32_t transport_seq; /* transport-wide number, -1 = none */
    int32_t abs_send_time; /* 6.18 fixed point seconds, -1 = none */
    int level;             /* RFC 6464: 0 loudest ... 127 silence, -1 = none */
    int elements;
    Element element[MAX_ELEMENTS];
    double arrival_ms;
    int64_t ext_seq; /* unwrapped by the feed */
    /* what the codec found; see forget_payload() */
    bool key_frame; /* this packet begins a key frame */
    bool first;     /* ... a frame, with all its spatial layers */
    bool last;      /* this packet ends its spatial layer of a frame */
    bool sync;      /* decodable from here on at this temporal layer */
    bool layered;   /* the feed holds several layers; else spatial and last say nothing */
    uint8_t temporal, spatial;
    int picture_at, tl0_at; /* places in the payload, -1 = none */
    uint16_t picture_id, picture_mask;
    uint8_t tl0;
} Packet;

/* 0, or -1 when the bytes are no RTP packet. */
int packet_parse(Packet *packet, const uint8_t *data, int size, const ExtensionIds *ids);

#endif
