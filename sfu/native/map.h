/* A hash table from numbers to pointers: open addressing, linear probing, grows, leaves no tombstones. */
#ifndef LIANXIN_MAP_H
#define LIANXIN_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t key;
    void *value; /* NULL = free */
} MapEntry;

typedef struct { /* all zero = empty */
    MapEntry *entry;
    uint32_t capacity; /* 0 or a power of two */
    uint32_t count;
} Map;

void *map_get(const Map *map, uint64_t key); /* NULL = not there */
bool map_put(Map *map, uint64_t key, void *value); /* value not NULL; false without memory */
void map_remove(Map *map, uint64_t key);
void map_free(Map *map);

#endif
