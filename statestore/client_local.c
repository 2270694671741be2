/* What is done in the memory of this host, and the copies of a synchronous write or read, which this
 * process sends to the replicas itself.
 *
 * Knows: segment.h, when a version counts as replicated. Must not know: requests to other masters.
 *
 * Order of a synchronous write: publish, then read the home and the value that now stands, send that
 * to everybody the home names, and on all acknowledgements look at the home again. Whoever became a
 * replica or learner in between has got a version that is as new. Last of all the lease: a member
 * whose lease is over may have been replaced, and nobody knows whether by one that has this version.
 */
#include "client_internal.h"

static seg_handle handle_of(const struct operation *o)
{
    return (seg_handle){o->result.place.auth, o->result.place.hash, o->result.place.item};
}

static void keep_handle(struct operation *o, const seg_handle *h)
{
    if (o->result.place.auth != h->auth) {
        o->result.place.remote_item = 0;
        o->result.place.remote_slot = CLIENT_NO_SLOT;
    }
    o->result.place.auth = h->auth;
    o->result.place.hash = h->hash;
    o->result.place.item = h->item;
}

static void in_memory(client *c, uint32_t n, seg_status status)
{
    c->op[n]->result.local = true;
    client_finish(c, n, (dal_status)status, "");
}

static bool lease_stands(const client *c)
{
    return seg_serving(c->local) && c->now_ns < seg_lease_ns(c->local);
}

/* This member does not serve: for a moment, while a view changes, or as far as it can know for good. */
static void unserved(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    const seg_cluster *v = client_members(c);
    uint64_t lease_ns = seg_lease_ns(c->local);
    char why[CLIENT_WHY_BYTES];
    if (!seg_clustered(c->local) || !client_present(v, v->self, 0)) {
        snprintf(why, sizeof why, "this member is outside the view (last epoch %llu)",
                 (unsigned long long)v->epoch);
    } else if (lease_ns <= c->now_ns) {
        snprintf(why, sizeof why, "this member's lease ended %llu ms ago (view %llu)",
                 (unsigned long long)((c->now_ns - lease_ns) / 1000000),
                 (unsigned long long)v->epoch);
    } else {
        o->unserved = true;
        client_again(c, o);
        return;
    }
    client_finish(c, n, DAL_NOT_SERVING, why);
}

/* True: the item is ours, frozen for a move. Our own bit among the learners says that we are its new
 * master and have not begun. */
static bool ours(client *c, struct operation *o, seg_facts *f)
{
    seg_handle h = handle_of(o);
    const seg_cluster *v = client_members(c);
    return h.item != 0 && seg_facts_read(c->local, &h, f) == SEG_OK && !f->stub &&
           f->home.master == v->self && (f->home.learners >> v->self & 1) == 0;
}

static bool read_memory(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    seg_handle h = handle_of(o);
    seg_facts f, again;
    seg_status status = seg_read(c->local, o->r.key, o->r.key_len, &h, o->r.out, o->r.cap,
                                 &o->result.len, &o->result.version);
    keep_handle(o, &h);
    if (status == SEG_NOT_FOUND) {
        return false; /* in our map: the leader confirms it */
    }
    if (status == SEG_NOT_SERVING) {
        unserved(c, n);
        return true;
    }
    if (status != SEG_AWAY) {
        in_memory(c, n, status);
        return true;
    }
    if (!ours(c, o, &f)) {
        return false;
    }
    /* Frozen: nobody else writes it before the home changes. */
    status = seg_peek(c->local, o->r.key, o->r.key_len, &h, o->r.out, o->r.cap, &o->result.len, &f);
    if ((status != SEG_OK && status != SEG_TOO_BIG) || !ours(c, o, &again) ||
        again.auth != f.auth) {
        client_again(c, o);
    } else if (!seg_serving(c->local)) {
        unserved(c, n);
    } else {
        o->result.version = f.version;
        in_memory(c, n, status);
    }
    return true;
}

static const seg_verb verbs[CLIENT_VERBS] = {
    [CLIENT_WRITE] = SEG_WRITE,
    [CLIENT_APPEND] = SEG_APPEND,
    [CLIENT_SWAP] = SEG_SWAP,
    [CLIENT_ADD] = SEG_ADD,
};

