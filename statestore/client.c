/* The client core: its operations from start to result, its clock, its datagrams.
 *
 * Knows: states of operations, limits. Must not know: where an item is (client_route.c), what a sync
 * write in memory needs (client_local.c), what a request holds (client_remote.c).
 */
#include "client_internal.h"

client *client_new(seg *local, struct link *l, const client_options *o, uint64_t now_ns)
{
    struct client *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return NULL;
    }
    c->local = local;
    c->link = l;
    c->options = *o;
    if (c->options.contacts > CLIENT_CONTACTS_MAX) {
        c->options.contacts = CLIENT_CONTACTS_MAX;
    }
    if (c->options.timeout_ns == 0) {
        c->options.timeout_ns = DAL_DEFAULTS.timeout_ns;
    }
    for (uint32_t n = 0; n < CLIENT_IN_FLIGHT_MAX; n++) {
        c->free[n] = (uint16_t)(CLIENT_IN_FLIGHT_MAX - 1 - n);
    }
    c->frees = CLIENT_IN_FLIGHT_MAX;
    c->next_id = 1;
    c->contact = CLIENT_NO_SLOT;
    c->newest = &c->oldest;
    c->now_ns = now_ns;
    c->members_at_ns = NEVER;
    if (local == NULL) {
        client_want_members(c, true);
    }
    return c;
}

void client_free(client *c)
{
    if (c == NULL) {
        return;
    }
    for (uint32_t n = 0; n < c->top; n++) {
        free(c->op[n]->scratch);
        free(c->op[n]);
    }
    while (c->oldest != NULL) {
        struct message *next = c->oldest->next;
        free(c->oldest);
        c->oldest = next;
    }
    free(c);
}

static uint64_t after(uint64_t now_ns, uint64_t wait_ns)
{
    return wait_ns > NEVER - now_ns ? NEVER : now_ns + wait_ns;
}

int client_start(client *c, const client_request *r, uint64_t now_ns)
{
    if (c->frees == 0) {
        return -1;
    }
    uint32_t n = c->free[c->frees - 1];
    if (n >= c->top) { /* the free ones come in order the first time */
        struct operation *made = calloc(1, sizeof *made);
        if (made == NULL) {
            return -1;
        }
        c->op[n] = made;
        c->top = n + 1;
    }
    c->frees--;
    c->now_ns = now_ns;
    c->stats.started++;
    struct operation *o = c->op[n];
    uint8_t *scratch = o->scratch;
    size_t scratch_bytes = o->scratch_bytes;
    memset(o, 0, sizeof *o);
    o->scratch = scratch;
    o->scratch_bytes = scratch_bytes;
    o->r = *r;
    o->result.place = r->place;
    o->result.home.master = CLIENT_NO_SLOT;
    o->deadline_ns = after(now_ns, r->timeout_ns != 0 ? r->timeout_ns : c->options.timeout_ns);
    o->again_ns = CLIENT_AGAIN_NS;
    o->at_ns = now_ns;
    o->state = STEP;
    c->id[n] = 0;
    if (r->verb < CLIENT_LOOKUP || r->verb >= CLIENT_VERBS) {
        client_finish(c, n, DAL_INVALID, "no such operation");
    } else if (r->key_len > SEG_KEY_BYTES_MAX || r->len > SEG_VALUE_BYTES_MAX ||
               r->capacity > SEG_VALUE_BYTES_MAX || r->fence_len > SEG_FENCE_NAME_BYTES_MAX) {
        client_finish(c, n, DAL_TOO_BIG, "");
    } else {
        client_step(c, n);
    }
    return (int)n;
}

bool client_done(client *c, int op, client_result *out)
{
    if (op < 0 || (uint32_t)op >= c->top || c->op[op]->state != DONE) {
        return false;
    }
    *out = c->op[op]->result;
    c->op[op]->state = FREE;
    c->free[c->frees++] = (uint16_t)op;
    return true;
}

