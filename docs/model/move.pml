/* A move: learn, freeze, copy, PLACE, thaw; with an eviction or a crash at any moment.
 *
 * Knows: one item with one replica, at home on 0. Must not know: fences, creation, joiners.
 */
#define HOLDERS B(1)
#ifndef LEADER
#define LEADER 2
#endif
#ifndef WRITES_MAX
#define WRITES_MAX 2
#endif
#ifndef READS_MAX
#define READS_MAX 1
#endif
#ifndef MOVES
#define MOVES 1
#endif
#ifndef CRASHER
#define CRASHER 0
#endif
#include "state.pml"
#include "client.pml"

#define MAY_WRITE(p) true
#define has_value(p) (cur[p] != 0)
#define judge_ok(l, p) (master[l] == p && HAS(members[l], (code[p] >> 3) & 3))
#define sequenced(l, p) (code[p] & (~7 | members[l]))
#define thawed(p) written(p)
inline apply_more(p) { skip }
inline wipe_more(p) { client_gone(p) }
inline crash_more(p) { client_gone(p) }
inline snap_more(from, to) { skip }
inline applied_own(p) { task_end(p) }
#define lost_more(p) skip
#include "rules.pml"

byte moves = MOVES;

/* The target becomes a learner, unless it is a replica already. */
#define MOVE(p, t) \
    d_step { moves > 0 && p != t && WRITES(p) && task[p] == 0 && viewed[p] == ep[p] && \
        HAS(present[ep[p]] & complete, t) -> \
        moves--; task[p] = FILL; target[p] = t; GOT(p, t) = 0; \
        if \
        :: !HAS(replicas[p], t) -> learners[p] = learners[p] | B(t) \
        :: else \
        fi }
#define FREEZE(p, t) \
    d_step { task[p] == FILL && target[p] == t && HAS(alive, p) && MASTER(p) && GOT(p, t) != 0 -> \
        task[p] = FROZEN; away = away | B(p) }
#ifdef MUTANT_PLACE_BEFORE_COPY
#define HAS_IT(p, t) true
#else
#define HAS_IT(p, t) (GOT(p, t) == cur[p])
#endif
#define PROPOSE(p, t) \
    d_step { task[p] == FROZEN && target[p] == t && HAS(alive, p) && MASTER(p) && HAS_IT(p, t) && \
        viewed[p] == ep[p] -> \
        task[p] = PROPOSED; proposal = proposal | B(p); judged = judged & ~B(p); \
        code[p] = PLACE(t, (HAS(replicas[p], t) -> (replicas[p] & ~B(t)) | B(p) : replicas[p])) }
/* Refused: whoever was asked will never sequence it, so it thaws at once. */
#define REFUSED(p) \
    d_step { HAS(refused, p) && HAS(alive, p) -> \
        learners[p] = 0; task_end(p); \
        if \
        :: MASTER(p) && HAS(away, p) -> away = away & ~B(p); cur[p]++; written(p) \
        :: else \
        fi }

proctype Member(byte p)
{
end:
    do
    COMMON(p)
    CLIENT(p)
    :: THAW(p)
    :: REFUSED(p)
    WITH_ALL(COPY, p)
    WITH_ALL(MOVE, p)
    WITH_ALL(FREEZE, p)
    WITH_ALL(PROPOSE, p)
    WITH_ALL(SEQUENCE, p)
    WITH_ALL(REFUSE, p)
    od
}

init
{
    atomic {
        cur[0] = 1; cur[1] = 1; GOT(0, 1) = 1; used = 2;
        RUN
    };
    timeout -> assert(HEALED && IDLE(0) && IDLE(1) && IDLE(2));
    assert(lost || SERVED(0) || SERVED(1) || SERVED(2));
    assert(!lost || EVICTIONS + CRASHES > 1)
}
