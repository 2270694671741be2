/* Is a history of operations on one key linearizable? (Wing and Gong's search, with Lowe's memory.)
 *
 * Knows: one item that is there or not, its value as a number, operations with the time of call and return.
 * Must not know: keys, clusters, the simulation.
 *
 * A value is whatever number stands for it: a counter's sum, or a hash. An append changes the number by
 * wgl_fold, so the number of a sequence of entries is the fold of theirs, from 0.
 */
#ifndef SIMULATION_WGL_H
#define SIMULATION_WGL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WGL_OPS_MAX 1024u        /* of one history */
#define WGL_STATES_MAX (1u << 20) /* visited before it gives up */

typedef enum {
    WGL_CREATE, /* value */
    WGL_READ,   /* value = what was seen */
    WGL_WRITE,  /* value */
    WGL_SWAP,   /* value; expect = the value that must stand */
    WGL_ADD,    /* value = the delta, expect = the sum that came back */
    WGL_APPEND, /* value = of the entry */
    WGL_DELETE,
    WGL_EXPIRE, /* expect = index of the operation that set the deadline; never certain */
    WGL_UNDO,   /* expect = index of a CREATE in doubt: it is gone again, if nobody has changed it since */
} wgl_verb;

typedef enum {
    WGL_DONE,    /* it took effect */
    WGL_ABSENT,  /* refused: no such key */
    WGL_PRESENT, /* CREATE, refused: it is there */
    WGL_CHANGED, /* SWAP, refused. May always be: a version may change alone */
    WGL_DOUBT,   /* it took effect or not, at any time before `returned` */
} wgl_result;

typedef struct {
    wgl_verb verb;
    wgl_result result;
    uint64_t invoked, returned; /* returned: UINT64_MAX if never */
    uint64_t value, expect;
    bool sets_deadline; /* CREATE, WRITE, SWAP: this operation's deadline counts from now on */
    uint32_t tag;       /* the caller's, for messages */
} wgl_op;

typedef enum { WGL_LINEARIZABLE, WGL_VIOLATED, WGL_UNDECIDED } wgl_verdict;

typedef struct {
    uint64_t states;   /* visited */
    size_t explained;  /* certain operations in the longest order that was found */
    size_t stuck;      /* the one that returned first among those that order lacks: index */
    uint64_t value;    /* the item as that order leaves it, */
    bool present;      /* if it is there */
} wgl_report;

uint64_t wgl_fold(uint64_t value, uint64_t entry);
/* `ops` in any order; count at most WGL_OPS_MAX. */
wgl_verdict wgl_check(const wgl_op *ops, size_t count, wgl_report *report);

#endif
