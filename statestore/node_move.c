/* Where items should be: repair of missing copies, moves that were asked for, moves that the pattern of
 * access asks for.
 *
 * Knows: homes, the history of accesses. Must not know: how a copy travels, how the log orders.
 *
 *   state      meaning                                             next
 *   M_FILL     the target is a learner, it gets the value          acknowledged: PLACE (repair), or freeze
 *   M_FROZEN   nobody writes, the last version is on its way       acknowledged: PLACE
 *   M_PROPOSED                                                     placed, or refused: thaw
 *
 * One at a time per item.
 */
#include "node_internal.h"

bool move_busy(node *n, uint32_t item)
{
    uint32_t i;
    return table_get(&n->move_by_item, item, &i);
}

static void repair_soon(node *n)
{
    n->repair_again = true;
    n->walk_repair = true;
}

static void end(node *n, uint32_t i, uint8_t status)
{
    struct move was = n->move[i];
    table_remove(&n->move_by_item, was.item);
    n->move[i] = (struct move){0};
    pool_give(&n->moves, i);
    if (!was.repair) {
        n->stats.moves += status == WIRE_OK;
        n->stats.moves_failed += status != WIRE_OK;
    } else if (status == WIRE_OK) {
        seg_handle h = {was.auth, 0, was.item};
        seg_facts f;
        n->stats.repaired++;
        if (seg_facts_read(n->seg, &h, &f) == SEG_OK &&
            (uint32_t)__builtin_popcount(f.home.replicas) > f.home.want) {
            repair_soon(n); /* whom this copy was to replace has stayed */
        }
    } else {
        repair_soon(n);
    }
    for (uint32_t r = was.waiters, next; r != 0; r = next) {
        next = n->request[r].next;
        serve_reply(n, r, status);
    }
}

/* Give up: the item stays ours. */
static void abandon(node *n, uint32_t i, bool at_once)
{
    struct move *m = &n->move[i];
    seg_handle h = {m->auth, 0, m->item};
    seg_facts f;
    if (seg_facts_read(n->seg, &h, &f) == SEG_OK && f.home.master == n->self) {
        if ((f.home.learners & BIT(m->to)) != 0) {
            f.home.learners &= (uint16_t)~BIT(m->to);
            (void)seg_home_write(n->seg, &h, &f.home);
        }
        if (f.away && !at_once) {
            inherit_later(n, m->item, m->auth);
        } else if (f.away && !f.stub) {
            (void)seg_thaw(n->seg, &h, 0);
            copy_dirty(n, m->item, m->auth, n->now);
        }
    }
    struct flight *flight = copy_flight(n, m->item, m->auth);
    if (flight != NULL) {
        flight->move = 0;
    }
    end(n, i, WIRE_LATER);
}

seg_status move_start(node *n, const seg_handle *h, uint8_t to, bool repair, uint32_t request)
{
    seg_facts f;
    uint32_t i;
    if (to >= SEG_SLOTS_MAX || (n->completes & n->view.present & (uint16_t)~n->leavers & BIT(to)) == 0) {
        return SEG_INVALID;
    }
    if (!map_active(n) || seg_facts_read(n->seg, h, &f) != SEG_OK) {
        return SEG_UNAVAILABLE;
    }
    if (f.home.master != n->self) {
        return SEG_AWAY;
    }
    if (to == n->self && !repair) {
        return SEG_EXISTS;
    }
    if (f.away || f.stub || table_get(&n->move_by_item, h->item, &i)) {
        return SEG_CHANGED;
    }
    i = pool_take(&n->moves);
    if (i == 0 || !table_put(&n->move_by_item, h->item, i)) {
        if (i != 0) {
            pool_give(&n->moves, i);
        }
        return SEG_FULL;
    }
    n->move[i] = (struct move){.live = true, .repair = repair, .state = M_FILL, .to = to,
                               .item = h->item, .auth = h->auth, .waiters = request};
    if (request != 0) {
        n->request[request].next = 0;
    }
    if (((f.home.replicas | f.home.learners) & BIT(to)) == 0) {
        f.home.learners |= BIT(to);
        (void)seg_home_write(n->seg, h, &f.home);
    }
    seg_ack(n->seg, h, 0);
    copy_fill(n, h->item, h->auth, i);
    return SEG_OK;
}

