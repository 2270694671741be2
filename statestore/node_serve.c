/* Clients' requests: answered at once, or when copies or the map log have come that far.
 *
 * Knows: which items are ours, what each request needs. Must not know: how copies travel, how the log
 * orders, sessions (node_answer.c), lists (node_list.c), messages between clients (node_mail.c).
 */
#include "node_internal.h"

/* ---- items ---- */

/* WIRE_OK, or what to answer. */
static uint8_t resolve(node *n, const wire_msg *m, seg_handle *h, seg_facts *f)
{
    *h = (seg_handle){m->auth, 0, m->item};
    seg_status status = SEG_NOT_FOUND;
    if (m->auth != 0 && m->item != 0) {
        status = seg_facts_read(n->seg, h, f);
    }
    if (status != SEG_OK) {
        status = seg_lookup(n->seg, m->key, m->key_len, h);
        if (status == SEG_OK) {
            status = seg_facts_read(n->seg, h, f);
        }
    }
    if (status == SEG_NOT_FOUND ||
        (status == SEG_OK && (f->legacy == SEG_LOST || (m->auth != 0 && f->auth != m->auth)))) {
        return WIRE_MISS;
    }
    if (status == SEG_OK && f->away) {
        inherit_asked(n, h, f);
    }
    return (uint8_t)status;
}

static bool replicated(const seg_facts *f)
{
    return (f->home.replicas | f->home.learners) == 0 || f->acked >= f->control;
}

/* Does this very request wait already? Then this is a repetition, and the answer to the first is its answer. */
static bool waits(node *n, const seg_handle *h, uint64_t session, uint64_t id)
{
    const struct flight *f = copy_flight(n, h->item, h->auth);
    uint32_t i = f == NULL ? 0 : f->waiters;
    while (i != 0 && (n->request[i].session != session || n->request[i].id != id)) {
        i = n->request[i].next;
    }
    return i != 0;
}

static void wait_for_copies(node *n, const link_addr *from, uint64_t session, const wire_msg *m,
                            const seg_handle *h, uint64_t control, wire_msg *r)
{
    if (!serve_changes(m->type) && waits(n, h, session, m->id)) {
        return;
    }
    uint32_t i = serve_hold(n, from, session, m);
    if (i == 0) {
        serve_refuse(n, from, session, m, serve_changes(m->type) ? WIRE_IN_DOUBT : WIRE_LATER);
        return;
    }
    struct request *q = &n->request[i];
    q->reply = *r;
    q->reply.auth = h->auth;
    q->reply.mask |= WIRE_AUTH;
    q->item = h->item;
    if ((r->mask & WIRE_VALUE) != 0) {
        q->value = malloc(r->value_len + 1);
        if (q->value == NULL) {
            serve_reply(n, i, WIRE_LATER); /* a read: not an empty value */
            return;
        }
        memcpy(q->value, r->value, r->value_len);
    }
    if (!copy_wait(n, h, i, control)) {
        serve_reply(n, i, serve_changes(m->type) ? WIRE_IN_DOUBT : WIRE_LATER);
    }
}

static void serve_read(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    size_t len = 0;
    uint8_t status = resolve(n, m, &h, &f);
    wire_msg r = {.id = m->id};
    bool any = (m->flags & WIRE_ANY) != 0;
    if (status != WIRE_OK) {
        serve_refuse(n, from, session, m, status);
        return;
    }
    if (!any && f.home.master != n->self) {
        r.status = SEG_AWAY;
        r.mask = WIRE_HOME | WIRE_AUTH;
        r.home = f.home;
        r.auth = f.auth;
        serve_answer(n, from, session, m->type, &r);
        return;
    }
    if (f.stub || (!any && f.away && (f.home.learners & BIT(n->self)) != 0) ||
        seg_peek(n->seg, m->key, m->key_len, &h, n->scratch, SEG_VALUE_BYTES_MAX, &len, &f) !=
                      SEG_OK) {
        serve_refuse(n, from, session, m, any ? SEG_AWAY : WIRE_LATER); /* created, not committed */
        return;
    }
    r.mask = WIRE_VALUE | WIRE_VERSION | WIRE_ITEM | WIRE_AUTH;
    r.value = n->scratch;
    r.value_len = len;
    r.version = f.version;
    r.item = h.item;
    r.auth = f.auth;
    if ((m->flags & WIRE_SYNC) != 0 && !any && !replicated(&f)) {
        wait_for_copies(n, from, session, m, &h, f.control, &r);
    } else {
        serve_answer(n, from, session, m->type, &r);
    }
    move_accessed(n, &h, m->slot);
}