void client_finish(client *c, uint32_t n, dal_status status, const char *why)
{
    struct operation *o = c->op[n];
    if (o->published && status != DAL_OK && status != DAL_IN_DOUBT) {
        /* It has taken effect here. Deleted since then, in the same view: so be it. */
        bool deleted = status == DAL_NOT_FOUND && seg_epoch(c->local) == o->begun_epoch;
        status = deleted ? DAL_OK : DAL_IN_DOUBT;
    }
    o->state = DONE;
    o->result.status = status;
    c->id[n] = 0;
    if (why[0] == '\0') {
        o->result.why[0] = '\0';
    } else if (why != o->result.why) {
        snprintf(o->result.why, sizeof o->result.why, "%s", why);
    }
    c->stats.in_doubt += status == DAL_IN_DOUBT;
    c->stats.unavailable += status == DAL_UNAVAILABLE || status == DAL_NOT_SERVING;
}

void client_again(client *c, struct operation *o)
{
    o->state = STEP;
    o->at_ns = after(c->now_ns, o->again_ns);
    o->again_ns *= 2;
    if (o->again_ns > CLIENT_AGAIN_NS_MAX) {
        o->again_ns = CLIENT_AGAIN_NS_MAX;
    }
}

/* One decision. Loops inside are bounded: what is asked or waits leaves it. */
void client_step(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    uint64_t auth = 0;
    uint8_t slot = CLIENT_NO_SLOT;
    if (o->r.verb == CLIENT_MEMBERS) {
        if (c->local != NULL) {
            (void)client_members(c);
            client_finish(c, n, c->view.clustered ? DAL_OK : DAL_UNAVAILABLE, "");
        } else {
            client_want_members(c, true); /* its answer finishes us */
            o->at_ns = NEVER;
        }
        return;
    }
    if (c->local != NULL && client_in_memory(c, n)) {
        return;
    }
    if (at_master(o->r.verb)) {
        if (client_find(c, n, &auth, &slot)) {
            bool other = o->r.place.auth != 0 && auth != o->r.place.auth;
            o->result.place.auth = auth;
            if (o->r.verb == CLIENT_SWAP && other) {
                client_finish(c, n, DAL_CHANGED, ""); /* that version was of a deleted item */
            } else if (o->r.verb == CLIENT_LOOKUP) {
                client_finish(c, n, DAL_OK, "");
            } else {
                client_ask(c, n, o->published ? QUESTION_ENSURE : QUESTION_ITSELF, slot);
            }
        }
        return;
    }
    if (o->r.verb == CLIENT_DELETE) { /* by the incarnation, so that a repetition harms no other */
        if (!client_find(c, n, &auth, &slot)) {
            return;
        }
        o->result.place.auth = auth;
    }
    slot = client_server(c);
    if (slot == CLIENT_NO_SLOT) {
        o->unserved = c->local != NULL;
        client_want_members(c, false);
        client_again(c, o);
        return;
    }
    client_ask(c, n, QUESTION_ITSELF, slot);
}

void client_expire(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    bool sent = o->state == ASKED && o->question == QUESTION_ITSELF && changes(o->r.verb);
    char why[CLIENT_WHY_BYTES];
    if (o->published) {
        snprintf(why, sizeof why, "written here, but its copies were not acknowledged in time");
        client_finish(c, n, DAL_IN_DOUBT, why);
    } else if (o->state == ASKED) {
        const seg_cluster *v = client_members(c);
        const seg_member *m = &v->member[o->to & (SEG_SLOTS_MAX - 1)];
        snprintf(why, sizeof why, "member %u (%.63s) did not answer%s", o->to, m->node,
                 sent ? ": it may or may not have done it" : "");
        client_finish(c, n, sent ? DAL_IN_DOUBT : DAL_UNAVAILABLE, why);
    } else if (o->unserved) {
        client_finish(c, n, DAL_NOT_SERVING, "its member does not serve: no view, or no lease");
    } else if (o->state == COPYING) {
        client_finish(c, n, DAL_UNAVAILABLE, "the replicas did not acknowledge in time");
    } else if (c->local == NULL && !c->view.clustered) {
        client_finish(c, n, DAL_UNAVAILABLE, "no server of the cluster answers");
    } else {
        client_finish(c, n, DAL_UNAVAILABLE, "no member serves it now");
    }
}

