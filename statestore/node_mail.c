/* Messages to inboxes and announcements; errands: requests that this member carries to another one.
 *
 * Knows: where inboxes are, what was handed to whom. Must not know: items.
 *
 * Promise: a message reaches its inbox at most once and in the order of its sender; who is told OK
 * knows that the inbox's process has taken it (docs/dal.md).
 */
#include "node_internal.h"

/* ---- errands ---- */

static uint64_t errand_key(uint8_t to, uint64_t id) { return id << 4 | to; }

static void send_errand(node *n, struct errand *e)
{
    if (e->tries > 2) {
        node_silence(n, e->to);
    }
    if (e->tries == 1) {
        e->bytes[1] |= WIRE_REPEAT;
    }
    memcpy(e->bytes + WIRE_HEADER_BYTES, &n->view.epoch, 8);
    node_say_bytes(n, e->to, e->bytes, e->len, e->id << 3 | (e->tries > 0 ? 3 : 2));
    e->tries++;
    e->next_send = n->now + n->c.resend_ns * (e->tries < 5 ? e->tries : 5);
}

bool mail_errand(node *n, uint8_t to, const wire_msg *m, uint32_t request)
{
    if (to >= SEG_SLOTS_MAX || (n->view.present & BIT(to)) == 0 ||
        n->errands_to[to] >= NODE_ERRANDS_TO_MAX) {
        return false;
    }
    wire_msg e = *m;
    e.mask |= WIRE_EPOCH | WIRE_ID | WIRE_SEQ;
    e.mask &= (uint32_t)~WIRE_ITEM; /* a place in our segment, not in theirs */
    e.flags &= (uint8_t)~WIRE_REPEAT;
    e.epoch = n->view.epoch;
    e.seq = n->view.member[to].incarnation;
    e.id = ++n->errand_count[to];
    size_t size = wire_size(&e);
    uint8_t *bytes = malloc(size);
    uint32_t i = pool_take(&n->errands);
    if (bytes == NULL || i == 0 || wire_encode(&e, bytes, size) != size ||
        !table_put(&n->errand_by_id, errand_key(to, e.id), i)) {
        free(bytes);
        if (i != 0) {
            pool_give(&n->errands, i);
        }
        return false;
    }
    n->errand[i] = (struct errand){.live = true, .to = to, .id = e.id, .request = request,
                                   .len = (uint32_t)size, .bytes = bytes, .incarnation = e.seq};
    n->errands_to[to]++;
    n->request[request].wait = WAITS_ERRAND;
    n->request[request].left++;
    send_errand(n, &n->errand[i]);
    return true;
}

static void errand_end(node *n, uint32_t i, uint8_t status, const wire_msg *m)
{
    struct errand was = n->errand[i];
    struct request *r = &n->request[was.request];
    table_remove(&n->errand_by_id, errand_key(was.to, was.id));
    n->errands_to[was.to]--;
    free(was.bytes);
    n->errand[i] = (struct errand){0};
    pool_give(&n->errands, i);
    if (!r->live) {
        return;
    }
    if (r->type == WIRE_ANNOUNCE) {
        r->status = status == WIRE_OK ? r->status : WIRE_IN_DOUBT;
        status = r->status;
    } else if (m != NULL) {
        r->reply.mask = m->mask & (WIRE_GRANT_EPOCH | WIRE_NUMBER);
        r->reply.grant_epoch = m->grant_epoch;
        r->reply.number = m->number;
    }
    if (--r->left == 0) {
        serve_reply(n, was.request, status);
    }
}

/* ---- inboxes of our own clients ---- */

static bool queue(node *n, struct inbox *b, const void *bytes, size_t len, uint32_t request)
{
    if (b->queued >= NODE_INBOX_QUEUE_MAX) {
        return false;
    }
    struct message *m = malloc(sizeof *m + len);
    if (m == NULL) {
        return false;
    }
    *m = (struct message){.request = request, .len = (uint32_t)len};
    memcpy(m->bytes, bytes, len);
    if (b->last != NULL) {
        b->last->next = m;
    } else {
        b->first = m;
        b->next_send = n->now;
    }
    b->last = m;
    b->queued++;
    return true;
}

