/* libdal: what concerns many items or the cluster: scans, watches, fences, homes, messages (dal.h).
 *
 * Knows: cursors, batches that came over the network. Must not know: how the core gets them.
 */
#include "dal_internal.h"

#include <arpa/inet.h>
#include <unistd.h>

/* ---- batches: one answer, handed out key by key ---- */

static struct batch *batch_of(dal *d, const uint64_t *cursor)
{
    for (uint32_t i = 0; i < DAL_BATCHES_MAX; i++) {
        struct batch *b = &d->batch[i];
        if (b->owner == cursor && b->cursor == *cursor && b->at < b->len) {
            b->used = ++d->used;
            return b;
        }
    }
    return NULL;
}

void dal_release_cursor(dal *d, const uint64_t *cursor)
{
    for (uint32_t i = 0; i < DAL_BATCHES_MAX; i++) {
        if (d->batch[i].owner == cursor) {
            d->batch[i].owner = NULL;
        }
    }
}

static struct batch *batch_new(dal *d)
{
    struct batch *b = &d->batch[0];
    for (uint32_t i = 1; i < DAL_BATCHES_MAX; i++) {
        b = d->batch[i].used < b->used ? &d->batch[i] : b;
    }
    if (b->bytes == NULL) {
        b->bytes = malloc(SEG_VALUE_BYTES_MAX);
    }
    b->used = ++d->used;
    b->owner = NULL;
    return b->bytes == NULL ? NULL : b;
}

/* The next batch behind *cursor: DAL_OK with at least one key in it, else what there is to say. */
static dal_status batch_fetch(dal *d, client_verb verb, uint64_t *cursor, const void *prefix,
                              size_t prefix_len, struct batch **out)
{
    const dal_handle h = {.key = prefix, .key_len = prefix_len};
    struct batch *b = batch_new(d);
    if (b == NULL) {
        return dal_fail(d, DAL_UNAVAILABLE, "no memory");
    }
    for (;;) {
        client_request r = dal_request(verb, &h, NULL);
        client_result t = {0};
        r.cursor = *cursor;
        r.out = b->bytes;
        r.cap = SEG_VALUE_BYTES_MAX;
        dal_status status = dal_run(d, &r, &t);
        if (status == DAL_OVERRUN) {
            *cursor = t.cursor;
        }
        if (status != DAL_OK && (status != DAL_NOT_FOUND || t.len == 0)) {
            if (status == DAL_NOT_FOUND && verb == CLIENT_POLL) {
                *cursor = t.cursor;
            }
            return status;
        }
        if (t.len == 0) { /* nothing in this stretch */
            *cursor = t.cursor;
            if (verb == CLIENT_POLL) {
                return dal_settled(d, SEG_NOT_FOUND);
            }
            continue;
        }
        b->owner = cursor;
        b->cursor = *cursor;
        b->next = t.cursor;
        b->len = t.len;
        b->at = 0;
        *out = b;
        return DAL_OK;
    }
}

/* Over the last one: the caller's cursor goes behind the batch. */
static void batch_taken(struct batch *b, uint64_t *cursor, const wire_reader *r)
{
    b->at = (size_t)(r->at - b->bytes);
    if (b->at >= b->len) {
        *cursor = b->next;
        b->owner = NULL;
    }
}

dal_status dal_scan(dal *d, uint64_t *cursor, const void *prefix, size_t prefix_len, void *key,
                    dal_handle *h)
{
    *h = (dal_handle){.key = key, .remote_slot = DAL_NO_SLOT};
    if (d->s != NULL) {
        seg_handle local = {0};
        seg_status status = seg_scan(d->s, cursor, prefix, prefix_len, key, &h->key_len, &local);
        dal_keep_local(h, &local);
        return dal_settled(d, status);
    }
    struct batch *b = batch_of(d, cursor);
    if (b == NULL) {
        dal_status status = batch_fetch(d, CLIENT_SCAN, cursor, prefix, prefix_len, &b);
        if (status != DAL_OK) {
            return status;
        }
    }
    wire_reader r = {b->bytes + b->at, b->bytes + b->len};
    const void *found;
    size_t len;
    if (!wire_take_key(&r, &found, &len) || len > SEG_KEY_BYTES_MAX) {
        b->owner = NULL;
        *cursor = b->next;
        return dal_fail(d, DAL_CORRUPT, "the server's answer to a scan makes no sense");
    }
    memcpy(key, found, len);
    h->key_len = len;
    batch_taken(b, cursor, &r);
    return DAL_OK;
}

