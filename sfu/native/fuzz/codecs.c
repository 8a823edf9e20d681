/* Payloads and dependency descriptors of one feed, packet after packet; RED in and out. */
#include "../codec.h"
#include "../dependency.h"
#include "script.h"

static void check(const Packet *packet)
{
    int size = packet->end - packet->start;
    MUST(packet->picture_at < size && packet->tl0_at < size);
    if (packet->picture_at >= 0 && packet->picture_mask > 0xFF)
        MUST(packet->picture_at + 1 < size);
}

static void try_video(Script *script, Dependencies *dependencies, unsigned kind, uint8_t *payload, int size)
{
    uint8_t descriptor[255];
    Packet packet;
    int width = 0, height = 0, failed;
    memset(&packet, 0, sizeof packet);
    packet.data = payload;
    packet.size = packet.end = size;
    packet.ext_seq = 0x10000 + (int64_t)read8(script);
    packet.marker = kind & 0x80;
    packet_forget_payload(&packet);
    switch (kind & 3) {
    case 0:
        failed = vp8_read(&packet) || !vp8_picture_size(&packet, &width, &height);
        break;
    case 1:
        failed = h264_read(&packet) || !h264_picture_size(&packet, &width, &height);
        break;
    case 2:
        failed = vp9_read(&packet) || !vp9_picture_size(&packet, &width, &height);
        break;
    default:
        failed = av1_read(&packet);
    }
    if (!failed)
        MUST(width >= 0 && height >= 0);
    check(&packet);
    if (kind & 0x10) {
        int length = read_bytes(script, descriptor, (int)read8(script));
        uint8_t *exact = malloc((size_t)length + 1);
        MUST(exact);
        memcpy(exact + 1, descriptor, (size_t)length);
        packet.descriptor = (Span){exact + 1, length};
        if (!dependencies_read(dependencies, &packet))
            MUST(packet.temporal < 8 && packet.spatial < 8);
        free(exact);
    }
}

static void try_red(Script *script, uint8_t *payload, int size)
{
    static uint8_t out[MAX_PACKET + RED_ROOM];
    uint8_t before[255];
    Span primary, whole = {payload, size};
    if (!red_primary(whole, &primary))
        MUST(primary.size >= 0 && primary.at >= payload && primary.at + primary.size <= payload + size);
    Span previous = {before, read_bytes(script, before, (int)read8(script))};
    int made = red_make(out, whole, 111, previous, (int64_t)read16(script) - 1000);
    MUST(made > size && made <= size + RED_ROOM);
    Span again;
    MUST(!red_primary((Span){out, made}, &again));
    MUST(again.size == size && !memcmp(again.at, payload, (size_t)size));
    red_renumber(payload, size, 109);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t payload[MAX_PACKET];
    Script script = {data, data + size};
    Dependencies dependencies;
    memset(&dependencies, 0, sizeof dependencies);
    while (script.at < script.end) {
        unsigned kind = read8(&script);
        int length = read_bytes(&script, payload, (int)read8(&script) * (kind & 0x40 ? 6 : 1));
        if (!length)
            continue;
        uint8_t *exact = malloc((size_t)length);
        MUST(exact);
        memcpy(exact, payload, (size_t)length);
        if (kind & 0x20)
            try_red(&script, exact, length);
        else
            try_video(&script, &dependencies, kind, exact, length);
        free(exact);
    }
    dependencies_clear(&dependencies);
    return 0;
}
