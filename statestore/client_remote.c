/* Requests to members: what they hold, when they are repeated, what their answers mean.
 *
 * Knows: wire.h, which answers prove that nothing has happened. Must not know: the local segment,
 * but for what it says about a master that is silent.
 *
 * A request that changes something goes to one incarnation of one member until that answers, or is
 * gone from the view: then nobody can say whether it has taken effect. All others go wherever the
 * map points now.
 */
#include "client_internal.h"

uint64_t client_next_id(client *c)
{
    return c->next_id++;
}

bool client_send(client *c, const link_addr *to, const wire_msg *m)
{
    size_t len = wire_encode(m, c->out, sizeof c->out);
    /* Parts of a first sending and of a repetition must not be joined: they differ. */
    uint64_t tag = m->id << 1 | ((m->flags & WIRE_REPEAT) != 0);
    return len > 0 && c->link != NULL && link_send(c->link, to, c->out, len, tag, c->now_ns);
}

static const uint8_t types[CLIENT_VERBS] = {
    [CLIENT_LOOKUP] = WIRE_LOOKUP, [CLIENT_READ] = WIRE_READ,
    [CLIENT_WRITE] = WIRE_WRITE,   [CLIENT_APPEND] = WIRE_APPEND,
    [CLIENT_SWAP] = WIRE_SWAP,     [CLIENT_ADD] = WIRE_ADD,
    [CLIENT_DELETE] = WIRE_DELETE, [CLIENT_CREATE] = WIRE_CREATE,
    [CLIENT_ENSURE] = WIRE_ENSURE, [CLIENT_MOVE] = WIRE_MOVE,
    [CLIENT_RAISE] = WIRE_RAISE,   [CLIENT_FENCE] = WIRE_FENCE,
    [CLIENT_SCAN] = WIRE_SCAN,     [CLIENT_POLL] = WIRE_POLL,
    [CLIENT_TELL] = WIRE_TELL,     [CLIENT_ANNOUNCE] = WIRE_ANNOUNCE,
    [CLIENT_INBOX] = WIRE_INBOX,   [CLIENT_MEMBERS] = WIRE_MEMBERS,
};

/* A cursor means something to the member that gave it only, so it names that member. */
#define CURSOR_BITS 48
static uint64_t cursor_tag(const struct operation *o)
{
    return (uint64_t)(o->to + 1u) << 8 | (o->incarnation & 0xff);
}

static void put_value(wire_msg *m, const struct operation *o)
{
    m->mask |= WIRE_VALUE;
    m->value = o->r.len > 0 ? o->r.value : "";
    m->value_len = o->r.len;
}