static dal_status watch_memory(dal *d, uint64_t *cursor, const void *prefix, size_t prefix_len,
                               void *key, size_t *key_len, bool *deleted)
{
    seg_cursor at;
    if (*cursor == 0) {
        seg_status status = seg_watch(d->s, &at);
        if (status != SEG_OK) {
            return dal_settled(d, status);
        }
        *cursor = at.next + 1;
    }
    at = (seg_cursor){.next = *cursor - 1, .hole_at = d->hole_at, .hole_since = d->hole_since};
    seg_status status = seg_poll(d->s, &at, prefix, prefix_len, key, key_len, deleted);
    *cursor = at.next + 1;
    d->hole_at = at.hole_at;
    d->hole_since = at.hole_since;
    return dal_settled(d, status);
}

dal_status dal_watch(dal *d, uint64_t *cursor, const void *prefix, size_t prefix_len, void *key,
                     size_t *key_len, bool *deleted)
{
    if (d->s != NULL) {
        dal_interest(d);
        return watch_memory(d, cursor, prefix, prefix_len, key, key_len, deleted);
    }
    struct batch *b = *cursor == 0 ? NULL : batch_of(d, cursor);
    if (b == NULL) {
        dal_status status = batch_fetch(d, CLIENT_POLL, cursor, prefix, prefix_len, &b);
        if (status != DAL_OK) {
            return status;
        }
    }
    wire_reader r = {b->bytes + b->at, b->bytes + b->len};
    const void *found;
    if (!wire_take_change(&r, deleted, &found, key_len) || *key_len > SEG_KEY_BYTES_MAX) {
        b->owner = NULL;
        *cursor = b->next;
        return dal_fail(d, DAL_CORRUPT, "the server's answer to a watch makes no sense");
    }
    memcpy(key, found, *key_len);
    batch_taken(b, cursor, &r);
    return DAL_OK;
}

void dal_interest(dal *d)
{
    if (dal_joined(d) && seg_usable(d->s) && dal_in_cluster(d)) {
        client_watching(d->c, dal_now_ns());
        dal_drive(d, false);
    }
}

/* ---- fences ---- */

dal_status dal_fence(dal *d, const char *fence, size_t len, uint64_t *epoch)
{
    *epoch = 0;
    if (d->s != NULL) {
        uint32_t at;
        seg_status status = seg_fence(d->s, fence, len, false, &at);
        if (status == SEG_OK) {
            *epoch = seg_fence_epoch(d->s, at);
        }
        return status == SEG_NOT_FOUND ? DAL_OK : dal_settled(d, status);
    }
    const client_request r = {.verb = CLIENT_FENCE, .fence = fence, .fence_len = len};
    client_result t = {0};
    dal_status status = dal_run(d, &r, &t);
    *epoch = t.epoch_seen;
    return status;
}

dal_status dal_raise(dal *d, const char *fence, size_t len, uint64_t epoch)
{
    if (d->s != NULL && !dal_in_cluster(d)) {
        uint32_t at;
        bool raised = false;
        if (d->clustered) {
            return d->status;
        }
        seg_status status = seg_fence(d->s, fence, len, true, &at);
        if (status == SEG_OK) {
            status = seg_fence_raise(d->s, at, epoch, &raised);
        }
        return dal_settled(d, status == SEG_OK && !raised ? SEG_FENCED : status);
    }
    const client_request r = {
        .verb = CLIENT_RAISE, .fence = fence, .fence_len = len, .grant_epoch = epoch};
    client_result t = {0};
    return dal_run(d, &r, &t);
}

/* ---- places ---- */

dal_status dal_home_of(dal *d, dal_handle *h, dal_home *out)
{
    seg_home home = {.master = DAL_NO_SLOT};
    dal_status status;
    if (d->s != NULL) {
        seg_handle local = {h->auth, h->hash, h->item};
        seg_facts f;
        seg_status found = seg_facts_read(d->s, &local, &f);
        if (found == SEG_NOT_FOUND) {
            found = seg_lookup(d->s, h->key, h->key_len, &local);
            if (found == SEG_OK) {
                found = seg_facts_read(d->s, &local, &f);
            }
        }
        dal_keep_local(h, &local);
        status = dal_settled(d, found);
        if (found == SEG_OK && dal_joined(d)) {
            home = f.home;
        }
        if (found == SEG_NOT_FOUND && dal_in_cluster(d)) {
            client_request r = dal_request(CLIENT_LOOKUP, h, NULL);
            client_result t = {0};
            status = dal_operate(d, &r, h, NULL, &t);
            home = t.home;
        }
    } else {
        client_request r = dal_request(CLIENT_LOOKUP, h, NULL);
        client_result t = {0};
        status = dal_operate(d, &r, h, NULL, &t);
        home = t.home;
    }
    *out = (dal_home){home.replicas, home.learners, home.master, home.want, home.hint};
    return status;
}

