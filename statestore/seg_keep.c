/* Housekeeping and inspection: expiry, what the dead left behind, figures, a full check.
 *
 * Knows: every structure. Must not know: Python, clocks (now is an argument).
 */
#include <stdlib.h>

#include "seg_internal.h"

#define CURSOR_SHIFT 16u
#define WALK_AHEAD_ITEMS 8u /* how far a walk looks ahead: a miss takes as long as about four of its steps */

static uint64_t slab_top(const seg *s)
{
    uint64_t top = get(&s->header->slab_top);
    return top < s->at.slab_count ? top : s->at.slab_count;
}

static bool slab_kind(const seg *s, uint64_t slab, uint32_t *kind)
{
    *kind = atomic_load_explicit(&s->slabs[slab].kind, memory_order_acquire) - 1;
    return *kind < CLASSES;
}

static bool referenced(const seg *s, uint64_t label, uint32_t ref)
{
    const struct item *it = seg_item(s, (uint32_t)(label >> 32));
    return it != NULL && (ref_of(get(&it->cell[0])) == ref || ref_of(get(&it->cell[1])) == ref);
}

/* Who signed in after the sweep had begun is not among the `alive`: it is asked itself, and what it did before it died
 * is seen. */
static bool garbage(const seg *s, uint64_t label, uint32_t ref, const uint32_t *alive)
{
    uint32_t client = (uint32_t)label;
    return alive[client >> 24] != client && !referenced(s, label, ref) && !seg_client_alive(s, client) &&
           !referenced(s, label, ref);
}

static bool in_use(const seg *s, uint32_t slab, uint32_t kind, uint32_t index)
{
    return is_item(kind) ? !seg_item_free(at_ref(s, seg_block_ref(s, slab, kind, index)))
                         : get(seg_label_at(s, slab, index)) != 0;
}

/* One slab: settle what the dead hold, free what they claimed, correct the counter. */
static void sweep_slab(seg *s, uint32_t slab, uint32_t kind, const uint32_t *alive, seg_kept *kept)
{
    uint32_t counted = 0;
    uint32_t was = atomic_load(&s->slabs[slab].used);
    for (uint32_t i = 0; i < s->geometry[kind].count; i++) {
        if (!in_use(s, slab, kind, i)) {
            continue;
        }
        counted++;
        uint32_t ref = seg_block_ref(s, slab, kind, i);
        if (is_item(kind)) {
            struct item *it = at_ref(s, ref);
            uint64_t lock = get(&it->lock);
            if (lock != 0 || (get(&it->control) & LIVE) == 0) {
                bool settled = seg_settle(s, it);
                kept->locks_recovered += settled && lock != 0;
                kept->items_reaped += settled && seg_item_free(it);
            }
        } else {
            uint64_t label = get(seg_label_at(s, slab, i));
            if (garbage(s, label, ref, alive) && seg_release(s, ref, label)) {
                kept->blocks_freed++;
            }
        }
    }
    uint32_t after = 0;
    for (uint32_t i = 0; i < s->geometry[kind].count; i++) {
        after += in_use(s, slab, kind, i);
    }
    /* Only if nothing happened in this slab meanwhile; else another sweep will. */
    if (counted == after) {
        atomic_compare_exchange_strong(&s->slabs[slab].used, &was, after);
    } else {
        was = atomic_load(&s->slabs[slab].used);
        atomic_compare_exchange_strong(&s->slabs[slab].used, &was, after);
    }
}

static void sweep(seg *s, seg_kept *kept)
{
    uint32_t alive[SEG_CLIENTS_MAX];
    uint32_t kind;
    for (uint32_t slot = 0; slot < SEG_CLIENTS_MAX; slot++) {
        uint32_t id = (uint32_t)get(&s->clients[slot].id);
        alive[slot] = seg_client_alive(s, id) ? id : 0;
    }
    for (int items = 1; items >= 0; items--) { /* items first: they hold on to blocks */
        for (uint32_t slab = 0; slab < slab_top(s); slab++) {
            if (slab_kind(s, slab, &kind) && is_item(kind) == (items == 1)) {
                sweep_slab(s, slab, kind, alive, kept);
            }
        }
    }
}

/* Clients that went without a word: recover the item they were at. */
static void bury(seg *s, seg_kept *kept)
{
    for (uint32_t slot = 0; slot < SEG_CLIENTS_MAX; slot++) {
        struct client *c = &s->clients[slot];
        if (c == s->client || get(&c->active) == 0 || !seg_slot_lock(s, slot)) {
            continue;
        }
        if (get(&c->active) != 0) {
            /* We hold its OS lock; its id must not look alive to our own probe, nor does it:
             * a probe never sees locks of its own descriptor. */
            struct item *it = seg_item(s, (uint32_t)get(&c->item));
            if (it != NULL && seg_settle(s, it)) {
                kept->locks_recovered++;
            }
            put(&c->op, (get(&c->op) | 1) + 1);
            put(&c->active, 0);
            atomic_fetch_add(&s->header->sweeps_wanted, 1);
            kept->dead_clients++;
        }
        seg_slot_unlock(s, slot);
    }
}

