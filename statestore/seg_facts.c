/* What stands about an item, from any copy: facts, values, homes; and the walks over all items.
 *
 * Knows: item words, home words. Must not know: members, messages, what follows from a fact.
 */
#include "seg_internal.h"

/* One look at an item; false when it changed meanwhile. `cell` is NULL for a stub. */
static bool look(const seg *s, const struct item *it, uint64_t auth, uint64_t control, uint64_t bequest,
                 const struct cell *cell, seg_facts *out)
{
    uint64_t form = get(&it->next);
    bool wide = (form & WIDE) != 0;
    *out = (seg_facts){
        .version = cell == NULL ? 0 : seg_version(control, cell),
        .control = version_of(control),
        .acked = wide ? peek(&it->rest[ACKED]) : 0,
        .auth = auth,
        .deadline_ns = cell == NULL ? 0 : seg_deadline(cell),
        .len = length_of(control),
        .home = home_of(wide ? get(&it->rest[HOME]) : 0),
        .away = (control & AWAY) != 0,
        .stub = cell == NULL,
    };
    if (bequest != 0) {
        out->legacy = seg_inherited(bequest, auth, &out->home);
    }
    atomic_thread_fence(memory_order_acquire);
    return (form & KEYED) != 0 && peek(&it->control) == control && peek(&it->auth) == auth &&
           peek(&s->header->bequest) == bequest;
}

/* SEG_NOT_FOUND: the slot is another's, or nobody's. */
static seg_status facts_of(const seg *s, const struct item *it, uint64_t auth, seg_facts *out)
{
    for (uint32_t tries = 0; tries < SEG_READ_TRIES_MAX; tries++) {
        if (auth == 0 || peek(&it->auth) != auth) {
            return SEG_NOT_FOUND;
        }
        uint64_t bequest = get(&s->header->bequest);
        uint64_t control = get(&it->control);
        if ((control & (LIVE | FENCE)) != LIVE) {
            return SEG_NOT_FOUND;
        }
        struct cell cell;
        bool stub = seg_is_stub(it, control);
        if ((stub || seg_cell(s, it, control, &cell)) &&
            look(s, it, auth, control, bequest, stub ? NULL : &cell, out)) {
            return SEG_OK;
        }
        atomic_thread_fence(memory_order_acquire);
        if (peek(&it->control) == control && peek(&s->header->bequest) == bequest) {
            return SEG_CORRUPT;
        }
        seg_pause(tries);
    }
    return SEG_UNAVAILABLE;
}

seg_status seg_facts_read(seg *s, const seg_handle *h, seg_facts *out)
{
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    const struct item *it = seg_item(s, h->item);
    return it == NULL ? SEG_NOT_FOUND : facts_of(s, it, h->auth, out);
}

/* As facts_of, with the value. */
static seg_status value_of(seg *s, const struct item *it, uint64_t auth, void *buf, size_t cap,
                           size_t *len, seg_facts *out)
{
    for (uint32_t tries = 0; tries < SEG_READ_TRIES_MAX; tries++) {
        seg_status status = facts_of(s, it, auth, out);
        if (status != SEG_OK) {
            return status;
        }
        uint64_t control = get(&it->control);
        struct cell cell;
        if (version_of(control) != out->control) {
            continue;
        }
        *len = out->len;
        bool fits = !out->stub && out->len <= cap && seg_cell(s, it, control, &cell);
        if (fits) {
            copy_out(buf, cell.value, out->len);
        }
        atomic_thread_fence(memory_order_acquire);
        if (peek(&it->control) == control && peek(&it->auth) == auth) {
            return out->stub ? SEG_AWAY : fits ? SEG_OK : SEG_TOO_BIG;
        }
        count(s, N_RETRIES);
    }
    return SEG_UNAVAILABLE;
}

seg_status seg_peek(seg *s, const void *key, size_t key_len, seg_handle *h, void *buf, size_t cap,
                    size_t *len, seg_facts *facts)
{
    seg_facts own;
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    for (uint32_t tries = 0; tries < SEG_READ_TRIES_MAX; tries++) {
        const struct item *it = seg_item(s, h->item);
        seg_status status = it == NULL ? SEG_NOT_FOUND
                                       : value_of(s, it, h->auth, buf, cap, len,
                                                  facts == NULL ? &own : facts);
        if (status != SEG_NOT_FOUND) {
            return status;
        }
        if (tries > 0 || h->auth != 0) {
            count(s, N_AUTH_MISSES);
        }
        status = seg_lookup(s, key, key_len, h);
        if (status != SEG_OK) {
            return status;
        }
    }
    return SEG_UNAVAILABLE;
}

