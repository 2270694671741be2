/* The checker checked: histories written by hand, and random ones compared with trying every order.
 *
 * Knows: wgl.h. Must not know: the simulation.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wgl.h"

#define RANDOM_HISTORIES 20000u
#define RANDOM_OPS_MAX 6u
#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define NEVER UINT64_MAX

static int failures;

static void expect(const char *what, const wgl_op *ops, size_t count, wgl_verdict wanted)
{
    wgl_report report;
    wgl_verdict got = wgl_check(ops, count, &report);
    if (got != wanted) {
        printf("%s: verdict %d, expected %d\n", what, (int)got, (int)wanted);
        failures++;
    }
}
#define GOOD(what, ops) expect(what, ops, COUNT(ops), WGL_LINEARIZABLE)
#define BAD(what, ops) expect(what, ops, COUNT(ops), WGL_VIOLATED)

static wgl_op op(wgl_verb verb, wgl_result result, uint64_t from, uint64_t to, uint64_t value,
                 uint64_t expected)
{
    return (wgl_op){verb, result, from, to, value, expected, false, 0};
}
#define MADE op(WGL_CREATE, WGL_DONE, 0, 1, 10, 0)
#define WROTE(from, to, v) op(WGL_WRITE, WGL_DONE, from, to, v, 0)
#define MAYBE(from, to, v) op(WGL_WRITE, WGL_DOUBT, from, to, v, 0)
#define SAW(from, to, v) op(WGL_READ, WGL_DONE, from, to, v, 0)
#define SAW_NONE(from, to) op(WGL_READ, WGL_ABSENT, from, to, 0, 0)

static void by_hand(void)
{
    GOOD("nothing", ((wgl_op[]){SAW_NONE(0, 1)}));
    BAD("from nowhere", ((wgl_op[]){SAW(0, 1, 3)}));
    GOOD("one after the other", ((wgl_op[]){MADE, WROTE(2, 3, 11), SAW(4, 5, 11)}));
    BAD("a stale read", ((wgl_op[]){MADE, WROTE(2, 3, 11), SAW(4, 5, 10)}));
    GOOD("a read beside a write sees the old one",
         ((wgl_op[]){MADE, WROTE(2, 9, 11), SAW(4, 5, 10)}));
    GOOD("a read beside a write sees the new one",
         ((wgl_op[]){MADE, WROTE(2, 9, 11), SAW(4, 5, 11)}));
    BAD("and back again", ((wgl_op[]){MADE, WROTE(2, 9, 11), SAW(3, 4, 11), SAW(5, 6, 10)}));
    BAD("a lost write", ((wgl_op[]){MADE, WROTE(2, 3, 11), WROTE(4, 5, 12), SAW(6, 7, 11)}));
    GOOD("in doubt, and never", ((wgl_op[]){MADE, MAYBE(2, NEVER, 11), SAW(4, 5, 10)}));
    GOOD("in doubt, and late",
         ((wgl_op[]){MADE, MAYBE(2, NEVER, 11), SAW(4, 5, 10), SAW(6, 7, 11)}));
    BAD("in doubt, before its call", ((wgl_op[]){MADE, SAW(2, 3, 11), MAYBE(4, NEVER, 11)}));
    BAD("in doubt, and twice", ((wgl_op[]){MADE, MAYBE(2, NEVER, 11), SAW(3, 4, 11), WROTE(5, 6, 12),
                                           SAW(7, 8, 11)}));
    BAD("in doubt, after its end", ((wgl_op[]){MADE, MAYBE(2, 5, 11), SAW(6, 7, 10), SAW(8, 9, 11)}));
    GOOD("in doubt, before its end, seen later",
         ((wgl_op[]){MADE, MAYBE(2, 5, 11), SAW(6, 7, 11)}));
    GOOD("a sum", ((wgl_op[]){MADE, op(WGL_ADD, WGL_DONE, 2, 5, 1, 13),
                              op(WGL_ADD, WGL_DONE, 2, 5, 2, 12), SAW(6, 7, 13)}));
    BAD("an add lost", ((wgl_op[]){MADE, op(WGL_ADD, WGL_DONE, 2, 5, 1, 11),
                                   op(WGL_ADD, WGL_DONE, 2, 5, 2, 12), SAW(6, 7, 12)}));
    BAD("an add twice", ((wgl_op[]){MADE, op(WGL_ADD, WGL_DOUBT, 2, NEVER, 1, 0), SAW(6, 7, 12)}));
    GOOD("a swap", ((wgl_op[]){MADE, op(WGL_SWAP, WGL_DONE, 2, 3, 11, 10), SAW(4, 5, 11)}));
    BAD("two swaps of one value",
        ((wgl_op[]){MADE, op(WGL_SWAP, WGL_DONE, 2, 9, 11, 10), op(WGL_SWAP, WGL_DONE, 2, 9, 12, 10)}));
    uint64_t ab = wgl_fold(wgl_fold(0, 1), 2), ba = wgl_fold(wgl_fold(0, 2), 1);
    wgl_op empty = op(WGL_CREATE, WGL_DONE, 0, 1, 0, 0);
    wgl_op a = op(WGL_APPEND, WGL_DONE, 2, 5, 1, 0), b = op(WGL_APPEND, WGL_DONE, 3, 6, 2, 0);
    GOOD("appends", ((wgl_op[]){empty, a, b, SAW(7, 8, ba), SAW(8, 9, ba)}));
    BAD("appends in two orders", ((wgl_op[]){empty, a, b, SAW(7, 8, ba), SAW(8, 9, ab)}));
    BAD("an append lost", ((wgl_op[]){empty, a, b, SAW(7, 8, wgl_fold(0, 2))}));
    wgl_op gone = op(WGL_DELETE, WGL_DONE, 2, 3, 0, 0);
    GOOD("deleted", ((wgl_op[]){MADE, gone, SAW_NONE(4, 5)}));
    BAD("deleted and seen", ((wgl_op[]){MADE, gone, SAW(4, 5, 10)}));
    BAD("gone and back", ((wgl_op[]){MADE, op(WGL_DELETE, WGL_DONE, 2, 9, 0, 0), SAW_NONE(3, 4),
                                     SAW(5, 6, 10)}));
    BAD("made twice", ((wgl_op[]){MADE, op(WGL_CREATE, WGL_DONE, 2, 3, 11, 0)}));
    GOOD("refused, it is there", ((wgl_op[]){MADE, op(WGL_CREATE, WGL_PRESENT, 2, 3, 11, 0)}));
    BAD("refused, it is not there", ((wgl_op[]){op(WGL_CREATE, WGL_PRESENT, 2, 3, 11, 0)}));
    wgl_op mortal = MADE;
    mortal.sets_deadline = true;
    GOOD("expired", ((wgl_op[]){mortal, op(WGL_EXPIRE, WGL_DOUBT, 5, NEVER, 0, 0), SAW_NONE(6, 7)}));
    BAD("expired early", ((wgl_op[]){mortal, op(WGL_EXPIRE, WGL_DOUBT, 5, NEVER, 0, 0), SAW_NONE(3, 4)}));
    wgl_op tried = op(WGL_CREATE, WGL_DOUBT, 0, NEVER, 10, 0), undone = op(WGL_UNDO, WGL_DOUBT, 0, NEVER, 0, 0);
    wgl_op there = op(WGL_CREATE, WGL_PRESENT, 2, 3, 11, 0);
    GOOD("a creation undone", ((wgl_op[]){tried, undone, there, SAW_NONE(4, 5)}));
    BAD("a creation undone after a write", ((wgl_op[]){tried, undone, there, WROTE(4, 5, 11), SAW_NONE(6, 7)}));
    BAD("a creation not undone", ((wgl_op[]){tried, there, SAW_NONE(4, 5)}));
    BAD("expired without a deadline",
        ((wgl_op[]){MADE, op(WGL_EXPIRE, WGL_DOUBT, 5, NEVER, 0, 0), SAW_NONE(6, 7)}));
}

/* Every order, no cleverness: the search's twin. */
typedef struct {
    const wgl_op *ops;
    size_t count;
    bool used[RANDOM_OPS_MAX];
} plain;

