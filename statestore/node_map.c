/* The map log at every member: own proposals, operations as they arrive, what is committed.
 *
 * Knows: the order of operations. Must not know: who decides it (node_lead.c), what an operation does
 * to an item (node_apply.c), clients.
 */
#include "node_internal.h"

#define EPOCH_AT 8u /* in an encoded operation: see wire.h */
#define COMMITTED_AT 32u
#define SLOT_AT 3u

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

void map_log_clear(node *n)
{
    while (n->log_first <= n->applied) {
        log_drop(n);
    }
}

/* The operation that was just applied; bytes become the log's. */
void map_log(node *n, uint64_t seq, uint8_t *bytes, size_t len)
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

size_t map_send_op(node *n, uint8_t to, uint64_t seq)
{
    struct op_bytes *op = &n->log[seq % NODE_LOG_OPS_MAX];
    stamp(n, op);
    op->bytes[SLOT_AT] = n->view.leader; /* whoever passes it on */
    node_say_bytes(n, to, op->bytes, op->len, seq << 3 | 5);
    return op->len;
}

/* ---- own proposals ---- */

void map_propose_again(node *n, uint32_t i)
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
    map_propose_again(n, i);
    return i;
}

void map_proposal_end(node *n, uint32_t i, uint8_t status, uint64_t number)
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
    case FOR_INBOX_CLOSE:
        mail_closed(n, &was, status);
        break;
    default:
        break;
    }
    free(was.bytes);
}

uint64_t map_auth(const node *n, uint64_t seq)
{
    const struct op_bytes *op = &n->log[seq % NODE_LOG_OPS_MAX];
    wire_msg m;
    return op->seq == seq && op->bytes != NULL && wire_decode(op->bytes, op->len, &m) ? m.auth : 0;
}

bool map_withdraw(node *n, uint32_t i)
{
    struct proposal *p = &n->proposal[i];
    if (i == 0 || !p->live || p->seq != 0) {
        return false;
    }
    table_remove(&n->proposal_by_id, p->id);
    free(p->bytes);
    *p = (struct proposal){0};
    pool_give(&n->proposals, i);
    return true;
}

void map_proposal_applied(node *n, uint64_t id, uint64_t seq)
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
        map_proposal_end(n, i, WIRE_OK, n->proposal[i].seq);
    }
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
            p->tries++;
            p->next_send = n->now + node_patience(n, n->view.leader, p->tries);
            node_say_bytes(n, n->view.leader, p->bytes, p->len, p->id << 3 | 6);
            continue;
        }
        wire_msg m;
        if (!n->opened) {
            map_propose_again(n, i);
            return;
        }
        if (wire_decode(p->bytes, p->len, &m)) {
            lead_consider(n, &m, n->self, p->id);
        }
    }
}

/* ---- what arrives ---- */

void map_stuck(node *n)
{
    n->stuck_at = n->stuck ? n->stuck_at : n->now;
    n->stuck = true;
}

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
        map_stuck(n); /* the leader repeats it, and in the end evicts us */
        return;
    }
    n->stuck = false;
    wire_msg keep = *m;
    keep.mask |= NODE_OP_MASK;
    size_t size = wire_size(&keep);
    uint8_t *bytes = malloc(size);
    if (bytes != NULL) {
        (void)wire_encode(&keep, bytes, size);
        map_log(n, m->seq, bytes, size);
    } else {
        map_log_clear(n);
        n->applied = m->seq;
        n->log_first = m->seq + 1;
        seg_applied(n->seg, m->seq);
    }
    if (m->item == n->self) {
        map_proposal_applied(n, m->id, m->seq);
    }
    if (m->committed > n->committed && m->slot == n->view.leader) {
        n->committed = m->committed < n->applied ? m->committed : n->applied;
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
            apply_rejoin(n);
            n->thaw_at = n->now + n->c.promote_delay_ns;
            n->thaw_seq = n->applied;
            n->walk_repair = n->repair_again = true; /* what was under way is forgotten */
            n->repair_cursor = 0;
            /* The process before may have said that it leaves. */
            wire_msg stay = {.sub = WIRE_OP_LEAVE, .mask = WIRE_NUMBER | WIRE_VERSION,
                             .number = n->self, .version = 1};
            (void)map_propose(n, &stay, FOR_LEAVE, 0);
        }
    }
    if (m->seq > n->applied && n->now >= n->lag_at) {
        n->lag_at = n->now + n->c.resend_ns / 4; /* else BEAT and answer would chase each other */
        n->owe_ack = true; /* something was lost: say where we are */
    }
}

