/* Runs a fuzz target without libFuzzer (gcc): replays files, then mutates them for a bounded time.
 *
 *     target SECONDS CRASH_FILE FILES...
 *
 * No coverage guides it, but the sanitizers watch.  What is being tried is in CRASH_FILE while it runs, so it
 * is there after a crash; it is removed at the end. */
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "script.h"

#define MAX_FILES 4096
#define MAX_INPUT (64 << 10)

static uint8_t *inputs[MAX_FILES];
static size_t sizes[MAX_FILES];
static uint64_t state = 0x9E3779B97F4A7C15u;

static uint32_t next_random(void) /* xorshift64*: the same run each time */
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)(state * 0x2545F4914F6CDD1Du >> 32);
}

static size_t mutate(uint8_t *data, size_t size)
{
    for (uint32_t times = 1 + next_random() % 8; times; times--) {
        size_t at = size ? next_random() % size : 0;
        size_t length = 1 + next_random() % 16;
        switch (next_random() % 5) {
        case 0: /* another byte */
            if (size)
                data[at] = (uint8_t)next_random();
            break;
        case 1: /* another bit */
            if (size)
                data[at] ^= (uint8_t)(1u << next_random() % 8);
            break;
        case 2: /* a hole */
            if (at + length <= size) {
                memmove(data + at, data + at + length, size - at - length);
                size -= length;
            }
            break;
        case 3: /* something repeated */
            if (at + length <= size && size + length <= MAX_INPUT) {
                memmove(data + at + length, data + at, size - at);
                size += length;
            }
            break;
        default: /* something of another one */
            if (size && sizes[0]) {
                size_t from = next_random() % sizes[0];
                if (at + length <= size && from + length <= sizes[0])
                    memcpy(data + at, inputs[0] + from, length);
            }
        }
    }
    return size;
}

static void try_one(const char *crash_file, const uint8_t *data, size_t size)
{
    int file = open(crash_file, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (file < 0 || write(file, data, size) != (ssize_t)size)
        exit(2);
    close(file);
    LLVMFuzzerTestOneInput(data, size);
}

int main(int count, char **arguments)
{
    static uint8_t data[MAX_INPUT];
    int files = 0;
    long runs = 0;
    if (count < 3)
        return 2;
    for (int i = 3; i < count && files < MAX_FILES; i++) {
        FILE *file = fopen(arguments[i], "rb");
        if (!file)
            continue;
        sizes[files] = fread(data, 1, sizeof data, file);
        fclose(file);
        inputs[files] = malloc(sizes[files] + 1);
        if (!inputs[files])
            return 2;
        memcpy(inputs[files], data, sizes[files]);
        try_one(arguments[2], inputs[files], sizes[files]);
        files++;
        runs++;
    }
    time_t end = time(NULL) + atoi(arguments[1]);
    for (; time(NULL) < end; runs++) {
        size_t size = 0;
        if (files) {
            uint32_t chosen = next_random() % (uint32_t)files;
            size = sizes[chosen];
            memcpy(data, inputs[chosen], size);
        }
        if (!size)
            for (size = 1 + next_random() % 600; size < 600 && next_random() % 200; size++)
                data[size] = (uint8_t)next_random();
        try_one(arguments[2], data, mutate(data, size));
    }
    for (int i = 0; i < files; i++)
        free(inputs[i]);
    unlink(arguments[2]);
    printf("%ld runs\n", runs);
    return 0;
}
