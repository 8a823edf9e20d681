#include "buffer.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define HEADER ((int)offsetof(Buffer, data))
#define SLAB_BYTES 32768

/* whole cache lines: blocks of extensions, voice, small video, full video packets, the largest */
static const int class_bytes[BUFFER_CLASSES] = {64, 256, 640, 1280, 2048};

static int class_of(int size)
{
    for (int i = 0; i < BUFFER_CLASSES; i++)
        if (size + HEADER <= class_bytes[i])
            return i;
    return -1;
}

typedef union Slab {
    union Slab *next;
    max_align_t alignment;
} Slab;

static void add_slab(BufferPool *pool, int which)
{
    Slab *slab = malloc(sizeof *slab + SLAB_BYTES);
    if (!slab)
        return;
    slab->next = pool->slabs;
    pool->slabs = slab;
    uint8_t *at = (uint8_t *)(slab + 1);
    for (int used = 0; used + class_bytes[which] <= SLAB_BYTES; used += class_bytes[which]) {
        Buffer *buffer = (Buffer *)(void *)(at + used);
        buffer->class_ = (uint8_t)which;
        buffer->next = pool->free[which];
        pool->free[which] = buffer;
    }
}

Buffer *buffer_new(BufferPool *pool, const uint8_t *data, int size)
{
    int which = class_of(size);
    if (which < 0)
        return NULL;
    if (!pool->free[which])
        add_slab(pool, which);
    Buffer *buffer = pool->free[which];
    if (!buffer)
        return NULL;
    pool->free[which] = buffer->next;
    buffer->references = 1;
    buffer->size = (uint16_t)size;
    if (data)
        memcpy(buffer->data, data, (size_t)size);
    return buffer;
}

void buffer_drop(BufferPool *pool, Buffer *buffer)
{
    if (!buffer || --buffer->references)
        return;
    buffer->next = pool->free[buffer->class_];
    pool->free[buffer->class_] = buffer;
}

void buffers_free(BufferPool *pool)
{
    Slab *slab = pool->slabs;
    while (slab) {
        Slab *next = slab->next;
        free(slab);
        slab = next;
    }
    memset(pool, 0, sizeof *pool);
}
