/* The engine's frame: made, fed with datagrams and time, drained of datagrams.
 *
 * Knows: which part a message is for, whether this member serves. Must not know: what the parts do
 * with it (node_map.c, node_copy.c, node_move.c, node_serve.c).
 */
#include <stdio.h>

#include "node_internal.h"

seg_status node_prepare(seg *s, uint64_t random, char *why, size_t why_len)
{
    seg_cluster c;
    uint64_t cursor = 0;
    seg_handle h;
    seg_facts f;
    bool items = seg_walk(s, &cursor, &h, &f) == SEG_OK;
    if (!seg_clustered(s)) {
        if (items) {
            snprintf(why, why_len, "the segment holds items of an embedded store: remove its file, or "
                                   "give this member another directory");
            return SEG_INVALID;
        }
        memset(&c, 0, sizeof c);
        c.clustered = true;
        c.self = c.leader = NOBODY;
        return seg_cluster_write(s, &c);
    }
    if (seg_generation(s) == 0 || seg_cluster_read(s, &c) != SEG_OK ||
        (c.applied == 0 && (items || c.epoch != 0))) {
        if (seg_begin_anew(s, random) != SEG_OK) {
            snprintf(why, why_len, "the segment could not be emptied; stop its clients or remove its file");
            return SEG_UNAVAILABLE;
        }
    }
    return SEG_OK;
}

node *node_new(const node_config *c, uint64_t now_ns)
{
    node *n = calloc(1, sizeof *n);
    if (n == NULL) {
        return NULL;
    }
    n->c = *c;
    strncpy(n->name, c->name, SEG_NODE_BYTES_MAX);
    n->seg = c->segment;
    n->link = c->link;
    n->now = now_ns;
    n->random = c->random | 1;
    /* Above errands' ids, and higher than those of an earlier process on this host, however long that is up. */
    n->next_id = now_ns + (1ull << 50);
    n->self = NOBODY;
    n->log = calloc(NODE_LOG_OPS_MAX, sizeof *n->log);
    n->proposal = calloc(NODE_PROPOSALS_MAX + 1, sizeof *n->proposal);
    n->request = calloc(NODE_REQUESTS_MAX + 1, sizeof *n->request);
    n->flight = calloc(NODE_FLIGHT_MAX + 1, sizeof *n->flight);
    n->move = calloc(NODE_MOVES_MAX + 1, sizeof *n->move);
    n->errand = calloc(NODE_ERRANDS_MAX + 1, sizeof *n->errand);
    n->refusal = calloc(NODE_REFUSALS_MAX, sizeof *n->refusal);
    n->session = calloc(NODE_SESSIONS_MAX, sizeof *n->session);
    n->dirty = calloc(NODE_DIRTY_MAX, sizeof *n->dirty);
    n->track = calloc(NODE_TRACKED_MAX, sizeof *n->track);
    n->inbox = calloc(NODE_INBOXES_MAX, sizeof *n->inbox);
    n->outbox = calloc(NODE_PROPOSALS_MAX, sizeof *n->outbox);
    n->ready = calloc(NODE_PROPOSALS_MAX, sizeof *n->ready);
    n->floor = n->next_id;
    n->buffer = malloc(WIRE_MESSAGE_BYTES_MAX);
    n->scratch = malloc(SEG_VALUE_BYTES_MAX + 8);
    bool ok = n->log != NULL && n->proposal != NULL && n->request != NULL && n->flight != NULL &&
              n->move != NULL && n->errand != NULL && n->refusal != NULL && n->session != NULL &&
              n->dirty != NULL && n->track != NULL && n->inbox != NULL && n->outbox != NULL &&
              n->ready != NULL && n->buffer != NULL &&
              n->scratch != NULL && pool_init(&n->proposals, NODE_PROPOSALS_MAX) &&
              pool_init(&n->requests, NODE_REQUESTS_MAX) && pool_init(&n->flights, NODE_FLIGHT_MAX) &&
              pool_init(&n->moves, NODE_MOVES_MAX) && pool_init(&n->errands, NODE_ERRANDS_MAX) &&
              table_init(&n->proposal_by_id, NODE_PROPOSALS_MAX) &&
              table_init(&n->flight_by_item, NODE_FLIGHT_MAX) &&
              table_init(&n->flight_by_id, NODE_FLIGHT_MAX) &&
              table_init(&n->move_by_item, NODE_MOVES_MAX) &&
              table_init(&n->errand_by_id, NODE_ERRANDS_MAX) &&
              table_init(&n->dirty_set, NODE_DIRTY_MAX) &&
              table_init(&n->strays, NODE_STRAYS_MAX) && table_init(&n->tracks, NODE_TRACKED_MAX) &&
              table_init(&n->session_by_key, NODE_SESSIONS_MAX);
    for (int slot = 0; ok && slot < (int)SEG_SLOTS_MAX; slot++) {
        n->peer[slot].seen = calloc(NODE_SEEN_BITS / 64, sizeof(uint64_t));
        ok = n->peer[slot].seen != NULL;
        pace_begin(&n->pace[slot]);
    }
    if (!ok || seg_watch(n->seg, &n->feed) != SEG_OK) {
        node_free(n);
        return NULL;
    }
    seg_cluster was;
    if (seg_clustered(n->seg) && seg_cluster_read(n->seg, &was) == SEG_OK && was.applied != 0) {
        /* The process was restarted over a living segment. */
        n->restarted = n->complete = n->forgets = true;
        n->applied = was.applied;
        n->log_first = n->applied + 1;
        n->completes = was.present;
        n->unasked = was.present;
        n->boxes_grace = now_ns + NODE_BOXES_NS;
        n->walk_dirty = true;
        n->bequest = seg_bequest_of(n->seg);
        stray_soon(n);
        seg_serve(n->seg, false);
        /* What is frozen here was about to move or to go, and nobody remembers. */
        uint64_t cursor = 0;
        seg_handle h;
        seg_facts f;
        while (seg_walk(n->seg, &cursor, &h, &f) == SEG_OK) {
            if (f.away && f.home.master == was.self) {
                inherit_later(n, h.item, f.auth);
            }
        }
        n->thaw_at = UINT64_MAX; /* until the leader has told us where it stands */
    } else {
        n->log_first = 1;
    }
    return n;
}

