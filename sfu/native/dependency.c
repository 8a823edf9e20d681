#include "dependency.h"

#include <stdlib.h>

#include "bytes.h"
#include "codec.h"

#define MAX_SPATIAL 3 /* layers 0 ... 3 */
#define MAX_TEMPORAL 7
#define MAX_DIFFS 64 /* frame differences of one frame */
#define SWITCH 2     /* decode target indication: from this frame on the target can be decoded */

void dependencies_clear(Dependencies *dependencies)
{
    free(dependencies->structure);
    dependencies->structure = NULL;
    dependencies->structure_seq = -1;
}

static void skip_bits(Bits *bits, int count)
{
    for (; count > 0 && !bits->failed; count -= 32)
        bits_take(bits, count < 32 ? count : 32);
}

/* A number below `limit` in the fewest bits (AV1 4.10.7, ns(n)). */
static uint32_t take_below(Bits *bits, uint32_t limit)
{
    int width = 0;
    while (limit >> width)
        width++;
    uint32_t few = (1u << width) - limit, value = bits_take(bits, width - 1);
    return value < few ? value : (value << 1) - few + bits_take(bits, 1);
}

/* Whether a frame of these layers lets one go up to any higher temporal layer of its spatial one. */
static bool switches(const Structure *structure, int spatial, int temporal, const uint8_t *indications)
{
    for (int target = 0; target < structure->targets; target++)
        if (structure->target_spatial[target] == spatial && structure->target_temporal[target] > temporal &&
            indications[target] != SWITCH)
            return false;
    return true;
}

static void read_indications(Bits *bits, int targets, uint8_t *indications)
{
    for (int target = 0; target < targets; target++)
        indications[target] = (uint8_t)bits_take(bits, 2);
}

/* The layers of each template; returns the number of spatial layers. */
static int read_templates(Structure *structure, Bits *bits)
{
    int spatial = 0, temporal = 0;
    uint32_t step = 0;
    structure->templates = 0;
    while (step != 3) {
        if (structure->templates == MAX_TEMPLATES || bits->failed) {
            bits->failed = true;
            return 0;
        }
        structure->spatial[structure->templates] = (uint8_t)spatial;
        structure->temporal[structure->templates++] = (uint8_t)temporal;
        step = bits_take(bits, 2);
        if (step == 1) {
            temporal++;
        } else if (step == 2) {
            temporal = 0;
            spatial++;
        }
        if (spatial > MAX_SPATIAL || temporal > MAX_TEMPORAL)
            bits->failed = true;
    }
    return spatial + 1;
}

static void read_diffs(Structure *structure, Bits *bits)
{
    for (int template = 0; template < structure->templates; template++) {
        int count = 0;
        while (bits_take(bits, 1)) {
            bits_take(bits, 4);
            if (++count > MAX_DIFFS)
                bits->failed = true;
        }
        structure->diffs[template] = (uint8_t)count;
    }
}

static void skip_chains(Structure *structure, Bits *bits)
{
    structure->chains = (int)take_below(bits, (uint32_t)structure->targets + 1);
    if (!structure->chains)
        return;
    for (int target = 0; target < structure->targets; target++)
        take_below(bits, (uint32_t)structure->chains);
    skip_bits(bits, structure->templates * structure->chains * 4);
}

/* A target has the layers of the highest template that it needs. */
static void find_targets(Structure *structure, uint8_t (*indications)[MAX_TARGETS])
{
    for (int target = 0; target < structure->targets; target++) {
        uint8_t spatial = 0, temporal = 0;
        for (int template = 0; template < structure->templates; template++) {
            if (!indications[template][target])
                continue;
            if (structure->spatial[template] > spatial)
                spatial = structure->spatial[template];
            if (structure->temporal[template] > temporal)
                temporal = structure->temporal[template];
        }
        structure->target_spatial[target] = spatial;
        structure->target_temporal[target] = temporal;
    }
    for (int i = 0; i < structure->templates; i++)
        structure->switches[i] =
            switches(structure, structure->spatial[i], structure->temporal[i], indications[i]);
}

