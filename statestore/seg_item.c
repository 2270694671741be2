/* Items: read, update. The paths that have to be fast.
 *
 * Knows: cells, control words, grants. Must not know: what the bytes mean.
 *
 * A write: announce it, lock the item, load its control word, check the fence, fill the cell that
 * nobody reads (or, for an append, the bytes behind the published length), publish by
 * compare-and-swap from the control word that was loaded, tell the feed, unlock.
 */
#include "seg_internal.h"

#define APPEND_FRAME_BYTES 4u

size_t seg_length(const seg *s, const seg_handle *h)
{
    const struct item *it = seg_usable(s) ? seg_item(s, h->item) : NULL;
    return it == NULL ? 0 : length_of(peek(&it->control));
}

seg_status seg_read(seg *s, const void *key, size_t key_len, seg_handle *h, void *buf, size_t cap,
                    size_t *len, uint64_t *version)
{
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    if (seg_idle(s)) {
        return SEG_NOT_SERVING;
    }
    for (uint32_t tries = 0; tries < SEG_READ_TRIES_MAX; tries++) {
        const struct item *it = seg_item(s, h->item);
        if (it != NULL && peek(&it->auth) == h->auth) {
            uint64_t control = get(&it->control);
            if ((control & LIVE) != 0) {
                struct cell cell;
                uint64_t now = 0;
                *len = length_of(control);
                bool fits = *len <= cap;
                bool whole = seg_cell(s, it, control, &cell);
                if (whole && fits) {
                    now = seg_version(control, &cell);
                    copy_out(buf, cell.value, *len);
                }
                atomic_thread_fence(memory_order_acquire);
                if (peek(&it->control) == control && peek(&it->auth) == h->auth) {
                    if ((control & AWAY) != 0) {
                        return SEG_AWAY;
                    }
                    seg_accessed(s, h->item);
                    if (version != NULL) {
                        *version = now;
                    }
                    return !whole ? SEG_CORRUPT : fits ? SEG_OK : SEG_TOO_BIG;
                }
                count(s, N_RETRIES);
                seg_pause(tries);
                continue;
            }
        }
        if (tries > 0 || h->auth != 0) {
            count(s, N_AUTH_MISSES);
        }
        seg_status status = seg_lookup(s, key, key_len, h);
        if (status != SEG_OK) {
            return status;
        }
    }
    return SEG_UNAVAILABLE;
}

void seg_sample(seg *s, uint32_t item)
{
    /* Not at even steps: who reads his items in turn would have the same one sampled for ever. */
    s->dice = s->dice * 1664525u + 1013904223u;
    s->until_sample = 1 + (s->dice >> 8) % (2 * SEG_SAMPLE - 1);
    if (!seg_clustered(s)) {
        return;
    }
    uint64_t taken = peek(&s->client->sampled);
    atomic_store_explicit(&s->client->sample[taken % CLIENT_SAMPLES], item, memory_order_relaxed);
    put(&s->client->sampled, taken + 1);
}

/* That we hold the item is checked after the reference was loaded: whoever robs us later takes this
 * very block out of the item, and whoever robbed us before is noticed. */
uint32_t seg_prepare_cell(seg *s, struct item *it, uint64_t which, size_t bytes,
                          seg_status *status)
{
    uint32_t ref = ref_of(get(&it->cell[which]));
    struct place p;
    if (ref != 0 && seg_place(s, ref, &p) && s->geometry[p.kind].bytes >= bytes) {
        if (!seg_held(s, it)) {
            *status = SEG_CHANGED;
            return 0;
        }
        return ref;
    }
    uint32_t fresh = seg_claim(s, bytes, ref_to(s, it));
    if (fresh == 0) {
        *status = SEG_FULL;
        return 0;
    }
    if (!seg_replace(s, it, &it->cell[which], fresh)) {
        seg_release(s, fresh, label_word(ref_to(s, it), s->me));
        *status = SEG_CHANGED;
        return 0;
    }
    return fresh;
}

static size_t block_bytes(const seg *s, uint32_t ref)
{
    struct place p;
    return ref != 0 && seg_place(s, ref, &p) ? s->geometry[p.kind].bytes : 0;
}

/* What one attempt is going to publish. */
struct draft {
    uint64_t control; /* to publish */
    uint32_t touched; /* the block it was written into */
    word *retire;     /* cell to give back after the publish, or NULL */
};

