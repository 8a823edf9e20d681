/* H.264 payloads (RFC 6184): where a key frame begins, and the picture size in its parameter set. */
#include "bytes.h"
#include "codec.h"

enum { IDR = 5, SPS = 7, STAP_A = 24, FU_A = 28 };
#define MAX_UNITS 16 /* aggregated units looked at in one packet */
#define MAX_SPS 256  /* bytes of a parameter set that are read */

static bool begins_key(int head)
{
    return (head & 0x1F) == IDR || (head & 0x1F) == SPS;
}

/* The next NAL unit of an aggregation packet; false at its end. */
static bool next_unit(Span payload, int *at, Span *unit)
{
    if (*at + 2 >= payload.size)
        return false;
    int size = read16(payload.at + *at);
    *at += 2;
    if (!size || *at + size > payload.size)
        return false;
    *unit = (Span){payload.at + *at, size};
    *at += size;
    return true;
}

static bool any_key_unit(Span payload)
{
    Span unit;
    int at = 1;
    for (int i = 0; i < MAX_UNITS && next_unit(payload, &at, &unit); i++)
        if (begins_key(unit.at[0]))
            return true;
    return false;
}

int h264_read(Packet *packet)
{
    Span payload = {packet->data + packet->start, packet->end - packet->start};
    packet_forget_payload(packet);
    if (payload.size < 1)
        return -1;
    int kind = payload.at[0] & 0x1F;
    if (kind == FU_A) {
        if (payload.size < 2)
            return -1;
        packet->first = payload.at[1] & 0x80;
        packet->key_frame = packet->first && begins_key(payload.at[1]);
    } else if (kind == STAP_A) {
        packet->key_frame = any_key_unit(payload);
    } else {
        packet->key_frame = begins_key(kind);
    }
    return 0;
}

/* Exp-Golomb numbers (H.264 9.1). */
static int64_t take_unsigned(Bits *bits)
{
    int zeros = 0;
    while (!bits_take(bits, 1)) {
        if (bits->failed || ++zeros > 31) {
            bits->failed = true;
            return 0;
        }
    }
    return ((int64_t)1 << zeros) - 1 + bits_take(bits, zeros);
}

static int64_t take_signed(Bits *bits)
{
    int64_t number = take_unsigned(bits);
    return number & 1 ? (number + 1) / 2 : -(number / 2);
}

static void skip_scaling_list(Bits *bits, int size)
{
    int64_t last = 8, following = 8;
    for (int i = 0; i < size && !bits->failed; i++) {
        if (following)
            following = (last + take_signed(bits)) & 0xFF;
        if (following)
            last = following;
    }
}

/* Reads what the profile has; returns chroma_format_idc. */
static int64_t skip_profile(Bits *bits, uint32_t profile)
{
    static const uint8_t high[] = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135};
    bool is_high = false;
    for (unsigned i = 0; i < sizeof high; i++)
        is_high |= profile == high[i];
    if (!is_high)
        return 1;
    int64_t chroma = take_unsigned(bits);
    if (chroma == 3)
        bits_take(bits, 1);
    take_unsigned(bits); /* bit depths */
    take_unsigned(bits);
    bits_take(bits, 1);
    if (bits_take(bits, 1)) /* scaling matrices */
        for (int i = 0; i < (chroma != 3 ? 8 : 12); i++)
            if (bits_take(bits, 1))
                skip_scaling_list(bits, i < 6 ? 16 : 64);
    return chroma;
}

static void skip_picture_order(Bits *bits)
{
    int64_t order = take_unsigned(bits);
    if (order == 0) {
        take_unsigned(bits);
    } else if (order == 1) {
        bits_take(bits, 1);
        take_signed(bits);
        take_signed(bits);
        int64_t count = take_unsigned(bits);
        if (count > 255)
            bits->failed = true;
        for (int64_t i = 0; i < count && !bits->failed; i++)
            take_signed(bits);
    }
}

/* seq_parameter_set_data() (H.264 7.3.2.1.1) without escapes. */
static bool read_sps(Bits *bits, int *width, int *height)
{
    uint32_t profile = bits_take(bits, 8);
    bits_take(bits, 16); /* constraint flags, level */
    take_unsigned(bits); /* seq_parameter_set_id */
    int64_t chroma = skip_profile(bits, profile);
    take_unsigned(bits); /* log2_max_frame_num_minus4 */
    skip_picture_order(bits);
    take_unsigned(bits); /* max_num_ref_frames */
    bits_take(bits, 1);
    int64_t w = (take_unsigned(bits) + 1) * 16;
    int64_t units = take_unsigned(bits) + 1;
    int64_t frame_only = bits_take(bits, 1);
    int64_t h = units * 16 * (2 - frame_only);
    if (!frame_only)
        bits_take(bits, 1);
    bits_take(bits, 1);
    if (bits_take(bits, 1)) { /* cropping */
        int64_t crop[4];
        for (int i = 0; i < 4; i++)
            crop[i] = take_unsigned(bits);
        w -= (crop[0] + crop[1]) * (chroma == 1 || chroma == 2 ? 2 : 1);
        h -= (crop[2] + crop[3]) * (chroma == 1 ? 2 : 1) * (2 - frame_only);
    }
    if (bits->failed || w <= 0 || w > 16384 || h <= 0 || h > 16384)
        return false;
    *width = (int)w;
    *height = (int)h;
    return true;
}

static bool parse_sps(Span unit, int *width, int *height)
{
    uint8_t plain[MAX_SPS];
    int count = 0, size = unit.size < MAX_SPS ? unit.size : MAX_SPS;
    for (int i = 1; i < size;) {
        if (i + 2 < size && !unit.at[i] && !unit.at[i + 1] && unit.at[i + 2] == 3) {
            plain[count++] = 0;
            plain[count++] = 0;
            i += 3;
        } else {
            plain[count++] = unit.at[i++];
        }
    }
    Bits bits = {plain, count * 8, 0, false};
    return read_sps(&bits, width, height);
}

bool h264_picture_size(const Packet *packet, int *width, int *height)
{
    Span payload = {packet->data + packet->start, packet->end - packet->start}, unit;
    int kind = payload.at[0] & 0x1F, at = 1;
    if (kind == SPS)
        return parse_sps(payload, width, height);
    if (kind != STAP_A)
        return false;
    for (int i = 0; i < MAX_UNITS && next_unit(payload, &at, &unit); i++)
        if ((unit.at[0] & 0x1F) == SPS)
            return parse_sps(unit, width, height);
    return false;
}