static void propose(node *n, uint32_t i, const seg_facts *f)
{
    struct move *m = &n->move[i];
    seg_handle h = {m->auth, 0, m->item};
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len;
    seg_home home = f->home;
    home.learners = 0;
    if (m->repair) {
        home.replicas |= (uint16_t)(BIT(m->to) & ~BIT(n->self));
    } else {
        home.master = m->to;
        home.replicas &= (uint16_t)~BIT(m->to);
        if ((uint32_t)__builtin_popcount(home.replicas) < home.want) {
            home.replicas |= BIT(n->self);
        }
    }
    wire_msg p = {.sub = WIRE_OP_PLACE, .mask = WIRE_KEY | WIRE_AUTH | WIRE_HOME | WIRE_NUMBER,
                  .auth = m->auth, .home = home, .number = n->self, .key = key};
    if (seg_key(n->seg, &h, key, &len) != SEG_OK) {
        abandon(n, i, true);
        return;
    }
    p.key_len = len;
    m->state = M_PROPOSED;
    m->proposal = map_propose(n, &p, FOR_MOVE, i);
    if (m->proposal == 0) {
        abandon(n, i, true);
    }
}

/* That the target has it is known from the flight alone: `acked` may be set by a client that did not
 * know the learner yet. */
void move_flown(node *n, uint32_t i, uint16_t got, uint64_t control)
{
    struct move *m = &n->move[i];
    seg_handle h = {m->auth, 0, m->item};
    seg_facts f;
    if (!m->live || m->state == M_PROPOSED) {
        return;
    }
    if (seg_facts_read(n->seg, &h, &f) != SEG_OK || f.home.master != n->self ||
        ((f.home.replicas | f.home.learners) & BIT(m->to)) == 0) {
        abandon(n, i, true);
        return;
    }
    if ((got & BIT(m->to)) == 0) {
        return; /* move_tick sends it again */
    }
    if (m->repair) {
        propose(n, i, &f); /* what is written from now on waits for the learner too */
    } else if (m->state == M_FILL) {
        if (seg_freeze(n->seg, &h) != SEG_OK) {
            abandon(n, i, true);
            return;
        }
        m->state = M_FROZEN;
        copy_fill(n, m->item, m->auth, i);
    } else if (control == f.control) {
        propose(n, i, &f);
    }
}

void move_placed(node *n, uint32_t i, uint8_t status)
{
    if (i == 0 || !n->move[i].live || n->move[i].state != M_PROPOSED) {
        return;
    }
    if (status == WIRE_OK) {
        end(n, i, WIRE_OK);
    } else {
        abandon(n, i, true);
    }
}

/* Targets that have died take nothing; what was frozen for them waits as promotion does. What was proposed
 * and is not in the log named the homes of the old view: it is proposed anew. */
void move_view(node *n)
{
    for (uint32_t i = 1; i <= n->moves.used; i++) {
        struct move *m = &n->move[i];
        if (!m->live) {
            continue;
        }
        bool open = m->state == M_PROPOSED && map_withdraw(n, m->proposal);
        if ((n->completes & n->view.present & BIT(m->to)) == 0) {
            abandon(n, i, false);
        } else if (open && m->to == n->self) {
            abandon(n, i, true); /* one copy less: looked at again by the walk */
        } else if (open) {
            m->state = m->repair ? M_FILL : M_FROZEN;
        }
    }
}

void move_forget_item(node *n, uint32_t item)
{
    uint32_t i;
    if (table_get(&n->move_by_item, item, &i)) {
        struct move *m = &n->move[i];
        struct flight *flight = copy_flight(n, m->item, m->auth);
        if (flight != NULL) {
            flight->move = 0;
        }
        if (m->proposal != 0 && m->state == M_PROPOSED) {
            map_withdraw(n, m->proposal);
        }
        end(n, i, WIRE_MISS);
    }
    table_remove(&n->tracks, item);
}

/* ---- repair ---- */

/* One copy more than wanted, after a member that was to leave has stayed. */
static void drop_one(node *n, const seg_handle *h, const seg_facts *f)
{
    uint32_t i;
    seg_facts less = *f;
    if (f->away || table_get(&n->move_by_item, h->item, &i) || (i = pool_take(&n->moves)) == 0) {
        return;
    }
    if (!table_put(&n->move_by_item, h->item, i)) {
        pool_give(&n->moves, i);
        return;
    }
    n->move[i] = (struct move){.live = true, .repair = true, .to = n->self, .item = h->item,
                               .auth = h->auth};
    less.home.replicas &= (uint16_t)~BIT(seg_pick(f->home.replicas, f->auth));
    propose(n, i, &less);
}

