/* The map log: proposals, sequencing, views, snapshots for those who join.
 *
 * Knows: the order of operations, who has which of them. Must not know: what an operation does to an
 * item (node_apply.c), clients.
 *
 * One leader per view gives out sequence numbers; it applies an operation in the same breath, so its own map is the
 * earliest. A new leader first has everything that any complete member has, then sequences VIEW: what
 * only the evicted knew is gone, and nobody was told that it was done.
 */
#include "node_internal.h"

#define FETCHES_MAX 10u
#define RESEND_OPS_MAX 64u
#define BURST_BYTES (256u << 10)
#define EPOCH_AT 8u      /* in an encoded operation: see wire.h */
#define COMMITTED_AT 32u
#define SLOT_AT 3u
#define OP_MASK (WIRE_EPOCH | WIRE_ID | WIRE_SEQ | WIRE_COMMITTED | WIRE_ITEM | WIRE_SUB)

bool map_active(const node *n) { return n->phase == NODE_ACTIVE && !n->stuck; }

/* ---- the log ---- */

static void log_drop(node *n)
{
    struct op_bytes *op = &n->log[n->log_first % NODE_LOG_OPS_MAX];
    n->log_bytes -= op->len;
    free(op->bytes);
    *op = (struct op_bytes){0};
    n->log_first++;
}

static void log_clear(node *n)
{
    while (n->log_first <= n->applied) {
        log_drop(n);
    }
}

/* The operation that was just applied; bytes become the log's. */
static void log_put(node *n, uint64_t seq, uint8_t *bytes, size_t len)
{
    while (n->log_first < seq &&
           (seq - n->log_first >= NODE_LOG_OPS_MAX || n->log_bytes + len > NODE_LOG_BYTES_MAX)) {
        log_drop(n);
    }
    n->log[seq % NODE_LOG_OPS_MAX] = (struct op_bytes){seq, (uint32_t)len, bytes};
    n->log_bytes += len;
    n->applied = seq;
    seg_applied(n->seg, seq);
}

static void stamp(const node *n, struct op_bytes *op)
{
    op->bytes[SLOT_AT] = n->self;
    memcpy(op->bytes + EPOCH_AT, &n->view.epoch, 8);
    memcpy(op->bytes + COMMITTED_AT, &n->committed, 8);
}

static size_t send_op(node *n, uint8_t to, uint64_t seq)
{
    struct op_bytes *op = &n->log[seq % NODE_LOG_OPS_MAX];
    stamp(n, op);
    node_say_bytes(n, to, op->bytes, op->len, seq << 3 | 5);
    return op->len;
}

static void pump(node *n, uint8_t to, uint32_t ops_max)
{
    struct peer *p = &n->peer[to];
    size_t bytes = 0;
    if (to == n->self || (n->view.present & BIT(to)) == 0 || !p->stated ||
        (!p->state_complete && !p->snap_done)) {
        return;
    }
    if (p->sent < p->acked) {
        p->sent = p->acked;
    }
    if (p->sent == p->acked) {
        p->resend_at = n->now + n->c.resend_ns;
    }
    for (uint32_t ops = 0; ops < ops_max && p->sent < n->applied && bytes < BURST_BYTES &&
                           p->sent - p->acked < NODE_WINDOW_OPS;
         ops++) {
        if (p->sent + 1 < n->log_first) {
            n->unwanted |= BIT(to); /* it lags more than the log is long */
            return;
        }
        bytes += send_op(n, to, ++p->sent);
    }
}

/* ---- own proposals ---- */

static void propose_again(node *n, uint32_t i)
{
    if (n->outbox_count < NODE_PROPOSALS_MAX) {
        n->outbox[(n->outbox_head + n->outbox_count++) % NODE_PROPOSALS_MAX] = i;
    }
}