/* The longest that is asked for first leaves room for the next ones. */
static uint32_t grown_cell(seg *s, struct item *it, uint64_t which, size_t head, size_t whole, seg_status *status)
{
    size_t room = whole + whole / 2;
    uint32_t ref = seg_prepare_cell(
        s, it, which, head + (room > SEG_VALUE_BYTES_MAX ? SEG_VALUE_BYTES_MAX : room), status);
    if (ref == 0 && *status == SEG_FULL) {
        ref = seg_prepare_cell(s, it, which, head + whole, status);
    }
    return ref;
}

static seg_status draft_append(seg *s, struct item *it, uint64_t control, const seg_op *op,
                               struct draft *d)
{
    uint64_t active = control & ACTIVE;
    uint64_t form = peek(&it->next);
    uint32_t ref = ref_of(get(&it->cell[active]));
    size_t head = seg_head_words(form, control);
    size_t len = length_of(control);
    size_t whole = len + APPEND_FRAME_BYTES + op->len;
    uint32_t frame = (uint32_t)op->len;
    seg_status status = SEG_OK;
    struct cell cell;
    if (!seg_cell(s, it, control, &cell)) {
        return SEG_CORRUPT;
    }
    if (whole > SEG_VALUE_BYTES_MAX) {
        return SEG_TOO_BIG;
    }
    if (head * 8 + whole > block_bytes(s, ref)) {
        const word *old = cell.value - head;
        uint32_t fresh = grown_cell(s, it, active ^ 1, head * 8, whole, &status);
        if (fresh == 0) {
            return status;
        }
        word *to = at_ref(s, fresh);
        atomic_thread_fence(memory_order_release);
        for (size_t i = 0; i < head + (len + 7) / 8; i++) {
            poke(to + i, peek(old + i));
        }
        if (cell.bias != NULL) {
            poke(to, relative(control, peek(old)));
        }
        POINT("grown");
        d->retire = &it->cell[active];
        active ^= 1;
        ref = fresh;
    } else if (!seg_held(s, it)) {
        return SEG_CHANGED;
    }
    word *start = at_ref(s, ref);
    d->touched = ref;
    atomic_thread_fence(memory_order_release);
    if (cell.bias != NULL && (peek(start) & ABSOLUTE) != 0) {
        poke(start, relative(control, peek(start))); /* still the same logical version */
        POINT("relative");
    }
    copy_in(start + head, len, &frame, sizeof frame);
    copy_in(start + head, len + APPEND_FRAME_BYTES, op->data, op->len);
    d->control = next_control(control, whole, LIVE | (control & TTL) | active);
    return SEG_OK;
}

static seg_status draft_value(seg *s, struct item *it, uint64_t control, seg_op *op,
                              struct draft *d)
{
    uint64_t other = (control & ACTIVE) ^ 1;
    uint64_t form = peek(&it->next);
    seg_status status = SEG_OK;
    const void *data = op->data;
    size_t len = op->len;
    struct cell old;
    if (!seg_cell(s, it, control, &old)) {
        return SEG_CORRUPT;
    }
    uint64_t bias = old.bias == NULL ? 0 : peek(old.bias);
    if (op->verb == SEG_SWAP && seg_version(control, &old) != op->version) {
        return SEG_CHANGED;
    }
    if (op->verb == SEG_ADD) {
        uint64_t sum;
        if (length_of(control) != sizeof sum) {
            return SEG_INVALID;
        }
        sum = peek(old.value) + (uint64_t)op->delta;
        op->sum = (int64_t)sum;
        data = &op->sum;
        len = sizeof sum;
    }
    uint64_t deadline_ns = op->set_deadline ? op->deadline_ns : seg_deadline(&old);
    uint64_t ttl = seg_ttl(deadline_ns);
    uint32_t ref = seg_prepare_cell(s, it, other, seg_cell_bytes(form, ttl, len), &status);
    if (ref == 0) {
        /* Not "another version" but "not ours any more": the caller starts again. */
        return status == SEG_CHANGED ? SEG_UNAVAILABLE : status;
    }
    d->touched = ref;
    atomic_thread_fence(memory_order_release);
    seg_fill_cell(s, ref, form, deadline_ns, relative(control, bias), data, len);
    d->control = next_control(control, len, LIVE | ttl | other);
    return SEG_OK;
}