static bool plain_fits(const wgl_op *o, bool *there, uint64_t *value)
{
    if (o->result == WGL_ABSENT) {
        return !*there;
    }
    if (o->result == WGL_PRESENT || o->result == WGL_CHANGED) {
        return *there;
    }
    if (o->verb == WGL_CREATE) {
        bool fits = !*there;
        *there = true;
        *value = o->value;
        return fits;
    }
    if (!*there) {
        return false;
    }
    switch (o->verb) {
    case WGL_READ: return *value == o->value;
    case WGL_WRITE: *value = o->value; return true;
    case WGL_SWAP: {
        bool fits = *value == o->expect;
        *value = o->value;
        return fits;
    }
    case WGL_ADD: *value += o->value; return o->result == WGL_DOUBT || *value == o->expect;
    case WGL_APPEND: *value = wgl_fold(*value, o->value); return true;
    default: *there = false; return true;
    }
}

static bool plain_search(plain *p, bool there, uint64_t value, uint64_t latest)
{
    bool all = true;
    uint64_t first = NEVER;
    for (size_t i = 0; i < p->count; i++) {
        if (!p->used[i] && p->ops[i].result != WGL_DOUBT) {
            all = false;
            first = p->ops[i].returned < first ? p->ops[i].returned : first;
        }
    }
    for (size_t i = 0; !all && i < p->count; i++) {
        const wgl_op *o = &p->ops[i];
        bool now_there = there;
        uint64_t now_value = value;
        if (p->used[i] || o->invoked > first || (o->result == WGL_DOUBT && o->returned < latest) ||
            !plain_fits(o, &now_there, &now_value)) {
            continue;
        }
        p->used[i] = true;
        all = plain_search(p, now_there, now_value, o->invoked > latest ? o->invoked : latest);
        p->used[i] = false;
    }
    return all;
}

