/* Fences: a raise asks every member; writes carry a grant; an eviction, a joiner, a crash at any moment.
 *
 * Knows: one fence that stands at 1 and is raised to 2 by member 1, a writer with grant 1 on every host.
 * Must not know: copies (every write is a local one), moves.
 */
#define HOLDERS B(1)
#ifndef LEADER
#define LEADER 2
#endif
#ifndef WRITES_MAX
#define WRITES_MAX 2
#endif
#ifndef CRASHER
#define CRASHER 0
#endif
#include "state.pml"

byte writes = WRITES_MAX;
byte stands = 0;      /* mask: the fence stands at 2 here */
byte asked = 0;       /* the raise: 1 proposed, 2 applied by its proposer, at */
byte at = 0;
bool raised = 0;      /* it has returned */

#define has_value(p) true
#define judge_ok(l, p) (!HAS(stands, l))
#define sequenced(l, p) code[p]
#define thawed(p) skip
inline apply_more(p)
{
    if
    :: op == OP_FENCE -> stands = stands | B(p)
    :: else
    fi
}
inline applied_own(p) { task_end(p); asked = 2; at = applied[p] }
#define GIVEN_UP(p) \
    if \
    :: p == RAISER && asked != 0 && !raised -> asked = 3 \
    :: else \
    fi
#define RAISER 1
inline wipe_more(p) { stands = stands & ~B(p); GIVEN_UP(p) }
inline crash_more(p) { GIVEN_UP(p) }
#ifdef MUTANT_NO_FENCES_IN_SNAPSHOT
inline snap_more(from, to) { skip }
#else
inline snap_more(from, to) { stands = (stands & ~B(to)) | (HAS(stands, from) << to) }
#endif
#define lost_more(p) skip
#include "rules.pml"

#define RAISE(p) \
    d_step { p == RAISER && asked == 0 && SERVES(p) && viewed[p] == ep[p] -> \
        asked = 1; code[p] = OP_FENCE; proposal = proposal | B(p); judged = judged & ~B(p) }
/* The raise returns: OK when committed. */
#define RETURNS(p) \
    d_step { p == RAISER && asked == 2 && HAS(alive, p) && committed[p] >= at -> raised = 1; asked = 3 }
#define REFUSED(p) \
    d_step { HAS(refused, p) && HAS(alive, p) -> task_end(p); asked = 3 }
/* Publication, with grant 1. Look at the fence and publication are one step: segment.h sees to that. */
#ifdef MUTANT_NO_FENCE_CHECK
#define GRANTED(p) true
#else
#define GRANTED(p) (!HAS(stands, p))
#endif
#define WRITE(p) \
    d_step { writes > 0 && WRITES(p) && GRANTED(p) -> \
        writes--; assert(!raised); assert(!OTHERS_WRITE(p)) }

proctype Member(byte p)
{
end:
    do
    COMMON(p)
    :: THAW(p)
    :: RAISE(p)
    :: RETURNS(p)
    :: REFUSED(p)
    :: WRITE(p)
    WITH_ALL(SEQUENCE, p)
    WITH_ALL(REFUSE, p)
#if JOINS > 0
    WITH_ALL(SNAP, p)
    WITH_ALL(MEMBER, p)
#endif
    od
}

init
{
    atomic { RUN };
    timeout -> assert(HEALED);
    assert(lost || WRITES(0) || WRITES(1) || WRITES(2));
    /* a raise that was begun has ended, and where it is known it is known to all */
    assert(asked == 0 || asked == 3);
    assert(!raised || (stands & present[epoch]) == present[epoch])
}