/* The next item, alive or not, from *cursor on: slab 48 | index 16. NULL at the end. */
static inline struct item *step(const seg *s, uint64_t *cursor, uint32_t *ref)
{
    uint64_t slab = *cursor >> CURSOR_SHIFT, index = *cursor & ((1u << CURSOR_SHIFT) - 1);
    for (uint32_t kind; slab < slab_top(s); slab++, index = 0) {
        if (slab_kind(s, slab, &kind) && is_item(kind) && index < s->geometry[kind].count) {
            *ref = seg_block_ref(s, (uint32_t)slab, kind, (uint32_t)index);
            *cursor = (slab << CURSOR_SHIFT | index) + 1;
            return at_ref(s, *ref);
        }
    }
    *cursor = slab << CURSOR_SHIFT;
    return NULL;
}

static void expire(seg *s, uint64_t now_ns, seg_kept *kept)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    bool again = s->expire_cursor != 0; /* once from the start, if it does not begin there */
    uint32_t ref;
    for (uint32_t looked = 0; looked < SEG_HOUSEKEEP_ITEMS_MAX; looked++) {
        struct item *it = step(s, &s->expire_cursor, &ref);
        if (it == NULL) {
            s->expire_cursor = 0;
            if (!again) {
                return;
            }
            again = false;
            continue;
        }
        uint64_t control = get(&it->control);
        if ((control & (LIVE | TTL)) != (LIVE | TTL)) {
            continue;
        }
        size_t len;
        struct cell cell;
        seg_handle h = {get(&it->auth), 0, ref};
        seg_op op = {.verb = SEG_EXPIRE, .deadline_ns = now_ns};
        if (!seg_cell(s, it, control, &cell) || seg_deadline(&cell) > now_ns ||
            !seg_item_key(s, it, key, &len) || get(&it->control) != control) {
            continue;
        }
        kept->expired += seg_update(s, key, len, &h, &op) == SEG_OK;
    }
}

seg_status seg_housekeep(seg *s, uint64_t now_ns, seg_kept *kept)
{
    *kept = (seg_kept){0};
    if (!seg_usable(s) || s->readonly) {
        return SEG_UNAVAILABLE;
    }
    bury(s, kept);
    uint64_t wanted = get(&s->header->sweeps_wanted);
    if (wanted != get(&s->header->sweeps_done)) {
        sweep(s, kept);
        put(&s->header->sweeps_done, wanted);
    }
    if (!seg_clustered(s)) {
        expire(s, now_ns, kept);
    }
    return SEG_OK;
}

/* What a walk will look at in a moment: an item is beside the last one, its cell is anywhere. A wrong address
 * is harmless. */
static void foresee(const seg *s, const struct item *it)
{
    uint64_t control = peek(&it->control);
    if ((control & LIVE) != 0) {
        __builtin_prefetch(at_ref(s, ref_of(peek(&it->cell[control & ACTIVE]))));
    }
}

/* The next item whose control word has `want` of `mask`; `ahead`: its cell will be looked at. */
static inline struct item *next_of(const seg *s, uint64_t mask, uint64_t want, bool ahead, uint64_t *cursor,
                                   uint32_t *ref)
{
    struct item *it;
    while ((it = step(s, cursor, ref)) != NULL) {
        uint64_t further = *cursor - 1 + WALK_AHEAD_ITEMS;
        uint32_t there;
        if (ahead) {
            struct item *later = step(s, &further, &there);
            if (later != NULL) {
                foresee(s, later);
            }
        }
        if ((get(&it->control) & mask) == want) {
            return it;
        }
    }
    return NULL;
}

struct item *seg_next_item(const seg *s, uint64_t kind_of_item, uint64_t *cursor, uint32_t *ref)
{
    return next_of(s, LIVE | FENCE, LIVE | kind_of_item, true, cursor, ref);
}

struct item *seg_next_mortal(const seg *s, uint64_t *cursor, uint32_t *ref)
{
    return next_of(s, LIVE | FENCE | TTL | AWAY, LIVE | TTL, false, cursor, ref);
}

seg_status seg_scan(seg *s, uint64_t *cursor, const void *prefix, size_t prefix_len, void *key,
                    size_t *key_len, seg_handle *out)
{
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    const struct item *it;
    uint32_t ref;
    while ((it = seg_next_item(s, 0, cursor, &ref)) != NULL) {
        for (uint32_t tries = 0; tries < SEG_READ_TRIES_MAX; tries++) {
            uint64_t control = get(&it->control);
            if ((control & (LIVE | FENCE)) != LIVE) {
                break;
            }
            *out = (seg_handle){peek(&it->auth), 0, ref};
            bool good = seg_item_key(s, it, key, key_len);
            atomic_thread_fence(memory_order_acquire);
            if (peek(&it->control) != control) {
                continue;
            }
            if (good && *key_len >= prefix_len && memcmp(key, prefix, prefix_len) == 0) {
                return SEG_OK;
            }
            break;
        }
    }
    return SEG_NOT_FOUND;
}