uint32_t map_propose(node *n, wire_msg *m, enum proposal_kind kind, uint32_t ref)
{
    uint32_t i = pool_take(&n->proposals);
    if (i == 0) {
        return 0;
    }
    struct proposal *p = &n->proposal[i];
    uint64_t id = n->next_id++;
    m->type = WIRE_PROPOSE;
    m->mask |= WIRE_EPOCH | WIRE_ID | WIRE_SUB;
    m->id = id;
    m->slot = n->self;
    size_t size = wire_size(m);
    uint8_t *bytes = malloc(size);
    if (bytes == NULL || wire_encode(m, bytes, size) != size ||
        !table_put(&n->proposal_by_id, id, i)) {
        free(bytes);
        pool_give(&n->proposals, i);
        return 0;
    }
    *p = (struct proposal){.id = id, .bytes = bytes, .len = (uint32_t)size, .kind = (uint8_t)kind,
                           .ref = ref, .live = true};
    propose_again(n, i);
    return i;
}

static void proposal_end(node *n, uint32_t i, uint8_t status, uint64_t number)
{
    struct proposal *p = &n->proposal[i];
    struct proposal was = *p;
    table_remove(&n->proposal_by_id, was.id);
    p->live = false;
    p->bytes = NULL;
    pool_give(&n->proposals, i);
    switch (was.kind) {
    case FOR_REQUEST:
        serve_proposed(n, was.ref, status, number);
        break;
    case FOR_MOVE:
        move_placed(n, was.ref, status);
        break;
    case FOR_EXPIRY:
        serve_expiry_done(n, &was, status);
        break;
    default:
        break;
    }
    free(was.bytes);
}

void map_withdraw(node *n, uint32_t i)
{
    struct proposal *p = &n->proposal[i];
    if (p->live && p->seq == 0) {
        table_remove(&n->proposal_by_id, p->id);
        free(p->bytes);
        *p = (struct proposal){0};
        pool_give(&n->proposals, i);
    }
}

static void proposal_applied(node *n, uint64_t id, uint64_t seq)
{
    uint32_t i;
    if (table_get(&n->proposal_by_id, id, &i) && n->proposal[i].seq == 0) {
        n->proposal[i].seq = seq;
        n->ready[(n->ready_head + n->ready_count++) % NODE_PROPOSALS_MAX] = i;
    }
}

static void complete_ready(node *n)
{
    while (n->ready_count > 0) {
        uint32_t i = n->ready[n->ready_head];
        if (n->proposal[i].seq > n->committed) {
            return;
        }
        n->ready_head = (n->ready_head + 1) % NODE_PROPOSALS_MAX;
        n->ready_count--;
        proposal_end(n, i, WIRE_OK, n->proposal[i].seq);
    }
}

/* ---- the leader ---- */

static void refuse(node *n, uint8_t origin, uint64_t id, uint8_t status, uint64_t number)
{
    if (origin == n->self) {
        uint32_t i;
        if (table_get(&n->proposal_by_id, id, &i)) {
            proposal_end(n, i, status, number);
        }
        return;
    }
    n->refusal[n->refusal_at++ % NODE_REFUSALS_MAX] = (struct refusal){id, origin, status, number};
    wire_msg m = {.type = WIRE_REFUSED, .status = status, .mask = WIRE_ID | WIRE_GRANT_EPOCH, .id = id,
                  .grant_epoch = number};
    node_say(n, origin, &m, 0);
}

/* Give an operation its place and apply it. Not WIRE_OK: it was not sequenced. */
static uint8_t sequence(node *n, wire_msg *m, uint8_t origin, uint64_t id)
{
    m->type = WIRE_OP;
    m->flags &= (uint8_t)~WIRE_SYNC;
    m->mask |= OP_MASK;
    m->epoch = n->view.epoch;
    m->id = id;
    m->seq = n->applied + 1;
    m->committed = n->committed;
    m->item = origin;
    m->slot = n->self;
    if (m->sub == WIRE_OP_CREATE) {
        m->mask |= WIRE_AUTH;
        m->auth = m->seq;
    }
    size_t size = wire_size(m);
    uint8_t *bytes = malloc(size);
    if (bytes == NULL || wire_encode(m, bytes, size) != size) {
        free(bytes);
        return SEG_FULL;
    }
    if (!apply_op(n, m)) {
        free(bytes);
        return SEG_FULL;
    }
    log_put(n, m->seq, bytes, size);
    if (origin == n->self) {
        proposal_applied(n, id, m->seq);
    }
    n->owe_pump = true;
    return WIRE_OK;
}

