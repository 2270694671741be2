/* libdal: making items, one or many (dal.h).
 *
 * Knows: what is done in memory at once, what needs the core. Must not know: how the core does it.
 */
#include "dal_internal.h"

#include <unistd.h>

static dal_status create_in_memory(dal *d, const void *key, size_t key_len, const void *value,
                                   size_t len, dal_write *w, seg_handle *h)
{
    seg_grant grant;
    seg_new n = {.value = value, .len = len};
    if (w != NULL) {
        n.capacity = w->capacity;
        n.deadline_ns = w->ttl_ns == 0 ? 0 : dal_now_ns() + w->ttl_ns;
        if (w->grant != NULL && w->grant->fence != NULL) {
            dal_status status = dal_grant_of(d, w->grant, &grant);
            if (status != DAL_OK) {
                return status;
            }
            n.grant = &grant;
        }
    }
    seg_status status = seg_create(d->s, key, key_len, &n, h);
    if (w != NULL) {
        w->epoch_seen = n.epoch_seen;
    }
    return dal_settled(d, status);
}

/* After the server has made it: where it is in our memory. */
static void localise(dal *d, dal_handle *h)
{
    seg_handle local;
    if (d->s != NULL && seg_lookup(d->s, h->key, h->key_len, &local) == SEG_OK &&
        local.auth == h->auth) {
        h->hash = local.hash;
        h->item = local.item;
    }
}

dal_status dal_create(dal *d, const void *key, size_t key_len, const void *value, size_t len,
                      dal_write *w, dal_handle *out)
{
    *out = (dal_handle){.key = key, .key_len = key_len, .remote_slot = DAL_NO_SLOT};
    if (d->s != NULL && !dal_in_cluster(d)) {
        seg_handle h = {0};
        dal_status status = d->clustered ? d->status
                                         : create_in_memory(d, key, key_len, value, len, w, &h);
        dal_keep_local(out, &h);
        return status;
    }
    client_request r = dal_request(CLIENT_CREATE, out, w);
    client_result t = {0};
    r.value = value;
    r.len = len;
    dal_status status = dal_operate(d, &r, out, w, &t);
    if (status == DAL_OK) {
        localise(d, out);
    }
    return status;
}

struct row {
    dal *d;
    dal_new *items;
    dal_write *w;
    dal_status first;
};

static client_request ask_new(void *context, size_t i)
{
    const struct row *row = context;
    const dal_handle h = {.key = row->items[i].key, .key_len = row->items[i].key_len};
    client_request r = dal_request(CLIENT_CREATE, &h, row->w);
    r.value = row->items[i].value;
    r.len = row->items[i].len;
    return r;
}

static void told_new(void *context, size_t i, const client_result *t)
{
    struct row *row = context;
    row->items[i].status = t->status;
    if (t->status != DAL_OK && t->status != DAL_EXISTS && row->first == DAL_OK) {
        row->first = dal_fail(row->d, t->status, "%s", t->why);
        if (row->w != NULL) {
            row->w->epoch_seen = t->epoch_seen;
        }
    }
}

static dal_status create_together(dal *d, dal_new *items, size_t count, dal_write *w)
{
    struct row row = {d, items, w, DAL_OK};
    dal_status closed = dal_together(d, count, ask_new, told_new, &row);
    return closed != DAL_OK ? closed : row.first;
}

dal_status dal_create_many(dal *d, dal_new *items, size_t count, dal_write *w)
{
    dal_status first = DAL_OK;
    if (d->s == NULL || dal_in_cluster(d)) {
        if (d->c == NULL || d->pid != getpid()) {
            return dal_fail(d, DAL_UNAVAILABLE, "%s was opened before a fork", d->address);
        }
        if (d->readonly) {
            return dal_fail(d, DAL_UNAVAILABLE, "opened read-only");
        }
        return create_together(d, items, count, w);
    }
    for (size_t i = 0; i < count; i++) {
        seg_handle h;
        items[i].status = d->clustered ? d->status
                                       : create_in_memory(d, items[i].key, items[i].key_len,
                                                          items[i].value, items[i].len, w, &h);
        if (items[i].status != DAL_OK && items[i].status != DAL_EXISTS && first == DAL_OK) {
            first = items[i].status;
        }
    }
    return first;
}

dal_status dal_put(dal *d, const void *key, size_t key_len, const void *value, size_t len,
                   dal_write *w, dal_handle *out)
{
    dal_write none = {0};
    w = w != NULL ? w : &none;
    bool set_ttl = w->set_ttl;
    dal_status status = DAL_UNAVAILABLE;
    for (uint32_t tries = 0; tries < DAL_PUT_TRIES_MAX; tries++) {
        seg_handle h = {0};
        *out = (dal_handle){.key = key, .key_len = key_len, .remote_slot = DAL_NO_SLOT};
        /* A miss in our own map is not worth a question: the creation tells. */
        if (d->s == NULL) {
            status = tries == 0 ? DAL_NOT_FOUND : dal_lookup(d, key, key_len, out);
        } else {
            status = dal_settled(d, seg_lookup(d->s, key, key_len, &h));
            dal_keep_local(out, &h);
            if (status == DAL_NOT_FOUND && tries > 0) {
                status = dal_lookup(d, key, key_len, out);
            }
        }
        if (status == DAL_OK) {
            w->set_ttl = true;
            status = dal_write_value(d, out, value, len, w);
            w->set_ttl = set_ttl;
        }
        if (status == DAL_NOT_FOUND) {
            status = dal_create(d, key, key_len, value, len, w, out);
        }
        if (status != DAL_EXISTS) {
            return status;
        }
    }
    return dal_fail(d, DAL_UNAVAILABLE, "appears and disappears too fast to put; try again");
}
