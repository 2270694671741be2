/* The index: buckets of singly linked items, found by a keyed hash of the key.
 *
 * Knows: keys, buckets, chains. Must not know: values, locks.
 *
 * Items are only ever pushed at the head of a chain, so a bucket word that has not changed since
 * a search began proves that the key was not added meanwhile: that makes keys unique. An item
 * leaves in two steps (mark its own `next`, then bypass it), and whoever meets a marked item
 * finishes the job. The bucket's tag changes before a removed item is reused, so a reader that
 * strayed into another chain sees it.
 */
#include "seg_internal.h"

#define ROUNDS_MAX 100000u

static inline uint64_t rotate(uint64_t x, int b) { return (x << b) | (x >> (64 - b)); }

#define SIP_ROUND()                                                                                \
    do {                                                                                           \
        a += b, b = rotate(b, 13) ^ a, a = rotate(a, 32);                                          \
        c += d, d = rotate(d, 16) ^ c;                                                             \
        a += d, d = rotate(d, 21) ^ a;                                                             \
        c += b, b = rotate(b, 17) ^ c, c = rotate(c, 32);                                          \
    } while (0)

/* SipHash-1-3 (Aumasson and Bernstein) under the segment's own seed: keys come from peers, who
 * shall not be able to aim them all at one bucket. */
uint64_t seg_hash(const seg *s, const void *key, size_t len)
{
    const uint8_t *p = key;
    uint64_t k0 = s->header->seed[0], k1 = s->header->seed[1];
    uint64_t a = k0 ^ 0x736f6d6570736575ull, b = k1 ^ 0x646f72616e646f6dull;
    uint64_t c = k0 ^ 0x6c7967656e657261ull, d = k1 ^ 0x7465646279746573ull;
    uint64_t m;
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        memcpy(&m, p + i, 8);
        d ^= m;
        SIP_ROUND();
        a ^= m;
    }
    m = 0;
    memcpy(&m, p + i, len - i);
    m |= (uint64_t)len << 56;
    d ^= m;
    SIP_ROUND();
    a ^= m;
    c ^= 0xff;
    SIP_ROUND();
    SIP_ROUND();
    SIP_ROUND();
    return a ^ b ^ c ^ d;
}

uint64_t seg_mix(const seg *s, uint64_t x, uint64_t y, uint64_t z)
{
    uint64_t words[3] = {x, y, z};
    uint64_t sum = s->header->seed[0];
    for (int i = 0; i < 3; i++) {
        sum = (rotate(sum, 23) ^ words[i]) * 0x9e3779b97f4a7c15ull;
    }
    return sum ^ (sum >> 29);
}

static word *bucket_of(const seg *s, uint64_t hash)
{
    return &s->index[hash & (s->at.buckets - 1)];
}

/* The key of an item if it has one that lies in the segment with all of its `*len` bytes. */
static const word *key_of(const seg *s, const struct item *it, size_t *len)
{
    uint64_t form = get(&it->next);
    const word *key = it->rest + wide_words(form);
    uint64_t at = (uint64_t)((const uint8_t *)key - s->base);
    *len = key_length(form);
    return (form & KEYED) == 0 || *len > SEG_KEY_BYTES_MAX || at + ((*len + 7) & ~7ull) > s->total
               ? NULL
               : key;
}

bool seg_item_key(const seg *s, const struct item *it, void *key, size_t *len)
{
    const word *from = key_of(s, it, len);
    if (from == NULL) {
        return false;
    }
    copy_out(key, from, *len);
    return true;
}

static bool has_key(const seg *s, const struct item *it, const void *key, size_t len)
{
    const uint8_t *wanted = key;
    size_t found, i = 0;
    const word *at = key_of(s, it, &found);
    if (at == NULL || found != len) {
        return false;
    }
    for (; i + 8 <= len; i += 8) {
        uint64_t w;
        memcpy(&w, wanted + i, 8);
        if (peek(at + i / 8) != w) {
            return false;
        }
    }
    uint64_t last = i < len ? peek(at + i / 8) : 0;
    return memcmp(&last, wanted + i, len - i) == 0;
}