static uint32_t dice(uint64_t *state, uint32_t sides)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33) % sides;
}

static void at_random(void)
{
    uint64_t state = 1;
    uint32_t linearizable = 0;
    for (uint32_t round = 0; round < RANDOM_HISTORIES; round++) {
        wgl_op ops[RANDOM_OPS_MAX];
        size_t count = 2 + dice(&state, RANDOM_OPS_MAX - 1);
        uint32_t kind = dice(&state, 3);
        ops[0] = op(WGL_CREATE, WGL_DONE, 0, 1 + dice(&state, 4), 0, 0);
        for (size_t i = 1; i < count; i++) {
            static const wgl_verb verbs[] = {WGL_READ, WGL_READ, WGL_WRITE, WGL_SWAP, WGL_DELETE, WGL_CREATE};
            wgl_verb verb = verbs[dice(&state, COUNT(verbs))];
            if (verb == WGL_WRITE && kind > 0) {
                verb = kind == 1 ? WGL_ADD : WGL_APPEND;
            }
            uint64_t from = dice(&state, 12);
            ops[i] = op(verb, WGL_DONE, from, from + 1 + dice(&state, 8), dice(&state, 3), dice(&state, 3));
            uint32_t fate = dice(&state, 8);
            if (fate == 0 && verb != WGL_READ) {
                ops[i].result = WGL_DOUBT;
                ops[i].returned = dice(&state, 2) ? NEVER : ops[i].returned;
            } else if (fate == 1) {
                ops[i].result = verb == WGL_CREATE ? WGL_PRESENT : WGL_ABSENT;
            } else if (verb == WGL_READ && kind == 2) {
                ops[i].value = wgl_fold(0, dice(&state, 3));
            }
        }
        plain p = {ops, count, {false}};
        bool wanted = plain_search(&p, false, 0, 0);
        linearizable += wanted;
        char what[32];
        snprintf(what, sizeof what, "random history %u", round);
        expect(what, ops, count, wanted ? WGL_LINEARIZABLE : WGL_VIOLATED);
    }
    if (linearizable < RANDOM_HISTORIES / 20 || linearizable > RANDOM_HISTORIES / 20 * 19) {
        printf("the random histories are all alike: %u of %u linearizable\n", linearizable, RANDOM_HISTORIES);
        failures++;
    }
}

int main(void)
{
    by_hand();
    at_random();
    printf(failures == 0 ? "ok\n" : "failed\n");
    return failures != 0;
}