void node_free(node *n)
{
    if (n == NULL) {
        return;
    }
    for (uint32_t i = 0; n->log != NULL && i < NODE_LOG_OPS_MAX; i++) {
        free(n->log[i].bytes);
    }
    for (uint32_t i = 0; n->proposal != NULL && i <= NODE_PROPOSALS_MAX; i++) {
        free(n->proposal[i].bytes);
    }
    for (uint32_t i = 0; n->request != NULL && i <= NODE_REQUESTS_MAX; i++) {
        free(n->request[i].key);
        free(n->request[i].value);
    }
    for (uint32_t i = 0; n->errand != NULL && i <= NODE_ERRANDS_MAX; i++) {
        free(n->errand[i].bytes);
    }
    for (uint32_t i = 0; n->session != NULL && i < NODE_SESSIONS_MAX; i++) {
        free(n->session[i].answer);
    }
    for (uint32_t i = 0; n->inbox != NULL && i < n->inboxes; i++) {
        for (struct message *m = n->inbox[i].first, *next; m != NULL; m = next) {
            next = m->next;
            free(m);
        }
    }
    for (int slot = 0; slot < (int)SEG_SLOTS_MAX; slot++) {
        free(n->peer[slot].seen);
    }
    pool_free(&n->proposals);
    pool_free(&n->requests);
    pool_free(&n->flights);
    pool_free(&n->moves);
    pool_free(&n->errands);
    table_free(&n->proposal_by_id);
    table_free(&n->flight_by_item);
    table_free(&n->flight_by_id);
    table_free(&n->move_by_item);
    table_free(&n->errand_by_id);
    table_free(&n->dirty_set);
    table_free(&n->tracks);
    table_free(&n->strays);
    table_free(&n->session_by_key);
    free(n->log);
    free(n->proposal);
    free(n->request);
    free(n->flight);
    free(n->move);
    free(n->errand);
    free(n->refusal);
    free(n->session);
    free(n->dirty);
    free(n->track);
    free(n->inbox);
    free(n->outbox);
    free(n->thaw);
    free(n->heirloom);
    free(n->starts);
    free(n->ready);
    free(n->buffer);
    free(n->scratch);
    free(n);
}

/* ---- who we are ---- */

bool node_serves(const node *n)
{
    return n->in_view && n->complete && !n->unfit && !n->closed && n->now < n->lease_ns;
}