seg_status seg_home_write(seg *s, const seg_handle *h, const seg_home *home)
{
    struct item *it = seg_item(s, h->item);
    if (!seg_usable(s) || s->readonly) {
        return SEG_UNAVAILABLE;
    }
    for (uint32_t tries = 0; tries < SEG_WRITE_TRIES_MAX; tries++) {
        uint64_t old = it == NULL ? 0 : get(&it->rest[HOME]);
        /* The word was loaded before the auth: if it is still there, it was this item's. */
        if (it == NULL || h->auth == 0 || get(&it->auth) != h->auth ||
            (get(&it->control) & (LIVE | FENCE)) != LIVE) {
            return SEG_NOT_FOUND;
        }
        uint64_t form = get(&it->next);
        if ((form & KEYED) == 0) {
            return SEG_CORRUPT;
        }
        if ((form & WIDE) == 0) {
            return SEG_INVALID;
        }
        if (cas(&it->rest[HOME], old, home_word(home))) {
            POINT("home");
            return SEG_OK;
        }
    }
    return SEG_UNAVAILABLE;
}

void seg_ack(seg *s, const seg_handle *h, uint64_t control)
{
    struct item *it = seg_usable(s) && !s->readonly ? seg_item(s, h->item) : NULL;
    for (uint32_t tries = 0; it != NULL && tries < SEG_WRITE_TRIES_MAX; tries++) {
        uint64_t old = get(&it->rest[ACKED]);
        if (h->auth == 0 || get(&it->auth) != h->auth || (get(&it->control) & FENCE) != 0 ||
            (get(&it->next) & WIDE) == 0 || (control != 0 && control <= old)) {
            return;
        }
        POINT("acknowledging");
        if (cas(&it->rest[ACKED], old, control)) {
            return;
        }
    }
}

seg_status seg_key(seg *s, const seg_handle *h, void *key, size_t *key_len)
{
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    const struct item *it = seg_item(s, h->item);
    for (uint32_t tries = 0; tries < SEG_READ_TRIES_MAX; tries++) {
        if (it == NULL || h->auth == 0 || peek(&it->auth) != h->auth) {
            return SEG_NOT_FOUND;
        }
        uint64_t control = get(&it->control);
        if ((control & (LIVE | FENCE)) != LIVE) {
            return SEG_NOT_FOUND;
        }
        bool good = seg_item_key(s, it, key, key_len);
        atomic_thread_fence(memory_order_acquire);
        if (peek(&it->control) == control && peek(&it->auth) == h->auth) {
            return good ? SEG_OK : SEG_CORRUPT;
        }
        seg_pause(tries);
    }
    return SEG_UNAVAILABLE;
}

seg_status seg_walk(seg *s, uint64_t *cursor, seg_handle *out, seg_facts *facts)
{
    struct item *it;
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    while ((it = seg_next_item(s, 0, cursor, &out->item)) != NULL) {
        out->auth = peek(&it->auth);
        out->hash = 0;
        seg_status status = facts_of(s, it, out->auth, facts);
        if (status == SEG_OK) {
            return SEG_OK;
        }
        s->damaged += status != SEG_NOT_FOUND; /* what makes no sense does not hide all that is behind it */
    }
    return SEG_NOT_FOUND;
}

uint64_t seg_damaged(const seg *s) { return s->damaged; }

seg_status seg_overdue(seg *s, uint64_t now_ns, uint64_t *cursor, seg_handle *out)
{
    struct item *it;
    seg_facts facts;
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    while ((it = seg_next_mortal(s, cursor, &out->item)) != NULL) {
        out->auth = peek(&it->auth);
        out->hash = 0;
        seg_status status = facts_of(s, it, out->auth, &facts);
        if (status == SEG_OK && !facts.away && facts.deadline_ns != 0 &&
            facts.deadline_ns <= now_ns) {
            return SEG_OK;
        }
    }
    return SEG_NOT_FOUND;
}