static dal_status alone(dal *d)
{
    return d->clustered ? d->status : dal_fail(d, DAL_UNAVAILABLE, "needs a cluster");
}

dal_status dal_move(dal *d, dal_handle *h, uint8_t to_slot)
{
    if (!dal_in_cluster(d)) {
        return alone(d);
    }
    client_request r = dal_request(CLIENT_MOVE, h, NULL);
    client_result t = {0};
    r.slot = to_slot;
    return dal_operate(d, &r, h, NULL, &t);
}

dal_status dal_members(dal *d, dal_member *out, size_t *count, uint64_t *epoch)
{
    *count = 0;
    *epoch = 0;
    if (!dal_in_cluster(d)) {
        return d->clustered ? d->status : DAL_OK;
    }
    const client_request r = {.verb = CLIENT_MEMBERS};
    client_result t = {0};
    dal_status status = dal_run(d, &r, &t);
    if (status != DAL_OK) {
        return status;
    }
    const seg_cluster *v = client_view(d->c);
    *epoch = v->epoch;
    for (uint8_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        if ((v->present >> slot & 1) == 0) {
            continue;
        }
        const seg_member *m = &v->member[slot];
        dal_member *to = &out[(*count)++];
        char ip[INET6_ADDRSTRLEN] = "";
        static const uint8_t v4[12] = {[10] = 0xff, [11] = 0xff};
        bool is_v4 = memcmp(m->ip, v4, sizeof v4) == 0;
        inet_ntop(is_v4 ? AF_INET : AF_INET6, is_v4 ? m->ip + 12 : m->ip, ip, sizeof ip);
        *to = (dal_member){.incarnation = m->incarnation,
                           .slot = slot,
                           .leader = slot == v->leader,
                           .self = d->s != NULL && slot == v->self};
        snprintf(to->node, sizeof to->node, "%.63s", m->node);
        snprintf(to->address, sizeof to->address, is_v4 ? "%s:%u" : "[%s]:%u", ip, m->port);
    }
    return DAL_OK;
}

/* ---- messages ---- */

dal_status dal_inbox(dal *d, const char *name, size_t len)
{
    if (!dal_in_cluster(d)) {
        return alone(d);
    }
    if (len == 0 || len > CLIENT_INBOX_NAME_BYTES_MAX) {
        return dal_fail(d, DAL_TOO_BIG, "an inbox has a name of 1 to %u bytes",
                        CLIENT_INBOX_NAME_BYTES_MAX);
    }
    const client_request r = {.verb = CLIENT_INBOX, .key = name, .key_len = len};
    client_result t = {0};
    return dal_run(d, &r, &t);
}

dal_status dal_take(dal *d, void *buf, size_t cap, size_t *len, char *inbox)
{
    if (!dal_in_cluster(d)) {
        return alone(d);
    }
    if (d->c == NULL || d->pid != getpid()) {
        return dal_fail(d, DAL_UNAVAILABLE, "%s was opened before a fork", d->address);
    }
    dal_status status = client_take(d->c, buf, cap, len, inbox);
    if (status == DAL_NOT_FOUND) {
        dal_drive(d, false);
        status = client_take(d->c, buf, cap, len, inbox);
    }
    return dal_settled(d, (seg_status)status);
}

dal_status dal_tell(dal *d, const char *inbox, size_t inbox_len, const void *message, size_t len)
{
    if (!dal_in_cluster(d)) {
        return alone(d);
    }
    const client_request r = {
        .verb = CLIENT_TELL, .key = inbox, .key_len = inbox_len, .value = message, .len = len};
    client_result t = {0};
    return dal_run(d, &r, &t);
}

dal_status dal_announce(dal *d, const void *message, size_t len)
{
    if (!dal_in_cluster(d)) {
        return alone(d);
    }
    const client_request r = {.verb = CLIENT_ANNOUNCE, .value = message, .len = len};
    client_result t = {0};
    return dal_run(d, &r, &t);
}