void node_refresh_serving(node *n)
{
    bool serves = node_serves(n);
    if (seg_clustered(n->seg) && seg_serving(n->seg) != serves) {
        seg_serve(n->seg, serves);
    }
}

/* Static: 2 KiB, and one engine at a time writes it. */
void node_publish(node *n)
{
    seg_cluster c;
    memset(&c, 0, sizeof c);
    c.clustered = true;
    c.serving = node_serves(n);
    c.self = n->self;
    c.leader = n->view.leader;
    c.epoch = n->view.epoch;
    c.lease_ns = n->lease_ns;
    c.applied = n->applied;
    c.present = n->view.present;
    memcpy(c.member, n->view.member, sizeof c.member);
    (void)seg_cluster_write(n->seg, &c);
}

void node_set_lease(node *n, uint64_t deadline_ns, uint64_t now_ns)
{
    n->now = now_ns;
    if (deadline_ns > n->lease_ns) {
        n->lease_ns = deadline_ns;
        seg_lease(n->seg, deadline_ns);
    }
    node_refresh_serving(n);
}

/* Is somebody of the old view missing who has not left in good order? */
static bool unclean(const node_view *old, const node_view *new)
{
    uint16_t gone = 0;
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((old->present & BIT(s)) != 0 &&
            ((new->present & BIT(s)) == 0 ||
             new->member[s].incarnation != old->member[s].incarnation)) {
            gone |= BIT(s);
        }
    }
    return (gone & (uint16_t)~new->left) != 0;
}

void node_set_view(node *n, const node_view *v, uint64_t now_ns)
{
    n->now = now_ns;
    if (v->epoch <= n->view.epoch) {
        return;
    }
    uint64_t incarnation = seg_generation(n->seg);
    uint64_t before = n->view.epoch;
    bool founding = before == 0 && !n->restarted && v->leader < SEG_SLOTS_MAX &&
                    v->member[v->leader].incarnation == incarnation; /* there was nothing before us */
    if (!founding && (before + 1 != v->epoch || unclean(&n->view, v))) {
        /* Whoever was evicted may serve until its lease ends: nothing begins before. */
        n->commit_hold = now_ns + n->c.promote_delay_ns;
    }
    uint16_t others = 0;
    for (uint8_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        others |= n->view.member[slot].incarnation != v->member[slot].incarnation ? BIT(slot) : 0;
    }
    copy_view(n, others);
    same_view(n);
    n->view = *v;
    for (uint8_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        if ((others & v->present & BIT(slot)) != 0) { /* what we know there was its predecessor's */
            link_addr a = node_addr(n, slot);
            link_suspect(n->link, &a);
        }
    }
    n->self = NOBODY;
    for (uint8_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        if ((v->present & BIT(slot)) != 0 && v->member[slot].incarnation == incarnation &&
            strcmp(v->member[slot].node, n->name) == 0) {
            n->self = slot;
        }
    }
    n->in_view = n->self != NOBODY;
    n->leading = false; /* map_view says otherwise */
    /* We led this epoch before the process was restarted, and what we sequenced may be known to
     * nobody else: only who is alone may go on. */
    n->unfit = n->restarted && before == 0 && n->in_view && v->leader == n->self &&
               v->present != BIT(n->self) && seg_epoch(n->seg) == v->epoch;
    n->phase = !n->in_view || n->unfit ? NODE_OUTSIDE : NODE_CHANGING;
    if (n->in_view && !n->unfit) {
        map_view(n);
        n->phase = n->complete ? NODE_CHANGING : NODE_JOINING;
    }
    node_publish(n);
    if (n->in_view && !n->unfit) {
        map_tick(n);
    }
}

/* ---- saying ---- */

link_addr node_addr(const node *n, uint8_t slot)
{
    link_addr a;
    memcpy(a.ip, n->view.member[slot].ip, sizeof a.ip);
    a.port = n->view.member[slot].port;
    return a;
}

void node_say_bytes(node *n, uint8_t to, void *bytes, size_t len, uint64_t tag)
{
    if (to >= SEG_SLOTS_MAX || (n->view.present & BIT(to)) == 0) {
        return;
    }
    link_addr a = node_addr(n, to);
    (void)link_send(n->link, &a, bytes, len, tag, n->now);
}

