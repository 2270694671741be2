/* Who asked, what was answered, who still waits.
 *
 * Knows: sessions and their last answers, requests that wait. Must not know: items, the map.
 *
 * A request that changes something is carried out once: a repetition gets the answer of the first.
 */
#include "node_internal.h"

#define NO_FIRST UINT64_MAX /* no request of this session has begun with us */

bool serve_changes(uint8_t type)
{
    switch (type) {
    case WIRE_READ:
    case WIRE_LOOKUP:
    case WIRE_SCAN:
    case WIRE_POLL:
    case WIRE_FENCE:
    case WIRE_MEMBERS:
    case WIRE_ENSURE:
        return false;
    default:
        return true;
    }
}

static struct session *session_of(node *n, uint64_t key, bool make)
{
    uint32_t i;
    if (table_get(&n->session_by_key, key, &i)) {
        n->session[i].used = n->now;
        return &n->session[i];
    }
    if (!make) {
        return NULL;
    }
    if (n->sessions < NODE_SESSIONS_MAX) {
        i = n->sessions++;
    } else { /* the one that was silent longest among a few */
        i = n->session_hand;
        for (uint32_t k = 0; k < 16; k++) {
            uint32_t at = (n->session_hand + k) % NODE_SESSIONS_MAX;
            i = n->session[at].used < n->session[i].used ? at : i;
        }
        n->session_hand = (n->session_hand + 16) % NODE_SESSIONS_MAX;
        table_remove(&n->session_by_key, n->session[i].key);
        n->forgets = true;
    }
    struct session *s = &n->session[i];
    if (s->answer == NULL) {
        s->answer = malloc(NODE_REPLIES_MAX * sizeof *s->answer);
        if (s->answer == NULL) {
            return NULL;
        }
    }
    memset(s->answer, 0, NODE_REPLIES_MAX * sizeof *s->answer);
    s->live = true;
    s->key = key;
    s->used = n->now;
    (void)table_put(&n->session_by_key, key, i);
    return s;
}

void serve_answer(node *n, const link_addr *to, uint64_t session, uint8_t type, wire_msg *r)
{
    if (serve_changes(type)) {
        struct session *s = session_of(n, session, false);
        struct answer *a = s == NULL ? NULL : &s->answer[r->id % NODE_REPLIES_MAX];
        if (a != NULL && a->id == r->id) {
            *a = (struct answer){.id = r->id, .status = r->status, .done = 1, .item = r->item,
                                 .mask = r->mask & (uint32_t)~WIRE_VALUE, .version = r->version,
                                 .number = r->number, .auth = r->auth, .grant_epoch = r->grant_epoch,
                                 .home = r->home};
        }
    }
    node_answer(n, to, session, r);
}

/* What may happen twice is repeated without a word, an inbox's registration for as long as there is one:
 * that such a request comes says nothing of what was sent before it. */
static bool told_when_repeated(uint8_t type)
{
    return type != WIRE_INBOX && type != WIRE_MOVE && type != WIRE_RAISE;
}

/* True: it was here before, and all is done about it. */
bool serve_repeated(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    struct session *s = session_of(n, session, false);
    /* Not in the table, and we may have had another table: an earlier process, or this session was
     * dropped from it. */
    bool unknown = s == NULL || (n->forgets && m->id < s->first);
    if (unknown && (m->flags & WIRE_REPEAT) != 0) {
        wire_msg r = {.status = WIRE_IN_DOUBT, .id = m->id};
        n->stats.in_doubt++;
        node_answer(n, from, session, &r);
        return true;
    }
    if (s == NULL) {
        s = session_of(n, session, true);
        if (s == NULL) {
            return true;
        }
        s->first = NO_FIRST;
        s->mailed = 0;
    }
    if (s->first == NO_FIRST && told_when_repeated(m->type) && (m->flags & WIRE_REPEAT) == 0) {
        s->first = m->id;
    }
    struct answer *a = &s->answer[m->id % NODE_REPLIES_MAX];
    if (a->id > m->id) {
        return true; /* long answered */
    }
    if (a->id == m->id) {
        if (a->done) {
            wire_msg r = {.status = a->status, .id = a->id, .mask = a->mask, .item = a->item,
                          .version = a->version, .number = a->number, .auth = a->auth,
                          .grant_epoch = a->grant_epoch, .home = a->home};
            node_answer(n, from, session, &r);
        }
        return true;
    }
    *a = (struct answer){.id = m->id};
    return false;
}