/* Copies besides the master's, spread over the members. */
static uint16_t choose_replicas(const node *n, uint8_t master, uint8_t want, uint64_t spread)
{
    uint16_t chosen = 0;
    for (uint32_t i = 0; i < SEG_SLOTS_MAX && want > 0; i++) {
        uint8_t slot = (uint8_t)((spread + i) % SEG_SLOTS_MAX);
        if (slot != master && (n->completes & n->view.present & BIT(slot)) != 0) {
            chosen |= BIT(slot);
            want--;
        }
    }
    return chosen;
}

/* May this operation be sequenced? Fills in what only the leader decides. */
static uint8_t judge(node *n, wire_msg *m, uint64_t *number)
{
    seg_handle h;
    seg_facts f;
    seg_status status = SEG_NOT_FOUND;
    *number = 0;
    if (m->sub == WIRE_OP_CREATE || m->sub == WIRE_OP_DELETE || m->sub == WIRE_OP_PLACE) {
        status = seg_lookup(n->seg, m->key, m->key_len, &h);
        if (status == SEG_OK) {
            status = seg_facts_read(n->seg, &h, &f);
        }
    }
    uint32_t grant = 0;
    if ((m->sub == WIRE_OP_CREATE || m->sub == WIRE_OP_DELETE) && (m->mask & WIRE_FENCE_NAME) != 0 &&
        seg_fence(n->seg, m->fence, m->fence_len, false, &grant) == SEG_OK) {
        *number = seg_fence_epoch(n->seg, grant);
        if (*number > m->grant_epoch) {
            return SEG_FENCED;
        }
    }
    switch (m->sub) {
    case WIRE_OP_CREATE:
        if (status != SEG_NOT_FOUND) {
            return status == SEG_OK ? SEG_EXISTS : (uint8_t)status;
        }
        if (m->home.master >= SEG_SLOTS_MAX || (n->completes & BIT(m->home.master)) == 0) {
            return WIRE_LATER;
        }
        m->home.learners = 0;
        m->home.replicas = choose_replicas(n, m->home.master, m->home.want, n->applied);
        return WIRE_OK;
    case WIRE_OP_DELETE:
        return status == SEG_OK && f.auth == m->auth ? WIRE_OK : WIRE_MISS;
    case WIRE_OP_PLACE:
        if (status != SEG_OK || f.auth != m->auth || f.home.master != m->number ||
            m->home.master >= SEG_SLOTS_MAX || (n->completes & BIT(m->home.master)) == 0) {
            return WIRE_MISS;
        }
        m->home.replicas &= n->completes & (uint16_t)~BIT(m->home.master);
        m->home.learners = 0;
        return WIRE_OK;
    case WIRE_OP_FENCE: {
        uint32_t fence = 0;
        if (m->fence_len > SEG_FENCE_NAME_BYTES_MAX) {
            return WIRE_BAD;
        }
        if (seg_fence(n->seg, m->fence, m->fence_len, false, &fence) == SEG_OK) {
            *number = seg_fence_epoch(n->seg, fence);
        }
        return *number > m->grant_epoch ? SEG_FENCED : WIRE_OK;
    }
    case WIRE_OP_INBOX: {
        const struct inbox *b = inbox_find(n, m->key, m->key_len);
        if (m->number == 0) {
            if (b == NULL && n->inboxes == NODE_INBOXES_MAX) {
                return SEG_FULL;
            }
            return b != NULL && b->slot != m->home.master ? SEG_EXISTS : WIRE_OK;
        }
        return b != NULL && b->slot == m->home.master ? WIRE_OK : WIRE_MISS;
    }
    default:
        return WIRE_BAD;
    }
}

static void consider(node *n, wire_msg *m, uint8_t origin, uint64_t id)
{
    uint64_t number;
    uint8_t status = judge(n, m, &number);
    if (status == WIRE_OK) {
        status = sequence(n, m, origin, id);
    }
    if (status != WIRE_OK) {
        refuse(n, origin, id, status, number);
    }
}