void node_say(node *n, uint8_t to, wire_msg *m, uint64_t tag)
{
    m->mask |= WIRE_EPOCH;
    m->epoch = n->view.epoch;
    m->slot = n->self;
    size_t len = wire_encode(m, n->buffer, WIRE_MESSAGE_BYTES_MAX);
    if (len != 0) {
        node_say_bytes(n, to, n->buffer, len, tag);
    }
}

void node_answer(node *n, const link_addr *to, uint64_t session, wire_msg *m)
{
    m->type = WIRE_REPLY;
    m->mask |= WIRE_EPOCH | WIRE_ID;
    m->epoch = n->view.epoch;
    m->slot = n->self == NOBODY ? 0 : n->self;
    n->stats.replies_by_status[m->status & 127]++;
    size_t len = wire_encode(m, n->buffer, WIRE_MESSAGE_BYTES_MAX);
    if (len != 0) {
        (void)link_answer(n->link, to, session, n->buffer, len, m->id, n->now);
    }
}

void node_silence(node *n, uint8_t slot)
{
    if (slot >= SEG_SLOTS_MAX || (n->view.present & BIT(slot)) == 0) {
        return; /* a view that nobody can lead has leader SEG_SLOTS_MAX */
    }
    struct peer *p = &n->peer[slot];
    if (n->now - p->heard_at > 3 * n->c.resend_ns && n->now - p->suspect_at > 3 * n->c.resend_ns) {
        link_addr a = node_addr(n, slot);
        p->suspect_at = n->now;
        link_suspect(n->link, &a);
    }
}

uint64_t node_patience(const node *n, uint8_t slot, uint32_t tries)
{
    return slot < SEG_SLOTS_MAX ? pace_timer_ns(&n->pace[slot], n->c.resend_ns, tries)
                                : n->c.resend_ns;
}

/* ---- in ---- */

/* From another member, in this epoch? Answers what has to be answered. */
static bool of_this_view(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    (void)from;
    (void)session;
    if ((m->mask & WIRE_EPOCH) == 0 || m->slot >= SEG_SLOTS_MAX || !n->in_view || n->unfit) {
        return false;
    }
#ifndef DAL_MUTANT_NO_EPOCH_CHECK
    if (m->epoch < n->view.epoch) {
        n->stats.stale++;
        if (m->type == WIRE_COPY) {
            wire_msg r = {.status = WIRE_STALE, .id = m->id};
            node_answer(n, from, session, &r);
        }
        return false;
    }
    if (m->epoch > n->view.epoch) {
        n->stats.later++;
        if (m->type == WIRE_COPY) {
            wire_msg r = {.status = WIRE_LATER, .id = m->id};
            node_answer(n, from, session, &r);
        } else if (m->type == WIRE_STATE) {
            n->early[m->slot] = (struct early_state){m->epoch, m->seq, m->id, m->number != 0};
        }
        return false;
    }
#endif
    if ((n->view.present & BIT(m->slot)) == 0) {
        return false;
    }
    return true;
}

static void deliver(void *context, const link_addr *from, uint64_t session, const void *bytes,
                    size_t len)
{
    node *n = context;
    wire_msg m;
    if (!wire_decode(bytes, len, &m)) {
        n->stats.refused++;
        return;
    }
    if (m.type < 32) {
        n->stats.requests_by_type[m.type]++;
    }
    if (m.type == WIRE_COPY) {
        if (of_this_view(n, from, session, &m)) {
            copy_receive(n, from, session, &m);
        }
        return;
    }
    if (m.type < WIRE_REPLY) {
        serve_request(n, from, session, &m);
        return;
    }
    if (m.type == WIRE_REPLY) {
        if (m.slot < SEG_SLOTS_MAX) {
            n->peer[m.slot].heard_at = n->now;
        }
        if (m.id >> 48 != 0 && (m.id & 3) == 1) {
            copy_acknowledged(n, &m);
        } else {
            mail_answered(n, &m);
        }
        return;
    }
    if (m.type < WIRE_PROPOSE || !of_this_view(n, from, session, &m)) {
        return;
    }
    n->peer[m.slot].heard_at = n->now;
    if (m.type == WIRE_BOXES) {
        mail_boxes(n, &m);
    } else if (m.type == WIRE_STRAY) {
        stray_receive(n, &m);
    } else if (m.type == WIRE_NOTE) {
        copy_note(n, &m);
    } else if (m.type == WIRE_SAME) {
        same_receive(n, &m);
    } else if (m.type == WIRE_WANTS) {
        n->wants = m.number != 0 ? n->wants | BIT(m.slot) : n->wants & (uint16_t)~BIT(m.slot);
    } else {
        map_receive(n, &m);
    }
}

