/* Items: read, create, update. The paths that have to be fast, and the fences that guard them.
 *
 * Knows: cells, control words, grants. Must not know: what the bytes mean.
 *
 * A write: announce it, lock the item, load its control word, check the fence, fill the cell that
 * nobody reads (or, for an append, the bytes behind the published length), publish by
 * compare-and-swap from the control word that was loaded, tell the feed, unlock.
 *
 * A fence is raised by storing the epoch, then bumping the control word of every announced write
 * under an older one that does not end soon. Either the writer sees the epoch, or the raiser sees
 * the writer, whose control word was loaded before its check: its publish fails. No write is left.
 */
#include "seg_internal.h"

static const char FENCE_PREFIX[] = "\0fence/";
#define FENCE_PREFIX_BYTES (sizeof FENCE_PREFIX - 1)
#define APPEND_FRAME_BYTES 4u

static inline void begin(seg *s, uint32_t item, const seg_grant *g)
{
    struct client *c = s->client;
    poke(&c->item, item);
    poke(&c->fence, g == NULL ? 0 : g->fence);
    poke(&c->epoch, g == NULL ? 0 : g->epoch);
    s->ops += 2;
    put(&c->op, s->ops - 1);
    POINT("announced");
}

static inline seg_status done(seg *s, seg_status status)
{
    put(&s->client->op, s->ops);
    POINT("withdrawn");
    return status;
}

/* Is the grant older than its fence? To be asked after the control word was loaded. */
bool seg_fenced(seg *s, const seg_grant *g, uint64_t *seen)
{
    if (g == NULL || g->fence == 0) {
        return false;
    }
    atomic_thread_fence(memory_order_seq_cst);
    *seen = seg_fence_epoch(s, g->fence);
    if (*seen <= g->epoch) {
        return false;
    }
    count(s, N_FENCED);
    return true;
}

size_t seg_length(const seg *s, const seg_handle *h)
{
    const struct item *it = seg_usable(s) ? seg_item(s, h->item) : NULL;
    return it == NULL ? 0 : length_of(peek(&it->control));
}

static inline const word *cell_at(const seg *s, const struct item *it, uint64_t control)
{
    uint64_t at = (uint64_t)ref_of(peek(&it->cell[control & ACTIVE])) << 4;
    uint64_t end = at + ((CELL_HEADER_BYTES + length_of(control) + 7) & ~7ull);
    return at < s->at.heap || end > s->total ? NULL : (const word *)(s->base + at);
}

