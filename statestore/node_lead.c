/* The leader of a view: gives operations their place, brings everybody to the same point.
 *
 * Knows: who has which operations, what may be sequenced. Must not know: what an operation does to an item
 * (node_apply.c), clients.
 *
 * It applies an operation in the breath in which it sequences it, so its own map is the earliest. A new
 * leader first has everything that any complete member has, then sequences VIEW: what only the evicted
 * knew is gone, and nobody was told that it was done.
 */
#include "node_internal.h"

#define FETCHES_MAX 10u
#define RESEND_OPS_MAX 64u

/* What it lacks is not in our log (it is long gone, or we were restarted): the others may still have it. */
static void relay(node *n, uint8_t to)
{
    struct peer *p = &n->peer[to];
    uint16_t others = n->completes & n->view.present & (uint16_t) ~(BIT(n->self) | BIT(to));
    if (n->now < p->relay_at) {
        return;
    }
    p->relay_at = n->now + n->c.resend_ns;
    if (others == 0 || p->relays++ >= FETCHES_MAX) {
        n->unwanted |= BIT(to); /* it has to join anew */
        return;
    }
    wire_msg m = {.type = WIRE_FETCH, .mask = WIRE_SEQ | WIRE_NUMBER, .seq = p->acked + 1, .number = to};
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((others & BIT(s)) != 0) {
            node_say(n, s, &m, 0);
        }
    }
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
        p->resend_at = n->now + node_patience(n, to, p->repeats + 1);
    }
    uint32_t window = p->window != 0 ? p->window : NODE_WINDOW_OPS;
    for (uint32_t ops = 0; ops < ops_max && p->sent < n->applied && bytes < NODE_BURST_BYTES &&
                           p->sent - p->acked < window;
         ops++) {
        if (p->sent + 1 < n->log_first) {
            relay(n, to);
            return;
        }
        bytes += map_send_op(n, to, ++p->sent);
    }
}

/* ---- sequencing ---- */

