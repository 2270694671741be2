/* Blocks: type-stable slabs of one size class each, claimed by one compare-and-swap: an item by its
 * lock, a cell by a label.
 *
 * Knows: slabs, classes, labels, what a free item is. Must not know: what else is in a block.
 *
 * A slab of cells is an array of labels, then the cells; one of items is nothing but items. Once
 * assigned to a class it keeps it for ever, so a stale reference finds an old block of the same
 * shape, never the middle of another one. The counters and hints only save time: labels and items
 * are the truth.
 */
#include "seg_internal.h"

/* Items by their keys, then cells: in steps of 16, then two sizes per doubling. Each power of two fits
 * with any header, up to 64 also exactly without one. More of them would waste less in a block and
 * more in slabs that are never full; a small segment has no slab for each. */
#define CELL_OF(value_bytes) ((value_bytes) + CELL_HEADER_BYTES_MAX)
const uint32_t class_bytes[CLASSES] = {
    64, 72, 80, 96, 128, 176, 296,

    16, 32, 48, 64, CELL_OF(64), 96, 112, CELL_OF(128), CELL_OF(192), CELL_OF(256), CELL_OF(384),
    CELL_OF(512), CELL_OF(768), CELL_OF(1024), CELL_OF(1536), CELL_OF(2048), CELL_OF(3072),
    CELL_OF(4096), CELL_OF(6144), CELL_OF(8192), CELL_OF(12288), CELL_OF(16384), CELL_OF(24576),
    CELL_OF(32768), 43584, 52352, CELL_OF(SEG_VALUE_BYTES_MAX)};
_Static_assert(sizeof(struct item) + WIDE_WORDS * 8 + SEG_KEY_BYTES_MAX <= 296, "every key has a class");

/* Slabs lie at multiples of 4 KiB. Where a block and the item that has it do too, from each other, a load of one
 * waits for every store to the other: the first blocks of classes begin apart. */
#define STAGGERED 7u
#define STAGGER_BYTES 192u

void seg_geometry(struct geometry *g)
{
    for (uint32_t kind = 0; kind < CLASSES; kind++) {
        uint32_t bytes = class_bytes[kind];
        uint32_t label = is_item(kind) ? 0 : 8;
        uint32_t n = SLAB_BYTES / (bytes + label);
        uint32_t first = 0;
        for (;; n--) {
            first = ((n * label + 63) & ~63u) + kind % STAGGERED * STAGGER_BYTES;
            if (first + n * bytes <= SLAB_BYTES) {
                break;
            }
        }
        uint32_t inverse = (uint32_t)(((1ull << 32) + bytes - 1) / bytes);
        g[kind] = (struct geometry){bytes, n, first, inverse, (n - 1) * bytes + 1};
    }
}

static bool kind_of(const struct slab *slab, uint32_t *kind)
{
    *kind = atomic_load_explicit(&slab->kind, memory_order_acquire) - 1;
    return *kind < CLASSES;
}

/* Which block of its slab begins at `inside`; false: none does. Exact, for a slab is far smaller than 2^32. */
static inline bool index_of(const struct geometry *g, uint32_t inside, uint32_t *index)
{
    uint32_t from_first = inside - g->first;
    *index = (uint32_t)((uint64_t)from_first * g->inverse >> 32);
    return inside >= g->first && *index < g->count && *index * g->bytes == from_first;
}

bool seg_place(const seg *s, uint32_t ref, struct place *out)
{
    uint64_t at = offset_of(ref);
    if (at < s->at.heap) {
        return false;
    }
    uint64_t slab = (at - s->at.heap) >> SLAB_SHIFT;
    if (slab >= s->at.slab_count || !kind_of(&s->slabs[slab], &out->kind)) {
        return false;
    }
    uint32_t inside = (uint32_t)((at - s->at.heap) & (SLAB_BYTES - 1));
    if (!index_of(&s->geometry[out->kind], inside, &out->index)) {
        return false;
    }
    out->slab = &s->slabs[slab];
    out->label = is_item(out->kind) ? NULL : seg_label_at(s, (uint32_t)slab, out->index);
    return true;
}

struct item *seg_item(const seg *s, uint32_t ref)
{
    uint64_t at = offset_of(ref);
    uint32_t kind;
    if (at < s->at.heap) {
        return NULL;
    }
    uint64_t slab = (at - s->at.heap) >> SLAB_SHIFT;
    if (slab >= s->at.slab_count || !kind_of(&s->slabs[slab], &kind) || !is_item(kind)) {
        return NULL;
    }
    const struct geometry *g = &s->geometry[kind];
    uint32_t inside = (uint32_t)((at - s->at.heap) & (SLAB_BYTES - 1));
    return inside - g->first < g->span ? (struct item *)(s->base + at) : NULL;
}