/* The request of an operation; the same bytes at every repetition but for a flag that says so. */
static void build(const client *c, const struct operation *o, wire_msg *m)
{
    client_verb verb = o->r.verb;
    const client_place *p = &o->result.place;
    m->mask = WIRE_EPOCH | WIRE_ID | WIRE_SEQ;
    m->epoch = o->sent_epoch;
    m->seq = o->incarnation;
    m->slot = c->local != NULL ? c->view.self : CLIENT_NO_SLOT;
    if (verb != CLIENT_RAISE && verb != CLIENT_FENCE && verb != CLIENT_ANNOUNCE) {
        m->mask |= WIRE_KEY;
        m->key = o->r.key_len > 0 ? o->r.key : "";
        m->key_len = o->r.key_len;
    }
    if (o->question == QUESTION_LOOKUP) {
        m->type = WIRE_LOOKUP;
        return;
    }
    if (o->question == QUESTION_ENSURE) { /* what we wrote here moved away with the item */
        m->type = WIRE_ENSURE;
        m->mask |= WIRE_AUTH | WIRE_VERSION;
        m->auth = p->auth;
        return;
    }
    m->type = types[verb];
    m->flags = o->r.sync ? WIRE_SYNC : 0;
    m->flags |= o->sends > 0 && changes(verb) ? WIRE_REPEAT : 0;
    if (at_master(verb) || verb == CLIENT_DELETE) {
        m->mask |= WIRE_AUTH;
        m->auth = p->auth;
        if (p->remote_item != 0 && p->remote_slot == o->to) {
            m->mask |= WIRE_ITEM;
            m->item = p->remote_item;
        }
    }
    if (o->r.fence != NULL || verb == CLIENT_RAISE || verb == CLIENT_FENCE) {
        m->mask |= WIRE_FENCE_NAME | WIRE_GRANT_EPOCH;
        m->fence = o->r.fence;
        m->fence_len = o->r.fence_len;
        m->grant_epoch = o->r.grant_epoch;
    }
    switch (verb) {
    case CLIENT_CREATE:
        m->mask |= WIRE_HOME | WIRE_NUMBER | WIRE_TTL;
        m->home = (seg_home){.want = o->r.want, .hint = o->r.hint};
        m->number = o->r.capacity;
        m->ttl_ns = o->r.ttl_ns;
        put_value(m, o);
        break;
    case CLIENT_SWAP:
        m->mask |= WIRE_VERSION;
        m->version = o->r.version;
    /* fall through */
    case CLIENT_WRITE:
        if (o->r.set_ttl) {
            m->flags |= WIRE_SET_TTL;
            m->mask |= WIRE_TTL;
            m->ttl_ns = o->r.ttl_ns;
        }
    /* fall through */
    case CLIENT_APPEND:
    case CLIENT_TELL:
    case CLIENT_ANNOUNCE:
        put_value(m, o);
        break;
    case CLIENT_ADD:
        m->mask |= WIRE_NUMBER;
        m->number = (uint64_t)o->r.delta;
        break;
    case CLIENT_ENSURE:
        m->mask |= WIRE_VERSION;
        break;
    case CLIENT_MOVE:
        m->slot = o->r.slot;
        break;
    case CLIENT_SCAN:
    case CLIENT_POLL:
        m->mask |= WIRE_NUMBER;
        if (o->r.cursor >> CURSOR_BITS == cursor_tag(o)) {
            m->number = o->r.cursor & ((1ull << CURSOR_BITS) - 1);
        }
        break;
    default:
        break;
    }
}

static void transmit(client *c, struct operation *o, uint64_t id)
{
    wire_msg m = {.id = id};
    build(c, o, &m);
    client_send(c, &o->address, &m);
    o->sends++;
    o->at_ns = c->now_ns + o->resend_ns;
    o->resend_ns = o->resend_ns * 2 > CLIENT_RESEND_NS_MAX ? CLIENT_RESEND_NS_MAX : o->resend_ns * 2;
}

/* How long an answer may take before we repeat: longer where all answers take long. */
uint64_t client_patience(const client *c)
{
    uint64_t usual = 4 * c->answer_ns;
    return usual < CLIENT_RESEND_NS       ? CLIENT_RESEND_NS
           : usual > CLIENT_RESEND_NS_MAX ? CLIENT_RESEND_NS_MAX
                                          : usual;
}

/* A member keeps its last answers to us: what it may still have to repeat must be among them. */
static bool window_open(const client *c, uint8_t slot)
{
    for (uint32_t n = 0; n < c->top; n++) {
        if (c->id[n] != 0 && c->op[n]->state == ASKED && c->op[n]->to == slot &&
            c->id[n] + CLIENT_IN_FLIGHT_MAX <= c->next_id) {
            return false;
        }
    }
    return true;
}

void client_ask(client *c, uint32_t n, enum question question, uint8_t slot)
{
    struct operation *o = c->op[n];
    const seg_cluster *v = &c->view;
    if (c->link == NULL) {
        client_finish(c, n, DAL_UNAVAILABLE, "on another member: opened without a key file");
        return;
    }
    if (!client_present(v, slot, 0)) {
        client_want_members(c, false);
        client_again(c, o);
        return;
    }
    if (c->top > 1 && !window_open(c, slot)) {
        client_again(c, o);
        return;
    }
    o->question = question;
    o->to = slot;
    o->incarnation = v->member[slot].incarnation;
    client_address(v, slot, &o->address);
    o->sent_epoch = c->local != NULL ? seg_epoch(c->local) : v->epoch;
    o->sends = 0;
    o->asked_ns = c->now_ns;
    o->resend_ns = client_patience(c);
    o->state = ASKED;
    if ((o->r.verb == CLIENT_POLL) && o->r.cursor != 0) {
        o->overrun = o->r.cursor >> CURSOR_BITS != cursor_tag(o);
    }
    if (o->r.verb == CLIENT_INBOX) {
        client_inbox_add(c, o->r.key, o->r.key_len);
    }
    c->id[n] = client_next_id(c);
    c->stats.remote++;
    transmit(c, o, c->id[n]);
}

