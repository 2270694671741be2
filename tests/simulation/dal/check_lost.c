/* Invariant: no acknowledged synchronous write to a key with replicas is lost.
 *
 * For keys that are only added or appended to, without any search: after healing the value shows every
 * acknowledged addition once, and none that was refused.
 */
#include "sim.h"

static bool is_addition(const key_info *k, uint32_t key, const record *e)
{
    return e->key == key && (e->verb == (k->kind == LOG ? CLIENT_APPEND : CLIENT_ADD));
}

void check_lost(world *w)
{
    for (uint32_t key = 0; key < w->keys && !w->failed; key++) {
        const key_info *k = &w->key[key];
        if (!k->pure || !k->sync || k->mortal || k->lost_at != NEVER) {
            continue;
        }
        for (uint32_t i = 0; i < w->records && !w->failed; i++) {
            const record *e = &w->record[i];
            if (!is_addition(k, key, e) || (k->kind == COUNTER && e->value >= 1ull << BIT_ADDS)) {
                continue;
            }
            bool there = k->last_there &&
                         (k->kind == LOG ? w->last_seen[e->unique] : (k->last_value & e->value) != 0);
            bool finished = !e->crashed && e->returned != 0;
            if (finished && e->status == DAL_OK && !there) {
                broken(w, "lost", "record %u: an acknowledged addition to %s is gone", i, k->name);
            } else if (finished && e->status != DAL_OK && e->status != DAL_IN_DOUBT && there) {
                broken(w, "lost", "record %u: a refused addition to %s (status %d) is there", i, k->name,
                       (int)e->status);
            }
        }
    }
}