static void serve_write(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    static const seg_verb verbs[] = {[WIRE_WRITE] = SEG_WRITE, [WIRE_APPEND] = SEG_APPEND,
                                     [WIRE_SWAP] = SEG_SWAP, [WIRE_ADD] = SEG_ADD};
    seg_handle h;
    seg_facts f;
    seg_grant g = {.epoch = m->grant_epoch};
    uint8_t status = resolve(n, m, &h, &f);
    wire_msg r = {.id = m->id};
    if (status == WIRE_OK && f.home.master != n->self) {
        status = SEG_AWAY;
    } else if (status == WIRE_OK && f.away) {
        status = WIRE_LATER;
    }
    if (status == WIRE_OK && (m->mask & WIRE_FENCE_NAME) != 0) {
        status = (uint8_t)seg_fence(n->seg, m->fence, m->fence_len, true, &g.fence);
    }
    if (status != WIRE_OK) {
        serve_refuse(n, from, session, m, status);
        return;
    }
    seg_op op = {.verb = verbs[m->type], .data = m->value, .len = m->value_len, .version = m->version,
                 .delta = (int64_t)m->number, .grant = g.fence != 0 ? &g : NULL,
                 .set_deadline = (m->flags & WIRE_SET_TTL) != 0,
                 .deadline_ns = m->ttl_ns == 0 ? 0 : n->now + m->ttl_ns};
    seg_status done = seg_update(n->seg, m->key, m->key_len, &h, &op);
    if (done != SEG_OK) {
        r.mask = WIRE_GRANT_EPOCH;
        r.grant_epoch = op.epoch_seen;
        r.status = done == SEG_AWAY || done == SEG_UNAVAILABLE ? WIRE_LATER
                   : done == SEG_NOT_FOUND                     ? WIRE_MISS
                                                               : (uint8_t)done;
        serve_answer(n, from, session, m->type, &r);
        return;
    }
    r.mask = WIRE_ITEM | WIRE_AUTH | WIRE_NUMBER;
    r.item = h.item;
    r.auth = h.auth;
    r.number = (uint64_t)op.sum;
    if ((m->flags & WIRE_SYNC) != 0 && seg_facts_read(n->seg, &h, &f) == SEG_OK && !replicated(&f)) {
        wait_for_copies(n, from, session, m, &h, f.control, &r);
    } else {
        serve_answer(n, from, session, m->type, &r);
    }
    move_accessed(n, &h, m->slot);
}

static void serve_ensure(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    wire_msg r = {.id = m->id};
    uint8_t status = resolve(n, m, &h, &f);
    if (status == WIRE_OK && f.home.master != n->self) {
        status = SEG_AWAY;
    } else if (status == WIRE_OK && (f.stub || f.version < m->version)) {
        status = WIRE_LATER;
    }
    if (status != WIRE_OK) {
        serve_refuse(n, from, session, m, status);
    } else if (replicated(&f)) {
        serve_answer(n, from, session, m->type, &r);
    } else {
        wait_for_copies(n, from, session, m, &h, f.control, &r);
    }
}

/* ---- the key map ---- */