static void refuse(node *n, uint8_t origin, uint64_t id, uint8_t status, uint64_t number)
{
    if (origin == n->self) {
        uint32_t i;
        if (table_get(&n->proposal_by_id, id, &i)) {
            map_proposal_end(n, i, status, number);
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
    m->mask |= NODE_OP_MASK;
    m->epoch = n->view.epoch;
    m->id = id;
    m->seq = n->applied + 1;
    m->committed = n->committed;
    m->item = origin;
    m->slot = n->self;
    if (m->sub == WIRE_OP_CREATE) {
        m->mask |= WIRE_AUTH;
        m->auth = n->view.epoch << NODE_EPOCH_SHIFT | (m->seq & ((1ull << NODE_EPOCH_SHIFT) - 1));
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
    map_log(n, m->seq, bytes, size);
    if (origin == n->self) {
        map_proposal_applied(n, id, m->seq);
    }
    n->owe_pump = true;
    return WIRE_OK;
}

/* Copies besides the master's, spread over the members. */
static uint16_t choose_replicas(const node *n, uint8_t master, uint8_t want, uint64_t spread)
{
    uint16_t from = n->completes & n->view.present & (uint16_t)~(n->leavers | BIT(master));
    uint16_t chosen = 0;
    while (want > 0 && from != chosen) {
        chosen |= BIT(seg_pick(from & (uint16_t)~chosen, spread));
        want--;
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
        if (status == SEG_OK && f.legacy == SEG_LOST) {
            status = SEG_NOT_FOUND;
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
        if (m->number > SEG_VALUE_BYTES_MAX) {
            return SEG_TOO_BIG; /* no replica could apply it; our own clients are told so before */
        }
        if (status == SEG_OK) {
            /* A creation that is not committed may yet be undone: nobody is told that the key exists. */
            uint64_t created = f.auth & ((1ull << NODE_EPOCH_SHIFT) - 1);
            return created > n->committed ? WIRE_LATER : SEG_EXISTS;
        }
        if (status != SEG_NOT_FOUND) {
            return (uint8_t)status;
        }
        if (m->home.master >= SEG_SLOTS_MAX || (n->completes & (uint16_t)~n->leavers & BIT(m->home.master)) == 0) {
            return WIRE_LATER;
        }
        m->home.learners = 0;
        m->home.replicas = choose_replicas(n, m->home.master, m->home.want, n->applied);
        return WIRE_OK;
    case WIRE_OP_DELETE:
        return status == SEG_OK && f.auth == m->auth ? WIRE_OK : WIRE_MISS;
    case WIRE_OP_PLACE:
        if (status != SEG_OK || f.auth != m->auth || f.home.master != m->number ||
            m->home.master >= SEG_SLOTS_MAX || (n->completes & BIT(m->home.master)) == 0 ||
            (m->home.master != m->number && (n->leavers & BIT(m->home.master)) != 0)) {
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
        if (n->unasked != 0) {
            return WIRE_LATER; /* restarted: we do not know yet whose it is */
        }
        const struct inbox *b = inbox_find(n, m->key, m->key_len);
        if (m->number == 0) {
            if (b == NULL && n->inboxes == NODE_INBOXES_MAX) {
                return SEG_FULL;
            }
            return b != NULL && b->slot != m->home.master ? SEG_EXISTS : WIRE_OK;
        }
        return b != NULL && b->slot == m->home.master ? WIRE_OK : WIRE_MISS;
    }
    case WIRE_OP_LEAVE:
        return m->number < SEG_SLOTS_MAX ? WIRE_OK : WIRE_BAD;
    default:
        return WIRE_BAD;
    }
}

void lead_consider(node *n, wire_msg *m, uint8_t origin, uint64_t id)
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
        for (uint64_t i = from; i != id + 1; i++) {
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

void lead_proposal(node *n, const wire_msg *m)
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
        if (p->acked < n->applied) { /* it may be in what this member lacks, and an older engine takes our word for the end */
            n->owe_beat |= BIT(m->slot);
            return;
        }
        /* Sequenced, and then no later than this; or refused, too many refusals ago. */
        wire_msg done = {.type = WIRE_REFUSED, .status = WIRE_LATER, .mask = WIRE_ID | WIRE_SEQ, .id = m->id,
                         .seq = n->applied};
        node_say(n, m->slot, &done, 0);
        n->owe_beat |= BIT(m->slot);
        return;
    }
    wire_msg op = *m;
    lead_consider(n, &op, m->slot, m->id);
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
    wire_msg m = {.sub = WIRE_OP_VIEW, .mask = WIRE_AUTH | WIRE_NUMBER | WIRE_VERSION | WIRE_GRANT_EPOCH,
                  .auth = n->view.epoch, .number = (uint16_t)~complete, .version = left,
                  .grant_epoch = complete};
    n->opened = sequence(n, &m, NOBODY, 0) == WIRE_OK;
    n->view_seq = n->applied;
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
        /* It cannot give what only it has (restarted since). It may still serve: the epoch is not opened
         * before the registry has evicted it. */
        n->unwanted |= BIT(from);
    }
    n->fetch_at = n->now + n->c.resend_ns;
    wire_msg m = {.type = WIRE_FETCH, .mask = WIRE_SEQ, .seq = n->applied + 1};
    node_say(n, from, &m, 0);
}

/* ---- who takes nothing ---- */

static const struct rest *rest_of(const node *n, uint8_t slot)
{
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if (n->rest[s].since != 0 && strcmp(n->rest[s].node, n->view.member[slot].node) == 0) {
            return &n->rest[s];
        }
    }
    return NULL;
}

/* Did it have to go again and again? Then it follows, and nobody waits for it. */
static bool resting(const node *n, uint8_t slot)
{
    const struct rest *r = rest_of(n, slot);
    return r != NULL && n->now < r->until;
}

static void send_away(node *n, uint8_t slot)
{
    const struct rest *r = rest_of(n, slot);
    bool again = r != NULL && n->now - r->since < NODE_STUCK_AGAIN_NS;
    struct rest now = {.since = n->now, .until = again ? n->now + NODE_STUCK_REST_NS : 0};
    memcpy(now.node, n->view.member[slot].node, sizeof now.node);
    n->rest[r != NULL ? (size_t)(r - n->rest) : slot] = now;
    n->unwanted |= BIT(slot);
}

/* Nothing is committed before every complete member has it. One that has no room for an operation takes none of
 * those behind it either, deletions among them: it has to go. Not one that is slow: any progress will do. */
static void watch_stuck(node *n)
{
    /* We ourselves were stopped, or are cut off on the way out: nobody gets what we send. */
    bool stopped = n->now - n->led_at > NODE_STUCK_SILENT_NS || !node_serves(n);
    n->led_at = n->now;
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        struct peer *p = &n->peer[s];
        if (s == n->self || (n->completes & n->view.present & BIT(s)) == 0 || (n->unwanted & BIT(s)) != 0) {
            continue;
        }
        if (stopped || p->acked >= n->applied || n->now - p->heard_at > NODE_STUCK_SILENT_NS) {
            p->ack_at = n->now;
        } else if (n->now - p->ack_at > NODE_STUCK_NS) {
            send_away(n, s);
        }
    }
}