static bool write_memory(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    seg_handle h = handle_of(o);
    seg_grant g = {.epoch = o->r.grant_epoch};
    seg_op op = {
        .verb = verbs[o->r.verb],
        .set_deadline = o->r.set_ttl,
        .data = o->r.value,
        .len = o->r.len,
        .version = o->r.version,
        .delta = o->r.delta,
        .deadline_ns = o->r.ttl_ns == 0 ? 0 : c->now_ns + o->r.ttl_ns,
    };
    seg_status status = SEG_OK;
    seg_facts f;
    if (o->r.fence != NULL) {
        status = seg_fence(c->local, o->r.fence, o->r.fence_len, true, &g.fence);
        op.grant = &g;
    }
    o->begun_epoch = seg_epoch(c->local);
    o->begun_generation = seg_generation(c->local);
    if (status == SEG_OK && (op.grant != NULL || o->r.sync) && !lease_stands(c)) {
        unserved(c, n); /* neither a raise nor a deletion reaches a member without a lease */
        return true;
    }
    if (status == SEG_OK) {
        status = seg_update(c->local, o->r.key, o->r.key_len, &h, &op);
        keep_handle(o, &h);
    }
    o->result.epoch_seen = op.epoch_seen;
    o->result.number = op.sum;
    switch (status) {
    case SEG_NOT_FOUND:
        return false;
    case SEG_NOT_SERVING:
        unserved(c, n);
        return true;
    case SEG_AWAY:
        if (!ours(c, o, &f)) {
            return false;
        }
        client_again(c, o); /* frozen: it will be thawed, or move */
        return true;
    case SEG_OK:
        if (o->r.sync) {
            o->published = true;
            client_copy(c, n);
            return true;
        }
    /* fall through */
    default:
        in_memory(c, n, status);
        return true;
    }
}

bool client_in_memory(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    seg_handle h;
    if (o->told || o->r.verb == CLIENT_LOOKUP || !at_master(o->r.verb) ||
        o->r.verb == CLIENT_MOVE) {
        return false; /* what the leader told is newer than our map */
    }
    if (!seg_clustered(c->local)) {
        unserved(c, n);
        return true;
    }
    if (o->published || o->r.verb == CLIENT_ENSURE || (o->r.verb == CLIENT_READ && o->r.sync)) {
        h = handle_of(o);
        if (!o->published && h.item == 0) {
            if (seg_lookup(c->local, o->r.key, o->r.key_len, &h) != SEG_OK) {
                return false;
            }
            keep_handle(o, &h);
        }
        client_copy(c, n);
        return o->state != STEP || o->at_ns > c->now_ns;
    }
    return o->r.verb == CLIENT_READ ? read_memory(c, n) : write_memory(c, n);
}

/* ---- copies ---- */

/* All who have to have it have it, as far as the home said then. */
static void synced(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    seg_handle h = handle_of(o);
    seg_facts f;
    if (seg_facts_read(c->local, &h, &f) != SEG_OK || f.auth != o->auth ||
        !same_home(&f.home, &o->copy_home)) {
        client_again(c, o); /* somebody else has to have it too */
        return;
    }
    seg_ack(c->local, &h, o->control);
    if (lease_stands(c)) {
        o->result.local = o->waiting == 0 && c->id[n] == 0;
        client_finish(c, n, DAL_OK, "");
    } else if (o->published) {
        client_finish(c, n, DAL_IN_DOUBT, "written here, but this member's lease is over");
    } else {
        unserved(c, n);
    }
}

static void send_copies(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    const seg_cluster *v = client_members(c);
    wire_msg m = {
        .type = WIRE_COPY,
        .slot = v->self,
        .mask = WIRE_EPOCH | WIRE_ID | WIRE_AUTH | WIRE_VERSION | WIRE_HOME | WIRE_KEY | WIRE_VALUE,
        .epoch = o->sent_epoch,
        .id = c->id[n],
        .auth = o->auth,
        .version = o->copy_version,
        .home = o->copy_home,
        .key = o->r.key,
        .key_len = o->r.key_len,
        .value = o->copy,
        .value_len = o->copy_len,
        .ttl_ns = o->copy_ttl_ns,
    };
    m.mask |= o->copy_ttl_ns != 0 ? WIRE_TTL : 0;
    for (uint8_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        if ((o->waiting >> slot & 1) != 0) {
            link_addr to;
            client_address(v, slot, &to);
            if (o->sends > CLIENT_SUSPECT_AFTER) {
                link_suspect(c->link, &to);
            }
            client_send(c, &to, &m);
            c->stats.copies++;
        }
    }
    o->sends++;
    o->at_ns = c->now_ns + o->resend_ns;
    o->resend_ns = o->resend_ns * 2 > CLIENT_RESEND_NS_MAX ? CLIENT_RESEND_NS_MAX : o->resend_ns * 2;
}

