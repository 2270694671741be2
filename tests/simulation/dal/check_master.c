/* Invariant: a key has at most one master that serves.
 *
 * Looked at after every event, in the segments themselves, by the world's time: a member may write an
 * item if it serves, its lease runs, and the item is not away there. That its server is stopped or dead
 * is no excuse: its clients write in memory.
 *
 * In a world whose masters begin at once the last one may still believe in an older view: then at most one
 * in each epoch. None but the newest gets anything acknowledged, as check_linear.c sees.
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
        int first[HOSTS_MAX];
        uint32_t found = 0;
        seg_facts facts[HOSTS_MAX];
        for (uint32_t h = 0; h < w->hosts; h++) {
            const host *me = &w->host[h];
            if (!me->exists || !seg_serving(me->watcher) || seg_lease_ns(me->watcher) <= host_now(w, h) ||
                !seg_clustered(me->watcher) || !may_write(w, h, &w->key[k], &facts[h])) {
                continue;
            }
            for (uint32_t i = 0; i < found; i++) {
                const host *other = &w->host[first[i]];
                if (w->at_once && seg_epoch(other->watcher) != seg_epoch(me->watcher)) {
                    continue;
                }
                broken(w, "one master",
                       "%s may be written on h%d (epoch %llu, auth %llu) and h%u (epoch %llu, auth %llu)",
                       w->key[k].name, first[i], (unsigned long long)seg_epoch(other->watcher),
                       (unsigned long long)facts[first[i]].auth, h,
                       (unsigned long long)seg_epoch(me->watcher), (unsigned long long)facts[h].auth);
                return;
            }
            first[found++] = (int)h;
        }
    }
}
