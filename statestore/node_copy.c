/* Replication: what a master's copies get, and when it is known that they have it.
 *
 * Knows: homes, versions, the change feed, notes to who holds no copy. Must not know: why somebody waits
 * (node_serve.c), where an item is going (node_move.c).
 *
 * State, not operations, is sent: the latest value under its logical version. A repetition, a
 * reordering or a loss changes nothing but time.
 */
#include "node_internal.h"

#define COPY_ID(n) ((n)->next_id++ << 2 | 1)
#define TAG_COPY(auth, version) (((auth) * 0x9e3779b97f4a7c15ull ^ (version)) << 3 | 1)

/* ---- a copy arrives ---- */

/* Is what a new master begins with what stands here, under the number that its predecessor gave it? Most
 * often it is: then nothing has changed, and no watcher is told so, of ten thousands at once. */
static bool inherited(node *n, seg_handle *h, const seg_facts *f, const wire_msg *m)
{
    seg_facts now;
    size_t len = 0;
    return m->version % (1ull << NODE_EPOCH_SHIFT) == 0 && !f->stub && f->len == m->value_len &&
           f->deadline_ns == 0 && m->ttl_ns == 0 &&
           seg_peek(n->seg, m->key, m->key_len, h, n->scratch, SEG_VALUE_BYTES_MAX, &len, &now) == SEG_OK &&
           now.auth == f->auth && now.version == f->version && len == m->value_len &&
           memcmp(n->scratch, m->value, len) == 0 &&
           seg_renumber(n->seg, h, f->version, m->version) == SEG_OK;
}

void copy_receive(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    wire_msg r = {.status = WIRE_LATER, .id = m->id};
    seg_status status = seg_lookup(n->seg, m->key, m->key_len, &h);
    n->stats.copies++;
    if (status == SEG_OK) {
        status = seg_facts_read(n->seg, &h, &f);
    }
    /* LATER. What has come before the map is whole goes with the next snapshot. */
    bool lags = !n->complete || ((m->mask & WIRE_SEQ) != 0 && n->applied < m->seq);
    if (status == SEG_OK && f.auth == m->auth && f.home.master == m->slot && m->slot != n->self && !lags &&
        inherit_settled(n, &h, &f)) { /* else what comes now would be taken for what is left of before */
        seg_copy c = {.auth = m->auth, .version = m->version, .value = m->value, .len = m->value_len,
                      .deadline_ns = m->ttl_ns == 0 ? 0 : n->now + m->ttl_ns, .home = f.home};
        stray_copied(n, h.item);
        status = inherited(n, &h, &f, m) ? SEG_CHANGED : seg_overwrite(n->seg, &h, &c);
        if (status == SEG_OK) {
            n->stats.copies_applied++;
        }
        if (status == SEG_OK || status == SEG_CHANGED) {
            apply_keep(n, h.item);
            r.status = WIRE_OK;
            if ((f.home.replicas & BIT(n->self)) == 0) {
                stray_soon(n);
            }
            n->peer[m->slot].heard_at = n->now;
        } else if (status == SEG_FULL) {
            r.status = SEG_FULL;
        }
    } else if (status == SEG_NOT_FOUND || (status == SEG_OK && f.auth > m->auth)) {
        r.status = WIRE_MISS; /* deleted meanwhile, or my map lags: the sender looks again */
    }
    node_answer(n, from, session, &r);
}

/* ---- flights ---- */

struct flight *copy_flight(node *n, uint32_t item, uint64_t auth)
{
    uint32_t i;
    return table_get(&n->flight_by_item, item, &i) && n->flight[i].auth == auth ? &n->flight[i] : NULL;
}

/* Nobody's answer is counted on any more. */
static void come_down(node *n, struct flight *f)
{
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((f->out & BIT(s)) != 0) {
            pace_dropped(&n->pace[s]);
        }
    }
    f->out = 0;
}

/* 0: none. */
static void number(node *n, struct flight *f, uint64_t id)
{
    if (f->id != 0) {
        table_remove(&n->flight_by_id, f->id);
    }
    if (id != 0) {
        (void)table_put(&n->flight_by_id, id, (uint32_t)(f - n->flight));
    }
    f->id = id;
}

static void land(node *n, struct flight *f, bool ok)
{
    uint32_t i = (uint32_t)(f - n->flight);
    come_down(n, f);
    struct flight was = *f;
    table_remove(&n->flight_by_item, f->item);
    number(n, f, 0);
    *f = (struct flight){0};
    pool_give(&n->flights, i);
    if (was.waiters != 0) {
        serve_flown(n, was.waiters, was.control, ok);
    }
    if (was.move != 0) {
        move_flown(n, was.move, ok ? was.got : 0, was.control);
    }
}