/* Another process is there than the one that what is under way was sent to. */
static void repeat_to(node *n, const link_addr *who)
{
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        link_addr a = node_addr(n, s);
        if (s != n->self && (n->view.present & BIT(s)) != 0 && a.port == who->port &&
            memcmp(a.ip, who->ip, sizeof a.ip) == 0) {
            copy_again(n, s);
            map_again(n, s);
        }
    }
}

void node_receive(node *n, const link_addr *from, const void *datagram, size_t len, uint64_t now_ns)
{
    n->now = now_ns;
    node_refresh_serving(n);
    (void)link_receive(n->link, from, datagram, len, now_ns, deliver, n);
    link_addr who;
    if (n->in_view && link_renewed(n->link, &who)) {
        repeat_to(n, &who);
    }
}

void node_tick(node *n, uint64_t now_ns)
{
    bool more = false;
    n->now = now_ns;
    node_refresh_serving(n);
    link_tick(n->link, now_ns);
    if (n->in_view && !n->unfit) {
        map_tick(n);
        copy_feed(n);
        copy_tick(n);
        same_tick(n);
        move_tick(n);
        stray_tick(n);
        more = inherit_due(n);
    }
    serve_tick(n);
    mail_tick(n);
    n->tick_at = now_ns + (more ? 0 : 1000000u);
}

/* Something is always due within a millisecond: background walks, retries, expiry. */
uint64_t node_deadline(const node *n)
{
    uint64_t due = link_deadline(n->link);
    return due < n->tick_at ? due : n->tick_at;
}

/* What is queued goes first: an answer waits for nothing. */
bool node_next(node *n, link_addr *to, void *out, size_t *len)
{
    if (link_next(n->link, to, out, len)) {
        return true;
    }
    if (n->in_view && !n->unfit) {
        map_flush(n);
    }
    return link_next(n->link, to, out, len);
}

uint16_t node_unwanted(const node *n)
{
    return n->unfit ? BIT(n->self) : n->unwanted & n->view.present;
}

void node_leave(node *n, uint64_t now_ns)
{
    n->now = now_ns;
    n->leaving = true;
    n->leave_asked = n->leave_known = n->leave_found = false;
}

seg_status node_move(node *n, const void *key, size_t key_len, uint8_t to, uint64_t now_ns)
{
    seg_handle h;
    n->now = now_ns;
    seg_status status = seg_lookup(n->seg, key, key_len, &h);
    return status == SEG_OK ? move_start(n, &h, to, false, 0) : status;
}

void node_promotion_read(const node *n, node_stats *out)
{
    out->promoted = n->stats.promoted;
    out->thawed = n->stats.thawed;
}

void node_stats_read(node *n, bool walk, node_stats *out)
{
    *out = n->stats;
    out->phase = n->phase;
    out->complete = n->complete;
    out->leading = n->leading;
    out->serving = node_serves(n);
    out->leaving = n->leaving;
    out->left = n->left;
    out->self = n->self;
    out->leader = n->view.leader;
    out->epoch = n->view.epoch != 0 ? n->view.epoch : seg_epoch(n->seg); /* an earlier process's */
    out->applied = n->applied;
    out->committed = n->committed;
    out->last = n->applied;
    out->proposals = n->proposal_by_id.used;
    out->dirty = n->dirty_count + n->heirlooms_left;
    out->flight = n->flight_by_item.used;
    out->moving = n->move_by_item.used;
    out->repairing = n->walk_repair;
    out->sessions = n->sessions;
    out->inboxes = 0;
    for (uint32_t i = 0; i < n->inboxes; i++) {
        out->inboxes += n->inbox[i].live;
    }
    uint64_t cursor = 0, before = seg_damaged(n->seg);
    seg_handle h;
    seg_facts f;
    while (walk && seg_walk(n->seg, &cursor, &h, &f) == SEG_OK) {
        out->items++;
        out->masters += f.home.master == n->self;
        out->replicas += f.home.master != n->self && (f.home.replicas & BIT(n->self & 15)) != 0;
        out->stubs += f.stub;
    }
    out->damaged = seg_damaged(n->seg) - before;
}
