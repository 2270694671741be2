/* Where things are: the members, the server we turn to, the master of an item.
 *
 * Knows: the local map, the view, what leader and contacts have said. Must not know: what is done at
 * the place it finds.
 */
#include "client_internal.h"

void client_address(const seg_cluster *v, uint8_t slot, link_addr *out)
{
    memset(out, 0, sizeof *out);
    memcpy(out->ip, v->member[slot].ip, sizeof out->ip);
    out->port = v->member[slot].port;
}

bool client_present(const seg_cluster *v, uint8_t slot, uint64_t incarnation)
{
    return slot < SEG_SLOTS_MAX && (v->present >> slot & 1) != 0 &&
           (incarnation == 0 || v->member[slot].incarnation == incarnation);
}

/* Where another process is than before, our session is with its predecessor. */
static void take_view(client *c, const seg_cluster *now)
{
    for (uint8_t slot = 0; c->link != NULL && slot < SEG_SLOTS_MAX; slot++) {
        if (client_present(now, slot, 0) &&
            now->member[slot].incarnation != c->view.member[slot].incarnation) {
            link_addr at;
            client_address(now, slot, &at);
            link_suspect(c->link, &at);
        }
    }
    c->view = *now;
}

const seg_cluster *client_members(client *c)
{
    if (c->local != NULL && !(c->view.clustered && seg_clustered(c->local) &&
                              seg_epoch(c->local) == c->view.epoch)) {
        seg_cluster now;
        /* A server that died in the middle of writing leaves us the view we know. */
        if (seg_cluster_read(c->local, &now) == SEG_OK) {
            take_view(c, &now);
        }
    }
    return &c->view;
}

uint8_t client_server(client *c)
{
    const seg_cluster *v = client_members(c);
    if (c->local != NULL) {
        return v->clustered && v->self < SEG_SLOTS_MAX ? v->self : CLIENT_NO_SLOT;
    }
    return client_present(v, c->contact, 0) ? c->contact : CLIENT_NO_SLOT;
}

/* ---- members, for a remote-only client ---- */

void client_want_members(client *c, bool now)
{
    if (c->local != NULL) {
        return; /* they stand in the segment */
    }
    if (!c->members_wanted) {
        c->members_wanted = true;
        c->members_id = 0;
        c->members_resend_ns = CLIENT_RESEND_NS;
        c->members_at_ns = c->now_ns;
    }
    if (now && c->members_at_ns > c->now_ns && c->members_id == 0) {
        c->members_at_ns = c->now_ns;
    }
}

/* Those in the view by turns, then those named by the address. */
static bool candidate(client *c, link_addr *out)
{
    uint32_t total = SEG_SLOTS_MAX + c->options.contacts;
    if (c->candidate == 0 && client_present(&c->view, c->contact, 0)) {
        client_address(&c->view, c->contact, out);
        c->candidate = 1;
        return true;
    }
    for (uint32_t tries = 0; tries < total + 1; tries++) {
        uint32_t at = c->candidate % (total + 1);
        c->candidate = at + 1;
        if (at == 0) {
            continue;
        }
        at--;
        if (at < SEG_SLOTS_MAX && client_present(&c->view, (uint8_t)at, 0) && at != c->contact) {
            client_address(&c->view, (uint8_t)at, out);
            return true;
        }
        if (at >= SEG_SLOTS_MAX) {
            *out = c->options.contact[at - SEG_SLOTS_MAX];
            return true;
        }
    }
    return false;
}

void client_members_tick(client *c)
{
    if (!c->members_wanted || c->now_ns < c->members_at_ns) {
        return;
    }
    if (c->members_id != 0 && c->link != NULL) {
        link_suspect(c->link, &c->members_address);
    }
    if (!candidate(c, &c->members_address)) {
        c->members_at_ns = c->now_ns + CLIENT_RESEND_NS_MAX;
        return;
    }
    c->members_id = client_next_id(c);
    wire_msg m = {.type = WIRE_MEMBERS,
                  .slot = CLIENT_NO_SLOT,
                  .mask = WIRE_EPOCH | WIRE_ID,
                  .epoch = c->view.epoch,
                  .id = c->members_id};
    client_send(c, &c->members_address, &m);
    c->members_at_ns = c->now_ns + c->members_resend_ns;
    if (c->candidate >= SEG_SLOTS_MAX + c->options.contacts) { /* all were asked once more */
        c->members_resend_ns *= 2;
        if (c->members_resend_ns > CLIENT_RESEND_NS_MAX) {
            c->members_resend_ns = CLIENT_RESEND_NS_MAX;
        }
    }
}