seg_status seg_read(seg *s, const void *key, size_t key_len, seg_handle *h, void *buf, size_t cap,
                    size_t *len, uint64_t *version)
{
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    for (uint32_t tries = 0; tries < SEG_READ_TRIES_MAX; tries++) {
        const struct item *it = seg_item(s, h->item);
        if (it != NULL && peek(&it->auth) == h->auth) {
            uint64_t control = get(&it->control);
            if ((control & LIVE) != 0) {
                const word *cell = cell_at(s, it, control);
                *len = length_of(control);
                bool fits = *len <= cap;
                if (cell != NULL && fits) {
                    copy_out(buf, cell + CELL_HEADER_BYTES / 8, *len);
                }
                atomic_thread_fence(memory_order_acquire);
                if (peek(&it->control) == control && peek(&it->auth) == h->auth) {
                    if (version != NULL) {
                        *version = version_of(control);
                    }
                    return cell == NULL ? SEG_CORRUPT : fits ? SEG_OK : SEG_TOO_BIG;
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

/* A cell of at least `need` bytes of value at `cell[which]`; 0 with *status set otherwise.
 * That we hold the item is checked after the reference was loaded: whoever robs us later takes this
 * very block out of the item, and whoever robbed us before is noticed. */
static uint32_t prepare_cell(seg *s, struct item *it, uint64_t which, size_t need,
                             seg_status *status)
{
    uint32_t ref = ref_of(get(&it->cell[which]));
    struct place p;
    if (ref != 0 && seg_place(s, ref, &p) &&
        s->geometry[p.kind].bytes >= CELL_HEADER_BYTES + need) {
        if (!seg_held(s, it)) {
            *status = SEG_CHANGED;
            return 0;
        }
        return ref;
    }
    uint32_t fresh = seg_claim(s, CELL_HEADER_BYTES + need, ref_to(s, it));
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

static size_t capacity_of(const seg *s, uint32_t ref)
{
    struct place p;
    return ref != 0 && seg_place(s, ref, &p) ? s->geometry[p.kind].bytes - CELL_HEADER_BYTES : 0;
}

/* What one attempt is going to publish. */
struct draft {
    uint64_t control; /* to publish */
    uint32_t touched; /* the block it was written into */
    word *retire;     /* cell to give back after the publish, or NULL */
};

static void fill_cell(seg *s, uint32_t ref, uint64_t deadline_ns, const void *data, size_t len)
{
    word *cell = at_ref(s, ref);
    poke(cell, deadline_ns);
    POINT("deadline");
    copy_in(cell + 1, 0, data, len);
}

static seg_status draft_append(seg *s, struct item *it, uint64_t control, const seg_op *op,
                               struct draft *d)
{
    uint64_t active = control & ACTIVE;
    uint32_t ref = ref_of(get(&it->cell[active]));
    const word *old = cell_at(s, it, control);
    size_t len = length_of(control);
    size_t whole = len + APPEND_FRAME_BYTES + op->len;
    uint32_t frame = (uint32_t)op->len;
    seg_status status = SEG_OK;
    if (old == NULL) {
        return SEG_CORRUPT;
    }
    if (whole > SEG_VALUE_BYTES_MAX) {
        return SEG_TOO_BIG;
    }
    if (whole > capacity_of(s, ref)) {
        size_t room = whole + whole / 2;
        uint32_t fresh = prepare_cell(s, it, active ^ 1,
                                      room > SEG_VALUE_BYTES_MAX ? SEG_VALUE_BYTES_MAX : room,
                                      &status);
        if (fresh == 0 && status == SEG_FULL) {
            fresh = prepare_cell(s, it, active ^ 1, whole, &status);
        }
        if (fresh == 0) {
            return status;
        }
        word *to = at_ref(s, fresh);
        atomic_thread_fence(memory_order_release);
        for (size_t i = 0; i < (CELL_HEADER_BYTES + len + 7) / 8; i++) {
            poke(to + i, peek(old + i));
        }
        POINT("grown");
        d->retire = &it->cell[active];
        active ^= 1;
        ref = fresh;
    } else if (!seg_held(s, it)) {
        return SEG_CHANGED;
    }
    word *value = (word *)at_ref(s, ref) + CELL_HEADER_BYTES / 8;
    d->touched = ref;
    atomic_thread_fence(memory_order_release);
    copy_in(value, len, &frame, sizeof frame);
    copy_in(value, len + APPEND_FRAME_BYTES, op->data, op->len);
    d->control = next_control(control, whole, LIVE | (control & TTL) | active);
    return SEG_OK;
}

static seg_status draft_value(seg *s, struct item *it, uint64_t control, seg_op *op,
                              struct draft *d)
{
    uint64_t other = (control & ACTIVE) ^ 1;
    const word *old = cell_at(s, it, control);
    seg_status status = SEG_OK;
    const void *data = op->data;
    size_t len = op->len;
    if (old == NULL) {
        return SEG_CORRUPT;
    }
    if (op->verb == SEG_SWAP && version_of(control) != op->version) {
        return SEG_CHANGED;
    }
    if (op->verb == SEG_ADD) {
        uint64_t sum;
        if (length_of(control) != sizeof sum) {
            return SEG_INVALID;
        }
        sum = peek(old + CELL_HEADER_BYTES / 8) + (uint64_t)op->delta;
        op->sum = (int64_t)sum;
        data = &op->sum;
        len = sizeof sum;
    }
    uint64_t deadline_ns = op->set_deadline ? op->deadline_ns : peek(old);
    uint32_t ref = prepare_cell(s, it, other, len, &status);
    if (ref == 0) {
        /* Not "another version" but "not ours any more": the caller starts again. */
        return status == SEG_CHANGED ? SEG_UNAVAILABLE : status;
    }
    d->touched = ref;
    atomic_thread_fence(memory_order_release);
    fill_cell(s, ref, deadline_ns, data, len);
    d->control = next_control(control, len, LIVE | (deadline_ns != 0 ? TTL : 0) | other);
    return SEG_OK;
}

/* SEG_UNAVAILABLE here means: start again. */
static seg_status draft(seg *s, struct item *it, uint64_t control, seg_op *op, struct draft *d)
{
    if ((control & FENCE) != 0) {
        return SEG_INVALID;
    }
    switch (op->verb) {
    case SEG_APPEND: {
        seg_status status = draft_append(s, it, control, op, d);
        return status == SEG_CHANGED ? SEG_UNAVAILABLE : status;
    }
    case SEG_EXPIRE: {
        const word *cell = cell_at(s, it, control);
        uint64_t deadline_ns = cell == NULL || (control & TTL) == 0 ? 0 : peek(cell);
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
    begin(s, h->item, op->grant);
    uint32_t suspects[3] = {0}; /* blocks that may be kept for us after we were robbed */
    bool robbed = false;
    for (uint32_t tries = 0; tries < SEG_WRITE_TRIES_MAX; tries++) {
        struct item *it = seg_item(s, h->item);
        seg_status status = it == NULL || h->auth == 0 ? SEG_NOT_FOUND : seg_lock(s, it, h->auth);
        for (int i = 0; robbed && it != NULL && i < 3; i++) {
            seg_reclaim(s, it, suspects[i]);
        }
        robbed = false;
        if (status == SEG_NOT_FOUND && op->verb != SEG_EXPIRE) {
            count(s, N_AUTH_MISSES);
            status = seg_lookup(s, key, key_len, h);
            if (status == SEG_OK) {
                poke(&s->client->item, h->item);
                continue;
            }
        }
        if (status != SEG_OK) {
            return done(s, status);
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
            return done(s, status);
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
        seg_feed_push(s, key, key_len, h->hash);
        if ((d.control & LIVE) == 0) {
            count(s, N_DELETES);
            seg_reap(s, it);
            return done(s, SEG_OK);
        }
        count(s, N_WRITES);
        if (d.retire != NULL) {
            (void)seg_replace(s, it, d.retire, 0);
        }
        seg_unlock(s, it);
        return done(s, SEG_OK);
    }
    return done(s, SEG_UNAVAILABLE);
}

/* An item of ours that nobody can see yet: locked, with its key and its first cell. */
static seg_status prepare(seg *s, uint64_t hash, const void *key, size_t key_len, const seg_new *n,
                          uint32_t *out)
{
    uint32_t ref = seg_claim_item(s);
    if (ref == 0) {
        return SEG_FULL;
    }
    struct item *it = at_ref(s, ref);
    poke(&s->client->item, ref);
    uint32_t key_ref = seg_claim(s, KEY_HEADER_BYTES + key_len, ref);
    if (key_ref == 0) {
        seg_reap(s, it);
        return SEG_FULL;
    }
    word *block = at_ref(s, key_ref);
    atomic_thread_fence(memory_order_release);
    poke(block, hash);
    poke(block + 1, key_len);
    copy_in(block + 2, 0, key, key_len);
    if (!seg_replace(s, it, &it->key, key_ref)) {
        return SEG_CORRUPT;
    }
    size_t room = n->capacity > n->len ? n->capacity : n->len;
    uint32_t cell = seg_claim(s, CELL_HEADER_BYTES + room, ref);
    if (cell == 0) {
        seg_reap(s, it);
        return SEG_FULL;
    }
    atomic_thread_fence(memory_order_release);
    fill_cell(s, cell, n->deadline_ns, n->value, n->len);
    if (!seg_replace(s, it, &it->cell[0], cell)) {
        return SEG_CORRUPT;
    }
    s->auths++;
    put(&it->auth, (uint64_t)s->me << 32 | s->auths);
    POINT("prepared");
    *out = ref;
    return SEG_OK;
}

static seg_status create(seg *s, const void *key, size_t key_len, seg_new *n, uint64_t flags,
                         seg_handle *out)
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
            status = prepare(s, hash, key, key_len, n, &ref);
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
        uint64_t ttl = n->deadline_ns != 0 ? TTL : 0;
        if (!cas(&it->control, control, next_control(control, n->len, LIVE | flags | ttl))) {
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
                    seg_handle *out)
{
    if (!seg_usable(s) || s->readonly) {
        return SEG_UNAVAILABLE;
    }
    if (key_len > SEG_KEY_BYTES_MAX || n->len > SEG_VALUE_BYTES_MAX ||
        n->capacity > SEG_VALUE_BYTES_MAX) {
        return SEG_TOO_BIG;
    }
    begin(s, 0, n->grant);
    return done(s, create(s, key, key_len, n, flags, out));
}

seg_status seg_create(seg *s, const void *key, size_t key_len, seg_new *n, seg_handle *out)
{
    if (key_len > 0 && *(const uint8_t *)key == 0) {
        return SEG_INVALID; /* our own names */
    }
    return seg_make(s, key, key_len, n, 0, out);
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
        status = seg_make(s, key, FENCE_PREFIX_BYTES + len, &n, FENCE, &h);
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
    return it == NULL ? 0 : get(&it->epoch);
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
    for (uint64_t now = get(&it->epoch); now != epoch; now = get(&it->epoch)) {
        if (now > epoch) {
            *raised = false;
            return SEG_OK;
        }
        if (cas(&it->epoch, now, epoch)) {
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