static bool propose(node *n, const link_addr *from, uint64_t session, const wire_msg *m, wire_msg *op)
{
    uint32_t i = map_active(n) ? serve_hold(n, from, session, m) : 0;
    if (i == 0) {
        serve_refuse(n, from, session, m, WIRE_LATER);
        return false;
    }
    n->request[i].wait = WAITS_PROPOSAL;
    n->request[i].reply.auth = op->auth;
    if (map_propose(n, op, FOR_REQUEST, i) == 0) {
        serve_reply(n, i, WIRE_LATER);
        return false;
    }
    return true;
}

static void serve_create(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    wire_msg op = *m;
    op.sub = WIRE_OP_CREATE;
    op.flags = 0;
    op.mask = (m->mask & (WIRE_KEY | WIRE_FENCE_NAME | WIRE_GRANT_EPOCH)) | WIRE_VALUE | WIRE_HOME |
              WIRE_NUMBER | WIRE_TTL;
    op.home = (seg_home){.master = n->self, .want = m->home.want & 15, .hint = m->home.hint & 3};
    if (m->key_len == 0 || *(const uint8_t *)m->key == 0) {
        serve_refuse(n, from, session, m, SEG_INVALID);
        return;
    }
    if (m->number > SEG_VALUE_BYTES_MAX) {
        serve_refuse(n, from, session, m, SEG_TOO_BIG);
        return;
    }
    (void)propose(n, from, session, m, &op);
}

static void unfreeze(node *n, const void *key, size_t len, uint64_t auth)
{
    seg_handle h;
    seg_facts f;
    if (seg_lookup(n->seg, key, len, &h) == SEG_OK && h.auth == auth &&
        seg_facts_read(n->seg, &h, &f) == SEG_OK && f.home.master == n->self && f.away && !f.stub &&
        !move_busy(n, h.item)) {
        (void)seg_thaw(n->seg, &h, 0);
    }
}

static void serve_delete(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    uint8_t status = resolve(n, m, &h, &f);
    if (status == WIRE_OK && f.home.master != n->self) {
        uint32_t i = serve_hold(n, from, session, m);
        if (i == 0 || !mail_errand(n, f.home.master, m, i)) {
            if (i != 0) {
                serve_reply(n, i, WIRE_LATER);
            } else {
                serve_refuse(n, from, session, m, WIRE_LATER);
            }
        }
        return;
    }
    if (status == WIRE_OK && (f.away || move_busy(n, h.item) || !map_active(n))) {
        status = WIRE_LATER;
    }
    if (status == WIRE_OK) {
        status = (uint8_t)seg_freeze(n->seg, &h); /* nothing is acknowledged that is then deleted */
    }
    if (status != WIRE_OK) {
        serve_refuse(n, from, session, m, status);
        return;
    }
    wire_msg op = *m;
    op.sub = WIRE_OP_DELETE;
    op.flags = 0;
    op.mask = (m->mask & (WIRE_KEY | WIRE_FENCE_NAME | WIRE_GRANT_EPOCH)) | WIRE_AUTH;
    op.auth = h.auth;
    if (!propose(n, from, session, m, &op)) {
        (void)seg_thaw(n->seg, &h, 0);
    }
}

void serve_proposed(node *n, uint32_t i, uint8_t status, uint64_t number)
{
    struct request *r = &n->request[i];
    seg_handle h;
    seg_facts f;
    if (!r->live) {
        return;
    }
    switch (r->type) {
    case WIRE_CREATE:
        if (status == WIRE_OK) {
            r->reply.mask = WIRE_AUTH | WIRE_HOME;
            r->reply.auth = map_auth(n, number);
            r->reply.home = (seg_home){.master = n->self};
            if (seg_lookup(n->seg, r->key, r->key_len, &h) == SEG_OK && h.auth == r->reply.auth &&
                seg_facts_read(n->seg, &h, &f) == SEG_OK) {
                r->reply.home = f.home;
                if (f.home.master == n->self && f.stub) {
                    status = SEG_FULL;
                }
            }
        }
        break;
    case WIRE_DELETE:
        if (status != WIRE_OK) {
            unfreeze(n, r->key, r->key_len, r->reply.auth);
        }
        r->reply.mask = 0;
        break;
    case WIRE_INBOX:
        if (status == WIRE_OK) {
            mail_registered(n, r);
        }
        break;
    default:
        break;
    }
    if (status == SEG_FENCED) {
        r->reply.mask = WIRE_GRANT_EPOCH;
        r->reply.grant_epoch = number;
    }
    serve_reply(n, i, status);
}

