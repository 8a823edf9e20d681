#include "packet.h"

#include <string.h>

#include "bytes.h"

#define ONE_BYTE_PROFILE 0xBEDE
#define TWO_BYTE_PROFILE 0x1000

static void pass_on(Packet *packet, uint8_t id, Span value, const ExtensionIds *ids)
{
    if (id == ids->audio_level && value.size)
        packet->level = value.at[0] & 0x7F;
    else if (id == ids->dependency)
        packet->descriptor = value;
    if (packet->elements < MAX_ELEMENTS)
        packet->element[packet->elements++] = (Element){id, value};
}

static void name(Packet *packet, uint8_t id, Span value, const ExtensionIds *ids)
{
    if (id == ids->mid)
        packet->mid = value;
    else if (id == ids->abs_send_time) {
        if (value.size == 3)
            packet->abs_send_time = value.at[0] << 16 | value.at[1] << 8 | value.at[2];
    } else if (id == ids->rid)
        packet->rid = value;
    else if (id == ids->repaired_rid)
        packet->repaired_rid = value;
}

static void take(Packet *packet, uint8_t id, Span value, const ExtensionIds *ids)
{
    if (id == ids->transport_cc && value.size == 2)
        packet->transport_seq = read16(value.at);
    else if (ids->passed[id])
        pass_on(packet, id, value, ids);
    else
        name(packet, id, value, ids);
}

static int read_one_byte(Packet *packet, int at, int stop, const ExtensionIds *ids)
{
    const uint8_t *data = packet->data;
    while (at < stop) {
        uint8_t head = data[at];
        if (!head) { /* padding */
            at++;
            continue;
        }
        int following = at + 2 + (head & 0x0F);
        if (head >> 4 == 15) /* RFC 8285 4.2: stop here */
            return 0;
        if (following > stop)
            return -1;
        take(packet, head >> 4, (Span){data + at + 1, following - at - 1}, ids);
        at = following;
    }
    return 0;
}

static int read_two_byte(Packet *packet, int at, int stop, const ExtensionIds *ids)
{
    const uint8_t *data = packet->data;
    while (at < stop) {
        uint8_t id = data[at];
        if (!id) {
            at++;
            continue;
        }
        if (at + 2 > stop)
            return -1;
        int following = at + 2 + data[at + 1];
        if (following > stop)
            return -1;
        take(packet, id, (Span){data + at + 2, following - at - 2}, ids);
        at = following;
    }
    return 0;
}

int packet_parse(Packet *packet, const uint8_t *data, int size, const ExtensionIds *ids)
{
    if (size < 12 || data[0] >> 6 != 2)
        return -1;
    packet->data = data;
    packet->size = size;
    packet->payload_type = data[1] & 0x7F;
    packet->marker = data[1] & 0x80;
    packet->sequence = read16(data + 2);
    packet->timestamp = read32(data + 4);
    packet->ssrc = read32(data + 8);
    packet->mid = packet->rid = packet->repaired_rid = packet->descriptor = (Span){NULL, 0};
    packet->transport_seq = packet->abs_send_time = -1;
    packet->level = -1;
    packet->elements = 0;
    int start = 12 + (data[0] & 0x0F) * 4;
    if (data[0] & 0x10) {
        if (start + 4 > size)
            return -1;
        int profile = read16(data + start);
        int stop = start + 4 + read16(data + start + 2) * 4;
        if (stop > size)
            return -1;
        if (profile == ONE_BYTE_PROFILE && read_one_byte(packet, start + 4, stop, ids))
            return -1;
        if ((profile & 0xFFF0) == TWO_BYTE_PROFILE && read_two_byte(packet, start + 4, stop, ids))
            return -1;
        start = stop;
    } else if (start > size) {
        return -1;
    }
    packet->start = start;
    packet->end = size;
    if (data[0] & 0x20) {
        int padding = data[size - 1];
        if (!padding || start + padding > size)
            return -1;
        packet->end = size - padding;
    }
    return 0;
}
