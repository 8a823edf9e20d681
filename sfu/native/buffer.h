/* Bytes that several rings share: counted references, sizes in a few classes, freed ones used again.
 *
 * In steady state nothing is allocated per packet.  Memory that was needed once is kept until the pool goes:
 * it is bounded by the rings and queues that hold buffers. */
#ifndef LIANXIN_BUFFER_H
#define LIANXIN_BUFFER_H

#include <stdint.h>

#define BUFFER_CLASSES 5

typedef struct Buffer {
    struct Buffer *next; /* while free */
    uint32_t references;
    uint16_t size;
    uint8_t class_;
    uint8_t data[];
} Buffer;

typedef struct {
    Buffer *free[BUFFER_CLASSES];
    void *slabs; /* list of all memory */
} BufferPool;

/* One reference, `size` bytes from `data` (NULL: not filled).  NULL without memory or when too large. */
Buffer *buffer_new(BufferPool *pool, const uint8_t *data, int size);
static inline Buffer *buffer_share(Buffer *buffer)
{
    if (buffer)
        buffer->references++;
    return buffer;
}
void buffer_drop(BufferPool *pool, Buffer *buffer); /* NULL is allowed */
void buffers_free(BufferPool *pool);

#endif
