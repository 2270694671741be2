/* Invariant: what the clients saw of a key is linearizable, if all operations on it were synchronous.
 *
 * Knows: records, wgl.h. Must not know: the protocol.
 *
 * A key without replicas is lost with its master: of its history only what comes before that counts.
 * A creation in doubt may be seen for a moment and be gone again: its master died before it had the value.
 * What was done under an old grant took effect before the raise past it returned, or never.
 * In a world whose masters begin at once, who was evicted may not know it until its lease ends: what is read
 * until then may be old, by whoever asks it. What is written may not.
 */
#include <stdio.h>
#include <stdlib.h>

#include "sim.h"

#define SHOWN 60u /* records printed with a violation */

/* Can it have been answered by somebody who had just been evicted and did not know? */
static bool may_be_old(const world *w, const record *e)
{
    for (uint64_t i = 0; w->at_once && i < w->registry.evictions; i++) {
        uint64_t from = w->registry.evicted_at[i];
        if (e->returned > from && e->invoked < from + LEASE_NS) {
            return true;
        }
    }
    return false;
}

static bool translate(const world *w, const key_info *k, const record *e, wgl_op *o)
{
    static const wgl_verb verbs[CLIENT_VERBS] = {
        [CLIENT_READ] = WGL_READ, [CLIENT_WRITE] = WGL_WRITE, [CLIENT_APPEND] = WGL_APPEND,
        [CLIENT_SWAP] = WGL_SWAP, [CLIENT_ADD] = WGL_ADD, [CLIENT_DELETE] = WGL_DELETE,
        [CLIENT_CREATE] = WGL_CREATE, [CLIENT_LOOKUP] = WGL_READ,
    };
    if (e->verb > CLIENT_CREATE && e->verb != CLIENT_LOOKUP) {
        return false;
    }
    *o = (wgl_op){.verb = verbs[e->verb], .result = WGL_DONE, .invoked = e->invoked, .returned = e->returned,
                  .value = e->value, .expect = e->expect, .sets_deadline = e->set_ttl};
    bool unfinished = e->crashed || e->returned == 0;
    bool reads = o->verb == WGL_READ;
    if (unfinished || e->status == DAL_IN_DOUBT) {
        o->result = WGL_DOUBT;
        o->returned = NEVER;
    } else if (e->status == DAL_NOT_FOUND) {
        o->result = WGL_ABSENT;
    } else if (e->status == DAL_EXISTS) {
        o->result = WGL_PRESENT;
    } else if (e->status == DAL_CHANGED) {
        o->result = WGL_CHANGED;
    } else if (e->status != DAL_OK || e->verb == CLIENT_LOOKUP) {
        return false; /* refused: no effect. A lookup's hit may be an old map's. */
    }
    if (e->invoked >= k->lost_at) {
        return false;
    }
    if (o->returned > k->lost_at) {
        o->result = WGL_DOUBT;
        o->returned = NEVER;
    }
    bool changes = !reads && (o->result == WGL_DONE || o->result == WGL_DOUBT);
    if ((o->result == WGL_DOUBT && reads) || (!changes && may_be_old(w, e))) {
        return false;
    }
    if (e->fence >= 0 && (o->result == WGL_DONE || o->result == WGL_DOUBT)) {
        uint64_t raised = check_fence_raised(w, e->fence, e->grant_epoch);
        o->returned = raised < o->returned ? raised : o->returned;
        if (o->returned < o->invoked) {
            return false; /* in doubt, and too late to have taken effect */
        }
    }
    return true;
}

static uint64_t sums_seen(const world *w, uint32_t key)
{
    uint64_t bits = 0;
    for (uint32_t i = 0; i < w->records; i++) {
        const record *e = &w->record[i];
        if (e->key == key && !e->crashed && e->status == DAL_OK) {
            bits |= e->verb == CLIENT_READ ? e->value : e->verb == CLIENT_ADD ? e->expect : 0;
        }
    }
    return bits;
}