/* A request that has to wait. 0: no room. */
uint32_t serve_hold(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    uint32_t i = pool_take(&n->requests);
    if (i == 0) {
        return 0;
    }
    struct request *r = &n->request[i];
    *r = (struct request){.live = true, .type = m->type, .flags = m->flags, .session = session,
                          .id = m->id, .from = *from, .began = n->now};
    if (m->key_len > 0) {
        r->key = malloc(m->key_len);
        if (r->key == NULL) {
            r->live = false;
            pool_give(&n->requests, i);
            return 0;
        }
        memcpy(r->key, m->key, m->key_len);
        r->key_len = m->key_len;
    }
    n->stats.requests++;
    return i;
}

void serve_reply(node *n, uint32_t i, uint8_t status)
{
    struct request *r = &n->request[i];
    if (i == 0 || !r->live) {
        return;
    }
    wire_msg m = r->reply;
    m.status = status;
    m.id = r->id;
    if (status == WIRE_OK && r->value != NULL) {
        m.mask |= WIRE_VALUE;
        m.value = r->value;
    } else {
        m.mask &= (uint32_t)~WIRE_VALUE;
    }
    uint64_t ns = n->now - r->began;
    uint32_t bucket = ns == 0 ? 0 : 63u - (uint32_t)__builtin_clzll(ns);
    n->stats.waited[r->type & 31][bucket < 32 ? bucket : 31]++;
    serve_answer(n, &r->from, r->session, r->type, &m);
    free(r->key);
    free(r->value);
    *r = (struct request){0};
    n->stats.requests--;
    pool_give(&n->requests, i);
}

void serve_refuse(node *n, const link_addr *from, uint64_t session, const wire_msg *m, uint8_t status)
{
    wire_msg r = {.status = status, .id = m->id};
    n->stats.later += status == WIRE_LATER;
    n->stats.misses += status == WIRE_MISS;
    serve_answer(n, from, session, m->type, &r);
}

void serve_flown(node *n, uint32_t waiters, uint64_t control, bool ok)
{
    for (uint32_t r = waiters, next; r != 0; r = next) {
        next = n->request[r].next;
        n->request[r].next = 0;
        if (!ok) {
            /* The item went away under it: applied here, and nobody can tell what became of it. */
            serve_reply(n, r, serve_changes(n->request[r].type) ? WIRE_IN_DOUBT : WIRE_LATER);
        } else if (n->request[r].control <= control) {
            serve_reply(n, r, WIRE_OK);
        } else {
            seg_handle h = {n->request[r].reply.auth, 0, n->request[r].item};
            if (!copy_wait(n, &h, r, n->request[r].control)) {
                serve_reply(n, r, serve_changes(n->request[r].type) ? WIRE_IN_DOUBT : WIRE_LATER);
            }
        }
    }
}

/* Those of a list that have waited too long are told so: a member that takes no copy would hold them for ever, until
 * there is room for none. Who still waits. */
uint32_t serve_overdue(node *n, uint32_t waiters)
{
    uint32_t left = 0;
    for (uint32_t r = waiters, next; r != 0; r = next) {
        next = n->request[r].next;
        if (n->now - n->request[r].began > NODE_REQUEST_NS) {
            serve_reply(n, r, serve_changes(n->request[r].type) ? WIRE_IN_DOUBT : WIRE_LATER);
        } else {
            n->request[r].next = left;
            left = r;
        }
    }
    return left;
}

/* Messages of one sender stay in order: one that a later one has overtaken is not delivered any more. */
bool serve_overtaken(node *n, uint64_t session, const wire_msg *m)
{
    struct session *s = session_of(n, session, false);
    if (s == NULL || m->id < s->mailed) {
        return true;
    }
    s->mailed = m->id;
    return false;
}