/* The quickest of those who are asked is not kept waiting for the slowest. */
static uint64_t patience(const node *n, const struct flight *f)
{
    uint64_t least = PACE_TIMER_NS_MAX;
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((f->asked & BIT(s)) != 0) {
            uint64_t its = node_patience(n, s, f->tries);
            least = its < least ? its : least;
        }
    }
    return least;
}

/* Send what stands now to all who lack it. False: the flight is over. */
static bool fly(node *n, struct flight *f)
{
    seg_handle h = {f->auth, 0, f->item};
    seg_facts facts;
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t key_len, len = 0;
    if (seg_key(n->seg, &h, key, &key_len) != SEG_OK || seg_facts_read(n->seg, &h, &facts) != SEG_OK ||
        facts.home.master != n->self || facts.stub) {
        land(n, f, false);
        return false;
    }
    uint16_t holders = (facts.home.replicas | facts.home.learners) & (uint16_t)~BIT(n->self);
    atomic_thread_fence(memory_order_seq_cst); /* the learner's bit, then the value (docs/dal.md) */
    if (seg_peek(n->seg, key, key_len, &h, n->scratch, SEG_VALUE_BYTES_MAX, &len, &facts) != SEG_OK ||
        facts.auth != f->auth || facts.home.master != n->self) {
        land(n, f, false);
        return false;
    }
    if (f->id == 0 || facts.control != f->control) {
        number(n, f, COPY_ID(n));
        f->control = facts.control;
        f->version = facts.version;
        f->got = 0;
        f->again = false;
    } else {
        f->again = true;
    }
    uint16_t pending = holders & (uint16_t)~f->got;
    if (pending == 0) {
        seg_ack(n->seg, &h, f->control);
        land(n, f, true);
        return false;
    }
    wire_msg m = {.type = WIRE_COPY,
                  .mask = WIRE_ID | WIRE_AUTH | WIRE_VERSION | WIRE_TTL | WIRE_KEY | WIRE_VALUE,
                  .seq = n->applied, .id = f->id, .auth = f->auth, .version = f->version, .key = key, .key_len = key_len,
                  .value = n->scratch, .value_len = len};
    if (facts.home.learners != 0) {
        m.mask |= WIRE_SEQ; /* nothing older may make a learner drop it again */
    }
    if (facts.deadline_ns != 0) {
        m.ttl_ns = facts.deadline_ns > n->now ? facts.deadline_ns - n->now : 1;
    }
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((pending & BIT(s)) != 0) {
            if (f->tries > 1) {
                node_silence(n, s);
            }
            node_say(n, s, &m, TAG_COPY(f->auth, f->version));
            if ((f->out & BIT(s)) == 0) {
                f->out |= BIT(s);
                pace_sent(&n->pace[s]);
            }
        }
    }
    f->asked = pending;
    f->tries++;
    f->sent_at = n->now;
    f->next_send = n->now + patience(n, f);
    return true;
}

static struct flight *take_off(node *n, uint32_t item, uint64_t auth)
{
    uint32_t i;
    if (table_get(&n->flight_by_item, item, &i)) {
        land(n, &n->flight[i], false); /* of another item, that is gone: its place is this one's */
    }
    i = pool_take(&n->flights);
    if (i == 0) {
        return NULL;
    }
    n->flight[i] = (struct flight){.live = true, .item = item, .auth = auth};
    if (!table_put(&n->flight_by_item, item, i)) {
        n->flight[i].live = false;
        pool_give(&n->flights, i);
        return NULL;
    }
    return &n->flight[i];
}

bool copy_wait(node *n, const seg_handle *h, uint32_t request, uint64_t control)
{
    struct flight *f = copy_flight(n, h->item, h->auth);
    bool fresh = f == NULL;
    if (fresh) {
        f = take_off(n, h->item, h->auth);
    }
    if (f == NULL) {
        return false;
    }
    n->request[request].control = control;
    n->request[request].next = f->waiters;
    f->waiters = request;
    if (fresh) {
        (void)fly(n, f);
    }
    return true;
}

void copy_fill(node *n, uint32_t item, uint64_t auth, uint32_t move)
{
    struct flight *f = copy_flight(n, item, auth);
    if (f == NULL) {
        f = take_off(n, item, auth);
    } else if (f->id != 0) {
        /* It may have had a copy when this began, and have dropped it at the map's word since. */
        come_down(n, f);
        number(n, f, COPY_ID(n));
        f->got &= (uint16_t)~BIT(n->move[move].to);
    }
    if (f != NULL) {
        f->move = move;
        (void)fly(n, f);
    }
}