static bool seen_before(struct peer *p, uint64_t id)
{
    if (id > p->seen_high) {
        uint64_t from = p->seen_high + 1;
        if (id - p->seen_high >= NODE_SEEN_BITS) {
            from = id - NODE_SEEN_BITS + 1;
        }
        for (uint64_t i = from; i <= id; i++) {
            p->seen[i % NODE_SEEN_BITS / 64] &= ~(1ull << (i % 64));
        }
        p->seen_high = id;
    } else if (p->seen_high - id >= NODE_SEEN_BITS) {
        return true;
    }
    uint64_t *word = &p->seen[id % NODE_SEEN_BITS / 64];
    uint64_t bit = 1ull << (id % 64);
    bool seen = (*word & bit) != 0;
    *word |= bit;
    return seen;
}

static void take_proposal(node *n, const wire_msg *m)
{
    struct peer *p = &n->peer[m->slot];
    if (!n->leading || !n->opened || m->id < p->floor) {
        return;
    }
    if (seen_before(p, m->id)) {
        for (uint32_t i = 0; i < NODE_REFUSALS_MAX; i++) {
            const struct refusal *r = &n->refusal[i];
            if (r->id == m->id && r->slot == m->slot) {
                wire_msg again = {.type = WIRE_REFUSED, .status = r->status,
                                  .mask = WIRE_ID | WIRE_GRANT_EPOCH, .id = r->id,
                                  .grant_epoch = r->grant_epoch};
                node_say(n, m->slot, &again, 0);
                return;
            }
        }
        n->owe_beat |= BIT(m->slot);
        return;
    }
    wire_msg op = *m;
    consider(n, &op, m->slot, m->id);
}

static void send_outbox(node *n)
{
    while (n->outbox_count > 0 && map_active(n)) {
        uint32_t i = n->outbox[n->outbox_head];
        n->outbox_head = (n->outbox_head + 1) % NODE_PROPOSALS_MAX;
        n->outbox_count--;
        struct proposal *p = &n->proposal[i];
        if (!p->live || p->seq != 0) {
            continue;
        }
        if (!n->leading) {
            p->bytes[SLOT_AT] = n->self;
            memcpy(p->bytes + EPOCH_AT, &n->view.epoch, 8);
            p->next_send = n->now + n->c.resend_ns;
            node_say_bytes(n, n->view.leader, p->bytes, p->len, p->id << 3 | 6);
            continue;
        }
        wire_msg m;
        if (!n->opened) {
            propose_again(n, i);
            return;
        }
        if (wire_decode(p->bytes, p->len, &m)) {
            consider(n, &m, n->self, p->id);
        }
    }
}

/* The leader has everything: begin the epoch. */
static void open_epoch(node *n)
{
    uint16_t complete = BIT(n->self);
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((n->view.present & BIT(s)) != 0 && s != n->self && n->peer[s].state_complete) {
            complete |= BIT(s);
        }
    }
    /* Who left in good order is known only if no view was skipped here. */
    uint16_t left = n->viewed + 1 == n->view.epoch ? n->view.left & (uint16_t)~complete : 0;
    uint16_t unclean = n->completes & (uint16_t) ~(complete | left);
    wire_msg m = {.sub = WIRE_OP_VIEW, .mask = WIRE_AUTH | WIRE_NUMBER | WIRE_VERSION | WIRE_GRANT_EPOCH,
                  .auth = n->view.epoch, .number = (uint16_t)~complete, .version = left,
                  .grant_epoch = complete};
    n->opened = sequence(n, &m, NOBODY, 0) == WIRE_OK;
    n->view_seq = n->applied;
    n->commit_hold = 0;
    if (unclean != 0) {
        n->commit_hold = n->view_at + n->c.promote_delay_ns;
    }
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        struct peer *p = &n->peer[s];
        p->acked = p->sent = p->state_applied;
        p->ack_at = n->now;
    }
}