static void take_fetch(node *n, const wire_msg *m)
{
    size_t bytes = 0;
    if (m->slot != n->view.leader) {
        return;
    }
    uint8_t to = (m->mask & WIRE_NUMBER) != 0 ? m->number & 15 : m->slot;
    for (uint64_t seq = m->seq; seq >= n->log_first && seq <= n->applied && bytes < NODE_BURST_BYTES; seq++) {
        bytes += map_send_op(n, to, seq);
    }
}

void map_receive(node *n, const wire_msg *m)
{
    switch (m->type) {
    case WIRE_PROPOSE:
        lead_proposal(n, m);
        break;
    case WIRE_REFUSED: {
        uint32_t i;
        bool known = (m->mask & WIRE_SEQ) == 0 || n->applied >= m->seq; /* else it may be in what we lack */
        if (m->slot == n->view.leader && known && table_get(&n->proposal_by_id, m->id, &i) &&
            n->proposal[i].seq == 0) {
            map_proposal_end(n, i, m->status, m->grant_epoch);
        }
        break;
    }
    case WIRE_OP:
        take_op(n, m);
        break;
    case WIRE_OPACK:
        lead_ack(n, m);
        break;
    case WIRE_BEAT:
        take_beat(n, m);
        break;
    case WIRE_STATE:
        lead_state(n, m);
        break;
    case WIRE_FETCH:
        take_fetch(n, m);
        break;
    case WIRE_SNAP:
    case WIRE_SNAPEND:
        snap_take(n, m);
        break;
    case WIRE_SNAPACK:
        snap_acked(n, m);
        break;
    default:
        n->stats.refused++;
    }
}

/* ---- time ---- */

/* What is not in the log goes to the leader, who may be another one. */
static void propose_all_again(node *n)
{
    n->propose_at = 0;
    for (uint32_t i = 1; i <= n->proposals.used; i++) {
        if (n->proposal[i].live) {
            n->proposal[i].next_send = 0;
            n->proposal[i].tries = 0;
        }
    }
}

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
    n->left = n->closed = false; /* that was of the last view's items */
    propose_all_again(n);
    n->i_want = false;
    for (uint8_t s = 0; n->leading && s < SEG_SLOTS_MAX; s++) {
        const struct early_state *e = &n->early[s];
        if (s != n->self && (n->view.present & BIT(s)) != 0 && e->epoch == n->view.epoch) {
            wire_msg m = {.type = WIRE_STATE, .slot = s, .seq = e->seq, .id = e->id,
                          .number = e->complete};
            lead_state(n, &m);
        }
    }
}

/* What the member in that slot was sent is lost. */
void map_again(node *n, uint8_t slot)
{
    n->peer[slot].resend_at = n->peer[slot].snap_at = n->now;
    n->peer[slot].repeats = 0;
    if (slot != n->view.leader) {
        return;
    }
    n->state_at = n->now;
    propose_all_again(n);
}

void map_tick(node *n)
{
    if (n->leading) {
        lead_tick(n);
    } else if (n->viewed != n->view.epoch || !n->complete || (n->restarted && !n->rejoined)) {
        if (n->now >= n->state_at) {
            n->state_at = n->now + n->c.resend_ns;
            if (!n->complete && n->stuck && n->now - n->stuck_at > NODE_STUCK_REST_NS) {
                /* What took our room may be gone from the map: who is another process gets a new snapshot. */
                n->floor = n->next_id++;
                n->stuck_at = n->now;
            }
            node_silence(n, n->view.leader);
            wire_msg m = {.type = WIRE_STATE, .mask = WIRE_SEQ | WIRE_NUMBER | WIRE_ID,
                          .seq = n->complete || n->snapped ? n->applied : 0,
                          .number = n->complete, .id = n->floor};
            node_say(n, n->view.leader, &m, 0);
        }
    }
    if (n->now >= n->propose_at && map_active(n)) {
        bool waiting = n->committed < n->applied; /* a lost BEAT must not leave us behind */
        n->propose_at = n->now + n->c.resend_ns / 4;
        for (uint32_t i = 1; i <= n->proposals.used && n->proposal_by_id.used > 0; i++) {
            struct proposal *p = &n->proposal[i];
            if (!p->live) {
                continue;
            }
            if (p->seq == 0 && p->next_send <= n->now) {
                p->next_send = n->now + n->c.resend_ns;
                map_propose_again(n, i);
            }
        }
        if (waiting && !n->leading) {
            n->owe_ack = true;
        }
    }
}

void map_flush(node *n)
{
    send_outbox(n);
    if (n->leading && n->opened) {
        lead_flush(n);
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
