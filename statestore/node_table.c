/* Two small containers of the engine: a hash table of numbers, a pool of indices. */
#include "node_internal.h"

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0x9e3779b97f4a7c15ull;
    return x ^ (x >> 29);
}

bool table_init(table *t, uint32_t most)
{
    uint32_t size = 64;
    while (size < most * 2) {
        size <<= 1;
    }
    t->key = calloc(size, sizeof *t->key);
    t->value = calloc(size, sizeof *t->value);
    t->mask = size - 1;
    t->used = 0;
    return t->key != NULL && t->value != NULL;
}

void table_free(table *t)
{
    free(t->key);
    free(t->value);
}

bool table_get(const table *t, uint64_t key, uint32_t *value)
{
    for (uint64_t i = mix(key) & t->mask; t->key[i] != 0; i = (i + 1) & t->mask) {
        if (t->key[i] == key) {
            *value = t->value[i];
            return true;
        }
    }
    return false;
}

bool table_put(table *t, uint64_t key, uint32_t value)
{
    uint64_t i = mix(key) & t->mask;
    for (; t->key[i] != 0; i = (i + 1) & t->mask) {
        if (t->key[i] == key) {
            t->value[i] = value;
            return true;
        }
    }
    if (t->used >= t->mask / 4 * 3) {
        return false;
    }
    t->key[i] = key;
    t->value[i] = value;
    t->used++;
    return true;
}

void table_remove(table *t, uint64_t key)
{
    uint64_t i = mix(key) & t->mask;
    while (t->key[i] != key) {
        if (t->key[i] == 0) {
            return;
        }
        i = (i + 1) & t->mask;
    }
    t->used--;
    /* Close the gap: move back what probed past it. */
    uint64_t hole = i;
    for (uint64_t j = (i + 1) & t->mask; t->key[j] != 0; j = (j + 1) & t->mask) {
        uint64_t home = mix(t->key[j]) & t->mask;
        if (((j - home) & t->mask) >= ((j - hole) & t->mask)) {
            t->key[hole] = t->key[j];
            t->value[hole] = t->value[j];
            hole = j;
        }
    }
    t->key[hole] = 0;
}

void table_clear(table *t)
{
    if (t->used != 0) {
        memset(t->key, 0, (t->mask + 1ull) * sizeof *t->key);
        t->used = 0;
    }
}

bool pool_init(pool *p, uint32_t size)
{
    p->next = calloc(size + 1ull, sizeof *p->next);
    p->free = 0;
    p->size = size;
    p->used = 0;
    return p->next != NULL;
}

void pool_free(pool *p) { free(p->next); }

uint32_t pool_take(pool *p)
{
    uint32_t i = p->free;
    if (i != 0) {
        p->free = p->next[i];
        return i;
    }
    return p->used < p->size ? ++p->used : 0;
}

void pool_give(pool *p, uint32_t i)
{
    p->next[i] = p->free;
    p->free = i;
}