static void lead(node *n)
{
    uint64_t best = n->applied;
    uint8_t from = n->self;
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        const struct peer *p = &n->peer[s];
        if ((n->view.present & BIT(s)) == 0 || s == n->self) {
            continue;
        }
        if (!p->stated) {
            return; /* evicted in the next view if it never speaks */
        }
        if (p->state_complete && p->state_applied > best) {
            best = p->state_applied;
            from = s;
        }
    }
    if (from == n->self) {
        open_epoch(n);
        return;
    }
    if (n->now < n->fetch_at) {
        return;
    }
    if (n->fetches++ >= FETCHES_MAX) {
        /* It cannot give what only it has (restarted since): then nobody has it. */
        n->peer[from].state_complete = false;
        n->unwanted |= BIT(from);
        n->fetches = 0;
        return;
    }
    n->fetch_at = n->now + n->c.resend_ns;
    wire_msg m = {.type = WIRE_FETCH, .mask = WIRE_SEQ, .seq = n->applied + 1};
    node_say(n, from, &m, 0);
}

/* ---- snapshots ---- */

static void snap_send(node *n, uint8_t to)
{
    static const uint8_t kinds = 3;
    struct peer *p = &n->peer[to];
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len = 0;
    p->snap_at = n->now + n->c.resend_ns;
    uint8_t *out = n->scratch;
    uint64_t cursor = p->snap_cursor;
    if (p->snap_kind == kinds) {
        wire_msg end = {.type = WIRE_SNAPEND, .flags = p->snap_chunk == p->snap_first ? WIRE_FIRST : 0,
                        .mask = WIRE_SEQ | WIRE_NUMBER, .seq = p->snap_base,
                        .number = p->snap_chunk};
        node_say(n, to, &end, 0);
        return;
    }
    while (len + 512 < NODE_SNAP_BYTES) {
        seg_handle h;
        seg_facts f;
        size_t key_len = 0;
        uint64_t was = cursor;
        if (p->snap_kind == 0) {
            if (seg_walk(n->seg, &cursor, &h, &f) != SEG_OK) {
                break;
            }
            if (seg_key(n->seg, &h, key, &key_len) != SEG_OK) {
                continue;
            }
            f.home.learners = 0;
            len += wire_put_entry(out + len, NODE_SNAP_BYTES - len, f.auth, &f.home, key, key_len);
        } else if (p->snap_kind == 1) {
            uint64_t epoch;
            if (seg_fence_walk(n->seg, &cursor, key, &key_len, &epoch) != SEG_OK) {
                break;
            }
            seg_home none = {0};
            len += wire_put_entry(out + len, NODE_SNAP_BYTES - len, epoch, &none, key, key_len);
        } else {
            if (cursor >= n->inboxes) {
                break;
            }
            const struct inbox *b = &n->inbox[cursor++];
            seg_home home = {.master = b->slot};
            if (b->live) {
                len += wire_put_entry(out + len, NODE_SNAP_BYTES - len, 0, &home, b->name, b->name_len);
            }
        }
        if (cursor - was > NODE_WALK_MAX) {
            break;
        }
    }
    p->snap_next_cursor = cursor;
    wire_msg m = {.type = WIRE_SNAP, .sub = p->snap_kind, .flags = p->snap_chunk == p->snap_first ? WIRE_FIRST : 0,
                  .mask = WIRE_NUMBER | WIRE_SUB | WIRE_VALUE,
                  .number = p->snap_chunk, .value = out, .value_len = len};
    if (len == 0) { /* the end of this kind */
        p->snap_kind++;
        p->snap_cursor = 0;
        snap_send(n, to);
        return;
    }
    node_say(n, to, &m, p->snap_chunk << 3 | 7);
}

static void snap_begin(node *n, uint8_t to)
{
    struct peer *p = &n->peer[to];
    p->snapping = true;
    p->snap_done = false;
    p->snap_kind = 0;
    p->snap_cursor = 0;
    p->snap_chunk++; /* never the number of an earlier piece of this epoch */
    p->snap_first = p->snap_chunk;
    p->snap_base = n->applied;
    snap_send(n, to);
}