static void push(node *n, struct inbox *b)
{
    if (b->tries == 0) {
        b->push_id = n->next_id++ << 2 | 3;
        b->number++;
    }
    wire_msg m = {.type = WIRE_PUSH, .mask = WIRE_EPOCH | WIRE_ID | WIRE_KEY | WIRE_VALUE | WIRE_NUMBER,
                  .epoch = n->view.epoch, .id = b->push_id, .slot = n->self, .key = b->name,
                  .key_len = b->name_len, .value = b->first->bytes, .value_len = b->first->len,
                  .number = b->number};
    size_t len = wire_encode(&m, n->buffer, WIRE_MESSAGE_BYTES_MAX);
    if (b->tries > 2) {
        link_suspect(n->link, &b->addr);
    }
    if (len != 0) {
        (void)link_send(n->link, &b->addr, n->buffer, len, b->push_id, n->now);
    }
    b->tries++;
    b->next_send = n->now + n->c.resend_ns;
}

static void pop(node *n, struct inbox *b, uint8_t status)
{
    struct message *m = b->first;
    b->first = m->next;
    if (b->first == NULL) {
        b->last = NULL;
    }
    b->queued--;
    b->tries = 0;
    b->next_send = n->now;
    if (m->request != 0) {
        serve_reply(n, m->request, status);
    }
    free(m);
}

static void close_inbox(node *n, struct inbox *b)
{
    wire_msg op = {.sub = WIRE_OP_INBOX, .mask = WIRE_KEY | WIRE_HOME | WIRE_NUMBER,
                   .key = b->name, .key_len = b->name_len, .number = 1,
                   .home = {.master = n->self}};
    if (!b->closing && map_propose(n, &op, FOR_INBOX_CLOSE, 0) != 0) {
        b->closing = true;
    }
}

void mail_answered(node *n, const wire_msg *m)
{
    uint32_t i;
    if (m->slot < SEG_SLOTS_MAX && table_get(&n->errand_by_id, errand_key(m->slot, m->id), &i)) {
        struct errand *e = &n->errand[i];
        if (m->status == WIRE_STALE && e->tries > 1) {
            errand_end(n, i, WIRE_IN_DOUBT, NULL);
        } else {
            errand_end(n, i, m->status == WIRE_STALE ? WIRE_LATER : m->status, m);
        }
        return;
    }
    for (uint32_t k = 0; k < n->inboxes; k++) {
        struct inbox *b = &n->inbox[k];
        if (b->live && b->first != NULL && b->tries > 0 && b->push_id == m->id) {
            b->renewed_at = n->now;
            if (m->status == SEG_FULL) {
                return; /* its process does not take them: repeated until it does, or is given up */
            }
            bool gone = m->status == SEG_NOT_FOUND;
            pop(n, b, gone ? SEG_NOT_FOUND : m->status);
            if (gone) {
                close_inbox(n, b);
            }
            return;
        }
    }
}

/* ---- requests ---- */

static void announce(node *n, uint32_t request, const wire_msg *m)
{
    struct request *r = &n->request[request];
    bool relayed = (m->flags & WIRE_ANY) != 0;
    for (uint32_t i = 0; i < n->inboxes; i++) {
        struct inbox *b = &n->inbox[i];
        /* One that came here later may have had it where it was. */
        bool here = b->live && b->slot == n->self && (!relayed || (m->mask & WIRE_NUMBER) == 0 || b->since <= m->number);
        if (here && !queue(n, b, m->value, m->value_len, 0)) {
            r->status = WIRE_IN_DOUBT;
        }
    }
    if (!relayed) {
        wire_msg e = *m;
        e.flags |= WIRE_ANY;
        e.mask |= WIRE_NUMBER;
        e.number = n->applied;
        r->left = 1;
        for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
            if (s != n->self && (n->view.present & BIT(s)) != 0 && !mail_errand(n, s, &e, request)) {
                r->status = WIRE_IN_DOUBT;
            }
        }
        if (--r->left != 0) {
            return;
        }
    }
    serve_reply(n, request, r->status);
}

