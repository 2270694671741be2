/* Fences: a number that only rises, and writes under a smaller one that must not happen any more.
 *
 * Knows: grants, what is in flight. Must not know: what is written.
 *
 * A fence is raised by storing the epoch, then bumping the control word of every announced write
 * under an older one that does not end soon. Either the writer sees the epoch, or the raiser sees
 * the writer, whose control word was loaded before its check: its publish fails. No write is left.
 */
#include "seg_internal.h"

static const char FENCE_PREFIX[] = "\0fence/";
#define FENCE_PREFIX_BYTES (sizeof FENCE_PREFIX - 1)

bool seg_stale(seg *s, const seg_grant *g, uint64_t *seen)
{
    atomic_thread_fence(memory_order_seq_cst);
    *seen = seg_fence_epoch(s, g->fence);
    if (*seen <= g->epoch) {
        return false;
    }
    count(s, N_FENCED);
    return true;
}

seg_status seg_fence(seg *s, const void *name, size_t len, bool make, uint32_t *fence)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    if (len > SEG_FENCE_NAME_BYTES_MAX) {
        return SEG_TOO_BIG;
    }
    memcpy(key, FENCE_PREFIX, FENCE_PREFIX_BYTES);
    memcpy(key + FENCE_PREFIX_BYTES, name, len);
    seg_handle h;
    seg_status status = seg_lookup(s, key, FENCE_PREFIX_BYTES + len, &h);
    if (status == SEG_NOT_FOUND && make) {
        seg_new n = {.value = "", .len = 0};
        status = seg_make(s, key, FENCE_PREFIX_BYTES + len, &n, FENCE, NULL, &h);
        if (status == SEG_EXISTS) {
            status = seg_lookup(s, key, FENCE_PREFIX_BYTES + len, &h);
        }
    }
    *fence = h.item;
    return status;
}

uint64_t seg_fence_epoch(seg *s, uint32_t fence)
{
    const struct item *it = seg_item(s, fence);
    return it == NULL ? 0 : get(&it->rest[ACKED]) ^ FENCE_EPOCH_FLIP;
}

seg_status seg_fence_raise(seg *s, uint32_t fence, uint64_t epoch, bool *raised)
{
    struct item *it = seg_item(s, fence);
    if (!seg_usable(s) || s->readonly) {
        return SEG_UNAVAILABLE;
    }
    if (it == NULL) {
        return SEG_CORRUPT;
    }
    for (uint64_t now = seg_fence_epoch(s, fence); now != epoch; now = seg_fence_epoch(s, fence)) {
        if (now > epoch) {
            *raised = false;
            return SEG_OK;
        }
        if (cas(&it->rest[ACKED], now ^ FENCE_EPOCH_FLIP, epoch ^ FENCE_EPOCH_FLIP)) {
            break;
        }
    }
    POINT("raised");
    atomic_thread_fence(memory_order_seq_cst);
    for (uint32_t slot = 0; slot < SEG_CLIENTS_MAX; slot++) {
        struct client *c = &s->clients[slot];
        uint64_t op = get(&c->op);
        uint64_t deadline = 0;
        for (uint32_t round = 0; (op & 1) != 0 && c != s->client; round++) {
            bool older = get(&c->fence) == fence && get(&c->epoch) < epoch;
            struct item *target = seg_item(s, (uint32_t)get(&c->item));
            atomic_thread_fence(memory_order_acquire);
            if (get(&c->op) != op || !older) {
                break; /* over, or it began after the epoch stood: it sees it */
            }
            uint64_t now = seg_now_ns();
            deadline = deadline == 0 ? now + SEG_FENCE_WAIT_NS : deadline;
            if (now >= deadline) {
                if (target != NULL) {
                    seg_bump(target);
                    seg_rob(s, target, (uint32_t)get(&c->id)); /* so that nobody waits for it */
                }
                break;
            }
            seg_pause(round);
        }
    }
    *raised = true;
    return SEG_OK;
}

seg_status seg_fence_walk(seg *s, uint64_t *cursor, void *name, size_t *len, uint64_t *epoch)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t key_len;
    uint32_t ref;
    struct item *it;
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    while ((it = seg_next_item(s, FENCE, cursor, &ref)) != NULL) {
        if (seg_item_key(s, it, key, &key_len) && key_len >= FENCE_PREFIX_BYTES &&
            memcmp(key, FENCE_PREFIX, FENCE_PREFIX_BYTES) == 0) {
            *len = key_len - FENCE_PREFIX_BYTES;
            memcpy(name, key + FENCE_PREFIX_BYTES, *len);
            *epoch = seg_fence_epoch(s, ref);
            return SEG_OK;
        }
    }
    return SEG_NOT_FOUND;
}
