/* The search for an order of one key's operations that explains every answer.
 *
 * Knows: wgl.h. Must not know: what the histories come from.
 *
 * Depth first: the next operation of an order is one whose call lies before the first return among the
 * certain ones that are not placed yet. What was visited is remembered as (set placed, item). Operations
 * that change nothing are placed as soon as they fit: no order is lost by that, as long as no uncertain
 * operation would come too late through it.
 */
#include "wgl.h"

#include <stdlib.h>
#include <string.h>

#define NOBODY UINT32_MAX
#define TABLE_FIRST 1024u /* a power of two; it doubles */

typedef struct {
    bool present;
    uint64_t value;
    uint32_t deadline_of; /* operation that set the deadline, NOBODY: none */
    uint32_t fresh_of;    /* CREATE that nothing has changed since, NOBODY: none */
} item;

typedef struct {
    uint32_t chosen; /* operation placed here */
    uint32_t next;   /* where the search goes on when that fails */
    bool forced;     /* no other choice is worth trying */
    item before;
    uint64_t latest_before; /* latest call among the placed ones */
    uint64_t hash_before;
} step;

typedef struct {
    const wgl_op *op; /* sorted by call */
    uint32_t origin[WGL_OPS_MAX];
    wgl_op sorted[WGL_OPS_MAX];
    uint64_t dice[WGL_OPS_MAX];
    bool placed[WGL_OPS_MAX];
    step path[WGL_OPS_MAX + 1];
    size_t count, depth, certain, certain_placed;
    uint64_t hash, latest;
    item now;
    uint64_t *table;
    uint64_t mask, states;
} search;

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

uint64_t wgl_fold(uint64_t value, uint64_t entry) { return mix(value * 31 + entry); }

#define ABSENT ((item){false, 0, NOBODY, NOBODY})

static bool doubtful(const wgl_op *o) { return o->result == WGL_DOUBT; }

/* The item after `o`; false when `o` does not fit here. */
static bool apply(const search *s, uint32_t at, item *i)
{
    const wgl_op *o = &s->op[at];
    if (o->result == WGL_ABSENT) {
        return !i->present;
    }
    if (o->result == WGL_PRESENT) {
        return i->present;
    }
    if (o->result == WGL_CHANGED) {
        return i->present;
    }
    if (o->verb == WGL_CREATE) {
        if (i->present) {
            return false;
        }
        *i = (item){true, o->value, o->sets_deadline ? at : NOBODY, at};
        return true;
    }
    if (!i->present) {
        return false;
    }
    uint32_t fresh_of = i->fresh_of;
    i->fresh_of = o->verb == WGL_READ ? fresh_of : NOBODY;
    switch (o->verb) {
    case WGL_READ: return i->value == o->value;
    case WGL_SWAP:
        if (i->value != o->expect) {
            return false;
        }
        /* fallthrough */
    case WGL_WRITE:
        i->value = o->value;
        i->deadline_of = o->sets_deadline ? at : i->deadline_of;
        return true;
    case WGL_ADD:
        i->value += o->value;
        return doubtful(o) || i->value == o->expect;
    case WGL_APPEND: i->value = wgl_fold(i->value, o->value); return true;
    case WGL_DELETE: *i = ABSENT; return true;
    case WGL_EXPIRE:
        if (i->deadline_of == NOBODY || s->origin[i->deadline_of] != o->expect) {
            return false;
        }
        *i = ABSENT;
        return true;
    case WGL_UNDO:
        if (fresh_of == NOBODY || s->origin[fresh_of] != o->expect) {
            return false;
        }
        *i = ABSENT;
        return true;
    default: return false;
    }
}

static bool changes_nothing(const wgl_op *o)
{
    return !doubtful(o) && (o->result != WGL_DONE || o->verb == WGL_READ);
}

static uint64_t *look(const search *s, uint64_t h)
{
    uint64_t at = h & s->mask;
    while (s->table[at] != 0 && s->table[at] != h) {
        at = (at + 1) & s->mask;
    }
    return &s->table[at];
}

static bool grow(search *s)
{
    uint64_t *old = s->table, size = s->mask + 1;
    s->table = calloc(2 * size, sizeof *old);
    if (s->table == NULL) {
        s->table = old;
        return false;
    }
    s->mask = 2 * size - 1;
    for (uint64_t i = 0; i < size; i++) {
        if (old[i] != 0) {
            *look(s, old[i]) = old[i];
        }
    }
    free(old);
    return true;
}

/* First seen? Remembers. */
static bool fresh(search *s)
{
    uint64_t h = mix(mix(s->hash) + s->now.value);
    h = mix(h + s->now.deadline_of * 2ull + s->now.present);
    h = mix(h + s->now.fresh_of) | 1;
    if (s->states * 2 > s->mask && !grow(s)) {
        s->states = WGL_STATES_MAX;
        return true;
    }
    uint64_t *at = look(s, h);
    if (*at == h) {
        return false;
    }
    *at = h;
    s->states++;
    return true;
}