/* A message that a later one of its sender has overtaken on another way is not delivered any more. */
static bool late(struct inbox *b, uint64_t session, uint64_t id)
{
    for (uint32_t i = 0; i < NODE_SENDERS_MAX; i++) {
        if (b->heard[i].session == session) {
            bool is_late = id < b->heard[i].id;
            b->heard[i].id = is_late ? b->heard[i].id : id;
            return is_late;
        }
    }
    uint32_t i = b->heard_hand++ % NODE_SENDERS_MAX;
    b->heard[i].session = session;
    b->heard[i].id = id;
    return false;
}

static void tell(node *n, uint32_t request, const wire_msg *m)
{
    bool relayed = (m->flags & WIRE_ANY) != 0 && (m->mask & WIRE_VERSION) != 0 && (m->mask & WIRE_AUTH) != 0;
    uint64_t session = relayed ? m->version : n->request[request].session;
    uint64_t id = relayed ? m->auth : m->id;
    struct inbox *b = inbox_find(n, m->key, m->key_len);
    if (b == NULL && (n->unasked != 0 || n->now < n->boxes_grace)) {
        serve_reply(n, request, WIRE_LATER);
    } else if (b == NULL || (b->slot != n->self && (m->flags & WIRE_ANY) != 0)) {
        serve_reply(n, request, SEG_NOT_FOUND);
    } else if (b->slot != n->self) {
        wire_msg e = *m;
        e.flags |= WIRE_ANY;
        e.mask |= WIRE_VERSION | WIRE_AUTH;
        e.version = session;
        e.auth = id;
        if (!mail_errand(n, b->slot, &e, request)) {
            serve_reply(n, request, WIRE_LATER);
        }
    } else if (late(b, session, id)) {
        serve_reply(n, request, WIRE_IN_DOUBT);
    } else if (!queue(n, b, m->value, m->value_len, request)) {
        serve_reply(n, request, SEG_FULL);
    }
}

static void inbox(node *n, uint32_t request, const wire_msg *m)
{
    struct request *r = &n->request[request];
    struct inbox *b = inbox_find(n, m->key, m->key_len);
    wire_msg op = {.sub = WIRE_OP_INBOX, .mask = WIRE_KEY | WIRE_HOME | WIRE_NUMBER, .key = m->key,
                   .key_len = m->key_len, .number = m->number != 0, .home = {.master = n->self}};
    bool ours = b != NULL && b->slot == n->self;
    if (m->key_len == 0 || m->key_len > sizeof b->name) {
        serve_reply(n, request, SEG_TOO_BIG);
        return;
    }
    if (ours && m->number == 0) {
        bool taken = b->session != 0 && b->session != r->session &&
                     n->now - b->renewed_at < NODE_RENEWED_NS / 2;
        if (!taken) {
            mail_registered(n, r);
        }
        serve_reply(n, request, taken ? SEG_EXISTS : WIRE_OK);
        return;
    }
    if (m->number != 0 && (!ours || b->session != r->session)) {
        serve_reply(n, request, WIRE_OK);
        return;
    }
    r->wait = WAITS_PROPOSAL;
    if (!map_active(n) || map_propose(n, &op, FOR_REQUEST, request) == 0) {
        serve_reply(n, request, WIRE_LATER);
    }
}

/* The map says that the inbox is here: this is whose it is. */
void mail_registered(node *n, const struct request *r)
{
    struct inbox *b = inbox_find(n, r->key, r->key_len);
    if (b == NULL || b->slot != n->self) {
        return;
    }
    if (b->session != r->session) {
        b->tries = 0; /* another process: what it has not taken is pushed to it */
    }
    b->session = r->session;
    b->addr = r->from;
    b->renewed_at = n->now;
    b->closing = false;
}

void mail_request(node *n, uint32_t request, const wire_msg *m)
{
    if (m->type == WIRE_TELL) {
        tell(n, request, m);
    } else if (m->type == WIRE_ANNOUNCE) {
        announce(n, request, m);
    } else {
        inbox(n, request, m);
    }
}

/* ---- after a restart: where are the inboxes? One member that was not restarted knows all of them; if there
 * is none, all together know what can be known. ---- */

