/* One producer's numbers in one receiver's terms, made ready for the hot path; header extension blocks
 * (RFC 8285; twins: sfu.route.Binding, sfu.rtp.ExtensionPlan). */
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "internal.h"

#define ONE_BYTE_PROFILE 0xBEDE
#define TWO_BYTE_PROFILE 0x1000
#define MAX_FIXED 16

static int read_fixed(const ExtensionPlan *plan, Element *element)
{
    int count = 0;
    for (int at = 0; at + 2 <= plan->fixed_size && count < MAX_FIXED;) {
        int size = plan->fixed[at + 1];
        if (at + 2 + size > plan->fixed_size)
            break;
        element[count++] = (Element){plan->fixed[at], {plan->fixed + at + 2, size}};
        at += 2 + size;
    }
    return count;
}

/* A whole block with its header, in one-byte form when it can hold all; 0 for no elements. */
static int encode(const Element *element, int count, uint8_t *out)
{
    if (!count)
        return 0;
    bool small = true;
    for (int i = 0; i < count; i++)
        small &= element[i].id < 15 && element[i].value.size >= 1 && element[i].value.size <= 16;
    int at = 4;
    for (int i = 0; i < count; i++) {
        Span value = element[i].value;
        if (small) {
            out[at++] = (uint8_t)(element[i].id << 4 | (value.size - 1));
        } else {
            out[at++] = element[i].id;
            out[at++] = (uint8_t)value.size;
        }
        if (value.size)
            memcpy(out + at, value.at, (size_t)value.size);
        at += value.size;
    }
    while (at % 4)
        out[at++] = 0;
    write16(out, small ? ONE_BYTE_PROFILE : TWO_BYTE_PROFILE);
    write16(out + 2, (uint16_t)(at / 4 - 1));
    return at;
}

static int encode_plain(const ExtensionPlan *plan, uint8_t *out)
{
    Element element[MAX_FIXED];
    return encode(element, read_fixed(plan, element), out);
}

static Stamp stamp_of(const ExtensionPlan *plan)
{
    if (plan->fixed_size < 2)
        return STAMP_NONE;
    if (plan->transport_cc && plan->fixed[0] == plan->transport_cc)
        return STAMP_NUMBER;
    return plan->abs_send_time && plan->fixed[0] == plan->abs_send_time ? STAMP_TIME : STAMP_NONE;
}

Bound *bound_new(Relay *relay, const Binding *binding)
{
    Bound *bound = calloc(1, sizeof *bound);
    if (!bound)
        return NULL;
    bound->references = 1;
    memset(bound->codec_of, 0xFF, sizeof bound->codec_of);
    for (int i = 0; i < binding->codecs && i < MAX_CODECS; i++) {
        bound->codec[bound->codecs++] = binding->codec[i];
        bound->codec_of[binding->codec[i].in_type & 0x7F] = (int8_t)i;
    }
    bound->plan = binding->plan;
    if (bound->plan.fixed_size < 0 || bound->plan.fixed_size > (int)sizeof bound->plan.fixed)
        bound->plan.fixed_size = 0;
    bound->plain_size = encode_plain(&bound->plan, bound->plain_bytes);
    bound->rtx_size = encode_plain(&binding->rtx_plan, bound->rtx_bytes);
    bound->same_blocks = bound->rtx_size == bound->plain_size &&
                         !memcmp(bound->rtx_bytes, bound->plain_bytes, (size_t)bound->rtx_size);
    bound->stamp = stamp_of(&bound->plan);
    bound->rtx_stamp = stamp_of(&binding->rtx_plan);
    for (int id = 0; id < 256; id++)
        bound->passes |= bound->plan.passed[id] != 0;
    if (bound->plain_size)
        bound->plain = buffer_new(&relay->pool, bound->plain_bytes, bound->plain_size);
    return bound;
}

void bound_drop(Relay *relay, Bound *bound)
{
    if (!bound || --bound->references)
        return;
    buffer_drop(&relay->pool, bound->plain);
    free(bound);
}

const OutCodec *bound_codec(const Bound *bound, uint8_t payload_type)
{
    int at = bound->codec_of[payload_type & 0x7F];
    return at >= 0 ? &bound->codec[at] : NULL;
}

static int plain_block(const Bound *bound, uint8_t *out)
{
    memcpy(out, bound->plain_bytes, (size_t)bound->plain_size);
    return bound->plain_size;
}

int bound_block(const Bound *bound, const Packet *packet, uint8_t *out)
{
    if (!packet->elements || !bound->passes)
        return plain_block(bound, out);
    Element element[MAX_FIXED + MAX_ELEMENTS];
    int fixed = read_fixed(&bound->plan, element), count = fixed;
    for (int i = 0; i < packet->elements; i++) {
        uint8_t id = bound->plan.passed[packet->element[i].id];
        if (id)
            element[count++] = (Element){id, packet->element[i].value};
    }
    return count == fixed ? plain_block(bound, out) : encode(element, count, out);
}
