/* Invariant: a key has at most one master that serves.
 *
 * Looked at after every event, in the segments themselves, by the world's time: a member may write an
 * item if it serves, its lease runs, and the item is not away there. That its server is stopped or dead
 * is no excuse: its clients write in memory.
 */
#include <string.h>

#include "sim.h"

static bool may_write(world *w, uint32_t h, const key_info *k, seg_facts *f)
{
    seg *s = w->host[h].watcher;
    seg_handle at;
    return seg_lookup(s, k->name, strlen(k->name), &at) == SEG_OK &&
           seg_facts_read(s, &at, f) == SEG_OK && !f->away && !f->stub;
}

void check_one_master(world *w)
{
    for (uint32_t k = 0; k < w->keys; k++) {
        int first = -1;
        seg_facts facts[HOSTS_MAX];
        for (uint32_t h = 0; h < w->hosts; h++) {
            const host *me = &w->host[h];
            if (!me->exists || !seg_serving(me->watcher) || seg_lease_ns(me->watcher) <= host_now(w, h) ||
                !seg_clustered(me->watcher) || !may_write(w, h, &w->key[k], &facts[h])) {
                continue;
            }
            if (first >= 0) {
                broken(w, "one master",
                       "%s may be written on h%d (epoch %llu, auth %llu) and h%u (epoch %llu, auth %llu)",
                       w->key[k].name, first, (unsigned long long)seg_epoch(w->host[first].watcher),
                       (unsigned long long)facts[first].auth, h,
                       (unsigned long long)seg_epoch(me->watcher), (unsigned long long)facts[h].auth);
                return;
            }
            first = (int)h;
        }
    }
}
