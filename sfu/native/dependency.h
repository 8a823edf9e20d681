/* The dependency descriptor (AV1 RTP payload format, appendix A; twin: sfu/codecs/dependency.py). */
#ifndef LIANXIN_DEPENDENCY_H
#define LIANXIN_DEPENDENCY_H

#include <stdbool.h>
#include <stdint.h>

#include "packet.h"

#define MAX_TEMPLATES 64
#define MAX_TARGETS 32

typedef struct { /* what a key frame announces */
    int first_id, targets, templates, chains;
    int width, height; /* of the highest spatial layer, 0 = not told */
    uint8_t spatial[MAX_TEMPLATES], temporal[MAX_TEMPLATES], diffs[MAX_TEMPLATES];
    bool switches[MAX_TEMPLATES];
    uint8_t target_spatial[MAX_TARGETS], target_temporal[MAX_TARGETS];
} Structure;

typedef struct {          /* the state of one feed */
    Structure *structure; /* the newest; NULL = none */
    int64_t structure_seq; /* unwrapped number of the packet that brought it */
} Dependencies;

void dependencies_clear(Dependencies *dependencies);
/* Fills the layers of the packet from its descriptor, after the codec has looked at the payload.  Where it
 * names a template that we don't know, what the codec found stands.  -1 when it is malformed. */
int dependencies_read(Dependencies *dependencies, Packet *packet);

#endif