/* ---- silence ---- */

static void elsewhere(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    c->id[n] = 0;
    c->stats.rerouted++;
    o->state = STEP;
    o->at_ns = c->now_ns;
    client_step(c, n);
}

static bool home_elsewhere(client *c, const struct operation *o)
{
    seg_handle h = {o->result.place.auth, o->result.place.hash, o->result.place.item};
    seg_facts f;
    return c->local != NULL && h.item != 0 && seg_facts_read(c->local, &h, &f) == SEG_OK &&
           f.home.master != o->to;
}

void client_repeat(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    const seg_cluster *v = client_members(c);
    bool gone = !client_present(v, o->to, o->incarnation);
    bool silent = o->sends > CLIENT_SUSPECT_AFTER;
    bool once = o->question == QUESTION_ITSELF && changes(o->r.verb);
    if (once && gone) {
        char why[CLIENT_WHY_BYTES];
        snprintf(why, sizeof why, "member %u left the view (now %llu) before it answered", o->to,
                 (unsigned long long)v->epoch);
        client_finish(c, n, DAL_IN_DOUBT, why);
        return;
    }
    if (silent) { /* it may be another process by now, which knows nothing of our session */
        link_suspect(c->link, &o->address);
    }
    if (!once) {
        bool item = o->question == QUESTION_ITSELF && at_master(o->r.verb);
        bool moved = item                             ? home_elsewhere(c, o)
                     : o->question == QUESTION_LOOKUP ? silent && o->to != v->leader
                                                      : silent && o->to != client_server(c);
        if (o->question == QUESTION_ENSURE) {
            moved = false;
        }
        if (gone || moved) {
            elsewhere(c, n);
            return;
        }
        if (item && c->local == NULL && silent && o->to != v->leader) {
            /* Alive, but cut off from us, or not the master any more: the leader knows. */
            o->refused = true;
            o->refused_slot = o->to;
            o->refused_auth = o->result.place.auth;
            elsewhere(c, n);
            return;
        }
    }
    if (silent) {
        client_want_members(c, false);
        if (o->to == c->contact) {
            c->candidate = 1; /* not this one */
        }
    }
    c->stats.repeated++;
    transmit(c, o, c->id[n]);
}

/* ---- answers ---- */

static void found(client *c, uint32_t n, const wire_msg *m)
{
    struct operation *o = c->op[n];
    o->told = true;
    o->told_auth = m->auth;
    o->told_home = m->home;
    o->told_item = m->item;
    o->told_slot = o->to;
    if (m->home.master >= SEG_SLOTS_MAX || m->auth == 0) {
        c->stats.strange++;
        o->told = false;
        client_again(c, o);
        return;
    }
    if (o->to == c->view.leader) {
        o->told_by_leader = true;
    }
    elsewhere(c, n);
}

static void complete(client *c, uint32_t n, const wire_msg *m)
{
    struct operation *o = c->op[n];
    client_result *t = &o->result;
    client_verb verb = o->r.verb;
    t->version = m->version;
    t->epoch_seen = m->grant_epoch;
    t->number = (int64_t)m->number;
    if (at_master(verb) && (m->mask & WIRE_ITEM) != 0) {
        t->place.remote_item = m->item;
        t->place.remote_slot = o->to;
    }
    if (verb == CLIENT_CREATE) {
        t->place = (client_place){.auth = m->auth, .remote_slot = m->home.master};
        t->home = m->home;
    }
    if (verb == CLIENT_SCAN || verb == CLIENT_POLL) {
        t->cursor = cursor_tag(o) << CURSOR_BITS | (m->number & ((1ull << CURSOR_BITS) - 1));
    }
    if (verb == CLIENT_READ || verb == CLIENT_SCAN || verb == CLIENT_POLL) {
        t->len = m->value_len;
        if (m->value_len > o->r.cap) {
            client_finish(c, n, DAL_TOO_BIG, "");
            return;
        }
        if (m->value_len > 0) {
            memcpy(o->r.out, m->value, m->value_len);
        }
    }
    client_finish(c, n, verb == CLIENT_POLL && o->overrun ? DAL_OVERRUN : DAL_OK, "");
}

/* The item is not there, or not any more. */
static void missed(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    o->refused = true;
    o->refused_slot = o->to;
    o->refused_auth = o->result.place.auth;
    elsewhere(c, n);
}

