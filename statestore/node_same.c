/* What a new master has inherited is, nearly always, what its copies have: said by numbers, not by values.
 *
 * Knows: which items were thawed after a death, and under which version each of them stood here before. Must
 * not know: how values travel (node_copy.c), which is the way out whenever this one leads nowhere.
 *
 * A death makes one member the master of thousands of items at once, and none of them counts as replicated
 * before every copy is known to have what the new master begins with. A version is given to one value by
 * one master. So a copy that stands at the version from which the new master went on has the same value,
 * and takes the new number: twenty items fit into a datagram, and no watcher hears of a change.
 */
#include "node_internal.h"

/* It needs no more answers of this kind. */
static void done(node *n, struct heirloom *h)
{
    n->heirlooms_left -= h->auth != 0;
    h->auth = 0;
}

/* By its value, then. */
static void by_value(node *n, struct heirloom *h)
{
    if (h->auth != 0) {
        copy_dirty(n, h->item, h->auth, n->now);
        done(n, h);
    }
}

/* False: it is gone, or not ours any more. */
static bool still_ours(node *n, const struct heirloom *h, seg_facts *f)
{
    seg_handle at = {h->auth, 0, h->item};
    return h->auth != 0 && seg_facts_read(n->seg, &at, f) == SEG_OK && f->home.master == n->self;
}

static void answered(node *n, struct heirloom *h, uint8_t slot, bool same)
{
    seg_facts f;
    if (!still_ours(n, h, &f)) {
        done(n, h);
        return;
    }
    if (!same || f.home.learners != 0) {
        by_value(n, h);
        return;
    }
    h->got |= BIT(slot);
    if ((f.home.replicas & (uint16_t)~(BIT(n->self) | h->got)) != 0) {
        return;
    }
    seg_handle at = {h->auth, 0, h->item};
    if (f.control == h->control) { /* else it was written since, and its copies are on their way */
        seg_ack(n->seg, &at, h->control);
        n->stats.confirmed++;
    }
    done(n, h);
}

bool same_add(node *n, const seg_handle *h, const seg_facts *f, uint64_t from)
{
    if (f->home.learners != 0 || f->version != n->view.epoch << NODE_EPOCH_SHIFT ||
        n->heirlooms == NODE_HEIRLOOMS_MAX) {
        return false;
    }
    if (n->heirlooms == n->heirloom_room) {
        uint32_t room = n->heirloom_room == 0 ? 1024 : n->heirloom_room * 2;
        struct heirloom *more = realloc(n->heirloom, room * sizeof *more);
        if (more == NULL) {
            return false;
        }
        n->heirloom = more;
        n->heirloom_room = room;
    }
    n->heirloom[n->heirlooms++] = (struct heirloom){.auth = h->auth, .from = from, .control = f->control,
                                                    .item = h->item};
    n->heirlooms_left++;
    return true;
}

/* The last view's are over: what is not acknowledged is looked for. */
void same_view(node *n)
{
    if (n->heirlooms_left != 0) {
        n->walk_dirty = true;
        n->dirty_cursor = 0;
    }
    n->heirlooms = n->heirlooms_left = 0;
    memset(n->same, 0, sizeof n->same);
}

/* ---- asking ---- */

/* Append one entry; 0: it does not fit, or is nothing to ask this member about. */
static size_t entry(node *n, const struct heirloom *h, uint8_t slot, uint8_t *out, size_t cap, bool *full)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len;
    seg_facts f;
    seg_handle at = {h->auth, 0, h->item};
    if (!still_ours(n, h, &f) || (f.home.replicas & BIT(slot)) == 0 || (h->got & BIT(slot)) != 0 ||
        seg_key(n->seg, &at, key, &len) != SEG_OK) {
        return 0;
    }
    size_t put = wire_put_numbered(out, cap, h->auth, h->from, key, len);
    *full = put == 0;
    return put;
}

