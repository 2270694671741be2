/* libdal: opening, and everything about one item (dal.h).
 *
 * Knows: what is done in memory at once, what needs the core. Must not know: how the core does it,
 * sockets.
 *
 * The first lines of read, write and their kind are the fast path: one call into the segment, no
 * clock, no core. What the segment refuses because of the cluster goes on in the core.
 */
#include "dal_internal.h"

#include <unistd.h>

#define LOCAL_SCHEME "dal:///"
#define REMOTE_SCHEME "dal://"

_Static_assert((int)DAL_NOT_SERVING == (int)SEG_NOT_SERVING, "statuses of the segment pass as ours");
_Static_assert(DAL_VALUE_BYTES_MAX == SEG_VALUE_BYTES_MAX, "one limit");
_Static_assert(DAL_KEY_BYTES_MAX == SEG_KEY_BYTES_MAX, "one limit");

/* ---- failures ---- */

dal_status dal_fail(dal *d, dal_status status, const char *format, ...)
{
    va_list args;
    d->status = status;
    va_start(args, format);
    vsnprintf(d->why, sizeof d->why, format, args);
    va_end(args);
    return status;
}

static const char *const lines[] = {
    [DAL_OK] = "no failure",
    [DAL_NOT_FOUND] = "no such key",
    [DAL_EXISTS] = "the key exists already",
    [DAL_FULL] = "no room of that size in the segment",
    [DAL_FENCED] = "the grant is older than its fence",
    [DAL_CORRUPT] = "the segment contradicts itself",
    [DAL_WRONG_VERSION] = "the segment has another layout",
    [DAL_TOO_BIG] = "key, value or buffer: over the limit, or too small",
    [DAL_OVERRUN] = "changes were missed: scan again",
    [DAL_UNAVAILABLE] = "cannot be done now (read-only, closed, after a fork, or contended)",
    [DAL_CHANGED] = "another version stands",
    [DAL_INVALID] = "the operation does not fit the value, or the name",
    [DAL_AWAY] = "there is no copy on this host",
    [DAL_NOT_SERVING] = "this member is outside the view, or its lease is over",
    [DAL_IN_DOUBT] = "it may or may not have taken effect",
};

const char *dal_why(const dal *d)
{
    return d->why[0] != '\0' ? d->why : lines[d->status];
}

dal_status dal_settled(dal *d, seg_status status)
{
    if (status != SEG_OK) {
        d->status = (dal_status)status;
        d->why[0] = '\0';
    }
    return (dal_status)status;
}

/* ---- opening ---- */

static dal_status opened(dal *d, dal **out, char *why, size_t why_len, dal_status status)
{
    if (status != DAL_OK) {
        if (why_len > 0) {
            snprintf(why, why_len, "%s", dal_why(d));
        }
        dal_close(d);
        d = NULL;
    }
    *out = d;
    return status;
}

