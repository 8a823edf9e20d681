/* A fuzzer's input as a script: numbers and bytes are read from its front; when it ends, zeros follow. */
#ifndef LIANXIN_FUZZ_SCRIPT_H
#define LIANXIN_FUZZ_SCRIPT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const uint8_t *at, *end;
} Script;

static inline unsigned read8(Script *script)
{
    return script->at < script->end ? *script->at++ : 0;
}

static inline unsigned read16(Script *script)
{
    unsigned high = read8(script);
    return high << 8 | read8(script);
}

/* Up to `size` bytes into `out`; how many there were. */
static inline int read_bytes(Script *script, uint8_t *out, int size)
{
    int left = (int)(script->end - script->at);
    if (size > left)
        size = left;
    if (size > 0)
        memcpy(out, script->at, (size_t)size);
    script->at += size;
    return size;
}

/* What must hold: a crash that a fuzzer notices and keeps. */
#define MUST(condition)                                                                    \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #condition);     \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
