/* Making items: local ones, fences, and those the state server plants under a given auth.
 *
 * Knows: what a new item consists of, in which order it appears. Must not know: what the bytes mean.
 *
 * A new item is complete before it is linked into its chain, and nobody reads it before it is
 * LIVE: whoever dies between leaves garbage, not half an item.
 */
#include "seg_internal.h"

/* The first cell of an item of ours. */
static seg_status prepare_value(seg *s, struct item *it, uint64_t form, const seg_new *n, uint64_t bias)
{
    size_t room = n->capacity > n->len ? n->capacity : n->len;
    uint32_t cell = seg_claim(s, seg_cell_bytes(form, seg_ttl(n->deadline_ns), room), ref_to(s, it));
    if (cell == 0) {
        seg_reap(s, it);
        return SEG_FULL;
    }
    atomic_thread_fence(memory_order_release);
    seg_fill_cell(s, cell, form, n->deadline_ns, bias, n->value, n->len);
    return seg_replace(s, it, &it->cell[0], cell) ? SEG_OK : SEG_CORRUPT;
}

/* An item of ours that nobody can see yet: locked, with its key and its first cell. */
static seg_status prepare(seg *s, const void *key, size_t key_len, const seg_new *n, uint64_t flags,
                          const seg_copy *copy, uint32_t *out)
{
    static const seg_home nowhere;
    bool wide = copy != NULL || (flags & FENCE) != 0;
    uint64_t form = key_len << KEY_LENGTH_SHIFT | KEYED | (wide ? WIDE : 0);
    uint32_t ref = seg_claim_item(s, sizeof(struct item) + wide_words(form) * 8 + key_len);
    if (ref == 0) {
        return SEG_FULL;
    }
    struct item *it = at_ref(s, ref);
    poke(&s->client->item, ref);
    if (wide) {
        poke(&it->rest[HOME], home_word(copy == NULL ? &nowhere : &copy->home));
        POINT("home");
        poke(&it->rest[ACKED], (flags & FENCE) != 0 ? FENCE_EPOCH_FLIP : 0);
        POINT("acked");
    }
    copy_in(it->rest + wide_words(form), 0, key, key_len);
    uint64_t next = get(&it->next);
    put(&it->next, next_word(next, form, ref_of(next)) | (next & MARK));
    POINT("keyed");
    if (copy == NULL || !copy->stub) {
        seg_status status = prepare_value(s, it, form, n, copy == NULL ? 0 : ABSOLUTE | copy->version);
        if (status != SEG_OK) {
            return status;
        }
    }
    s->auths++;
    put(&it->auth, copy == NULL ? (uint64_t)s->me << 32 | s->auths : copy->auth);
    POINT("prepared");
    *out = ref;
    return SEG_OK;
}

static seg_status create(seg *s, const void *key, size_t key_len, seg_new *n, uint64_t flags,
                         const seg_copy *copy, seg_handle *out)
{
    uint64_t hash = seg_hash(s, key, key_len);
    uint32_t ref = 0;
    seg_status status = SEG_UNAVAILABLE;
    for (uint32_t tries = 0; tries < SEG_WRITE_TRIES_MAX; tries++) {
        uint64_t head;
        enum found found = seg_chain_find(s, hash, key, key_len, &head, out);
        if (found == UNSETTLED) {
            struct item *other = seg_item(s, out->item);
            if (other != NULL && out->auth != 0 && seg_lock(s, other, out->auth) == SEG_OK) {
                seg_unlock(s, other);
            }
            continue;
        }
        if (found != ABSENT) {
            status = found == PRESENT ? SEG_EXISTS : SEG_CORRUPT;
            break;
        }
        if (ref == 0) {
            status = prepare(s, key, key_len, n, flags, copy, &ref);
            if (status != SEG_OK) {
                return status;
            }
            status = SEG_UNAVAILABLE;
        }
        struct item *it = at_ref(s, ref);
        uint64_t control = get(&it->control);
        if (seg_fenced(s, n->grant, &n->epoch_seen)) {
            status = SEG_FENCED;
            break;
        }
        if (!seg_chain_push(s, hash, head, ref)) {
            continue;
        }
        POINT("linked");
        *out = (seg_handle){get(&it->auth), hash, ref};
        uint64_t all = LIVE | flags | seg_ttl(n->deadline_ns);
        if (!cas(&it->control, control, next_control(control, n->len, all))) {
            /* Bumped by a fence, or robbed before anybody could read it. */
            count(s, N_RETRIES);
            if (seg_held(s, it)) {
                seg_reap(s, it);
            }
            ref = 0;
            continue;
        }
        POINT("created");
        if ((flags & FENCE) == 0) {
            seg_feed_push(s, key, key_len, hash);
        }
        count(s, N_CREATES);
        seg_unlock(s, it);
        return SEG_OK;
    }
    if (ref != 0) {
        seg_reap(s, at_ref(s, ref));
    }
    return status;
}

seg_status seg_make(seg *s, const void *key, size_t key_len, seg_new *n, uint64_t flags,
                    const seg_copy *copy, seg_handle *out)
{
    if (!seg_usable(s) || s->readonly) {
        return SEG_UNAVAILABLE;
    }
    if (key_len > SEG_KEY_BYTES_MAX || n->len > SEG_VALUE_BYTES_MAX ||
        n->capacity > SEG_VALUE_BYTES_MAX) {
        return SEG_TOO_BIG;
    }
    seg_begin(s, 0, n->grant);
    return seg_done(s, create(s, key, key_len, n, flags, copy, out));
}

seg_status seg_create(seg *s, const void *key, size_t key_len, seg_new *n, seg_handle *out)
{
    if (key_len > 0 && *(const uint8_t *)key == 0) {
        return SEG_INVALID; /* our own names */
    }
    if (seg_usable(s) && seg_clustered(s)) {
        return SEG_INVALID; /* the map log decides who makes an item */
    }
    return seg_make(s, key, key_len, n, 0, NULL, out);
}

seg_status seg_plant(seg *s, const void *key, size_t key_len, const seg_copy *c, seg_handle *out)
{
    if (c->auth == 0 || (c->version & ABSOLUTE) != 0 || (c->stub && !c->away) ||
        (key_len > 0 && *(const uint8_t *)key == 0)) {
        return SEG_INVALID;
    }
    seg_new n = {.value = c->value, .len = c->len, .capacity = c->capacity,
                 .deadline_ns = c->deadline_ns};
    if (c->stub) {
        n = (seg_new){.value = "", .len = 0};
    }
    return seg_make(s, key, key_len, &n, c->away ? AWAY : 0, c, out);
}