dal_status dal_open(const char *address, const dal_options *o, dal **out, char *why, size_t why_len)
{
    dal *d = calloc(1, sizeof *d);
    *out = NULL;
    if (d == NULL) {
        if (why_len > 0) {
            snprintf(why, why_len, "no memory");
        }
        return DAL_UNAVAILABLE;
    }
    d->fd = -1;
    d->pid = getpid();
    d->busy = o->busy;
    d->readonly = o->readonly;
    d->timeout_ns = o->timeout_ns != 0 ? o->timeout_ns : DAL_DEFAULTS.timeout_ns;
    if (strlen(address) >= sizeof d->address - 16 ||
        (o->key_file != NULL && strlen(o->key_file) >= sizeof d->key_file)) {
        return opened(d, out, why, why_len,
                      dal_fail(d, DAL_INVALID, "state address or key file: longer than %u bytes",
                               DAL_ADDRESS_BYTES_MAX - 16));
    }
    snprintf(d->address, sizeof d->address, "%s", address);
    snprintf(d->key_file, sizeof d->key_file, "%s", o->key_file != NULL ? o->key_file : "");
    if (strncmp(address, LOCAL_SCHEME, sizeof LOCAL_SCHEME - 1) == 0) {
        char path[DAL_ADDRESS_BYTES_MAX + 16];
        snprintf(path, sizeof path, "%s/segment", address + sizeof LOCAL_SCHEME - 2);
        snprintf(d->address, sizeof d->address, "segment %.1000s", path);
        seg_status status = seg_open(path, o->readonly, &d->s, d->why, sizeof d->why);
        if (status != SEG_OK) {
            return opened(d, out, why, why_len, (dal_status)status);
        }
        d->clustered = d->key_file[0] != '\0';
        return opened(d, out, why, why_len,
                      dal_joined(d) && !dal_in_cluster(d) ? d->status : DAL_OK);
    }
    client_options contacts = {.timeout_ns = d->timeout_ns};
    if (strncmp(address, REMOTE_SCHEME, sizeof REMOTE_SCHEME - 1) != 0) {
        dal_fail(d, DAL_INVALID,
                 "state address %s: give dal:///DIRECTORY or dal://HOST:PORT[,HOST:PORT...]", address);
        return opened(d, out, why, why_len, DAL_INVALID);
    }
    int failed = dal_parse_contacts(address + sizeof REMOTE_SCHEME - 1, &contacts, d->why,
                                    sizeof d->why);
    if (failed != 0) {
        return opened(d, out, why, why_len, failed == -1 ? DAL_INVALID : DAL_UNAVAILABLE);
    }
    if (d->key_file[0] == '\0') {
        dal_fail(d, DAL_INVALID, "state address %s: over the network a key file is needed", address);
        return opened(d, out, why, why_len, DAL_INVALID);
    }
    d->clustered = true;
    return opened(d, out, why, why_len, dal_net_open(d, &contacts));
}

void dal_close(dal *d)
{
    if (d == NULL) {
        return;
    }
    dal_net_close(d, d->pid == getpid());
    for (uint32_t i = 0; i < DAL_BATCHES_MAX; i++) {
        free(d->batch[i].bytes);
    }
    seg_close(d->s);
    free(d);
}

void dal_forget(dal *d)
{
    dal_net_close(d, false);
    if (d->s != NULL) {
        seg_forget(d->s);
    }
}

bool dal_in_cluster(dal *d)
{
    if (d->c != NULL) {
        return true;
    }
    if (d->s == NULL || !dal_joined(d) || d->pid != getpid()) {
        return d->clustered;
    }
    client_options none = {.timeout_ns = d->timeout_ns};
    d->clustered = true;
    dal_status status = dal_net_open(d, &none);
    if (status != DAL_OK) {
        d->status = status;
        dal_net_close(d, false);
        return false;
    }
    return true;
}

/* Can the core do better than what the segment has answered? */
static bool goes_on(dal *d, seg_status status)
{
    if (d->s == NULL) {
        return true;
    }
    return (status == SEG_AWAY || status == SEG_NOT_SERVING ||
            (status == SEG_NOT_FOUND && dal_joined(d))) &&
           seg_usable(d->s) && dal_in_cluster(d);
}

/* ---- handles ---- */

static inline seg_handle local_of(const dal_handle *h)
{
    return (seg_handle){h->auth, h->hash, h->item};
}

client_request dal_request(client_verb verb, const dal_handle *h, const dal_write *w)
{
    client_request r = {.verb = verb, .key = h->key, .key_len = h->key_len, .place = dal_place(h)};
    if (w != NULL) {
        r.sync = w->sync;
        r.set_ttl = w->set_ttl;
        r.ttl_ns = w->ttl_ns;
        r.capacity = w->capacity;
        r.want = w->replicas > SEG_SLOTS_MAX - 1 ? SEG_SLOTS_MAX - 1 : w->replicas;
        r.hint = (uint8_t)w->hint;
        if (w->grant != NULL && w->grant->fence != NULL) {
            r.fence = w->grant->fence;
            r.fence_len = w->grant->fence_len;
            r.grant_epoch = w->grant->epoch;
        }
    }
    return r;
}