/* What `b` asked already comes first. */
static void ask(node *n, uint8_t slot, struct same_batch *b)
{
    struct same *s = &n->same[slot];
    uint8_t bytes[NODE_NOTE_BYTES];
    uint32_t count = 0;
    size_t len = 0;
    bool full = false;
    for (uint32_t i = 0; i < b->count; i++) {
        size_t put = entry(n, &n->heirloom[b->at[i]], slot, bytes + len, sizeof bytes - len, &full);
        len += put;
        b->at[count] = b->at[i];
        count += put != 0;
    }
    while (s->cursor < n->heirlooms && count < NODE_SAME_ITEMS_MAX && !full) {
        size_t put = entry(n, &n->heirloom[s->cursor], slot, bytes + len, sizeof bytes - len, &full);
        len += put;
        if (put != 0) {
            b->at[count++] = s->cursor;
        }
        s->cursor += !full;
    }
    b->count = count;
    if (count == 0) {
        *b = (struct same_batch){0};
        return;
    }
    b->id = n->next_id++;
    b->next_send = n->now + node_patience(n, slot, b->tries + 1);
    b->tries++;
    wire_msg m = {.type = WIRE_SAME, .mask = WIRE_ID | WIRE_VERSION | WIRE_VALUE, .id = b->id,
                  .version = n->view.epoch << NODE_EPOCH_SHIFT, .value = bytes, .value_len = len};
    node_say(n, slot, &m, 0);
}

/* It answers nothing of this kind: an older engine, or too slow for it. */
static void give_up(node *n, uint8_t slot)
{
    seg_facts f;
    for (uint32_t i = 0; i < n->heirlooms; i++) {
        struct heirloom *h = &n->heirloom[i];
        if (still_ours(n, h, &f) && (f.home.replicas & BIT(slot)) != 0 && (h->got & BIT(slot)) == 0) {
            by_value(n, h);
        }
    }
    n->same[slot] = (struct same){.cursor = n->heirlooms};
}

void same_tick(node *n)
{
    bool asking = false;
    if (n->heirlooms == 0 || n->now < n->urgent_until) {
        return;
    }
    for (uint8_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        struct same *s = &n->same[slot];
        if (slot == n->self || (n->view.present & BIT(slot)) == 0) {
            continue;
        }
        for (uint32_t i = 0; i < NODE_SAME_BATCHES_MAX; i++) {
            struct same_batch *b = &s->batch[i];
            if (b->count != 0 && n->now < b->next_send) {
                continue;
            }
            if (b->tries == NODE_SAME_TRIES_MAX) {
                give_up(n, slot);
                break;
            }
            ask(n, slot, b);
        }
        for (uint32_t i = 0; i < NODE_SAME_BATCHES_MAX; i++) {
            asking |= s->batch[i].count != 0;
        }
        asking |= s->cursor < n->heirlooms;
    }
    if (asking) {
        return;
    }
    for (uint32_t i = 0; i < n->heirlooms; i++) {
        by_value(n, &n->heirloom[i]); /* who should have it has changed meanwhile */
    }
    n->heirlooms = 0;
    memset(n->same, 0, sizeof n->same);
}

/* ---- being asked ---- */

/* Have we what this master began with? */
static bool have(node *n, const wire_msg *m, uint64_t auth, uint64_t from, const void *key, size_t len)
{
    seg_handle h;
    seg_facts f;
    if (seg_lookup(n->seg, key, len, &h) != SEG_OK || seg_facts_read(n->seg, &h, &f) != SEG_OK ||
        f.auth != auth || f.home.master != m->slot || (f.home.replicas & BIT(n->self)) == 0) {
        return false;
    }
#ifdef DAL_MUTANT_SAME_UNSEEN
    from = f.version;
#endif
    if (seg_renumber(n->seg, &h, from, m->version) != SEG_OK) {
        return false;
    }
    apply_keep(n, h.item);
    return true;
}

void same_receive(node *n, const wire_msg *m)
{
    uint64_t bits = 0;
    if ((m->mask & WIRE_NUMBER) != 0) {
        struct same *s = &n->same[m->slot];
        for (uint32_t i = 0; i < NODE_SAME_BATCHES_MAX; i++) {
            struct same_batch *b = &s->batch[i];
            if (b->count == 0 || b->id != m->id) {
                continue;
            }
            for (uint32_t k = 0; k < b->count; k++) {
                answered(n, &n->heirloom[b->at[k]], m->slot, (m->number >> k & 1) != 0);
            }
            *b = (struct same_batch){0};
            ask(n, m->slot, b);
        }
        return;
    }
    if (!n->complete || n->viewed != n->view.epoch || m->slot == n->self) {
        return; /* asked again */
    }
    wire_reader r = {m->value, (const uint8_t *)m->value + m->value_len};
    uint64_t auth, from;
    const void *key;
    size_t len;
    for (uint32_t i = 0; i < NODE_SAME_ITEMS_MAX && wire_take_numbered(&r, &auth, &from, &key, &len); i++) {
        bits |= (uint64_t)have(n, m, auth, from, key, len) << i;
    }
    wire_msg a = {.type = WIRE_SAME, .mask = WIRE_ID | WIRE_NUMBER, .id = m->id, .number = bits};
    node_say(n, m->slot, &a, 0);
}