static void serve_lookup(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    wire_msg r = {.id = m->id};
    if (n->view.leader == n->self && (!n->opened || n->phase != NODE_ACTIVE)) {
        serve_refuse(n, from, session, m, WIRE_LATER);
        return;
    }
    if (seg_lookup(n->seg, m->key, m->key_len, &h) == SEG_OK &&
        seg_facts_read(n->seg, &h, &f) == SEG_OK && f.legacy != SEG_LOST) {
        r.mask = WIRE_AUTH | WIRE_HOME;
        r.auth = f.auth;
        r.home = f.home;
        if (f.home.master == n->self) {
            r.mask |= WIRE_ITEM;
            r.item = h.item;
        }
    } else {
        /* A deletion that is not committed may yet be undone. */
        r.status = n->last_delete > n->committed && n->leading ? WIRE_LATER : SEG_NOT_FOUND;
    }
    serve_answer(n, from, session, m->type, &r);
}

static void serve_move(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    uint8_t status = resolve(n, m, &h, &f);
    if (status != WIRE_OK) {
        serve_refuse(n, from, session, m, status);
        return;
    }
    uint32_t i = serve_hold(n, from, session, m);
    if (i == 0) {
        serve_refuse(n, from, session, m, WIRE_LATER);
        return;
    }
    if (f.home.master != n->self) {
        if (!mail_errand(n, f.home.master, m, i)) {
            serve_reply(n, i, WIRE_LATER);
        }
        return;
    }
    n->request[i].wait = WAITS_MOVE;
    seg_status started = move_start(n, &h, m->slot, false, i);
    if (started == SEG_EXISTS) {
        serve_reply(n, i, WIRE_OK);
    } else if (started != SEG_OK) {
        serve_reply(n, i, started == SEG_INVALID ? SEG_INVALID : WIRE_LATER);
    }
}

/* ---- one request ---- */

void serve_request(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    if ((m->mask & WIRE_ID) == 0 || m->id == 0) {
        n->stats.refused++;
        return;
    }
    if (m->type == WIRE_MEMBERS) {
        serve_members(n, from, session, m);
        return;
    }
    if ((m->mask & WIRE_SEQ) != 0 && m->seq != seg_generation(n->seg)) {
        wire_msg r = {.status = WIRE_STALE, .id = m->id, .mask = WIRE_SEQ,
                      .seq = seg_generation(n->seg)};
        node_answer(n, from, session, &r);
        return;
    }
    if (serve_changes(m->type) && serve_repeated(n, from, session, m)) {
        return;
    }
    if (!node_serves(n)) {
        serve_refuse(n, from, session, m, SEG_NOT_SERVING);
        return;
    }
    wire_msg r = {.id = m->id};
    uint32_t i;
    switch (m->type) {
    case WIRE_READ:
        serve_read(n, from, session, m);
        break;
    case WIRE_WRITE:
    case WIRE_APPEND:
    case WIRE_SWAP:
    case WIRE_ADD:
        serve_write(n, from, session, m);
        break;
    case WIRE_DELETE:
        serve_delete(n, from, session, m);
        break;
    case WIRE_CREATE:
        serve_create(n, from, session, m);
        break;
    case WIRE_LOOKUP:
        serve_lookup(n, from, session, m);
        break;
    case WIRE_SCAN:
        serve_scan(n, from, session, m);
        break;
    case WIRE_POLL:
        serve_poll(n, from, session, m);
        break;
    case WIRE_RAISE: {
        if (m->fence_len == 0) {
            serve_refuse(n, from, session, m, SEG_INVALID);
            break;
        }
        wire_msg op = {.sub = WIRE_OP_FENCE, .mask = WIRE_FENCE_NAME | WIRE_GRANT_EPOCH,
                       .fence = m->fence, .fence_len = m->fence_len, .grant_epoch = m->grant_epoch};
        (void)propose(n, from, session, m, &op);
        break;
    }
    case WIRE_FENCE: {
        uint32_t fence = 0;
        r.mask = WIRE_GRANT_EPOCH;
        if (seg_fence(n->seg, m->fence, m->fence_len, false, &fence) == SEG_OK) {
            r.grant_epoch = seg_fence_epoch(n->seg, fence);
        }
        serve_answer(n, from, session, m->type, &r);
        break;
    }
    case WIRE_MOVE:
        serve_move(n, from, session, m);
        break;
    case WIRE_ENSURE:
        serve_ensure(n, from, session, m);
        break;
    case WIRE_TELL:
    case WIRE_ANNOUNCE:
        /* A relayed one is one of many senders': their order is kept at the inbox. */
        if ((m->flags & WIRE_ANY) == 0 && serve_overtaken(n, session, m)) {
            serve_refuse(n, from, session, m, WIRE_IN_DOUBT);
            break;
        }
    /* fall through */
    case WIRE_INBOX:
        i = serve_hold(n, from, session, m);
        if (i == 0) {
            serve_refuse(n, from, session, m, WIRE_LATER);
        } else {
            mail_request(n, i, m);
        }
        break;
    default:
        serve_refuse(n, from, session, m, WIRE_BAD);
    }
}