void client_give_up(client *c, int op, uint64_t now_ns)
{
    c->now_ns = now_ns;
    if (op >= 0 && (uint32_t)op < c->top && c->op[op]->state != FREE &&
        c->op[op]->state != DONE) {
        client_expire(c, (uint32_t)op);
    }
}

void client_tick(client *c, uint64_t now_ns)
{
    c->now_ns = now_ns;
    for (uint32_t n = 0; n < c->top; n++) {
        struct operation *o = c->op[n];
        if (o->state == FREE || o->state == DONE) {
            continue;
        }
        if (now_ns >= o->deadline_ns) {
            client_expire(c, n);
        } else if (now_ns >= o->at_ns) {
            if (o->state == STEP) {
                client_step(c, n);
            } else if (o->state == COPYING) {
                client_copy_again(c, n);
            } else {
                client_repeat(c, n);
            }
        }
    }
    client_members_tick(c);
    client_renew(c);
    if (c->link != NULL) {
        link_tick(c->link, now_ns);
    }
}

uint64_t client_deadline(const client *c)
{
    uint64_t first = c->link == NULL ? NEVER : link_deadline(c->link);
    for (uint32_t n = 0; n < c->top; n++) {
        const struct operation *o = c->op[n];
        if (o->state != FREE && o->state != DONE) {
            uint64_t next = o->at_ns < o->deadline_ns ? o->at_ns : o->deadline_ns;
            first = next < first ? next : first;
        }
    }
    first = c->members_at_ns < first ? c->members_at_ns : first;
    return c->inboxes > 0 && c->renew_at_ns < first ? c->renew_at_ns : first;
}


static void deliver(void *context, const link_addr *from, uint64_t session, const void *message,
                    size_t len)
{
    client *c = context;
    wire_msg m;
    if (!wire_decode(message, len, &m)) {
        c->stats.strange++;
        return;
    }
    if (m.type == WIRE_PUSH) {
        client_pushed(c, from, session, &m);
        return;
    }
    if (m.type != WIRE_REPLY || (m.mask & WIRE_ID) == 0 || m.id == 0) {
        c->stats.strange++;
        return;
    }
    if (m.id == c->members_id && memcmp(from, &c->members_address, sizeof from->ip) == 0 &&
        from->port == c->members_address.port) {
        client_take_members(c, &m);
        return;
    }
    if (c->local == NULL && (m.mask & WIRE_EPOCH) != 0 && m.epoch > c->view.epoch) {
        client_want_members(c, false);
    }
    for (uint32_t n = 0; n < c->top; n++) {
        if (c->id[n] != m.id) {
            continue;
        }
        struct operation *o = c->op[n];
        if (o->state == COPYING) {
            client_copied(c, n, from, &m);
        } else if (o->state == ASKED && o->address.port == from->port &&
                   memcmp(o->address.ip, from->ip, sizeof from->ip) == 0) {
            client_answered(c, n, &m);
        }
        return;
    }
}

void client_receive(client *c, const link_addr *from, const void *datagram, size_t len,
                    uint64_t now_ns)
{
    c->now_ns = now_ns;
    if (c->link != NULL) {
        link_receive(c->link, from, datagram, len, now_ns, deliver, c);
    }
}

bool client_next(client *c, link_addr *to, void *out, size_t *len)
{
    return c->link != NULL && link_next(c->link, to, out, len);
}

const seg_cluster *client_view(client *c)
{
    return client_members(c);
}

void client_stats_read(const client *c, client_stats *out)
{
    *out = c->stats;
}
