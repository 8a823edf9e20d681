/* Arithmetic of numbers that wrap, and the map from a feed's numbers to a receiver's (twin: sfu/seq.py). */
#ifndef LIANXIN_SEQ_H
#define LIANXIN_SEQ_H

#include <stdbool.h>
#include <stdint.h>

#define RUNS 64 /* of skipped packets that late packets can still be mapped across */

/* Signed distance of two 16-bit numbers. */
static inline int distance16(int64_t newer, int64_t older)
{
    return (int)(((uint64_t)(newer - older) + 0x8000u) & 0xFFFFu) - 0x8000;
}

static inline int64_t signed32(int64_t number)
{
    return (int32_t)(uint32_t)(uint64_t)number;
}

typedef struct {
    int64_t sequence, picture, tl0;
} Shifts;

typedef struct {
    int64_t start;
    Shifts shifts;
} Run;

/* Sequence numbers, VP8 picture ids and TL0 indexes of one route, continuous for its receiver: gaps by loss
 * stay gaps, packets that we skip leave none.  Numbers are unwrapped; out = in - shift. */
typedef struct {
    int64_t high, first;
    Shifts shifts;
    int skipped_picture;
    int runs;
    Run run[RUNS]; /* oldest first */
} NumberMap;

void numbers_init(NumberMap *numbers, int64_t first_out);
int64_t numbers_last_out(const NumberMap *numbers);
/* Another stream of numbers goes on from here: ext_seq follows what was sent last. */
void numbers_begin(NumberMap *numbers, int64_t ext_seq);
/* Right after numbers_begin: the new stream's picture numbers. */
void numbers_begin_pictures(NumberMap *numbers, int64_t picture_shift, int64_t tl0_shift);
/* ext_seq (newer than all before) is not sent; its picture neither, if an id (not -1) is given. */
void numbers_skip(NumberMap *numbers, int64_t ext_seq, int picture_id);
/* A packet of ours follows what was sent last; what the stream brings later is numbered after it. */
void numbers_insert(NumberMap *numbers);
/* For a packet that isn't the newest; false when it is too old. */
bool numbers_late(const NumberMap *numbers, int64_t ext_seq, Shifts *shifts);

#endif