/* ---- expiry: the master deletes what is overdue ---- */

void serve_expiry_done(node *n, const struct proposal *p, uint8_t status)
{
    wire_msg m;
    if (status != WIRE_OK && wire_decode(p->bytes, p->len, &m)) {
        unfreeze(n, m.key, m.key_len, m.auth);
    } else {
        n->stats.expired++;
    }
}

static void expire(node *n)
{
    for (uint32_t i = 0; i < NODE_WALK_MAX; i++) {
        seg_handle h;
        seg_facts f;
        uint8_t key[SEG_KEY_BYTES_MAX];
        size_t len;
        if (seg_overdue(n->seg, n->now, &n->expire_cursor, &h) != SEG_OK) {
            n->expire_cursor = 0;
            n->expire_at = n->now + NODE_EXPIRE_NS;
            return;
        }
        if (seg_facts_read(n->seg, &h, &f) != SEG_OK || f.home.master != n->self || f.away ||
            move_busy(n, h.item) || seg_freeze(n->seg, &h) != SEG_OK) {
            continue;
        }
        wire_msg op = {.sub = WIRE_OP_DELETE, .mask = WIRE_KEY | WIRE_AUTH, .key = key,
                       .auth = h.auth};
        bool overdue = seg_facts_read(n->seg, &h, &f) == SEG_OK && f.deadline_ns != 0 &&
                       f.deadline_ns <= n->now && seg_key(n->seg, &h, key, &len) == SEG_OK;
        op.key_len = overdue ? len : 0;
        if (!overdue || map_propose(n, &op, FOR_EXPIRY, 0) == 0) {
            (void)seg_thaw(n->seg, &h, 0);
        }
    }
}

void serve_tick(node *n)
{
    if (map_active(n) && node_serves(n) && n->now >= n->expire_at) {
        expire(n);
    }
    if (n->i_want && n->in_view && n->now >= n->wants_at) {
        bool still = n->now - n->polled_at < NODE_INTEREST_NS;
        n->wants_at = n->now + NODE_INTEREST_NS / 10;
        n->i_want = still;
        for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
            if (s != n->self && (n->view.present & BIT(s)) != 0) {
                wire_msg m = {.type = WIRE_WANTS, .mask = WIRE_NUMBER, .number = still};
                node_say(n, s, &m, 0);
            }
        }
    }
}