void mail_closed(node *n, const struct proposal *p, uint8_t status)
{
    wire_msg m;
    struct inbox *b = wire_decode(p->bytes, p->len, &m) ? inbox_find(n, m.key, m.key_len) : NULL;
    if (b == NULL || b->slot != n->self || status == WIRE_OK) {
        return;
    }
    b->closing = false;
    if (status == WIRE_MISS) { /* the map has it no more */
        inbox_put(n, m.key, m.key_len, n->self, true);
    }
}

static void ask_boxes(node *n)
{
    n->unasked &= n->view.present & (uint16_t)~BIT(n->self);
    if (n->now < n->boxes_at) {
        return;
    }
    n->boxes_at = n->now + n->c.resend_ns;
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((n->unasked & BIT(s)) != 0) {
            wire_msg m = {.type = WIRE_BOXES, .mask = WIRE_VERSION, .version = n->peer[s].boxes_cursor};
            node_say(n, s, &m, 0);
        }
    }
}

static void list_boxes(node *n, uint8_t to, uint64_t cursor)
{
    size_t len = 0;
    /* Who joins has none, that is certain: what it has of a snapshot that did not end may be over. */
    uint64_t end = n->complete ? n->inboxes : 0;
    while (cursor < end && len + 512 < NODE_SNAP_BYTES) {
        const struct inbox *b = &n->inbox[cursor++];
        seg_home home = {.master = b->slot};
        if (b->live) {
            len += wire_put_entry(n->scratch + len, NODE_SNAP_BYTES - len, 0, &home, b->name, b->name_len);
        }
    }
    wire_msg m = {.type = WIRE_BOXES, .flags = n->unasked != 0 || !n->complete ? WIRE_ANY : 0,
                  .mask = WIRE_NUMBER | WIRE_SEQ | WIRE_VERSION | WIRE_VALUE, .number = 1,
                  .seq = n->complete ? n->applied : UINT64_MAX,
                  .version = cursor < end ? cursor : 0, .value = n->scratch,
                  .value_len = len};
    node_say(n, to, &m, 0);
}

void mail_boxes(node *n, const wire_msg *m)
{
    wire_reader r = {m->value, (const uint8_t *)m->value + m->value_len};
    uint64_t auth;
    seg_home home;
    const void *key;
    size_t len;
    if (m->number == 0) {
        list_boxes(n, m->slot, m->version);
        return;
    }
    if ((n->unasked & BIT(m->slot)) == 0 || m->seq < n->applied) {
        return; /* what it says may be over: asked again */
    }
    while (wire_take_entry(&r, &auth, &home, &key, &len)) {
        inbox_put(n, key, len, home.master, false);
    }
    n->peer[m->slot].boxes_cursor = m->version;
    if (m->version == 0) {
        n->unasked = (m->flags & WIRE_ANY) != 0 ? n->unasked & (uint16_t)~BIT(m->slot) : 0;
    } else {
        n->boxes_at = n->now;
    }
}

void mail_tick(node *n)
{
    if (n->unasked != 0 && n->in_view) {
        ask_boxes(n);
    }
    for (uint32_t i = 1; i <= n->errands.used && n->errand_by_id.used > 0; i++) {
        struct errand *e = &n->errand[i];
        if (!e->live || n->now < e->next_send) {
            continue;
        }
        bool gone = (n->view.present & BIT(e->to)) == 0 ||
                    n->view.member[e->to].incarnation != e->incarnation;
        if (gone || e->tries >= NODE_ERRAND_TRIES_MAX) {
            errand_end(n, i, WIRE_IN_DOUBT, NULL);
        } else {
            send_errand(n, e);
        }
    }
    for (uint32_t i = 0; i < n->inboxes; i++) {
        struct inbox *b = &n->inbox[i];
        if (!b->live || b->slot != n->self) {
            continue;
        }
        if (b->session == 0 || n->now - b->renewed_at > NODE_RENEWED_NS ||
            b->tries > NODE_PUSH_TRIES_MAX) {
            if (b->session == 0 && b->renewed_at == 0) {
                b->renewed_at = n->now; /* applied, not registered yet */
            } else if (n->now - b->renewed_at > NODE_RENEWED_NS || b->tries > NODE_PUSH_TRIES_MAX) {
                close_inbox(n, b);
            }
        }
        if (b->first != NULL && b->session != 0 && n->now >= b->next_send) {
            push(n, b);
        }
    }
}