/* template_dependency_structure(). */
static void read_structure(Structure *structure, Bits *bits)
{
    uint8_t indications[MAX_TEMPLATES][MAX_TARGETS];
    structure->first_id = (int)bits_take(bits, 6);
    structure->targets = (int)bits_take(bits, 5) + 1;
    int layers = read_templates(structure, bits);
    for (int template = 0; template < structure->templates; template++)
        read_indications(bits, structure->targets, indications[template]);
    read_diffs(structure, bits);
    skip_chains(structure, bits);
    if (bits->failed)
        return;
    find_targets(structure, indications);
    structure->width = structure->height = 0;
    if (!bits_take(bits, 1))
        return;
    for (int i = 0; i < layers; i++) {
        structure->width = (int)bits_take(bits, 16) + 1;
        structure->height = (int)bits_take(bits, 16) + 1;
    }
}

/* What one frame says beside or against its template. */
typedef struct {
    bool brings, indicates;
    int count; /* frames that this one refers to, -1 = as the template says */
    uint8_t indications[MAX_TARGETS];
} Frame;

static void read_frame(Frame *frame, const Structure *structure, Bits *bits, uint32_t flags)
{
    if (flags & 0x08)
        skip_bits(bits, structure->targets); /* active decode targets */
    if (flags & 0x04) {
        frame->indicates = true;
        read_indications(bits, structure->targets, frame->indications);
    }
    if (flags & 0x02) {
        frame->count = 0;
        int width;
        while ((width = (int)bits_take(bits, 2)) != 0) {
            bits_take(bits, 4 * width);
            if (++frame->count > MAX_DIFFS)
                bits->failed = true;
        }
    }
    if (flags & 0x01)
        skip_bits(bits, 8 * structure->chains);
}

static void keep_structure(Dependencies *dependencies, const Structure *brought, int64_t ext_seq)
{
    if (ext_seq <= dependencies->structure_seq)
        return;
    if (!dependencies->structure)
        dependencies->structure = malloc(sizeof *brought);
    if (!dependencies->structure)
        return;
    *dependencies->structure = *brought;
    dependencies->structure_seq = ext_seq;
}

static void apply(const Structure *structure, const Frame *frame, int head, Packet *packet)
{
    int template = (head - structure->first_id) & 0x3F;
    if (template >= structure->templates)
        return;
    int spatial = structure->spatial[template], temporal = structure->temporal[template];
    packet->layered = true;
    packet->spatial = (uint8_t)spatial;
    packet->temporal = (uint8_t)temporal;
    packet->last = head & 0x40;
    packet->first = head & 0x80 && !spatial;
    packet->sync = frame->indicates ? switches(structure, spatial, temporal, frame->indications)
                                    : structure->switches[template];
    int count = frame->count >= 0 ? frame->count : structure->diffs[template];
    if (frame->brings && packet->first && !count)
        packet->key_frame = true;
}

int dependencies_read(Dependencies *dependencies, Packet *packet)
{
    Span data = packet->descriptor;
    if (data.size < 3)
        return -1;
    const Structure *structure = dependencies->structure;
    Structure brought;
    Frame frame = {.count = -1};
    if (data.size > 3) {
        Bits bits = {data.at + 3, (data.size - 3) * 8, 0, false};
        uint32_t flags = bits_take(&bits, 5);
        frame.brings = flags & 0x10;
        if (frame.brings) {
            read_structure(&brought, &bits);
            structure = &brought;
        }
        if (structure && !bits.failed)
            read_frame(&frame, structure, &bits, flags);
        if (bits.failed)
            return -1;
        if (frame.brings) {
            if (((data.at[0] - brought.first_id) & 0x3F) >= brought.templates)
                return -1;
            keep_structure(dependencies, &brought, packet->ext_seq);
        }
    }
    if (structure)
        apply(structure, &frame, data.at[0], packet);
    return 0;
}
