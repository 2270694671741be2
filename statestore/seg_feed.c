/* The change feed: a ring of keys that changed. Pushing never waits; a watcher that is too slow,
 * or behind a writer that died in the middle of an entry, is told to rescan.
 *
 * Knows: entries, cursors. Must not know: values.
 *
 * Nobody owns an entry: a writer that was stopped in one may scribble over a later lap. Each entry
 * carries a check of its position and key, so such a mixture is never believed.
 */
#include "seg_internal.h"

void seg_feed_push(seg *s, const void *key, size_t len, uint64_t hash)
{
    uint64_t at = atomic_fetch_add_explicit(&s->header->feed_tail, 1, memory_order_relaxed);
    struct entry *e = &s->feed[at & (s->at.entries - 1)];
    POINT("feed reserved");
    poke(&e->seq, 0);
    atomic_thread_fence(memory_order_release);
    poke(&e->key_len, len);
    copy_in(e->key, 0, key, len);
    poke(&e->check, seg_mix(s, at, len, hash));
    POINT("feed filled");
    put(&e->seq, at + 1);
    POINT("feed pushed");
}

seg_status seg_watch(seg *s, seg_cursor *c)
{
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    *c = (seg_cursor){get(&s->header->feed_tail), 0, 0};
    return SEG_OK;
}

static seg_status overrun(seg *s, seg_cursor *c)
{
    (void)seg_watch(s, c);
    return SEG_OVERRUN;
}

seg_status seg_poll(seg *s, seg_cursor *c, const void *prefix, size_t prefix_len, void *key,
                    size_t *key_len, bool *deleted)
{
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    for (;;) {
        uint64_t tail = get(&s->header->feed_tail);
        if (c->next >= tail) {
            return SEG_NOT_FOUND;
        }
        if (tail - c->next > s->at.entries) {
            return overrun(s, c);
        }
        const struct entry *e = &s->feed[c->next & (s->at.entries - 1)];
        uint64_t seq = get(&e->seq);
        if (seq == c->next + 1) {
            size_t len = peek(&e->key_len);
            uint64_t check = peek(&e->check);
            if (len <= SEG_KEY_BYTES_MAX) {
                copy_out(key, e->key, len);
            }
            atomic_thread_fence(memory_order_acquire);
            if (peek(&e->seq) != seq || len > SEG_KEY_BYTES_MAX ||
                check != seg_mix(s, c->next, len, seg_hash(s, key, len))) {
                return overrun(s, c);
            }
            c->next++;
            if (len < prefix_len || memcmp(key, prefix, prefix_len) != 0 ||
                (len > 0 && *(const uint8_t *)key == 0)) {
                continue;
            }
            seg_handle ignored;
            *key_len = len;
            seg_status status = seg_lookup(s, key, len, &ignored);
            *deleted = status == SEG_NOT_FOUND;
            return status == SEG_NOT_FOUND ? SEG_OK : status;
        }
        if (seq > c->next + 1) {
            return overrun(s, c);
        }
        uint64_t now = seg_now_ns();
        if (c->hole_since == 0 || c->hole_at != c->next) {
            c->hole_at = c->next;
            c->hole_since = now;
        }
        if (now - c->hole_since >= SEG_HOLE_WAIT_NS) {
            return overrun(s, c);
        }
        return SEG_NOT_FOUND;
    }
}
