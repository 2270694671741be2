/* What the state server does to an item whatever local clients may do: copies, moves, deletion.
 *
 * Knows: AWAY, versions that come from elsewhere. Must not know: members, messages, why.
 *
 * The server takes an item's lock like every writer and publishes as every writer does: by one
 * compare-and-swap of the control word. Until then everybody sees what was there before.
 */
#include "seg_internal.h"

enum act { OVERWRITE, RENUMBER, FREEZE, THAW, STRIP, UPROOT };

struct order {
    enum act act;
    const seg_copy *copy; /* OVERWRITE */
    uint64_t at_least;    /* THAW */
    bool quiet;           /* THAW */
    uint64_t from, to;    /* RENUMBER */
};

/* What one attempt is going to publish. */
struct plan {
    uint64_t control; /* to publish; 0: it is so already */
    uint32_t touched; /* the block it was written into */
    word *retire;     /* cell to give back after the publish, or NULL */
};

/* SEG_UNAVAILABLE, here and below: not ours any more, start again. */
static seg_status plan_overwrite(seg *s, struct item *it, uint64_t control, const seg_copy *c,
                                 struct plan *p)
{
    uint64_t other = (control & ACTIVE) ^ 1;
    seg_status status = SEG_OK;
    if ((control & AWAY) == 0) {
        return SEG_INVALID;
    }
    if (!seg_is_stub(it, control)) {
        struct cell cell;
        if (!seg_cell(s, it, control, &cell)) {
            return SEG_CORRUPT;
        }
        if (c->version <= seg_version(control, &cell)) {
            return SEG_CHANGED;
        }
    }
    size_t room = c->capacity > c->len ? c->capacity : c->len;
    uint64_t ttl = seg_ttl(c->deadline_ns);
    uint32_t ref = seg_prepare_cell(s, it, other, seg_cell_bytes(WIDE, ttl, room), &status);
    if (ref == 0) {
        return status == SEG_CHANGED ? SEG_UNAVAILABLE : status;
    }
    p->touched = ref;
    atomic_thread_fence(memory_order_release);
    seg_fill_cell(s, ref, WIDE, c->deadline_ns, ABSOLUTE | c->version, c->value, c->len);
    p->control = next_control(control, c->len, LIVE | AWAY | ttl | other);
    return SEG_OK;
}

/* Store the bias word of the cell that is read, in place: whoever robs us first takes this very
 * block out of the item. */
static seg_status settle_version(seg *s, struct item *it, const struct cell *cell, uint64_t version)
{
    if (!seg_held(s, it)) {
        return SEG_UNAVAILABLE;
    }
    poke(cell->bias, ABSOLUTE | version);
    POINT("version");
    return SEG_OK;
}

static seg_status plan_freeze(seg *s, struct item *it, uint64_t control, struct plan *p)
{
    if ((control & AWAY) != 0) {
        return SEG_OK;
    }
    struct cell cell;
    if (!seg_cell(s, it, control, &cell)) {
        return SEG_CORRUPT;
    }
    p->control = next_control(control, length_of(control),
                              LIVE | AWAY | (control & (TTL | ACTIVE)));
    return settle_version(s, it, &cell, seg_version(control, &cell));
}

static seg_status plan_thaw(seg *s, struct item *it, uint64_t control, uint64_t at_least,
                            struct plan *p)
{
    if ((control & AWAY) == 0) {
        return SEG_OK;
    }
    if (seg_is_stub(it, control)) {
        return SEG_INVALID;
    }
    struct cell cell;
    if (!seg_cell(s, it, control, &cell)) {
        return SEG_CORRUPT;
    }
    uint64_t version = seg_version(control, &cell) + 1;
    version = version > at_least ? version : at_least;
    p->control = next_control(control, length_of(control), LIVE | (control & (TTL | ACTIVE)));
    return settle_version(s, it, &cell, version);
}