void copy_acknowledged(node *n, const wire_msg *m)
{
    uint32_t i;
    uint8_t slot = m->slot & 15;
    if (!table_get(&n->flight_by_id, m->id, &i)) {
        return;
    }
    struct flight *f = &n->flight[i];
    if ((f->out & BIT(slot)) != 0) {
        f->out &= (uint16_t)~BIT(slot);
        pace_answered(&n->pace[slot], f->again ? 0 : n->now - f->sent_at, n->now);
    }
    if (m->status != WIRE_OK) { /* also of another view: one of us does not know the later one yet */
        uint64_t again = n->now + (NODE_RETRY_NS << f->refused);
        f->refused += f->refused < NODE_RETRIES_MAX;
        f->next_send = again < f->next_send ? again : f->next_send;
        return;
    }
    if (m->epoch != n->view.epoch) {
        return; /* somebody else may have been in that slot; it was sent again since */
    }
    f->got |= BIT(slot);
    f->tries = f->refused = 0;
    seg_handle h = {f->auth, 0, f->item};
    seg_facts facts;
    if (seg_facts_read(n->seg, &h, &facts) != SEG_OK || facts.home.master != n->self) {
        land(n, f, false);
        return;
    }
    uint16_t lacking = (facts.home.replicas | facts.home.learners) & (uint16_t) ~(BIT(n->self) | f->got);
    if (lacking == 0) {
        seg_ack(n->seg, &h, f->control);
        if (facts.control != f->control) {
            copy_dirty(n, f->item, f->auth, n->now); /* written again since */
        }
        land(n, f, true);
    } else if ((lacking & (uint16_t)~f->asked) != 0) {
        (void)fly(n, f); /* a learner that came later */
    }
}

/* ---- what is to be sent ---- */

/* Does an entry for this very item wait? Its place may have been another's when that one's entry was made. */
static bool waits(const node *n, uint32_t item, uint64_t auth)
{
    uint32_t whose;
    return table_get(&n->dirty_set, item, &whose) && whose == (uint32_t)auth;
}

void copy_dirty(node *n, uint32_t item, uint64_t auth, uint64_t due)
{
    if (waits(n, item, auth)) {
        return;
    }
    if (n->dirty_count == NODE_DIRTY_MAX || !table_put(&n->dirty_set, item, (uint32_t)auth)) {
        if (!n->walk_dirty) {
            n->walk_dirty = true; /* too many to remember: look at all of them */
            n->dirty_cursor = 0;
        }
        return;
    }
    n->dirty[(n->dirty_head + n->dirty_count++) % NODE_DIRTY_MAX] = (struct dirty){item, auth, due};
}

static bool wants_copy(const node *n, const seg_facts *f)
{
    return f->home.master == n->self && !f->stub && f->acked < f->control &&
           (f->home.replicas | f->home.learners) != 0;
}

bool copy_room(const node *n, uint16_t slots)
{
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((slots & BIT(s)) != 0 && !pace_room(&n->pace[s])) {
            return false;
        }
    }
    return true;
}

void copy_view(node *n, uint16_t others)
{
    for (uint32_t i = 1; i <= n->flights.used; i++) {
        struct flight *f = &n->flight[i];
        if (f->live) {
            come_down(n, f);
            f->got &= (uint16_t)~others;
            f->again = true;
            f->tries = f->refused = 0;
            f->next_send = n->now; /* who holds it may be others now */
        }
    }
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((others & BIT(s)) != 0) {
            pace_begin(&n->pace[s]);
        }
    }
}

void copy_again(node *n, uint8_t slot)
{
    uint32_t flying = n->pace[slot].flying, count = 0;
    pace_begin(&n->pace[slot]);
    n->pace[slot].flying = flying;
    for (uint32_t i = 1; i <= n->flights.used; i++) {
        struct flight *f = &n->flight[i];
        if (f->live && (f->asked & BIT(slot)) != 0 && (f->got & BIT(slot)) == 0) {
            f->tries = f->refused = 0;
            f->next_send = n->now + count++ / PACE_WINDOW_FIRST * NODE_SPREAD_NS;
        }
    }
}