/* The value as it stands, with its facts, for the replicas: a read's into its own buffer. */
static seg_status take_copy(client *c, struct operation *o, seg_facts *f)
{
    seg_handle h = handle_of(o);
    size_t len = 0;
    seg_status status;
    if (o->r.verb == CLIENT_READ) {
        status = seg_peek(c->local, o->r.key, o->r.key_len, &h, o->r.out, o->r.cap, &len, f);
        o->result.len = len;
        o->copy = o->r.out;
    } else {
        size_t want = seg_length(c->local, &h);
        for (;;) {
            want = want > SEG_VALUE_BYTES_MAX ? SEG_VALUE_BYTES_MAX : want;
            if (o->scratch_bytes < want || o->scratch == NULL) {
                uint8_t *more = realloc(o->scratch, want + 64);
                if (more == NULL) {
                    return SEG_UNAVAILABLE;
                }
                o->scratch = more;
                o->scratch_bytes = want + 64;
            }
            status = seg_peek(c->local, o->r.key, o->r.key_len, &h, o->scratch, o->scratch_bytes,
                              &len, f);
            if (status != SEG_TOO_BIG || len <= want) {
                break;
            }
            want = len;
        }
        o->copy = o->scratch;
    }
    o->copy_len = len;
    if (status == SEG_OK) {
        if (o->published && f->auth != o->result.place.auth) {
            return SEG_NOT_FOUND; /* deleted after our write, and made again */
        }
        keep_handle(o, &h);
    }
    return status;
}

/* Begin, or begin anew, to bring what stands to all replicas. Leaves STEP at once when the item's
 * master is another member. */
void client_copy(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    const seg_cluster *v = client_members(c);
    uint64_t epoch = seg_epoch(c->local);
    seg_facts f;
    seg_status status = take_copy(c, o, &f);
    c->id[n] = 0;
    o->state = STEP;
    o->at_ns = c->now_ns;
    bool mine = (status == SEG_OK || status == SEG_TOO_BIG) && f.home.master == v->self &&
                (f.home.learners >> v->self & 1) == 0;
    if (o->published && seg_generation(c->local) != o->begun_generation) {
        client_finish(c, n, DAL_IN_DOUBT, "written here, but this member has begun anew since");
        return;
    }
    if (o->published && !mine && epoch != o->begun_epoch) {
        client_finish(c, n, DAL_IN_DOUBT, "written here, but another member is master now");
        return;
    }
    if (status == SEG_UNAVAILABLE || status == SEG_CORRUPT) {
        client_finish(c, n, (dal_status)status, "");
        return;
    }
    if (!mine) {
        return; /* moved, or not here */
    }
    if (!o->published && !seg_serving(c->local)) {
        unserved(c, n);
        return;
    }
    if (status != SEG_OK) {
        in_memory(c, n, status);
        return;
    }
    o->result.version = f.version;
    o->result.home = f.home;
    o->auth = f.auth;
    o->control = f.control;
    o->copy_home = f.home;
    o->copy_version = f.version;
    o->copy_ttl_ns = f.deadline_ns == 0 ? 0 : f.deadline_ns > c->now_ns ? f.deadline_ns - c->now_ns : 1;
    o->waiting = (uint16_t)((f.home.replicas | f.home.learners) & ~(1u << v->self));
    if (f.acked >= f.control) {
        o->waiting = 0;
    }
    if (o->waiting == 0) {
        synced(c, n);
        return;
    }
    if ((o->waiting & ~v->present) != 0) {
        client_again(c, o); /* the map is about to drop the dead one */
        return;
    }
    if (c->link == NULL) {
        client_finish(c, n, DAL_UNAVAILABLE, "no way to the replicas: opened without a key file");
        return;
    }
    o->state = COPYING;
    o->sent_epoch = epoch;
    o->sends = 0;
    o->resend_ns = client_patience(c);
    c->id[n] = client_next_id(c);
    send_copies(c, n);
}

void client_copy_again(client *c, uint32_t n)
{
    struct operation *o = c->op[n];
    seg_handle h = handle_of(o);
    seg_facts f;
    if (seg_epoch(c->local) != o->sent_epoch || seg_facts_read(c->local, &h, &f) != SEG_OK ||
        !same_home(&f.home, &o->copy_home)) {
        c->id[n] = 0;
        o->state = STEP;
        o->at_ns = c->now_ns;
        client_step(c, n);
        return;
    }
    c->stats.repeated++;
    send_copies(c, n);
}

void client_copied(client *c, uint32_t n, const link_addr *from, const wire_msg *m)
{
    struct operation *o = c->op[n];
    const seg_cluster *v = client_members(c);
    for (uint8_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        if ((o->waiting >> slot & 1) == 0 || v->member[slot].port != from->port ||
            memcmp(v->member[slot].ip, from->ip, sizeof from->ip) != 0) {
            continue;
        }
        if (m->status != WIRE_OK) { /* its map or its view is behind ours, or ahead */
            c->id[n] = 0;
            client_again(c, o);
            return;
        }
        o->waiting &= (uint16_t)~(1u << slot);
        if (o->waiting == 0) {
            synced(c, n);
        }
        return;
    }
}