/* Nothing is published: readers find the same value, whether with the old number or the new one. */
static seg_status plan_renumber(seg *s, struct item *it, uint64_t control, const struct order *o)
{
    struct cell cell;
    if ((control & AWAY) == 0) {
        return SEG_INVALID;
    }
    if (seg_is_stub(it, control)) {
        return SEG_CHANGED;
    }
    if (!seg_cell(s, it, control, &cell)) {
        return SEG_CORRUPT;
    }
    uint64_t version = seg_version(control, &cell);
    if (version >= o->to || version != o->from) {
        return version >= o->to ? SEG_OK : SEG_CHANGED;
    }
    seg_status status = settle_version(s, it, &cell, o->to);
    return status == SEG_OK && !seg_held(s, it) ? SEG_UNAVAILABLE : status; /* perhaps in no item any more */
}

static seg_status plan_strip(seg *s, struct item *it, uint64_t control, struct plan *p)
{
    uint64_t other = (control & ACTIVE) ^ 1;
    bool stub = seg_is_stub(it, control);
    if (!seg_replace(s, it, &it->cell[other], 0)) {
        return SEG_UNAVAILABLE;
    }
    if (!stub) {
        p->control = next_control(control, 0, LIVE | AWAY | other);
        p->retire = &it->cell[other ^ 1];
    }
    return SEG_OK;
}

static seg_status plan(seg *s, struct item *it, uint64_t control, const struct order *o,
                       struct plan *p)
{
    if ((control & FENCE) != 0 || (o->act != UPROOT && (get(&it->next) & WIDE) == 0)) {
        return SEG_INVALID;
    }
    switch (o->act) {
    case OVERWRITE:
        return plan_overwrite(s, it, control, o->copy, p);
    case RENUMBER:
        return plan_renumber(s, it, control, o);
    case FREEZE:
        return plan_freeze(s, it, control, p);
    case THAW:
        return plan_thaw(s, it, control, o->at_least, p);
    case STRIP:
        return plan_strip(s, it, control, p);
    default:
        p->control = next_control(control, 0, 0);
        return seg_held(s, it) ? SEG_OK : SEG_UNAVAILABLE;
    }
}

/* It is published: tell, tidy up, let go. */
static void conclude(seg *s, struct item *it, const struct order *o, uint64_t before,
                     const struct plan *p)
{
    if (o->act == FREEZE) {
        /* Another control version, the same value: who has acknowledged it has it. */
        cas(&it->rest[ACKED], version_of(before), version_of(p->control));
        POINT("acked");
    }
    if (o->act == UPROOT) {
        count(s, N_DELETES);
        seg_reap(s, it);
        return;
    }
    count(s, N_WRITES);
    if (p->retire != NULL) {
        (void)seg_replace(s, it, p->retire, 0);
    }
    seg_unlock(s, it);
}

static seg_status carry_out(seg *s, const seg_handle *h, const struct order *o)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t key_len;
    uint32_t suspects[3] = {0}; /* blocks that may be kept for us after we were robbed */
    bool robbed = false;
    for (uint32_t tries = 0; tries < SEG_WRITE_TRIES_MAX; tries++) {
        struct item *it = seg_item(s, h->item);
        seg_status status = it == NULL || h->auth == 0 ? SEG_NOT_FOUND : seg_lock(s, it, h->auth);
        for (int i = 0; robbed && it != NULL && i < 3; i++) {
            seg_reclaim(s, it, suspects[i]);
        }
        robbed = false;
        if (status != SEG_OK) {
            return status;
        }
        uint64_t control = get(&it->control);
        struct plan p = {0, 0, NULL};
        suspects[0] = ref_of(peek(&it->cell[0]));
        suspects[1] = ref_of(peek(&it->cell[1]));
        status = plan(s, it, control, o, &p);
        if (status == SEG_OK && p.control != 0) {
            bool known = seg_item_key(s, it, key, &key_len);
            POINT("planned");
            if (cas(&it->control, control, p.control)) {
                POINT("published");
                if (known && !o->quiet) {
                    seg_feed_push(s, key, key_len, seg_hash(s, key, key_len));
                }
                conclude(s, it, o, control, &p);
                return SEG_OK;
            }
            count(s, N_RETRIES);
            suspects[2] = p.touched;
            status = SEG_UNAVAILABLE;
        }
        if (status == SEG_UNAVAILABLE) {
            robbed = !seg_held(s, it);
            if (!robbed) {
                seg_unlock(s, it);
            }
            continue;
        }
        seg_unlock(s, it);
        return status;
    }
    return SEG_UNAVAILABLE;
}

