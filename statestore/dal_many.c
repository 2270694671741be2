/* libdal: many operations in flight together (dal.h).
 *
 * Knows: how many the core takes at a time. Must not know: how the core does them.
 */
#include "dal_internal.h"

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

static client_request ask_value(void *context, size_t i)
{
    dal_get *item = (dal_get *)context + i;
    client_request r = dal_request(CLIENT_READ, item->handle, NULL);
    r.sync = true;
    r.out = item->buf;
    r.cap = item->cap;
    return r;
}

static void told_value(void *context, size_t i, const client_result *t)
{
    dal_get *item = (dal_get *)context + i;
    item->status = t->status;
    item->len = t->len;
    if (t->status == DAL_OK || t->place.auth != 0) {
        dal_keep_place(item->handle, &t->place);
    }
}

dal_status dal_read_many(dal *d, dal_get *items, size_t count)
{
    if (d->s == NULL || dal_in_cluster(d)) {
        if (d->c == NULL || d->pid != getpid()) {
            return dal_fail(d, DAL_UNAVAILABLE, "%s was opened before a fork", d->address);
        }
        return dal_together(d, count, ask_value, told_value, items);
    }
    for (size_t i = 0; i < count; i++) {
        dal_get *item = &items[i];
        item->status = d->clustered ? d->status
                                    : dal_read(d, item->handle, item->buf, item->cap, &item->len, NULL);
    }
    return DAL_OK;
}
