/* What a death makes of the items: whom their homes name from now on, when an heir begins.
 *
 * Knows: homes that name the dead, what is frozen here until it may begin. Must not know: what else an
 * operation does (node_apply.c), how copies travel.
 *
 * The instant of a death is one word in the segment (seg_bequest). The homes are written, and what this
 * member inherits is begun, when somebody asks for an item, and the rest when nobody waits any more.
 */
#include "node_internal.h"

void inherit_later(node *n, uint32_t item, uint64_t auth)
{
    if (n->thaw_count == n->thaw_room) {
        uint32_t room = n->thaw_room == 0 ? 1024 : n->thaw_room * 2;
        struct frozen *more = realloc(n->thaw, room * sizeof *more);
        if (more == NULL) {
            return;
        }
        n->thaw = more;
        n->thaw_room = room;
    }
    n->thaw[n->thaw_count++] = (struct frozen){auth, item};
}

void inherit_thaw(node *n, const seg_handle *h, uint64_t at_least)
{
    seg_facts f;
    if (seg_thaw(n->seg, (seg_handle[]){*h}, at_least) == SEG_OK &&
        seg_facts_read(n->seg, h, &f) == SEG_OK && (f.home.replicas | f.home.learners) != 0) {
        copy_dirty(n, h->item, h->auth, n->now);
    }
}

/* As inherit_thaw, of an item that stood here at `from` when its master was lost. */
static void take_over(node *n, seg_handle *h, uint64_t from)
{
    seg_facts f;
    if (seg_inherit(n->seg, h, n->view.epoch << NODE_EPOCH_SHIFT) == SEG_OK &&
        seg_facts_read(n->seg, h, &f) == SEG_OK && (f.home.replicas | f.home.learners) != 0 &&
        !same_add(n, h, &f, from)) {
        copy_dirty(n, h->item, h->auth, n->now);
    }
}

void inherit_drop(node *n, const seg_handle *h)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len;
    if (seg_key(n->seg, h, key, &len) == SEG_OK) {
        wire_msg m = {.sub = WIRE_OP_DELETE, .mask = WIRE_KEY | WIRE_AUTH, .key = key, .key_len = len,
                      .auth = h->auth};
        (void)map_propose(n, &m, FOR_EXPIRY, 0);
    }
}

static bool may_begin(const node *n)
{
    return n->now >= n->thaw_at && n->committed >= n->thaw_seq && map_active(n);
}

static void begin(node *n, seg_handle *h, seg_facts *f)
{
    if (f->stub) {
        inherit_drop(n, h);
        return;
    }
    f->home.learners &= (uint16_t)~BIT(n->self);
    (void)seg_home_write(n->seg, h, &f->home);
    take_over(n, h, f->version);
    n->stats.thawed++;
}

void inherit_lost(node *n, seg_handle *h)
{
    n->stats.lost++;
    move_forget_item(n, h->item);
    (void)seg_uproot(n->seg, h);
}

/* One item whose home named a dead slot; its facts have what became of it. */
static void bequeath(node *n, seg_handle *h, const seg_facts *f)
{
    if (f->legacy == SEG_LOST) {
        inherit_lost(n, h);
        return;
    }
    (void)seg_home_write(n->seg, h, &f->home);
    if (f->legacy == SEG_FEWER_COPIES) {
        return;
    }
    if (f->home.master != n->self) {
        if ((f->home.replicas & BIT(n->self)) == 0 && !f->stub) {
            (void)seg_strip(n->seg, h);
        }
        return;
    }
    n->stats.promoted++;
    seg_ack(n->seg, h, 0);
#ifdef DAL_MUTANT_PROMOTE_AT_ONCE
    inherit_thaw(n, h, n->view.epoch << NODE_EPOCH_SHIFT);
#else
    inherit_later(n, h->item, f->auth);
#endif
}

bool inherit_settled(node *n, seg_handle *h, seg_facts *f)
{
    if (f->legacy == SEG_AS_IT_WAS) {
        return true;
    }
    bequeath(n, h, f);
    return seg_facts_read(n->seg, h, f) == SEG_OK;
}

static bool thaw_due(node *n)
{
    if (n->thaw_count == 0 || !may_begin(n)) {
        return false;
    }
    for (uint32_t i = 0; i < NODE_THAW_ITEMS_MAX && n->thaw_next < n->thaw_count; i++) {
        const struct frozen *one = &n->thaw[n->thaw_next++];
        seg_handle h = {one->auth, 0, one->item};
        seg_facts f;
        if (seg_facts_read(n->seg, &h, &f) == SEG_OK && f.home.master == n->self && f.away &&
            inherit_settled(n, &h, &f) && !move_busy(n, h.item) && !apply_starting(n, h.item)) {
            begin(n, &h, &f);
        }
    }
    if (n->thaw_next == n->thaw_count) {
        n->thaw_next = n->thaw_count = 0;
    }
    return n->thaw_count != 0;
}

void inherit_asked(node *n, seg_handle *h, seg_facts *f)
{
    if (inherit_settled(n, h, f) && f->home.master == n->self && f->away && !f->stub &&
        (f->home.learners & BIT(n->self)) != 0 && may_begin(n) && !move_busy(n, h->item) && !apply_starting(n, h->item)) {
        begin(n, h, f);
        (void)seg_facts_read(n->seg, h, f);
    }
}

/* The homes that name the dead, at most so many items at once. True: more are left. */
static bool execute(node *n, uint32_t items_max)
{
    seg_handle h;
    seg_facts f;
    for (uint32_t i = 0; i < items_max; i++) {
        seg_status status = seg_walk(n->seg, &n->bequest_cursor, &h, &f);
        if (status != SEG_OK) {
            if (status == SEG_NOT_FOUND) {
                seg_bequest(n->seg, 0, n->self, 0);
                n->bequest = 0;
            }
            return false;
        }
        if (f.legacy != SEG_AS_IT_WAS) {
            bequeath(n, &h, &f);
        }
    }
    return true;
}

void inherit_all(node *n)
{
#ifdef DAL_MUTANT_LEGACY_LEFT
    n->bequest = 0;
#endif
    if (n->bequest != 0) {
        (void)execute(n, UINT32_MAX);
    }
}

void inherit_begin(node *n, uint16_t dead, uint64_t epoch)
{
    inherit_all(n);
    seg_bequest(n->seg, dead, n->self, epoch);
    n->bequest = dead;
    n->bequest_cursor = 0;
}

bool inherit_due(node *n)
{
    if (n->now < n->urgent_until) {
        return false;
    }
    bool more = n->bequest != 0 && execute(n, NODE_LEGACY_ITEMS_MAX);
    return thaw_due(n) || more;
}