/* An uncertain write that nobody has seen explains nothing: leaving it out keeps the search short. */
static bool worthless(const world *w, const wgl_op *o, const record *e, uint64_t bits)
{
    if (o->result != WGL_DOUBT || o->sets_deadline) {
        return false;
    }
    switch (o->verb) {
    case WGL_WRITE:
    case WGL_SWAP:
    case WGL_APPEND: return w->key[e->key].kind != COUNTER && !w->seen[e->unique];
    case WGL_ADD: return o->value < 1ull << BIT_ADDS && (bits & o->value) == 0;
    default: return false;
    }
}

static void show(const world *w, uint32_t key, uint32_t around)
{
    static const char *const names[CLIENT_VERBS] = {
        [CLIENT_LOOKUP] = "lookup", [CLIENT_READ] = "read", [CLIENT_WRITE] = "write", [CLIENT_APPEND] = "append",
        [CLIENT_SWAP] = "swap", [CLIENT_ADD] = "add", [CLIENT_DELETE] = "delete", [CLIENT_CREATE] = "create",
        [CLIENT_ENSURE] = "ensure", [CLIENT_MOVE] = "move",
    };
    uint32_t shown = 0, first = around;
    while (first > 0 && shown < SHOWN) {
        shown += w->record[--first].key == key;
    }
    for (uint32_t i = first; i < w->records && i < around + SHOWN; i++) {
        const record *e = &w->record[i];
        if (e->key == key && e->verb != CLIENT_RAISE && e->verb != CLIENT_FENCE) {
            printf("  record %4u  client %u %-7s %10.3f..%-10.3f ms status %2d value %016llx expect %016llx\n", i,
                   e->client, names[e->verb], (double)e->invoked / 1e6,
                   e->returned == NEVER ? -1.0 : (double)e->returned / 1e6,
                   e->crashed || e->returned == 0 ? -1 : (int)e->status, (unsigned long long)e->value,
                   (unsigned long long)e->expect);
        }
    }
}

static void check_key(world *w, uint32_t key, wgl_op *ops)
{
    const key_info *k = &w->key[key];
    uint64_t bits = sums_seen(w, key);
    size_t count = 0;
    for (uint32_t i = 0; i < w->records; i++) {
        const record *e = &w->record[i];
        bool fence = e->verb == CLIENT_RAISE || e->verb == CLIENT_FENCE;
        if (fence || e->key != key || !translate(w, k, e, &ops[count]) || worthless(w, &ops[count], e, bits)) {
            continue;
        }
        ops[count].tag = i;
        wgl_op *o = &ops[count++];
        if (o->sets_deadline && (o->result == WGL_DONE || o->result == WGL_DOUBT) && count < WGL_OPS_MAX) {
            ops[count] = (wgl_op){.verb = WGL_EXPIRE, .result = WGL_DOUBT, .invoked = e->invoked + e->ttl_ns,
                                  .returned = NEVER, .expect = count - 1, .tag = i};
            count++;
        }
        if (o->verb == WGL_CREATE && o->result == WGL_DOUBT && count < WGL_OPS_MAX) {
            ops[count] = (wgl_op){.verb = WGL_UNDO, .result = WGL_DOUBT, .invoked = e->invoked,
                                  .returned = NEVER, .expect = (uint64_t)(o - ops), .tag = i};
            count++;
        }
        if (count >= WGL_OPS_MAX) {
            broken(w, "simulation", "the history of %s is too long to check", k->name);
            return;
        }
    }
    wgl_report report;
    wgl_verdict verdict = wgl_check(ops, count, &report);
    if (verdict == WGL_UNDECIDED) {
        w->undecided++;
    } else if (verdict == WGL_VIOLATED) {
        uint32_t stuck = ops[report.stuck].tag;
        broken(w, "linearizable",
               "%s: of %zu operations at best %zu fit one order, in which it then is %s %016llx; "
               "record %u does not",
               k->name, count, report.explained, report.present ? "there," : "absent,", (unsigned long long)report.value,
               stuck);
        if (!w->quiet) {
            show(w, key, stuck);
        }
    }
}

void check_linear(world *w)
{
    wgl_op *ops = calloc(WGL_OPS_MAX + 2, sizeof *ops);
    for (uint32_t k = 0; ops != NULL && k < w->keys && !w->failed; k++) {
        if (w->key[k].sync) {
            check_key(w, k, ops);
        }
    }
    free(ops);
}