/* SEG_UNAVAILABLE here means: start again. */
static seg_status draft(seg *s, struct item *it, uint64_t control, seg_op *op, struct draft *d)
{
    if ((control & FENCE) != 0) {
        return SEG_INVALID;
    }
    if ((control & AWAY) != 0) {
        return SEG_AWAY;
    }
    switch (op->verb) {
    case SEG_APPEND: {
        seg_status status = draft_append(s, it, control, op, d);
        return status == SEG_CHANGED ? SEG_UNAVAILABLE : status;
    }
    case SEG_EXPIRE: {
        struct cell cell;
        uint64_t deadline_ns = seg_cell(s, it, control, &cell) ? seg_deadline(&cell) : 0;
        if (deadline_ns == 0 || deadline_ns > op->deadline_ns) {
            return SEG_CHANGED;
        }
    }
    /* fall through */
    case SEG_DELETE:
        d->control = next_control(control, 0, 0);
        return seg_held(s, it) ? SEG_OK : SEG_UNAVAILABLE;
    default:
        return draft_value(s, it, control, op, d);
    }
}

seg_status seg_update(seg *s, const void *key, size_t key_len, seg_handle *h, seg_op *op)
{
    if (!seg_usable(s) || s->readonly) {
        return SEG_UNAVAILABLE;
    }
    if (op->len > SEG_VALUE_BYTES_MAX) {
        return SEG_TOO_BIG;
    }
    if (op->verb >= SEG_DELETE && seg_clustered(s)) {
        return SEG_INVALID; /* the map log decides who deletes an item */
    }
    seg_begin(s, h->item, op->grant);
    uint32_t suspects[3] = {0}; /* blocks that may be kept for us after we were robbed */
    bool robbed = false;
    for (uint32_t tries = 0; tries < SEG_WRITE_TRIES_MAX; tries++) {
        struct item *it = seg_item(s, h->item);
        if (seg_idle(s)) {
            return seg_done(s, SEG_NOT_SERVING);
        }
        if (it != NULL && (peek(&it->control) & AWAY) != 0 && peek(&it->auth) == h->auth) {
            return seg_done(s, SEG_AWAY); /* do not stand in the server's way */
        }
        seg_status status = it == NULL || h->auth == 0 ? SEG_NOT_FOUND : seg_lock(s, it, h->auth);
        for (int i = 0; robbed && it != NULL && i < 3; i++) {
            seg_reclaim(s, it, suspects[i]);
        }
        robbed = false;
        if (status == SEG_NOT_FOUND && op->verb != SEG_EXPIRE) {
            uint64_t named = h->auth;
            count(s, N_AUTH_MISSES);
            status = seg_lookup(s, key, key_len, h);
            if (status == SEG_OK && op->verb == SEG_SWAP && named != 0 && named != h->auth) {
                return seg_done(s, SEG_CHANGED); /* that version was of a deleted item */
            }
            if (status == SEG_OK) {
                poke(&s->client->item, h->item);
                continue;
            }
        }
        if (status != SEG_OK) {
            return seg_done(s, status);
        }
        uint64_t control = get(&it->control);
        struct draft d = {0, 0, NULL};
        suspects[0] = ref_of(peek(&it->cell[0]));
        suspects[1] = ref_of(peek(&it->cell[1]));
        if (seg_fenced(s, op->grant, &op->epoch_seen)) {
            status = SEG_FENCED;
        } else {
            status = draft(s, it, control, op, &d);
        }
        if (status == SEG_UNAVAILABLE) {
            robbed = !seg_held(s, it);
            if (!robbed) {
                seg_unlock(s, it);
            }
            continue;
        }
        if (status != SEG_OK) {
            seg_unlock(s, it);
            return seg_done(s, status);
        }
        POINT("drafted");
        if (!cas(&it->control, control, d.control)) {
            count(s, N_RETRIES);
            suspects[2] = d.touched;
            robbed = !seg_held(s, it); /* the item is whole again once we have locked it */
            if (!robbed) {
                seg_unlock(s, it); /* a fence was raised under us, or a stale bump: ask again */
            }
            continue;
        }
        POINT("published");
        /* Who writes for a client elsewhere knows the item, not the hash of its key in this segment. */
        seg_feed_push(s, key, key_len, h->hash != 0 ? h->hash : seg_hash(s, key, key_len));
        if ((d.control & LIVE) == 0) {
            count(s, N_DELETES);
            seg_reap(s, it);
            return seg_done(s, SEG_OK);
        }
        count(s, N_WRITES);
        seg_accessed(s, h->item);
        if (d.retire != NULL) {
            (void)seg_replace(s, it, d.retire, 0);
        }
        seg_unlock(s, it);
        return seg_done(s, SEG_OK);
    }
    return seg_done(s, SEG_UNAVAILABLE);
}

