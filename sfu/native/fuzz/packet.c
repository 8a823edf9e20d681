/* The RTP parser: every span must lie within the datagram. */
#include "../packet.h"

#include "script.h"

static void inside(const uint8_t *data, int size, Span span)
{
    if (!span.size)
        return;
    MUST(span.size > 0 && span.at >= data && span.at + span.size <= data + size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ExtensionIds ids = {.mid = 4, .rid = 10, .repaired_rid = 11, .audio_level = 1, .transport_cc = 3,
                        .abs_send_time = 2, .dependency = 8};
    ids.passed[1] = ids.passed[8] = ids.passed[13] = ids.passed[200] = true;
    if (size > MAX_PACKET)
        return 0;
    uint8_t *exact = malloc(size + 1);
    if (!exact)
        return 0;
    memcpy(exact + 1, data, size);
    Packet packet;
    memset(&packet, 0, sizeof packet);
    if (!packet_parse(&packet, exact + 1, (int)size, &ids)) {
        MUST(packet.start >= 12 && packet.start <= packet.end && packet.end <= packet.size);
        MUST(packet.size == (int)size);
        MUST(packet.elements >= 0 && packet.elements <= MAX_ELEMENTS);
        MUST(packet.level >= -1 && packet.level <= 127);
        MUST(packet.transport_seq >= -1 && packet.transport_seq <= 0xFFFF);
        for (int i = 0; i < packet.elements; i++)
            inside(exact + 1, (int)size, packet.element[i].value);
        inside(exact + 1, (int)size, packet.mid);
        inside(exact + 1, (int)size, packet.rid);
        inside(exact + 1, (int)size, packet.repaired_rid);
    }
    free(exact);
    return 0;
}