static void snap_acked(node *n, const wire_msg *m)
{
    struct peer *p = &n->peer[m->slot];
    if (!p->snapping || m->number != p->snap_chunk) {
        return;
    }
    if (p->snap_kind == 3) {
        p->snapping = false;
        p->snap_done = true;
        p->acked = p->sent = p->snap_base;
        p->ack_at = n->now;
        n->owe_pump = true;
        return;
    }
    p->snap_chunk++;
    p->snap_cursor = p->snap_next_cursor;
    snap_send(n, m->slot);
}

/* ---- what arrives ---- */

static void take_op(node *n, const wire_msg *m)
{
    bool fetched = n->leading && !n->opened;
    if ((m->slot != n->view.leader && !fetched) || (!n->complete && !n->snapped)) {
        return;
    }
    if (m->committed > n->committed && m->slot == n->view.leader) {
        n->committed = m->committed < n->applied ? m->committed : n->applied;
    }
    n->owe_ack = !fetched;
    if (m->seq != n->applied + 1) {
        return;
    }
    if (!apply_op(n, m)) {
        n->stuck = true; /* no room here: the leader repeats it, and in the end evicts us */
        return;
    }
    n->stuck = false;
    wire_msg keep = *m;
    keep.mask |= OP_MASK;
    size_t size = wire_size(&keep);
    uint8_t *bytes = malloc(size);
    if (bytes != NULL) {
        (void)wire_encode(&keep, bytes, size);
        log_put(n, m->seq, bytes, size);
    } else {
        log_clear(n);
        n->applied = m->seq;
        n->log_first = m->seq + 1;
        seg_applied(n->seg, m->seq);
    }
    if (m->item == n->self) {
        proposal_applied(n, m->id, m->seq);
    }
    if (m->committed > n->committed && m->slot == n->view.leader) {
        n->committed = m->committed < n->applied ? m->committed : n->applied;
    }
}

static void take_ack(node *n, const wire_msg *m)
{
    struct peer *p = &n->peer[m->slot];
    if (!n->leading || !n->opened || !p->stated || (!p->state_complete && !p->snap_done)) {
        return;
    }
    if (m->seq > p->acked && m->seq <= n->applied) {
        p->acked = m->seq;
        p->ack_at = n->now;
        p->resend_at = n->now + n->c.resend_ns;
    }
    n->owe_pump = true;
    n->owe_beat |= BIT(m->slot);
    if (p->snap_done && (n->completes & BIT(m->slot)) == 0 && p->acked == n->applied) {
        wire_msg op = {.sub = WIRE_OP_MEMBER, .mask = WIRE_NUMBER | WIRE_VERSION, .number = m->slot,
                       .version = n->completes | BIT(m->slot)};
        (void)sequence(n, &op, NOBODY, 0);
    }
}

static void take_state(node *n, const wire_msg *m)
{
    struct peer *p = &n->peer[m->slot];
    if (!n->leading) {
        return;
    }
    if (m->id > p->floor) {
        p->floor = m->id;
    }
    bool complete = m->number != 0;
    if (n->opened && p->stated) {
        if (complete && m->seq < p->acked) {
            p->acked = p->sent = m->seq; /* restarted, its last steps were lost */
        }
        if (!complete && !p->snapping && (p->state_complete || !p->snap_done || m->seq == 0)) {
            snap_begin(n, m->slot);
            p->state_complete = false;
        } else if (!complete && p->snap_done) {
            take_ack(n, m); /* it has the snapshot, and asks what is still missing */
        }
        n->owe_beat |= BIT(m->slot);
        n->owe_pump = true;
        return;
    }
    p->stated = true;
    p->state_complete = complete;
    p->state_applied = m->seq;
    p->acked = p->sent = m->seq;
    p->ack_at = n->now;
    if (n->opened && !complete) {
        snap_begin(n, m->slot);
    }
}