dal_status dal_operate(dal *d, const client_request *r, dal_handle *h, dal_write *w,
                       client_result *t)
{
    dal_status status = dal_run(d, r, t);
    if (h != NULL && (status == DAL_OK || t->place.auth != 0)) {
        dal_keep_place(h, &t->place);
    }
    if (w != NULL) {
        w->epoch_seen = t->epoch_seen;
    }
    return status;
}

dal_status dal_lookup(dal *d, const void *key, size_t key_len, dal_handle *out)
{
    seg_status status = SEG_NOT_FOUND;
    *out = (dal_handle){.key = key, .key_len = key_len, .remote_slot = DAL_NO_SLOT};
    if (d->s != NULL) {
        seg_handle h = {0};
        status = seg_lookup(d->s, key, key_len, &h);
        dal_keep_local(out, &h);
        if (!goes_on(d, status)) {
            return dal_settled(d, status);
        }
    }
    client_request r = dal_request(CLIENT_LOOKUP, out, NULL);
    client_result t = {0};
    return dal_operate(d, &r, out, NULL, &t);
}

dal_status dal_grant_of(dal *d, const dal_grant *given, seg_grant *out)
{
    if (d->fence == 0 || d->fence_len != given->fence_len ||
        memcmp(d->fence_name, given->fence, given->fence_len) != 0) {
        uint32_t fence = 0;
        seg_status status = seg_fence(d->s, given->fence, given->fence_len, true, &fence);
        if (status != SEG_OK) {
            return dal_settled(d, status);
        }
        d->fence = fence;
        d->fence_len = given->fence_len;
        memcpy(d->fence_name, given->fence, given->fence_len);
    }
    *out = (seg_grant){given->epoch, d->fence};
    return DAL_OK;
}

/* ---- reading ---- */

dal_status dal_read(dal *d, dal_handle *h, void *buf, size_t cap, size_t *len, uint64_t *version)
{
    if (__builtin_expect(d->s != NULL, 1)) {
        seg_handle local = local_of(h);
        seg_status status = seg_read(d->s, h->key, h->key_len, &local, buf, cap, len, version);
        if (__builtin_expect(status == SEG_OK && local.auth == h->auth, 1)) {
            return DAL_OK;
        }
        dal_keep_local(h, &local);
        if (!goes_on(d, status)) {
            return dal_settled(d, status);
        }
    }
    client_request r = dal_request(CLIENT_READ, h, NULL);
    client_result t = {0};
    r.out = buf;
    r.cap = cap;
    dal_status status = dal_operate(d, &r, h, NULL, &t);
    *len = t.len;
    if (version != NULL) {
        *version = t.version;
    }
    return status;
}

dal_status dal_read_sync(dal *d, dal_handle *h, void *buf, size_t cap, size_t *len,
                         uint64_t *version)
{
    if (d->s != NULL && !dal_in_cluster(d)) {
        return d->clustered ? d->status : dal_read(d, h, buf, cap, len, version);
    }
    client_request r = dal_request(CLIENT_READ, h, NULL);
    client_result t = {0};
    r.sync = true;
    r.out = buf;
    r.cap = cap;
    dal_status status = dal_operate(d, &r, h, NULL, &t);
    *len = t.len;
    if (version != NULL) {
        *version = t.version;
    }
    return status;
}

dal_status dal_peek(dal *d, dal_handle *h, void *buf, size_t cap, size_t *len, uint64_t *version)
{
    seg_facts f = {0};
    if (d->s == NULL) {
        return dal_settled(d, SEG_AWAY);
    }
    seg_handle local = local_of(h);
    seg_status status = seg_peek(d->s, h->key, h->key_len, &local, buf, cap, len, &f);
    dal_keep_local(h, &local);
    if (version != NULL) {
        *version = f.version;
    }
    return dal_settled(d, status);
}

/* ---- writing ---- */