/* ---- what arrives ---- */

void lead_ack(node *n, const wire_msg *m)
{
    struct peer *p = &n->peer[m->slot];
    if (!n->leading || !n->opened || !p->stated || (!p->state_complete && !p->snap_done)) {
        return;
    }
    if (m->seq > p->acked && m->seq <= n->applied) {
        if (p->window != 0) {
            uint64_t wider = p->window + (m->seq - p->acked);
            p->window = wider < NODE_WINDOW_OPS ? (uint32_t)wider : 0;
        }
        p->acked = m->seq;
        p->relays = 0;
        p->repeats = 0;
        p->ack_at = n->now;
        p->resend_at = n->now + node_patience(n, m->slot, 1);
    }
    n->owe_pump = true;
    n->owe_beat |= BIT(m->slot);
    if (p->snap_done && (n->completes & BIT(m->slot)) == 0 && p->acked == n->applied && !resting(n, m->slot)) {
        wire_msg op = {.sub = WIRE_OP_MEMBER, .mask = WIRE_NUMBER | WIRE_VERSION, .number = m->slot,
                       .version = n->completes | BIT(m->slot)};
        (void)sequence(n, &op, NOBODY, 0);
    }
}

void lead_state(node *n, const wire_msg *m)
{
    struct peer *p = &n->peer[m->slot];
    if (!n->leading) {
        return;
    }
    bool complete = m->number != 0;
    if (m->id > p->floor) {
        if (p->floor != 0) { /* another process: it has the whole map, or nothing of a snapshot */
            p->snapping = false;
            p->snap_done = complete;
        }
        p->floor = m->id;
    }
    if (n->opened && p->stated) {
        if (complete && m->seq < p->acked) {
            p->acked = p->sent = m->seq; /* restarted, its last steps were lost */
        }
        if (!complete && (n->completes & BIT(m->slot)) == 0 && !p->snapping &&
            (p->state_complete || !p->snap_done || m->seq == 0)) {
            snap_begin(n, m->slot);
            p->state_complete = false;
        } else if (!complete && p->snap_done) {
            lead_ack(n, m); /* it has the snapshot, and asks what is still missing */
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

/* ---- time ---- */

void lead_tick(node *n)
{
    if (!n->opened) {
        lead(n);
        return;
    }
    watch_stuck(n);
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        struct peer *p = &n->peer[s];
        if (s == n->self || (n->view.present & BIT(s)) == 0 || !p->stated) {
            continue;
        }
        if (p->snapping && n->now >= p->snap_at) {
            node_silence(n, s);
            p->repeats++;
            snap_send(n, s);
        } else if (p->acked < n->applied && n->now >= p->resend_at) {
            node_silence(n, s);
            uint32_t window = (p->window != 0 ? p->window : NODE_WINDOW_OPS) / 2;
            p->window = window > NODE_WINDOW_OPS_MIN ? window : NODE_WINDOW_OPS_MIN;
            p->repeats++;
            p->sent = p->acked;
            pump(n, s, RESEND_OPS_MAX);
            p->resend_at = n->now + node_patience(n, s, p->repeats + 1);
        }
    }
}

/* What all complete members have is committed; then tell, then send what is new. */
void lead_flush(node *n)
{
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
#ifndef DAL_MUTANT_COMMIT_AT_ONCE
    if (n->now < n->commit_hold) {
        low = n->committed; /* an evicted member may still serve: promise nothing yet */
    }
#endif
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
}