static void lookup_missed(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    if (o->to == c->view.leader) {
        client_finish(c, n, DAL_NOT_FOUND, "");
        return;
    }
    o->refused = true; /* that map may lag */
    o->refused_slot = CLIENT_NO_SLOT;
    o->refused_auth = 0;
    elsewhere(c, n);
}

void client_answered(client *c, uint32_t n, const wire_msg *m)
{
    struct operation *o = c->op[n];
    bool itself = o->question == QUESTION_ITSELF;
    bool item = at_master(o->r.verb) || o->r.verb == CLIENT_DELETE;
    if (o->sends == 1) { /* else nobody knows which sending it answers */
        c->answer_ns += (c->now_ns - o->asked_ns) / 8;
        c->answer_ns -= c->answer_ns / 8;
    }
    o->result.epoch_seen = m->grant_epoch;
    o->unserved = m->status == WIRE_OK + SEG_NOT_SERVING;
    (void)client_members(c);
    switch (m->status) {
    case WIRE_OK:
        if (o->question == QUESTION_LOOKUP) {
            found(c, n, m);
        } else if (itself) {
            complete(c, n, m);
        } else {
            client_finish(c, n, DAL_OK, "");
        }
        return;
    case SEG_NOT_FOUND:
        if (o->r.verb == CLIENT_SCAN || o->r.verb == CLIENT_POLL) {
            complete(c, n, m);
            o->result.status = o->result.status == DAL_OK ? DAL_NOT_FOUND : o->result.status;
            return;
        }
        if (itself && o->r.verb == CLIENT_FENCE) {
            client_finish(c, n, DAL_OK, "");
            return;
        }
        if (itself && !item) {
            client_finish(c, n, DAL_NOT_FOUND, "");
            return;
        }
    /* fall through */
    case WIRE_MISS:
    case SEG_AWAY:
        if (o->question == QUESTION_LOOKUP) {
            lookup_missed(c, n);
        } else if (item) {
            missed(c, n);
        } else {
            c->id[n] = 0;
            client_again(c, o);
        }
        return;
    case SEG_OVERRUN:
        if (o->r.verb == CLIENT_POLL && (m->mask & WIRE_NUMBER) != 0 && m->number != 0) {
            o->overrun = true;
            complete(c, n, m);
        } else if (o->r.verb == CLIENT_POLL) { /* where the feed is now */
            o->r.cursor = 0;
            o->overrun = true;
            elsewhere(c, n);
        } else {
            client_finish(c, n, DAL_OVERRUN, "");
        }
        return;
    case WIRE_STALE:
        if (itself && changes(o->r.verb) && o->sends > 1 && (m->mask & WIRE_SEQ) != 0 &&
            m->seq != o->incarnation) {
            client_finish(c, n, DAL_IN_DOUBT, "the member has started anew before it answered");
            return;
        }
    /* fall through */
    case SEG_NOT_SERVING:
        client_want_members(c, true);
        if (o->to == c->contact) {
            c->candidate = 1;
        }
    /* fall through */
    case WIRE_LATER:
    case SEG_UNAVAILABLE:
        c->id[n] = 0;
        client_again(c, o);
        return;
    case WIRE_IN_DOUBT:
        client_finish(c, n, DAL_IN_DOUBT, "its member cannot say whether it has taken effect");
        return;
    case SEG_EXISTS:
    case SEG_FULL:
    case SEG_FENCED:
    case SEG_CORRUPT:
    case SEG_WRONG_VERSION:
    case SEG_TOO_BIG:
    case SEG_CHANGED:
    case SEG_INVALID:
        client_finish(c, n, (dal_status)m->status, "");
        return;
    default:
        client_finish(c, n, DAL_INVALID, "the member does not understand the request");
    }
}

void client_tell_server(client *c, wire_msg *m)
{
    uint8_t slot = client_server(c);
    link_addr to;
    if (slot == CLIENT_NO_SLOT || !client_present(&c->view, slot, 0)) {
        return;
    }
    client_address(&c->view, slot, &to);
    m->mask |= WIRE_EPOCH | WIRE_ID | WIRE_SEQ;
    m->epoch = c->view.epoch;
    m->seq = c->view.member[slot].incarnation;
    m->id = client_next_id(c);
    m->slot = c->local != NULL ? slot : CLIENT_NO_SLOT;
    client_send(c, &to, m);
}