static void take_beat(node *n, const wire_msg *m)
{
    if (m->slot != n->view.leader) {
        return;
    }
    if (m->committed > n->committed) {
        n->committed = m->committed < n->applied ? m->committed : n->applied;
    }
    if (n->complete && n->applied >= m->seq && m->auth != 0 && n->applied >= m->auth) {
        if (n->viewed != n->view.epoch) {
            n->viewed = n->view.epoch; /* applied before we were restarted */
            n->completes = (uint16_t)m->number;
            n->phase = NODE_ACTIVE;
        }
        if (n->restarted && !n->rejoined) {
            n->rejoined = true;
            n->thaw_at = n->now + n->c.promote_delay_ns;
            n->thaw_seq = n->applied;
        }
    }
    if (m->seq > n->applied) {
        n->owe_ack = true; /* something was lost: say where we are */
    }
}

static void take_fetch(node *n, const wire_msg *m)
{
    size_t bytes = 0;
    if (m->slot != n->view.leader) {
        return;
    }
    for (uint64_t seq = m->seq; seq >= n->log_first && seq <= n->applied && bytes < BURST_BYTES; seq++) {
        bytes += send_op(n, m->slot, seq);
    }
}

/* A joiner takes pieces in order; the first one of a snapshot ends what was there before. */
static void take_snap(node *n, const wire_msg *m)
{
    if (m->slot != n->view.leader || n->complete) {
        return;
    }
    if ((m->flags & WIRE_FIRST) != 0 && m->number >= n->snap_next) {
        apply_wipe(n);
        n->snap_next = m->number;
        n->snapped = false;
    }
    if (m->number == n->snap_next) {
        n->snap_next++;
        if (m->type == WIRE_SNAP) {
            apply_snap(n, m);
        } else {
            n->snapped = true;
            log_clear(n);
            n->applied = m->seq;
            n->log_first = m->seq + 1;
            seg_applied(n->seg, m->seq);
        }
    }
    if (m->number < n->snap_next) {
        wire_msg ack = {.type = WIRE_SNAPACK, .mask = WIRE_NUMBER, .number = m->number};
        node_say(n, m->slot, &ack, 0);
    }
}

void map_receive(node *n, const wire_msg *m)
{
    switch (m->type) {
    case WIRE_PROPOSE:
        take_proposal(n, m);
        break;
    case WIRE_REFUSED: {
        uint32_t i;
        if (m->slot == n->view.leader && table_get(&n->proposal_by_id, m->id, &i) &&
            n->proposal[i].seq == 0) {
            proposal_end(n, i, m->status, m->grant_epoch);
        }
        break;
    }
    case WIRE_OP:
        take_op(n, m);
        break;
    case WIRE_OPACK:
        take_ack(n, m);
        break;
    case WIRE_BEAT:
        take_beat(n, m);
        break;
    case WIRE_STATE:
        take_state(n, m);
        break;
    case WIRE_FETCH:
        take_fetch(n, m);
        break;
    case WIRE_SNAP:
    case WIRE_SNAPEND:
        take_snap(n, m);
        break;
    case WIRE_SNAPACK:
        snap_acked(n, m);
        break;
    default:
        n->stats.refused++;
    }
}

/* ---- time ---- */

/* A new view is known (n->view): what we were in the last one is over. */
void map_view(node *n)
{
    n->leading = n->view.leader == n->self;
    n->opened = false;
    n->view_seq = 0;
    n->fetches = 0;
    n->fetch_at = n->state_at = 0;
    n->owe_beat = 0;
    n->unwanted = 0;
    if (n->leading && !n->complete) {
        n->complete = true; /* the first of all: the registry lets none lead who is not complete */
        n->snapped = true;
    }
    if (!n->complete) {
        n->snapped = false;
        n->snap_next = 0;
    }
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        struct peer *p = &n->peer[s];
        uint64_t *seen = p->seen, heard_at = p->heard_at, suspect_at = p->suspect_at;
        memset(seen, 0, NODE_SEEN_BITS / 8);
        *p = (struct peer){.seen = seen, .heard_at = heard_at, .suspect_at = suspect_at};
    }
    if (n->leading) {
        n->peer[n->self].stated = n->peer[n->self].state_complete = true;
    }
    memset(n->refusal, 0, NODE_REFUSALS_MAX * sizeof *n->refusal);
    n->propose_at = 0; /* what is not in the log goes to the new leader */
    for (uint32_t i = 1; i <= n->proposals.used; i++) {
        if (n->proposal[i].live) {
            n->proposal[i].next_send = 0;
        }
    }
    n->i_want = false;
}