/* One update in memory. False: the core has to do it. */
static inline bool update(dal *d, dal_handle *h, seg_op *op, dal_write *w, dal_status *out)
{
    if (__builtin_expect(d->s == NULL, 0) || (w != NULL && (w->sync || w->grant != NULL) && dal_in_cluster(d))) {
        return false; /* what waits for others, or needs a lease, is the core's */
    }
    if (w != NULL && w->sync && d->clustered) {
        *out = d->status; /* no way to the others */
        return true;
    }
    seg_handle local = local_of(h);
    seg_grant grant;
    if (w != NULL) {
        if (w->set_ttl) {
            op->set_deadline = true;
            op->deadline_ns = w->ttl_ns == 0 ? 0 : dal_now_ns() + w->ttl_ns;
        }
        if (w->grant != NULL && w->grant->fence != NULL) {
            *out = dal_grant_of(d, w->grant, &grant);
            if (*out != DAL_OK) {
                return true;
            }
            op->grant = &grant;
        }
    }
    seg_status status = seg_update(d->s, h->key, h->key_len, &local, op);
    dal_keep_local(h, &local);
    *out = DAL_OK;
    if (__builtin_expect(status == SEG_OK, 1)) {
        return true;
    }
    if (w != NULL) {
        w->epoch_seen = op->epoch_seen;
    }
    if (goes_on(d, status)) {
        return false;
    }
    *out = dal_settled(d, status);
    return true;
}

dal_status dal_write_value(dal *d, dal_handle *h, const void *value, size_t len, dal_write *w)
{
    seg_op op = {.verb = SEG_WRITE, .data = value, .len = len};
    dal_status status;
    if (update(d, h, &op, w, &status)) {
        return status;
    }
    client_request r = dal_request(CLIENT_WRITE, h, w);
    client_result t = {0};
    r.value = value;
    r.len = len;
    return dal_operate(d, &r, h, w, &t);
}

dal_status dal_append(dal *d, dal_handle *h, const void *entry, size_t len, dal_write *w)
{
    seg_op op = {.verb = SEG_APPEND, .data = entry, .len = len};
    dal_status status;
    if (update(d, h, &op, w, &status)) {
        return status;
    }
    client_request r = dal_request(CLIENT_APPEND, h, w);
    client_result t = {0};
    r.value = entry;
    r.len = len;
    return dal_operate(d, &r, h, w, &t);
}

dal_status dal_swap(dal *d, dal_handle *h, uint64_t version, const void *value, size_t len,
                    dal_write *w)
{
    seg_op op = {.verb = SEG_SWAP, .data = value, .len = len, .version = version};
    dal_status status;
    if (update(d, h, &op, w, &status)) {
        return status;
    }
    client_request r = dal_request(CLIENT_SWAP, h, w);
    client_result t = {0};
    r.value = value;
    r.len = len;
    r.version = version;
    return dal_operate(d, &r, h, w, &t);
}

dal_status dal_add(dal *d, dal_handle *h, int64_t delta, int64_t *sum, dal_write *w)
{
    seg_op op = {.verb = SEG_ADD, .delta = delta};
    dal_status status;
    if (update(d, h, &op, w, &status)) {
        *sum = op.sum;
        return status;
    }
    client_request r = dal_request(CLIENT_ADD, h, w);
    client_result t = {0};
    r.delta = delta;
    status = dal_operate(d, &r, h, w, &t);
    *sum = t.number;
    return status;
}

dal_status dal_delete(dal *d, dal_handle *h, dal_write *w)
{
    if (d->s != NULL && !dal_in_cluster(d)) {
        seg_op op = {.verb = SEG_DELETE};
        dal_status status = d->status;
        if (d->clustered || update(d, h, &op, w, &status)) {
            return status;
        }
    }
    client_request r = dal_request(CLIENT_DELETE, h, w);
    client_result t = {0};
    return dal_operate(d, &r, h, w, &t);
}

dal_status dal_ensure(dal *d, dal_handle *h)
{
    if (d->s != NULL && !dal_in_cluster(d)) {
        return d->clustered ? d->status : DAL_OK;
    }
    client_request r = dal_request(CLIENT_ENSURE, h, NULL);
    client_result t = {0};
    return dal_operate(d, &r, h, NULL, &t);
}
