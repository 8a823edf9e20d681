/* What the parsers find, as text, for the comparison with the Python twin (tests/differential). */
#include "../codec.h"
#include "../dependency.h"
#include "../relay.h"
#include "script.h"

typedef struct {
    Dependencies dependencies;
} Described;

Described *describe_new(void);
void describe_free(Described *described);
int describe(Described *described, const uint8_t *data, int size, int codec, int64_t ext_seq, char *out, int room);

Described *describe_new(void)
{
    return calloc(1, sizeof(Described));
}

void describe_free(Described *described)
{
    dependencies_clear(&described->dependencies);
    free(described);
}

static int put_span(char *out, size_t room, Span span)
{
    int at = 0;
    for (int i = 0; i < span.size && (size_t)at + 3 < room; i++)
        at += snprintf(out + at, room - (size_t)at, "%02x", span.at[i]);
    return at + snprintf(out + at, room - (size_t)at, ";");
}

static int read_payload(Described *described, Packet *packet, int codec, int *width, int *height)
{
    switch (codec) {
    case CODEC_VP8:
        if (vp8_read(packet))
            return -1;
        vp8_picture_size(packet, width, height);
        return 0;
    case CODEC_H264:
        if (h264_read(packet))
            return -1;
        h264_picture_size(packet, width, height);
        return 0;
    case CODEC_VP9:
        if (vp9_read(packet))
            return -1;
        vp9_picture_size(packet, width, height);
        break;
    default:
        if (av1_read(packet))
            return -1;
    }
    return packet->descriptor.at ? dependencies_read(&described->dependencies, packet) : 0;
}

/* Length of the text. */
int describe(Described *described, const uint8_t *data, int size, int codec, int64_t ext_seq, char *out, int room)
{
    ExtensionIds ids = {.mid = 4, .rid = 10, .repaired_rid = 11, .audio_level = 1, .transport_cc = 3,
                        .abs_send_time = 2, .dependency = 8};
    ids.passed[1] = ids.passed[8] = ids.passed[13] = ids.passed[200] = true;
    Packet packet;
    memset(&packet, 0, sizeof packet);
    if (packet_parse(&packet, data, size, &ids))
        return snprintf(out, (size_t)room, "malformed");
    int at = snprintf(out, (size_t)room, "%u %u %u %u %u %d %d %d %d %d ", packet.sequence, packet.timestamp,
                      packet.ssrc, packet.payload_type, packet.marker, packet.start, packet.end, packet.transport_seq,
                      packet.abs_send_time, packet.level);
    at += put_span(out + at, (size_t)(room - at), packet.mid);
    at += put_span(out + at, (size_t)(room - at), packet.rid);
    at += put_span(out + at, (size_t)(room - at), packet.repaired_rid);
    for (int i = 0; i < packet.elements; i++) {
        at += snprintf(out + at, (size_t)(room - at), "%u:", packet.element[i].id);
        at += put_span(out + at, (size_t)(room - at), packet.element[i].value);
    }
    if (packet.start == packet.end)
        return at + snprintf(out + at, (size_t)(room - at), " padding");
    if (codec == CODEC_OPUS || codec == CODEC_RED) {
        Span primary;
        if (red_primary((Span){data + packet.start, packet.end - packet.start}, &primary))
            return at + snprintf(out + at, (size_t)(room - at), " no red");
        return at + snprintf(out + at, (size_t)(room - at), " red %d", primary.size);
    }
    int width = 0, height = 0;
    packet.ext_seq = ext_seq;
    packet.layered = false;
    if (read_payload(described, &packet, codec, &width, &height))
        return at + snprintf(out + at, (size_t)(room - at), " no payload");
    at += snprintf(out + at, (size_t)(room - at), " %d %d %d %u", packet.key_frame, packet.first, packet.sync,
                   packet.temporal);
    if (packet.layered)
        at += snprintf(out + at, (size_t)(room - at), " layers %u %d", packet.spatial, packet.last);
    if (packet.picture_at >= 0)
        at += snprintf(out + at, (size_t)(room - at), " picture %d %u %u", packet.picture_at, packet.picture_id,
                       packet.picture_mask);
    if (packet.tl0_at >= 0)
        at += snprintf(out + at, (size_t)(room - at), " tl0 %d %u", packet.tl0_at, packet.tl0);
    if (packet.key_frame) {
        const Structure *structure = described->dependencies.structure;
        at += snprintf(out + at, (size_t)(room - at), " size %d %d", width, height);
        if (structure)
            at += snprintf(out + at, (size_t)(room - at), " structure %d %d %d %d", structure->templates,
                           structure->targets, structure->width, structure->height);
    }
    return at;
}