static uint64_t first_return(const search *s)
{
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < s->count && s->op[i].invoked <= first; i++) {
        if (!s->placed[i] && !doubtful(&s->op[i]) && s->op[i].returned < first) {
            first = s->op[i].returned;
        }
    }
    return first;
}

static bool would_be_late(const search *s, uint64_t call)
{
    for (size_t i = 0; i < s->count; i++) {
        if (!s->placed[i] && doubtful(&s->op[i]) && s->op[i].returned < call) {
            return true;
        }
    }
    return false;
}

static void place(search *s, uint32_t at, const item *after, bool forced)
{
    s->path[s->depth++] = (step){at, at + 1, forced, s->now, s->latest, s->hash};
    s->placed[at] = true;
    s->certain_placed += !doubtful(&s->op[at]);
    s->hash ^= s->dice[at];
    s->now = *after;
    if (s->op[at].invoked > s->latest) {
        s->latest = s->op[at].invoked;
    }
}

/* Take the last one back; where to go on, or the end when it was the only choice. */
static uint32_t take_back(search *s)
{
    const step *t = &s->path[--s->depth];
    s->placed[t->chosen] = false;
    s->certain_placed -= !doubtful(&s->op[t->chosen]);
    s->now = t->before;
    s->latest = t->latest_before;
    s->hash = t->hash_before;
    return t->forced ? (uint32_t)s->count : t->next;
}

/* Place the next one from `from` on; false: nothing fits. */
static bool advance(search *s, uint32_t from)
{
    uint64_t limit = first_return(s);
    for (uint32_t i = 0; from == 0 && i < s->count && s->op[i].invoked <= limit; i++) {
        item after = s->now;
        if (!s->placed[i] && changes_nothing(&s->op[i]) && apply(s, i, &after) &&
            !would_be_late(s, s->op[i].invoked)) {
            place(s, i, &after, true);
            return true; /* the set is a new one or was left by this very step: no need to ask */
        }
    }
    for (uint32_t i = from; i < s->count && s->op[i].invoked <= limit; i++) {
        item after = s->now;
        if (s->placed[i] || (doubtful(&s->op[i]) && s->op[i].returned < s->latest) ||
            !apply(s, i, &after)) {
            continue;
        }
        place(s, i, &after, false);
        if (fresh(s)) {
            return true;
        }
        (void)take_back(s);
    }
    return false;
}

static void note_best(const search *s, wgl_report *r)
{
    if (s->certain_placed < r->explained || (s->certain_placed == 0 && r->explained == 0 && s->depth > 0)) {
        return;
    }
    r->explained = s->certain_placed;
    r->value = s->now.value;
    r->present = s->now.present;
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < s->count; i++) {
        if (!s->placed[i] && !doubtful(&s->op[i]) && s->op[i].returned <= first) {
            first = s->op[i].returned;
            r->stuck = s->origin[i];
        }
    }
}

static int by_call(const void *a, const void *b)
{
    const wgl_op *const *x = a;
    const wgl_op *const *y = b;
    if ((*x)->invoked != (*y)->invoked) {
        return (*x)->invoked < (*y)->invoked ? -1 : 1;
    }
    return *x < *y ? -1 : *x > *y;
}

static bool prepare(search *s, const wgl_op *ops, size_t count)
{
    const wgl_op *order[WGL_OPS_MAX];
    for (size_t i = 0; i < count; i++) {
        order[i] = &ops[i];
    }
    qsort(order, count, sizeof order[0], by_call);
    for (size_t i = 0; i < count; i++) {
        s->sorted[i] = *order[i];
        s->origin[i] = (uint32_t)(order[i] - ops);
        s->dice[i] = mix(i + 1);
        s->certain += !doubtful(order[i]);
    }
    s->op = s->sorted;
    s->count = count;
    s->now = ABSENT;
    s->mask = TABLE_FIRST - 1;
    s->table = calloc(TABLE_FIRST, sizeof *s->table);
    return s->table != NULL;
}

wgl_verdict wgl_check(const wgl_op *ops, size_t count, wgl_report *report)
{
    memset(report, 0, sizeof *report);
    search *s = count > WGL_OPS_MAX ? NULL : calloc(1, sizeof *s);
    if (s == NULL || !prepare(s, ops, count)) {
        free(s);
        return WGL_UNDECIDED;
    }
    wgl_verdict verdict = WGL_UNDECIDED;
    uint32_t from = 0;
    note_best(s, report);
    while (s->states < WGL_STATES_MAX) {
        if (s->certain_placed == s->certain) {
            verdict = WGL_LINEARIZABLE;
            break;
        }
        if (advance(s, from)) {
            from = 0;
            note_best(s, report);
        } else if (s->depth == 0) {
            verdict = WGL_VIOLATED;
            break;
        } else {
            from = take_back(s);
        }
    }
    report->states = s->states;
    free(s->table);
    free(s);
    return verdict;
}