static void send_dirty(node *n)
{
    for (uint32_t blocked = 0; n->dirty_count > 0 && blocked < NODE_LOOK_MAX;) {
        struct dirty d = n->dirty[n->dirty_head];
        seg_handle h = {d.auth, 0, d.item};
        seg_facts f;
        if (d.due > n->now || n->flight_by_item.used >= NODE_FLIGHT_MAX / 2) {
            return;
        }
        n->dirty_head = (n->dirty_head + 1) % NODE_DIRTY_MAX;
        n->dirty_count--;
        bool wanted = seg_facts_read(n->seg, &h, &f) == SEG_OK && wants_copy(n, &f);
        if (wanted && !copy_room(n, (f.home.replicas | f.home.learners) & (uint16_t)~BIT(n->self))) {
            n->dirty[(n->dirty_head + n->dirty_count++) % NODE_DIRTY_MAX] = d; /* others first */
            blocked++;
            continue;
        }
        if (waits(n, d.item, d.auth)) {
            table_remove(&n->dirty_set, d.item);
        }
        if (copy_flight(n, d.item, d.auth) != NULL) {
            continue; /* the flight sees the new value when it lands */
        }
        if (wanted) {
            struct flight *flight = take_off(n, d.item, d.auth);
            if (flight == NULL) {
                copy_dirty(n, d.item, d.auth, n->now);
                return;
            }
            (void)fly(n, flight);
        }
    }
}

static void walk_dirty(node *n)
{
    seg_handle h;
    seg_facts f;
    for (uint32_t i = 0; i < NODE_WALK_MAX && n->dirty_count < NODE_DIRTY_MAX / 2; i++) {
        if (seg_walk(n->seg, &n->dirty_cursor, &h, &f) != SEG_OK) {
            n->walk_dirty = false;
            n->dirty_cursor = 0;
            return;
        }
        if (wants_copy(n, &f)) {
            copy_dirty(n, h.item, h.auth, n->now);
        }
    }
}

/* ---- the change feed, and notes for who holds no copy ---- */

static void send_notes(node *n)
{
    if (n->note_len == 0) {
        return;
    }
    wire_msg m = {.type = WIRE_NOTE, .mask = WIRE_VALUE, .value = n->note, .value_len = n->note_len};
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if (s != n->self && (n->wants & BIT(s)) != 0) {
            node_say(n, s, &m, 0);
        }
    }
    n->note_len = 0;
}

static void note(node *n, const void *key, size_t len)
{
    size_t put = wire_put_key(n->note + n->note_len, sizeof n->note - n->note_len, key, len);
    if (put == 0) {
        send_notes(n);
        put = wire_put_key(n->note, sizeof n->note, key, len);
    }
    if (n->note_len == 0) {
        n->note_at = n->now + NODE_NOTE_NS;
    }
    n->note_len += put;
    n->stats.notes++;
}

void copy_note(node *n, const wire_msg *m)
{
    wire_reader r = {m->value, (const uint8_t *)m->value + m->value_len};
    const void *key;
    size_t len;
    seg_handle h;
    seg_facts f;
    while (wire_take_key(&r, &key, &len)) {
        /* Who has a copy hears of it with the copy. */
        if (seg_lookup(n->seg, key, len, &h) == SEG_OK && seg_facts_read(n->seg, &h, &f) == SEG_OK &&
            f.stub) {
            seg_note(n->seg, key, len);
        }
    }
}

void copy_feed(node *n)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len;
    bool deleted;
    for (uint32_t i = 0; i < NODE_FEED_MAX; i++) {
        seg_handle h;
        seg_facts f;
        seg_status status = seg_poll(n->seg, &n->feed, "", 0, key, &len, &deleted);
        if (status == SEG_OVERRUN) {
            n->stats.overruns++;
            n->walk_dirty = true;
            n->dirty_cursor = 0;
            (void)seg_watch(n->seg, &n->feed);
            return;
        }
        if (status != SEG_OK) {
            return;
        }
        if (deleted || seg_lookup(n->seg, key, len, &h) != SEG_OK ||
            seg_facts_read(n->seg, &h, &f) != SEG_OK || f.home.master != n->self) {
            continue;
        }
        if (wants_copy(n, &f)) {
            copy_dirty(n, h.item, h.auth, n->now + NODE_GRACE_NS);
        }
        uint16_t others = n->wants & n->view.present &
                          (uint16_t) ~(f.home.replicas | f.home.learners | BIT(n->self));
        if (others != 0) {
            note(n, key, len);
        }
    }
}

void copy_tick(node *n)
{
    if (n->walk_dirty) {
        walk_dirty(n);
    }
    send_dirty(n);
    for (uint32_t i = 1; i <= n->flights.used && n->flight_by_item.used > 0; i++) {
        struct flight *f = &n->flight[i];
        if (f->live && n->now >= f->next_send) {
            f->waiters = serve_overdue(n, f->waiters);
            for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
                if ((f->out & f->asked & BIT(s)) != 0) {
                    pace_late(&n->pace[s], n->now);
                }
            }
            (void)fly(n, f);
        }
    }
    if (n->note_len > 0 && n->now >= n->note_at) {
        send_notes(n);
    }
}