static void tick_leader(node *n)
{
    if (!n->opened) {
        lead(n);
        return;
    }
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        struct peer *p = &n->peer[s];
        if (s == n->self || (n->view.present & BIT(s)) == 0 || !p->stated) {
            continue;
        }
        if (p->snapping && n->now >= p->snap_at) {
            node_silence(n, s);
            snap_send(n, s);
        } else if (p->acked < n->applied && n->now >= p->resend_at) {
            node_silence(n, s);
            p->sent = p->acked;
            pump(n, s, RESEND_OPS_MAX);
            p->resend_at = n->now + n->c.resend_ns;
        }
    }
}

void map_tick(node *n)
{
    if (n->leading) {
        tick_leader(n);
    } else if (n->viewed != n->view.epoch || !n->complete || (n->restarted && !n->rejoined)) {
        if (n->now >= n->state_at) {
            n->state_at = n->now + n->c.resend_ns;
            node_silence(n, n->view.leader);
            wire_msg m = {.type = WIRE_STATE, .mask = WIRE_SEQ | WIRE_NUMBER | WIRE_ID,
                          .seq = n->complete || n->snapped ? n->applied : 0,
                          .number = n->complete, .id = n->floor};
            node_say(n, n->view.leader, &m, 0);
        }
    }
    if (n->now >= n->propose_at && map_active(n)) {
        bool waiting = false;
        n->propose_at = n->now + n->c.resend_ns / 4;
        for (uint32_t i = 1; i <= n->proposals.used && n->proposal_by_id.used > 0; i++) {
            struct proposal *p = &n->proposal[i];
            if (!p->live) {
                continue;
            }
            waiting |= p->seq != 0;
            if (p->seq == 0 && p->next_send <= n->now) {
                p->next_send = n->now + n->c.resend_ns;
                propose_again(n, i);
            }
        }
        if (waiting && !n->leading) {
            n->owe_ack = true; /* a lost BEAT must not leave us waiting */
        }
    }
}

void map_flush(node *n)
{
    send_outbox(n);
    if (n->leading && n->opened) {
        uint64_t low = n->applied;
        for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
            if (s != n->self && (n->completes & n->view.present & BIT(s)) != 0 &&
                n->peer[s].acked < low) {
                low = n->peer[s].acked;
            }
        }
#ifdef DAL_MUTANT_ACK_EARLY
        low = n->applied;
#endif
        if (n->now < n->commit_hold && low >= n->view_seq) {
            low = n->view_seq - 1; /* an evicted member may still serve: promise nothing yet */
        }
        if (low > n->committed) {
            n->committed = low;
            n->owe_beat |= n->view.present;
        }
        if (n->owe_pump) {
            n->owe_pump = false;
            for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
                pump(n, s, NODE_WINDOW_OPS);
            }
        }
        for (uint8_t s = 0; n->owe_beat != 0 && s < SEG_SLOTS_MAX; s++) {
            if (s != n->self && (n->owe_beat & BIT(s)) != 0) {
                wire_msg m = {.type = WIRE_BEAT,
                              .mask = WIRE_SEQ | WIRE_COMMITTED | WIRE_AUTH | WIRE_NUMBER,
                              .seq = n->applied, .committed = n->committed, .auth = n->view_seq,
                              .number = n->completes};
                node_say(n, s, &m, 0);
            }
        }
        n->owe_beat = 0;
    } else if (n->owe_ack) {
        n->owe_ack = false;
        wire_msg m = {.type = WIRE_OPACK, .mask = WIRE_SEQ, .seq = n->applied};
        node_say(n, n->view.leader, &m, 0);
    }
    apply_committed(n);
    complete_ready(n);
    if (n->outbox_count > 0) {
        send_outbox(n);
    }
}