/* Copies that there could be and are not. */
static uint32_t missing(const node *n, const seg_facts *f, uint32_t *have)
{
    uint16_t others = n->completes & n->view.present & (uint16_t)~(n->leavers | BIT(n->self));
    uint32_t can = (uint32_t)__builtin_popcount(others);
    uint32_t want = f->home.want < can ? f->home.want : can;
    *have = (uint32_t)__builtin_popcount(f->home.replicas & others);
    return *have < want ? want - *have : 0;
}

void move_check(node *n, const seg_facts *f)
{
    uint32_t have;
    if (missing(n, f, &have) != 0) {
        repair_soon(n);
    }
}

/* False: no room now. */
static bool repair_one(node *n, const seg_handle *h, const seg_facts *f)
{
    uint16_t others = n->completes & n->view.present & (uint16_t)~(n->leavers | BIT(n->self));
    uint32_t have;
    uint32_t lack = missing(n, f, &have);
    if (have > f->home.want && n->leavers == 0) {
        drop_one(n, h, f);
        n->repair_again = true;
    }
    if (lack == 0) {
        return true;
    }
    uint8_t s = seg_pick(others & (uint16_t)~f->home.replicas, f->auth);
    if (!copy_room(n, BIT(s))) {
        return false;
    }
    if (move_start(n, h, s, true, 0) != SEG_OK || lack > 1) {
        n->repair_again = true; /* one copy at a time per item */
    }
    n->repair_credit--;
    return true;
}

static void walk_repair(node *n)
{
    seg_handle h;
    seg_facts f;
    for (uint32_t i = 0; i < NODE_WALK_MAX && n->repair_credit > 0; i++) {
        uint64_t here = n->repair_cursor;
        if (n->move_by_item.used > NODE_MOVES_MAX / 2) {
            return;
        }
        if (seg_walk(n->seg, &n->repair_cursor, &h, &f) != SEG_OK) {
            n->repair_cursor = 0;
            n->walk_repair = n->repair_again;
            n->repair_again = false;
            return;
        }
        if (f.home.master == n->self && f.home.learners != 0 && !move_busy(n, h.item)) {
            f.home.learners = 0; /* of a move that ended with an earlier process */
            (void)seg_home_write(n->seg, &h, &f.home);
        }
        if (f.home.master == n->self && f.home.want != 0) {
            if (f.away || f.stub) {
                n->repair_again = true;
            } else if (!repair_one(n, &h, &f)) {
                n->repair_cursor = here; /* whoever is slow is waited for, or evicted */
                return;
            }
        }
    }
}

/* ---- leaving ---- */

static void walk_leave(node *n)
{
    seg_handle h;
    seg_facts f;
    if (n->left || !map_active(n)) {
        return;
    }
    uint16_t others = n->completes & n->view.present & (uint16_t)~(n->leavers | BIT(n->self));
    uint32_t most = (uint32_t)__builtin_popcount(others);
    if (!n->leave_asked || n->now >= n->leave_again) { /* again: who joins or is restarted has not heard it */
        wire_msg m = {.sub = WIRE_OP_LEAVE, .mask = WIRE_NUMBER, .number = n->self};
        n->leave_asked = map_propose(n, &m, FOR_LEAVE, 0) != 0;
        n->leave_again = n->now + NODE_LEAVE_NS;
    }
    if (!n->leave_known) {
        return; /* something may still come to us */
    }
    if (others == 0) { /* nobody to give it to; those who are about to be complete are waited for */
        if ((n->view.present & (uint16_t)~(n->leavers | BIT(n->self))) == 0) {
            n->left = n->closed;
            n->closed = true;
            node_refresh_serving(n);
        }
        return;
    }
    for (uint32_t i = 0; i < NODE_WALK_MAX && n->move_by_item.used <= NODE_MOVES_MAX / 2; i++) {
        if (seg_walk(n->seg, &n->leave_cursor, &h, &f) != SEG_OK) {
            n->leave_cursor = 0;
            bool done = !n->leave_found && n->move_by_item.used == 0;
            n->leave_found = false;
            n->left = done && n->closed;
            n->closed |= done; /* once more, now that nobody writes: the heirs serve at once */
            node_refresh_serving(n);
            return;
        }
        if (f.home.master != n->self) {
            uint32_t copies = (uint32_t)__builtin_popcount((f.home.replicas | BIT(f.home.master)) & others);
            uint32_t due = f.home.want + ((others & BIT(f.home.master)) != 0); /* two may leave at a time */
            if ((f.home.replicas & BIT(n->self)) != 0 && copies < most && copies < due) {
                n->leave_found = true; /* its master makes another copy first */
            }
            continue;
        }
        if ((f.home.replicas & others) == 0) {
            n->leave_found = true;
            (void)move_start(n, &h, seg_pick(others, f.auth), false, 0);
        } else if (f.acked < f.control) {
            n->leave_found = true;
            copy_dirty(n, h.item, h.auth, n->now);
        }
    }
}

