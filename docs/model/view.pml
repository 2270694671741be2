/* View change: eviction, lease, promotion, repair, a member that joins; synchronous writes and reads.
 *
 * Knows: one item with one replica. Must not know: moves, fences, creation.
 */
#define HOLDERS B(1)
#define LEADER 2
#ifndef WRITES_MAX
#define WRITES_MAX 2
#endif
#ifndef READS_MAX
#define READS_MAX 1
#endif
#ifndef REPAIRS
#define REPAIRS 1
#endif
#ifndef CRASHER
#define CRASHER 0
#endif
#include "state.pml"
#include "client.pml"

#define MAY_WRITE(p) true
#define has_value(p) (cur[p] != 0)
#define judge_ok(l, p) (master[l] == p && HAS(members[l], target[p]))
#define sequenced(l, p) (code[p] & (~7 | members[l]))
#define thawed(p) written(p)
inline apply_more(p) { skip }
inline wipe_more(p) { client_gone(p) }
inline crash_more(p) { client_gone(p) }
inline snap_more(from, to) { skip }
inline applied_own(p) { task_end(p) }

#define lost_more(p) skip
#include "rules.pml"

byte repairs = REPAIRS;

/* The master makes a missing copy: the other one learns, and then the leader is asked. */
#define REPAIR(p, r) \
    d_step { repairs > 0 && p != r && WRITES(p) && replicas[p] == 0 && task[p] == 0 && viewed[p] == ep[p] && \
        HAS(present[ep[p]] & complete, r) -> \
        repairs--; task[p] = FILL; target[p] = r; learners[p] = learners[p] | B(r); GOT(p, r) = 0 }
#define FILLED(p, r) \
    d_step { task[p] == FILL && target[p] == r && HAS(alive, p) && MASTER(p) && GOT(p, r) == cur[p] && \
        viewed[p] == ep[p] -> \
        task[p] = PROPOSED; code[p] = PLACE(p, replicas[p] | B(r)); proposal = proposal | B(p); \
        judged = judged & ~B(p) }
#define REFUSED(p) \
    d_step { HAS(refused, p) && HAS(alive, p) -> learners[p] = 0; task_end(p) }

proctype Member(byte p)
{
end:
    do
    COMMON(p)
    CLIENT(p)
    :: THAW(p)
    :: REFUSED(p)
    WITH_ALL(COPY, p)
    WITH_ALL(REPAIR, p)
    WITH_ALL(FILLED, p)
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
    atomic {
        cur[0] = 1; cur[1] = 1; GOT(0, 1) = 1; used = 2;
        RUN
    };
    timeout -> assert(HEALED && IDLE(0) && IDLE(1) && IDLE(2));
    assert(lost || SERVED(0) || SERVED(1) || SERVED(2));
    assert(!lost || EVICTIONS + CRASHES > 1)
}