seg_status seg_lookup(seg *s, const void *key, size_t len, seg_handle *out)
{
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    if (len > SEG_KEY_BYTES_MAX) {
        return SEG_NOT_FOUND;
    }
    uint64_t hash = seg_hash(s, key, len);
    const word *bucket = bucket_of(s, hash);
    for (uint32_t tries = 0; tries < SEG_READ_TRIES_MAX; tries++) {
        uint64_t head = get(bucket);
        uint32_t ref = ref_of(head);
        uint32_t steps = 0;
        for (; ref != 0 && steps < CHAIN_STEPS_MAX; steps++) {
            const struct item *it = seg_item(s, ref);
            if (it == NULL) {
                break;
            }
            uint64_t control = get(&it->control);
            if ((control & LIVE) != 0 && has_key(s, it, key, len)) {
                uint64_t auth = peek(&it->auth);
                atomic_thread_fence(memory_order_acquire);
                if (peek(&it->control) == control) {
                    *out = (seg_handle){auth, hash, ref};
                    return SEG_OK;
                }
                break;
            }
            ref = ref_of(get(&it->next));
        }
        atomic_thread_fence(memory_order_acquire);
        if (get(bucket) == head) {
            if (ref == 0) {
                return SEG_NOT_FOUND;
            }
            if (seg_item(s, ref) == NULL || steps == CHAIN_STEPS_MAX) {
                return SEG_CORRUPT;
            }
        }
        count(s, N_RETRIES);
        seg_pause(tries);
    }
    return SEG_UNAVAILABLE;
}

/* A writer's walk: bypasses marked items, stops at the one that has the key (NULL: at none).
 * *at_item is 0 at the end of the chain. False when the chain makes no sense. */
static bool walk(seg *s, uint64_t hash, const void *key, size_t len, uint64_t *head,
                 uint32_t *at_item)
{
    word *bucket = bucket_of(s, hash);
    for (uint32_t rounds = 0; rounds < ROUNDS_MAX; rounds++) {
        word *from = bucket;
        uint64_t link = get(bucket);
        bool moved = false;
        *head = link;
        for (uint32_t steps = 0; ref_of(link) != 0 && !moved; steps++) {
            struct item *it = seg_item(s, ref_of(link));
            if (it == NULL || steps == CHAIN_STEPS_MAX) {
                if (get(bucket) == *head) {
                    return false;
                }
                moved = true;
                break;
            }
            uint64_t next = get(&it->next);
            if ((next & MARK) != 0) {
                uint64_t past = from == bucket ? ref_word(link, ref_of(next))
                                               : next_word(link, link, ref_of(next));
                if (!cas(from, link, past)) {
                    moved = true;
                    break;
                }
                POINT("bypassed");
                link = past;
                if (from == bucket) {
                    *head = past;
                }
                continue;
            }
            if (key != NULL && has_key(s, it, key, len)) {
                *at_item = ref_of(link);
                return true;
            }
            from = &it->next;
            link = next;
        }
        if (!moved) {
            *at_item = 0;
            return true;
        }
        seg_pause(rounds);
    }
    return false;
}

enum found seg_chain_find(seg *s, uint64_t hash, const void *key, size_t len, uint64_t *head,
                          seg_handle *h)
{
    uint32_t ref = 0;
    if (!walk(s, hash, key, len, head, &ref)) {
        return BROKEN;
    }
    if (ref == 0) {
        return ABSENT;
    }
    const struct item *it = at_ref(s, ref);
    uint64_t control = get(&it->control);
    *h = (seg_handle){get(&it->auth), hash, ref};
    bool same = has_key(s, it, key, len) && get(&it->control) == control;
    return same && (control & LIVE) != 0 ? PRESENT : UNSETTLED;
}

bool seg_chain_push(seg *s, uint64_t hash, uint64_t head, uint32_t ref)
{
    struct item *it = at_ref(s, ref);
    uint64_t next = get(&it->next);
    put(&it->next, next_word(next, next, ref_of(head)));
    POINT("next");
    return cas(bucket_of(s, hash), head, ref_word(head, ref));
}

bool seg_chain_clean(seg *s, uint64_t hash)
{
    uint64_t head;
    uint32_t ignored;
    if (!walk(s, hash, NULL, 0, &head, &ignored)) {
        return false;
    }
    word *bucket = bucket_of(s, hash);
    for (uint32_t rounds = 0; rounds < ROUNDS_MAX; rounds++) {
        uint64_t now = get(bucket);
        if (cas(bucket, now, ref_word(now, ref_of(now)))) {
            POINT("bucket tag");
            return true;
        }
    }
    return false;
}