static bool claim_cell(seg *s, uint32_t number, uint32_t index, uint64_t label)
{
    word *at = seg_label_at(s, number, index);
    return peek(at) == 0 && cas(at, 0, label);
}

static bool claim_item(seg *s, struct item *it)
{
    if (peek(&it->auth) != 0 || peek(&it->lock) != 0 || !cas(&it->lock, 0, lock_word(s->me, 0))) {
        return false;
    }
    POINT("item locked");
    /* It may have been made and be at rest by now. */
    if (get(&it->auth) != 0) {
        seg_unlock(s, it);
        return false;
    }
    uint64_t next = get(&it->next);
    put(&it->next, next_word(next, 0, ref_of(next)) | (next & MARK));
    POINT("no key");
    return true;
}

/* One round through a slab. `label`: of a cell. */
static uint32_t claim_in(seg *s, uint32_t number, uint32_t kind, uint64_t label)
{
    struct slab *slab = &s->slabs[number];
    const struct geometry *g = &s->geometry[kind];
    uint32_t start = atomic_load_explicit(&slab->hint, memory_order_relaxed);
    uint32_t used = atomic_load_explicit(&slab->used, memory_order_relaxed);
    if (used == g->count) {
        return 0;
    }
    if (start >= g->count) {
        start = 0;
    }
    for (uint32_t i = 0, index = start; i < g->count; i++, index++) {
        if (index == g->count) {
            index = 0;
        }
        uint32_t ref = seg_block_ref(s, number, kind, index);
        if (!(is_item(kind) ? claim_item(s, at_ref(s, ref)) : claim_cell(s, number, index, label))) {
            continue;
        }
        POINT("claimed");
        atomic_fetch_add_explicit(&slab->used, 1, memory_order_relaxed);
        atomic_store_explicit(&slab->hint, index + 1, memory_order_relaxed);
        POINT("counted");
        s->current[kind] = number + 1;
        return ref;
    }
    /* The counter says there is room and there is none: correct it, unless it has moved. */
    atomic_compare_exchange_strong(&slab->used, &used, g->count);
    return 0;
}

static uint32_t claim_class(seg *s, uint32_t kind, uint64_t label)
{
    uint32_t ref = 0;
    uint32_t number;
    if (s->current[kind] != 0) {
        ref = claim_in(s, s->current[kind] - 1, kind, label);
    }
    uint64_t top = get(&s->header->slab_top);
    if (top > s->at.slab_count) {
        top = s->at.slab_count;
    }
    for (number = 0; ref == 0 && number < top; number++) {
        uint32_t found;
        if (kind_of(&s->slabs[number], &found) && found == kind) {
            ref = claim_in(s, number, kind, label);
        }
    }
    for (number = (uint32_t)top; ref == 0 && number < s->at.slab_count; number++) {
        uint32_t free_slab = 0;
        if (!atomic_compare_exchange_strong(&s->slabs[number].kind, &free_slab, kind + 1) &&
            free_slab != kind + 1) {
            continue;
        }
        POINT("slab");
        for (uint64_t seen = get(&s->header->slab_top); seen <= number;
             seen = get(&s->header->slab_top)) {
            if (cas(&s->header->slab_top, seen, number + 1ull)) {
                break;
            }
        }
        POINT("slab top");
        ref = claim_in(s, number, kind, label);
    }
    return ref;
}

/* In the classes from `first` on: when its own is full and no slab is left, a larger block will do. */
static uint32_t claim(seg *s, size_t bytes, uint32_t first, uint32_t end, uint64_t label)
{
    for (uint32_t kind = first; kind < end; kind++) {
        uint32_t ref = class_bytes[kind] >= bytes ? claim_class(s, kind, label) : 0;
        if (ref != 0) {
            return ref;
        }
    }
    return 0;
}

uint32_t seg_claim(seg *s, size_t bytes, uint32_t item)
{
    return claim(s, bytes, ITEM_CLASSES, CLASSES, label_word(item, s->me));
}

uint32_t seg_claim_item(seg *s, size_t bytes) { return claim(s, bytes, 0, ITEM_CLASSES, 0); }

static void count_free(const struct place *p)
{
    atomic_fetch_sub_explicit(&p->slab->used, 1, memory_order_relaxed);
    if (p->index < atomic_load_explicit(&p->slab->hint, memory_order_relaxed)) {
        atomic_store_explicit(&p->slab->hint, p->index, memory_order_relaxed);
    }
}

bool seg_release(const seg *s, uint32_t ref, uint64_t label)
{
    struct place p;
    if (label == 0 || !seg_place(s, ref, &p) || p.label == NULL || !cas(p.label, label, 0)) {
        return false;
    }
    POINT("released");
    count_free(&p);
    return true;
}

void seg_release_item(const seg *s, const struct item *it)
{
    struct place p;
    if (seg_place(s, ref_to(s, it), &p)) {
        count_free(&p);
        POINT("released");
    }
}
