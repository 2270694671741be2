/* libdal: many operations in flight together (dal.h).
 *
 * Knows: how many the core takes at a time, which copy on this host counts. Must not know: how the core
 * does them.
 */
#include "dal_internal.h"

#include <stdlib.h>
#include <unistd.h>

dal_status dal_together(dal *d, size_t count, dal_ask ask, dal_told told, void *context)
{
    size_t owner[CLIENT_IN_FLIGHT_MAX];
    int op[CLIENT_IN_FLIGHT_MAX];
    size_t flying = 0, next = 0;
    client_result t;
    while (next < count || flying > 0) {
        while (next < count && flying < CLIENT_IN_FLIGHT_MAX) {
            client_request r = ask(context, next);
            r.timeout_ns = d->timeout_ns;
            int made = client_start(d->c, &r, dal_now_ns());
            if (made < 0) {
                break; /* another thread has some of them */
            }
            op[flying] = made;
            owner[flying++] = next++;
        }
        bool ended = false; /* many need nobody's answer */
        for (size_t i = 0; i < flying;) {
            if (!client_done(d->c, op[i], &t)) {
                i++;
                continue;
            }
            told(context, owner[i], &t);
            flying--;
            op[i] = op[flying];
            owner[i] = owner[flying];
            ended = true;
        }
        if (!ended) {
            dal_drive(d, true);
        }
        if (d->c == NULL) {
            return dal_fail(d, DAL_UNAVAILABLE, "%s is closed", d->address);
        }
    }
    return DAL_OK;
}

/* What is asked of the core: `at[i]` of `items`. */
struct asked {
    dal_get *items;
    const size_t *at;
    bool settled;
};

static client_request ask_value(void *context, size_t i)
{
    const struct asked *a = context;
    dal_get *item = a->items + a->at[i];
    client_request r = dal_request(CLIENT_READ, item->handle, NULL);
    r.sync = !a->settled;
    r.out = item->buf;
    r.cap = item->cap;
    return r;
}

static void told_value(void *context, size_t i, const client_result *t)
{
    const struct asked *a = context;
    dal_get *item = a->items + a->at[i];
    item->status = t->status;
    item->len = t->len;
    if (t->status == DAL_OK || t->place.auth != 0) {
        dal_keep_place(item->handle, &t->place);
    }
}

/* Here, as master or as one of the replicas that every acknowledged write has waited for? */
static bool counted_here(dal *d, const seg_cluster *c, dal_get *item)
{
    seg_handle h = {item->handle->auth, item->handle->hash, item->handle->item};
    seg_facts f;
    size_t len = 0;
    seg_status status = seg_peek(d->s, item->handle->key, item->handle->key_len, &h, item->buf, item->cap,
                                 &len, &f);
    bool counts = f.home.master == c->self || (f.home.replicas >> (c->self & 15) & 1) != 0;
    if (status != SEG_OK || !counts) {
        return false;
    }
    dal_keep_local(item->handle, &h);
    item->len = len;
    item->status = DAL_OK;
    return true;
}

/* What is on this host is taken from here; returns how many are left, their places in `at`. */
static size_t settled_here(dal *d, dal_get *items, size_t count, size_t *at)
{
    seg_cluster c;
    size_t left = 0;
    bool inside = d->s != NULL && seg_serving(d->s) && seg_cluster_read(d->s, &c) == SEG_OK &&
                  c.self < SEG_SLOTS_MAX;
    for (size_t i = 0; i < count; i++) {
        if (!inside || !counted_here(d, &c, &items[i])) {
            at[left++] = i;
        }
    }
    return left;
}

dal_status dal_read_many(dal *d, dal_get *items, size_t count, bool settled)
{
    if (d->s == NULL || dal_in_cluster(d)) {
        if (d->c == NULL || d->pid != getpid()) {
            return dal_fail(d, DAL_UNAVAILABLE, "%s was opened before a fork", d->address);
        }
        size_t *at = malloc((count + 1) * sizeof *at);
        if (at == NULL) {
            return dal_fail(d, DAL_UNAVAILABLE, "no memory");
        }
        size_t left = settled ? settled_here(d, items, count, at) : count;
        for (size_t i = 0; !settled && i < count; i++) {
            at[i] = i;
        }
        struct asked asked = {items, at, settled};
        dal_status status = dal_together(d, left, ask_value, told_value, &asked);
        free(at);
        return status;
    }
    for (size_t i = 0; i < count; i++) {
        dal_get *item = &items[i];
        item->status = d->clustered ? d->status
                                    : dal_read(d, item->handle, item->buf, item->cap, &item->len, NULL);
    }
    return DAL_OK;
}
