#include "seq.h"

#include <string.h>

static void first_run(NumberMap *numbers)
{
    numbers->run[0] = (Run){numbers->first, numbers->shifts};
    numbers->runs = 1;
}

void numbers_init(NumberMap *numbers, int64_t first_out)
{
    memset(numbers, 0, sizeof *numbers);
    numbers->high = first_out - 1;
    numbers->first = first_out;
    numbers->skipped_picture = -1;
    first_run(numbers);
}

int64_t numbers_last_out(const NumberMap *numbers)
{
    return numbers->high - numbers->shifts.sequence;
}

void numbers_begin(NumberMap *numbers, int64_t ext_seq)
{
    numbers->shifts.sequence = ext_seq - numbers_last_out(numbers) - 1;
    numbers->first = ext_seq;
    numbers->high = ext_seq - 1;
    numbers->skipped_picture = -1;
    first_run(numbers);
}

void numbers_begin_pictures(NumberMap *numbers, int64_t picture_shift, int64_t tl0_shift)
{
    numbers->shifts.picture = picture_shift;
    numbers->shifts.tl0 = tl0_shift;
    first_run(numbers);
}

/* Another run; in place of the newest one if that begins at `unused`, where no packet was. */
static void begin_run(NumberMap *numbers, int64_t unused, Run run)
{
    if (numbers->run[numbers->runs - 1].start == unused) {
        numbers->run[numbers->runs - 1] = run;
        return;
    }
    if (numbers->runs == RUNS) {
        memmove(numbers->run, numbers->run + 1, (RUNS - 1) * sizeof numbers->run[0]);
        numbers->runs--;
    }
    numbers->run[numbers->runs++] = run;
}

void numbers_skip(NumberMap *numbers, int64_t ext_seq, int picture_id)
{
    numbers->high = ext_seq;
    numbers->shifts.sequence++;
    if (picture_id >= 0 && picture_id != numbers->skipped_picture) {
        numbers->skipped_picture = picture_id;
        numbers->shifts.picture++;
    }
    begin_run(numbers, ext_seq, (Run){ext_seq + 1, numbers->shifts});
}

void numbers_insert(NumberMap *numbers)
{
    numbers->shifts.sequence--;
    int64_t following = numbers->high + 1;
    begin_run(numbers, following, (Run){following, numbers->shifts});
}

bool numbers_late(const NumberMap *numbers, int64_t ext_seq, Shifts *shifts)
{
    if (ext_seq < numbers->first)
        return false;
    for (int i = numbers->runs - 1; i >= 0; i--) {
        if (numbers->run[i].start <= ext_seq) {
            *shifts = numbers->run[i].shifts;
            return true;
        }
    }
    return false;
}
