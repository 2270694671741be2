/* Creation and deletion of a key, readers everywhere, misses that the leader confirms.
 *
 * Knows: one key, created once by member 0 (its master; a replica on 1) and deleted once by member 1.
 * Must not know: versions, copies of later values, moves.
 */
#define HOLDERS 0
#ifndef LEADER
#define LEADER 2
#endif
#ifndef READS_MAX
#define READS_MAX 3
#endif
#ifndef CRASHER
#define CRASHER 0
#endif
#define CREATOR 0
#define DELETER 1
#include "state.pml"

byte reads = READS_MAX;
byte exists = 0;     /* mask: the key is in the map here */
byte value = 0;      /* mask: readable here */
byte last_delete[N] = 0;
byte creating = 0, deleting = 0; /* 1 proposed, 2 applied by its proposer, 3 over */
byte create_at = 0, delete_at = 0;
bool seen = 0;       /* somebody was told that it is there */
bool gone = 0;       /* somebody was told that it is not there any more */

#define has_value(p) HAS(exists, p)
#define judge_ok(l, p) ((code[p] == OP_DELETE) == HAS(exists, l))
#define HOLDS(l, r) (HAS(members[l], r) && r != CREATOR)
#define sequenced(l, p) \
    (code[p] == OP_CREATE -> OP_CREATE + (HOLDS(l, 1) -> B(1) : (HOLDS(l, 2) -> B(2) : 0)) : code[p])
#define thawed(p) value = value | B(p)
#ifdef MUTANT_CREATED_AT_RECEIPT
#define CREATED_AT_RECEIPT(p) value = value | B(p); away = away & ~B(p)
#else
#define CREATED_AT_RECEIPT(p) skip
#endif
inline uproot(p)
{
    exists = exists & ~B(p); value = value & ~B(p); away = away | B(p);
    master[p] = NOBODY; replicas[p] = 0; start[p] = 0
}
inline apply_more(p)
{
    if
    :: op >= OP_CREATE ->
        exists = exists | B(p); master[p] = CREATOR; replicas[p] = op & 7;
        value = value | (B(p) & replicas[p]);
        if
        :: p == CREATOR -> start[p] = applied[p]; CREATED_AT_RECEIPT(p)
        :: else
        fi
    :: op == OP_DELETE ->
        uproot(p); last_delete[p] = applied[p]
    :: else
    fi
}
#define lost_more(p) uproot(p)
inline applied_own(p)
{
    if
    :: code[p] == OP_CREATE -> creating = 2; create_at = applied[p]
    :: else -> deleting = 2; delete_at = applied[p]
    fi;
    task_end(p)
}
inline given_up(p)
{
    if
    :: p == CREATOR && creating != 0 -> creating = 3
    :: p == DELETER && deleting != 0 -> deleting = 3
    :: else
    fi
}
inline wipe_more(p) { uproot(p); last_delete[p] = 0; given_up(p) }
inline crash_more(p) { given_up(p) }
inline snap_more(from, to)
{
    exists = (exists & ~B(to)) | (HAS(exists, from) << to);
    last_delete[to] = last_delete[from]
}
#include "rules.pml"

#define CREATE(p) \
    d_step { p == CREATOR && creating == 0 && SERVES(p) && viewed[p] == ep[p] -> \
        creating = 1; code[p] = OP_CREATE; proposal = proposal | B(p); judged = judged & ~B(p) }
#define CREATED(p) \
    d_step { p == CREATOR && creating == 2 && HAS(alive, p) && committed[p] >= create_at -> \
        creating = 3; seen = 1 }
#define DELETE(p) \
    d_step { p == DELETER && deleting == 0 && SERVES(p) && viewed[p] == ep[p] && HAS(exists, p) -> \
        deleting = 1; code[p] = OP_DELETE; proposal = proposal | B(p); judged = judged & ~B(p) }
#define DELETED(p) \
    d_step { p == DELETER && deleting == 2 && HAS(alive, p) && committed[p] >= delete_at -> \
        deleting = 3; gone = 1 }
#define REFUSED(p) \
    d_step { HAS(refused, p) && HAS(alive, p) -> \
        if \
        :: p == CREATOR -> creating = 3 \
        :: else -> deleting = 3 \
        fi; \
        task_end(p) }
/* A read at the master. One that was promoted is read when it has begun: until then the creation may be
   known to it alone, and an evicted leader could still confirm a miss. */
#ifdef MUTANT_READ_BEFORE_START
#define BEGUN(p) true
#else
#define BEGUN(p) (!HAS(away, p))
#endif
#define HIT(p) \
    d_step { reads > 0 && SERVES(p) && MASTER(p) && HAS(value, p) && BEGUN(p) -> \
        reads--; assert(!gone); seen = 1 }
/* A miss, confirmed by a leader. */
#ifdef MUTANT_MISS_DURING_DELETE
#define SETTLED(p) true
#else
#define SETTLED(p) (last_delete[p] <= committed[p])
#endif
#define MISS(p) \
    d_step { reads > 0 && LEADS(p) && SERVES(p) && !HAS(exists, p) && SETTLED(p) -> \
        reads--; \
        if \
        :: seen && !lost -> assert(deleting != 0); gone = 1 \
        :: else \
        fi }

proctype Member(byte p)
{
end:
    do
    COMMON(p)
    :: THAW(p)
    :: CREATE(p)
    :: CREATED(p)
    :: DELETE(p)
    :: DELETED(p)
    :: REFUSED(p)
    :: HIT(p)
    :: MISS(p)
    WITH_ALL(SEQUENCE, p)
    WITH_ALL(REFUSE, p)
    od
}

init
{
    atomic {
        master[0] = NOBODY; master[1] = NOBODY; master[2] = NOBODY; away = ALL;
        RUN
    };
    timeout -> assert(HEALED);
    assert(creating != 1 && creating != 2 && deleting != 1 && deleting != 2);
    /* everybody agrees; what was told stays true */
    assert((exists & present[epoch]) == 0 || (exists & present[epoch]) == present[epoch]);
    assert(!gone || (exists & present[epoch]) == 0);
    assert(!seen || lost || deleting != 0 || (exists & present[epoch]) == present[epoch]);
    assert((exists & present[epoch]) == 0 || WRITES(0) || WRITES(1) || WRITES(2))
}