/* ---- adaptive placement (paper §III.B.2) ---- */

static struct track *track_of(node *n, const seg_handle *h, bool make)
{
    uint32_t i;
    if (table_get(&n->tracks, h->item, &i)) {
        struct track *t = &n->track[i];
        if (t->auth == h->auth) {
            return t;
        }
        *t = (struct track){.auth = h->auth};
        return t;
    }
    if (!make) {
        return NULL;
    }
    if (n->track_count == NODE_TRACKED_MAX || n->tracks.used >= NODE_TRACKED_MAX - 1) {
        table_clear(&n->tracks); /* forget all histories rather than choose */
        n->track_count = 0;
    }
    i = n->track_count++;
    n->track[i] = (struct track){.auth = h->auth};
    (void)table_put(&n->tracks, h->item, i);
    return &n->track[i];
}

void move_accessed(node *n, const seg_handle *h, uint8_t slot)
{
    seg_facts f;
    if (slot >= SEG_SLOTS_MAX || n->leaving) {
        return;
    }
    if (slot == n->self) {
        struct track *t = track_of(n, h, false);
        if (t != NULL) {
            t->history = t->history << 4 | slot;
            t->count += t->count < NODE_HISTORY_MAX;
        }
        return;
    }
    if (seg_facts_read(n->seg, h, &f) != SEG_OK || f.home.hint == SEG_HINT_REMOTE ||
        f.home.hint == SEG_HINT_PIN || f.home.master != n->self) {
        return;
    }
    uint32_t length = f.home.hint == SEG_HINT_LOCAL ? 1 : n->c.history;
    if (length == 0) {
        return;
    }
    struct track *t = track_of(n, h, true);
    t->history = t->history << 4 | slot;
    t->count += t->count < NODE_HISTORY_MAX;
    if (t->count < length) {
        return;
    }
    uint32_t its = 0;
    for (uint32_t i = 0; i < length; i++) {
        its += ((t->history >> (4 * i)) & 15) == slot;
    }
    if (its * 2 > length && move_start(n, h, slot, false, 0) == SEG_OK) {
        t->count = 0;
    }
}

/* Local clients' accesses are seen by sampling: one stands for SEG_SAMPLE, more than any history. */
void move_samples(node *n)
{
    uint32_t items[256];
    size_t count = seg_samples(n->seg, items, 256);
    for (size_t i = 0; i < count; i++) {
        uint32_t at;
        if (table_get(&n->tracks, items[i], &at)) {
            n->track[at].count = 0;
        }
    }
}

/* How many copies may be made again now. What was saved up before a death is not spent right after it. */
static void earn(node *n)
{
    if (n->now < n->repair_rest) {
        n->repair_credit = 0;
        n->repair_credit_at = n->now;
        return;
    }
    uint64_t per_s = n->now < n->repair_gently ? (n->c.repair_per_s + NODE_GENTLY - 1) / NODE_GENTLY : n->c.repair_per_s;
    uint64_t earned = (n->now - n->repair_credit_at) * per_s / 1000000000u;
    if (earned > 0) {
        uint64_t most = n->c.repair_per_s / 10 + 1;
        n->repair_credit = n->repair_credit + earned > most ? most : n->repair_credit + earned;
        n->repair_credit_at = n->now;
    }
}

void move_tick(node *n)
{
    move_samples(n);
    earn(n);
    if (n->walk_repair && n->bequest == 0 && map_active(n)) {
        walk_repair(n);
    }
    if (n->leaving && n->bequest == 0) {
        walk_leave(n);
    }
    /* A move whose flight came to nothing (no room, home changed) is filled again. */
    for (uint32_t i = 1; i <= n->moves.used && n->move_by_item.used > 0; i++) {
        struct move *m = &n->move[i];
        if (m->live && m->waiters != 0) {
            m->waiters = serve_overdue(n, m->waiters);
        }
        if (m->live && m->state != M_PROPOSED) {
            struct flight *f = copy_flight(n, m->item, m->auth);
            if (f == NULL) {
                copy_fill(n, m->item, m->auth, i);
            } else if (f->move == 0) {
                f->move = i;
            }
        }
    }
}