seg_status seg_stats_read(seg *s, seg_stats *out)
{
    uint64_t counters[N_COUNTERS] = {0};
    uint32_t kind;
    *out = (seg_stats){0};
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    out->generation = get(&s->header->generation);
    out->total_bytes = s->at.slab_count * SLAB_BYTES;
    out->feed_sequence = get(&s->header->feed_tail);
    out->feed_capacity = s->at.entries;
    for (uint32_t slab = 0; slab < slab_top(s); slab++) {
        if (slab_kind(s, slab, &kind)) {
            const struct geometry *g = &s->geometry[kind];
            uint32_t used = atomic_load_explicit(&s->slabs[slab].used, memory_order_relaxed);
            used = used > g->count ? 0 : used;
            out->items += is_item(kind) ? used : 0;
            uint64_t each = g->bytes + (is_item(kind) ? 0 : sizeof(word)); /* with its label */
            out->bytes += used * each;
            out->free_bytes += (g->count - used) * each;
        }
    }
    out->free_bytes += (s->at.slab_count - slab_top(s)) * SLAB_BYTES;
    for (uint32_t slot = 0; slot < SEG_CLIENTS_MAX; slot++) {
        const struct client *c = &s->clients[slot];
        out->clients += get(&c->active) != 0;
        for (int i = 0; i < N_COUNTERS; i++) {
            counters[i] += peek(&c->counters[i]);
        }
    }
    out->writes = counters[N_WRITES];
    out->creates = counters[N_CREATES];
    out->deletes = counters[N_DELETES];
    out->retries = counters[N_RETRIES];
    out->auth_misses = counters[N_AUTH_MISSES];
    out->takeovers = counters[N_TAKEOVERS];
    out->steals = counters[N_STEALS];
    out->fenced = counters[N_FENCED];
    return SEG_OK;
}

/* Each item of each chain has the right bucket, appears once, and is in use. */
static uint64_t check_chains(seg *s, seg_verdict *v)
{
    uint64_t linked = 0;
    for (uint64_t bucket = 0; bucket < s->at.buckets; bucket++) {
        uint32_t steps = 0;
        uint32_t ref = ref_of(get(&s->index[bucket]));
        for (; ref != 0 && steps < CHAIN_STEPS_MAX; steps++) {
            uint8_t key[SEG_KEY_BYTES_MAX];
            size_t len;
            const struct item *it = seg_item(s, ref);
            struct place p;
            if (it == NULL) {
                v->torn_refs++;
                break;
            }
            bool known = seg_item_key(s, it, key, &len);
            if (!known || (seg_hash(s, key, len) & (s->at.buckets - 1)) != bucket) {
                v->misplaced++;
            }
            if (!seg_place(s, ref, &p) || seg_item_free(it) ||
                sizeof(struct item) + wide_words(get(&it->next)) * 8 + len > s->geometry[p.kind].bytes) {
                v->torn_refs++;
            }
            seg_handle found;
            if ((get(&it->control) & LIVE) != 0 && known) {
                linked++;
                if (seg_lookup(s, key, len, &found) != SEG_OK || found.item != ref) {
                    v->unreachable++;
                }
            }
            ref = ref_of(get(&it->next));
        }
        v->misplaced += steps == CHAIN_STEPS_MAX;
    }
    return linked;
}

static void check_ref(seg *s, uint32_t self, uint32_t ref, seg_verdict *v)
{
    struct place p;
    if (ref == 0) {
        return;
    }
    if (!seg_place(s, ref, &p) || p.label == NULL) {
        v->torn_refs++;
    } else if ((uint32_t)(get(p.label) >> 32) != self) {
        v->shared_blocks++; /* freed, or another item's */
    }
}

seg_status seg_verify(seg *s, seg_verdict *v)
{
    uint32_t kind;
    *v = (seg_verdict){0};
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    uint64_t linked = check_chains(s, v);
    for (uint32_t slab = 0; slab < slab_top(s); slab++) {
        if (!slab_kind(s, slab, &kind)) {
            continue;
        }
        for (uint32_t i = 0; i < s->geometry[kind].count; i++) {
            uint32_t ref = seg_block_ref(s, slab, kind, i);
            if (!is_item(kind)) {
                uint64_t label = get(seg_label_at(s, slab, i));
                v->orphans += label != 0 && !referenced(s, label, ref);
                continue;
            }
            const struct item *it = at_ref(s, ref);
            uint64_t control = get(&it->control);
            v->locked += get(&it->lock) != 0;
            if (seg_item_free(it)) {
                v->torn_refs += (control & LIVE) != 0;
                continue;
            }
            if ((control & LIVE) == 0) {
                v->unlocked_dead++;
                continue;
            }
            v->items++;
            uint32_t a = ref_of(get(&it->cell[0])), b = ref_of(get(&it->cell[1]));
            bool stub = seg_is_stub(it, control);
            v->torn_refs += !stub && ((control & ACTIVE) != 0 ? b == 0 : a == 0);
            v->torn_refs += stub && length_of(control) != 0;
            v->shared_blocks += a != 0 && a == b;
            check_ref(s, ref, a, v);
            check_ref(s, ref, b, v);
        }
    }
    v->unreachable += v->items > linked ? v->items - linked : linked - v->items;
    return SEG_OK;
}
