/* Invariant: once a raise has returned, no write under an older grant takes effect, and the fence never
 * reads lower. A refusal names an epoch that somebody raised to and that is past the grant.
 */
#include "sim.h"

static bool writes(const record *e)
{
    return e->fence >= 0 && e->verb != CLIENT_RAISE && e->verb != CLIENT_FENCE;
}

uint64_t check_fence_raised(const world *w, int fence, uint64_t epoch)
{
    uint64_t first = NEVER;
    for (uint32_t i = 0; fence >= 0 && i < w->records; i++) {
        const record *e = &w->record[i];
        if (e->verb == CLIENT_RAISE && e->fence == fence && e->status == DAL_OK && !e->crashed &&
            e->returned != 0 && e->grant_epoch > epoch && e->returned < first) {
            first = e->returned;
        }
    }
    return first;
}

/* Has anybody begun to raise it to this? */
static bool begun(const world *w, int fence, uint64_t epoch, uint64_t before)
{
    for (uint32_t i = 0; i < w->records; i++) {
        const record *e = &w->record[i];
        if (e->verb == CLIENT_RAISE && e->fence == fence && e->grant_epoch == epoch && e->invoked <= before) {
            return true;
        }
    }
    return epoch == 0;
}

void check_fences(world *w)
{
    for (uint32_t i = 0; i < w->records && !w->failed; i++) {
        const record *e = &w->record[i];
        if (e->fence < 0 || e->crashed || e->returned == 0) {
            continue;
        }
        if (writes(e) && e->status == DAL_OK && e->invoked > check_fence_raised(w, e->fence, e->grant_epoch)) {
            broken(w, "fence",
                   "record %u: a write to %s under epoch %llu of f%d was acknowledged after a raise past it", i,
                   w->key[e->key].name, (unsigned long long)e->grant_epoch, e->fence);
        } else if (e->status == DAL_FENCED && e->epoch_seen <= e->grant_epoch) {
            broken(w, "fence", "record %u: refused under epoch %llu of f%d by epoch %llu", i,
                   (unsigned long long)e->grant_epoch, e->fence, (unsigned long long)e->epoch_seen);
        } else if ((e->status == DAL_FENCED || (e->status == DAL_OK && e->verb == CLIENT_FENCE)) &&
                   !begun(w, e->fence, e->epoch_seen, e->returned)) {
            broken(w, "fence", "record %u: f%d stands at %llu, which nobody raised it to", i, e->fence,
                   (unsigned long long)e->epoch_seen);
        } else if (e->status == DAL_OK && e->verb == CLIENT_FENCE &&
                   e->invoked > check_fence_raised(w, e->fence, e->epoch_seen)) {
            broken(w, "fence", "record %u: f%d reads %llu after a raise past it", i, e->fence,
                   (unsigned long long)e->epoch_seen);
        }
    }
}
