#include "map.h"

#include <stdlib.h>

/* Keys are chosen by strangers (SSRCs, ports), but a table is as small as what one leg may have, or has
 * only addresses that have proved themselves: long probes cost their owner little. */
static uint32_t place(const Map *map, uint64_t key)
{
    uint64_t mixed = (key ^ key >> 32) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(mixed >> 32) & (map->capacity - 1);
}

static MapEntry *find(const Map *map, uint64_t key)
{
    uint32_t at = place(map, key);
    while (map->entry[at].value && map->entry[at].key != key)
        at = (at + 1) & (map->capacity - 1);
    return &map->entry[at];
}

void *map_get(const Map *map, uint64_t key)
{
    return map->capacity ? find(map, key)->value : NULL;
}

static bool grow(Map *map)
{
    Map bigger = {NULL, map->capacity ? map->capacity * 2 : 8, map->count};
    bigger.entry = calloc(bigger.capacity, sizeof *bigger.entry);
    if (!bigger.entry)
        return false;
    for (uint32_t i = 0; i < map->capacity; i++)
        if (map->entry[i].value)
            *find(&bigger, map->entry[i].key) = map->entry[i];
    free(map->entry);
    *map = bigger;
    return true;
}

bool map_put(Map *map, uint64_t key, void *value)
{
    if ((map->count + 1) * 2 > map->capacity && !grow(map))
        return false;
    MapEntry *entry = find(map, key);
    if (!entry->value)
        map->count++;
    *entry = (MapEntry){key, value};
    return true;
}

void map_remove(Map *map, uint64_t key)
{
    if (!map->capacity)
        return;
    MapEntry *entry = find(map, key);
    if (!entry->value)
        return;
    map->count--;
    entry->value = NULL;
    /* what comes behind may have been pushed there by this one: put it in again */
    uint32_t at = (uint32_t)(entry - map->entry);
    for (;;) {
        at = (at + 1) & (map->capacity - 1);
        MapEntry moved = map->entry[at];
        if (!moved.value)
            return;
        map->entry[at].value = NULL;
        *find(map, moved.key) = moved;
    }
}

void map_free(Map *map)
{
    free(map->entry);
    *map = (Map){NULL, 0, 0};
}