static seg_status server_does(seg *s, const seg_handle *h, const struct order *o)
{
    if (!seg_usable(s) || s->readonly) {
        return SEG_UNAVAILABLE;
    }
    seg_begin(s, h->item, NULL);
    return seg_done(s, carry_out(s, h, o));
}

seg_status seg_overwrite(seg *s, seg_handle *h, const seg_copy *c)
{
    if (c->len > SEG_VALUE_BYTES_MAX || c->capacity > SEG_VALUE_BYTES_MAX) {
        return SEG_TOO_BIG;
    }
    if (c->stub || (c->version & ABSOLUTE) != 0) {
        return SEG_INVALID;
    }
    return server_does(s, h, &(struct order){.act = OVERWRITE, .copy = c});
}

seg_status seg_freeze(seg *s, seg_handle *h)
{
    return server_does(s, h, &(struct order){.act = FREEZE});
}

seg_status seg_thaw(seg *s, seg_handle *h, uint64_t at_least)
{
    if (at_least >= ABSOLUTE) {
        return SEG_INVALID;
    }
    return server_does(s, h, &(struct order){.act = THAW, .at_least = at_least});
}

seg_status seg_inherit(seg *s, seg_handle *h, uint64_t at_least)
{
    if (at_least >= ABSOLUTE) {
        return SEG_INVALID;
    }
    return server_does(s, h, &(struct order){.act = THAW, .at_least = at_least, .quiet = true});
}

seg_status seg_renumber(seg *s, seg_handle *h, uint64_t from, uint64_t to)
{
    if (to >= ABSOLUTE) {
        return SEG_INVALID;
    }
    return server_does(s, h, &(struct order){.act = RENUMBER, .from = from, .to = to});
}

seg_status seg_strip(seg *s, seg_handle *h)
{
    return server_does(s, h, &(struct order){.act = STRIP});
}

seg_status seg_uproot(seg *s, seg_handle *h)
{
    return server_does(s, h, &(struct order){.act = UPROOT});
}

void seg_note(seg *s, const void *key, size_t key_len)
{
    if (seg_usable(s) && !s->readonly && key_len <= SEG_KEY_BYTES_MAX) {
        seg_feed_push(s, key, key_len, seg_hash(s, key, key_len));
    }
}

seg_status seg_begin_anew(seg *s, uint64_t generation)
{
    seg_cluster nobody = {.clustered = seg_clustered(s)};
    seg_status worst = SEG_OK;
    seg_handle h = {0};
    struct item *it;
    if (!seg_usable(s) || s->readonly) {
        return SEG_UNAVAILABLE;
    }
    if (generation == 0) {
        return SEG_INVALID;
    }
    (void)seg_cluster_write(s, &nobody);
    /* Whoever finds a 0 knows that some items are gone and must do this again. */
    put(&s->header->generation, 0);
    POINT("generation");
    for (uint64_t cursor = 0; (it = seg_next_item(s, 0, &cursor, &h.item)) != NULL;) {
        h.auth = get(&it->auth);
        seg_status status = seg_uproot(s, &h);
        worst = status == SEG_OK || status == SEG_NOT_FOUND ? worst : status;
    }
    if (worst == SEG_OK) {
        seg_bequest(s, 0, 0, 0);
        put(&s->header->generation, generation);
        POINT("generation");
    }
    return worst;
}