void client_take_members(client *c, const wire_msg *m)
{
    seg_cluster v = {.clustered = true, .serving = true, .self = CLIENT_NO_SLOT};
    wire_reader r = {m->value, (const uint8_t *)m->value + m->value_len};
    seg_member one;
    bool useful = m->status == WIRE_OK && (m->mask & WIRE_VALUE) != 0 && m->slot < SEG_SLOTS_MAX &&
                  m->number < SEG_SLOTS_MAX && m->epoch >= c->view.epoch;
    while (useful && wire_take_member(&r, &one)) {
        if (one.slot < SEG_SLOTS_MAX) {
            v.member[one.slot] = one;
            v.present |= (uint16_t)(1u << one.slot);
        }
    }
    if (!useful || v.present == 0 || (v.present >> m->slot & 1) == 0) {
        /* It does not serve, or knows less than we: the next one, soon. */
        c->members_id = 0;
        c->members_at_ns = c->now_ns + CLIENT_AGAIN_NS_MAX;
        return;
    }
    bool news = m->epoch > c->view.epoch; /* else whoever waits would wait for nothing new */
    v.epoch = m->epoch;
    v.leader = (uint8_t)m->number;
    take_view(c, &v);
    c->contact = m->slot;
    c->candidate = 0;
    c->members_wanted = false;
    c->members_id = 0;
    c->members_at_ns = NEVER;
    for (uint32_t n = 0; n < c->top; n++) {
        struct operation *o = c->op[n];
        if (o->state == STEP && o->r.verb == CLIENT_MEMBERS) {
            client_finish(c, n, DAL_OK, "");
        } else if (o->state == STEP && news) {
            o->at_ns = c->now_ns;
        } else if (o->state == ASKED && !client_present(&c->view, o->to, o->incarnation)) {
            o->at_ns = c->now_ns; /* the repetition will notice */
        }
    }
}

/* ---- the master of an item ---- */

static bool find_local(client *c, struct operation *o, uint64_t *auth, seg_home *home,
                       seg_status *status)
{
    seg_handle h = {o->result.place.auth, o->result.place.hash, o->result.place.item};
    seg_facts f;
    *status = h.auth == 0 || h.item == 0 ? SEG_NOT_FOUND : seg_facts_read(c->local, &h, &f);
    if (*status == SEG_NOT_FOUND) {
        *status = seg_lookup(c->local, o->r.key, o->r.key_len, &h);
        if (*status == SEG_OK) {
            *status = seg_facts_read(c->local, &h, &f);
        }
    }
    if (*status == SEG_OK && f.legacy == SEG_LOST) {
        *status = SEG_NOT_FOUND;
    }
    if (*status != SEG_OK) {
        return false;
    }
    o->result.place.auth = h.auth;
    o->result.place.hash = h.hash;
    o->result.place.item = h.item;
    *auth = f.auth;
    *home = f.home;
    return true;
}

/* The leader's map is the first to know. Even where that is the one in our own segment, the leader is
 * asked: it alone knows whether what made the item go is settled. */
static void ask_leader(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    const seg_cluster *v = client_members(c);
    c->stats.confirmed++;
    if (!client_present(v, v->leader, 0)) {
        client_want_members(c, false);
        client_again(c, o);
        return;
    }
    client_ask(c, n, QUESTION_LOOKUP, v->leader);
}

static bool refused(const struct operation *o, uint64_t auth, uint8_t master)
{
    return o->refused && o->refused_slot == master && o->refused_auth == auth;
}

bool client_find(client *c, uint32_t n, uint64_t *auth, uint8_t *master)
{
    struct operation *o = c->op[n];
    const seg_cluster *v = client_members(c);
    client_place *p = &o->result.place;
    seg_home home;
    bool found = false;
    if (!v->clustered) {
        o->unserved = c->local != NULL;
        client_want_members(c, false);
        client_again(c, o);
        return false;
    }
    if (o->told) { /* once: if that is wrong too, the map is asked again */
        *auth = o->told_auth;
        home = o->told_home;
        if (p->auth != o->told_auth) {
            p->item = 0;
        }
        p->remote_item = o->told_slot == home.master ? o->told_item : 0;
        p->remote_slot = home.master;
        found = true;
    } else if (c->local != NULL) {
        seg_status status;
        found = find_local(c, o, auth, &home, &status);
        if (!found && status != SEG_NOT_FOUND) {
            client_finish(c, n, (dal_status)status, "");
            return false;
        }
        if (found && refused(o, *auth, home.master)) {
            found = false;
        }
        if (found && p->remote_slot != home.master) {
            p->remote_item = 0;
            p->remote_slot = home.master;
        }
    } else if (p->auth != 0 && p->remote_slot < SEG_SLOTS_MAX && o->r.verb != CLIENT_LOOKUP) {
        *auth = p->auth;
        home = (seg_home){.master = p->remote_slot};
        /* A hint that names somebody who has left is none. */
        found = !refused(o, *auth, home.master) && client_present(v, home.master, 0);
    }
    if (!found) {
        uint8_t server = client_server(c);
        if (c->local == NULL && !o->refused && !o->told_by_leader && server != CLIENT_NO_SLOT &&
            server != v->leader) {
            client_ask(c, n, QUESTION_LOOKUP, server); /* any map will do for the first guess */
        } else {
            ask_leader(c, n);
        }
        return false;
    }
    bool again = refused(o, *auth, home.master); /* the leader says the same: it takes time */
    o->told = false;
    o->refused = false;
    o->result.home = home;
    *master = home.master;
    bool known = o->r.verb == CLIENT_LOOKUP || client_present(v, home.master, 0);
    if (!known) {
        client_want_members(c, false);
    }
    if (again || !known) {
        client_again(c, o);
        return false;
    }
    return true;
}
