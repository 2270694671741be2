/* What all models share, what happens: the registry, view changes, the log, commit, copies, leases.
 *
 * Knows: state.pml, and the hooks of the model that includes it (apply_more, applied_own, wipe_more,
 * crash_more, snap_more, judge_ok, sequenced, has_value, thawed). Must not know: clients.
 */
/* An incarnation is no more: nobody needs to wait for its lease. */
inline over(p)
{
    lease = lease & ~B(p);
    held = held & ~B(p);
    for (y : 0 .. 2) {
        waits[y] = waits[y] & ~B(p)
    }
}

inline task_end(p)
{
    task[p] = 0;
    target[p] = NOBODY;
    proposal = proposal & ~B(p);
    judged = judged & ~B(p);
    refused = refused & ~B(p)
}

/* A promoted master also waits until every member has applied VIEW: one that has not yet seen the move
   away from itself might still be read. */
#if defined(MUTANT_PROMOTE_UNSEEN) || defined(MUTANT_PROMOTE_AT_ONCE)
#define START_AFTER_VIEW(p) 0
#else
#define START_AFTER_VIEW(p) applied[p]
#endif
/* A view is applied: promotion by rule, the dead leave every home. */
inline apply_view(p)
{
    dead = op & 7;
    viewed[p] = (op >> 3) & 7;
    waits[p] = (waits[p] | dead) & held;
    replicas[p] = replicas[p] & ~dead;
    learners[p] = learners[p] & ~dead;
    for (y : 0 .. 2) {
        if
        :: HAS(dead, y) -> GOT(p, y) = 0
        :: else
        fi
    }
    if
    :: master[p] != NOBODY && HAS(dead, master[p]) ->
        learners[p] = 0;
        if
        :: replicas[p] == 0 ->
            master[p] = NOBODY;
            lost = 1;
            lost_more(p)
        :: else ->
            master[p] = (HAS(replicas[p], 0) -> 0 : (HAS(replicas[p], 1) -> 1 : 2));
            replicas[p] = replicas[p] & ~B(master[p]);
            start[p] = START_AFTER_VIEW(p)
        fi
    :: else
    fi;
    /* a move to the dead is given up; what was frozen for it waits as a promotion does */
    if
    :: task[p] != 0 && target[p] != NOBODY && HAS(dead, target[p]) -> task_end(p)
    :: else
    fi
}

inline apply_place(p)
{
    best = (op >> 3) & 3;
    if
    :: master[p] == p && best != p -> away = away | B(p); learners[p] = 0
    :: master[p] != p && best == p ->
        start[p] = applied[p];
        for (y : 0 .. 2) {
            GOT(p, y) = 0
        }
    :: else
    fi;
    master[p] = best;
    replicas[p] = op & 7;
    learners[p] = learners[p] & ~replicas[p]
}

/* An operation arrives at p, the next one in its log. */
inline apply(p)
{
    applied[p]++;
    AT(p, applied[p]) = op;
    if
    :: op >= OP_VIEW -> apply_view(p)
    :: op < OP_VIEW && op >= OP_PLACE -> apply_place(p)
    :: op < OP_PLACE && op >= OP_MEMBER ->
        if
        :: op - OP_MEMBER == p -> complete = complete | B(p); lease = lease | B(p); viewed[p] = ep[p]
        :: else
        fi
    :: else -> apply_more(p)
    fi;
    /* the proposer sees its operation: the move is done, a request waits for the commit */
    if
    :: HAS(proposal, p) && (code[p] >> 3) == (op >> 3) && op < OP_VIEW -> applied_own(p)
    :: else
    fi;
    op = 0; dead = 0; best = 0; y = 0
}

inline wipe(p)
{
    over(p);
    task_end(p);
    complete = complete & ~B(p);
    snapped = snapped & ~B(p);
    fresh = fresh | B(p);
    away = away | B(p);
    opened[p] = 0; members[p] = 0; viewed[p] = 0; view_seq[p] = 0;
    for (x : 0 .. LOG) {
        AT(p, x) = 0
    }
    applied[p] = 0; committed[p] = 0; waits[p] = 0;
    master[p] = NOBODY; replicas[p] = 0; learners[p] = 0; start[p] = 0; cur[p] = 0; code[p] = 0;
    for (x : 0 .. 2) {
        GOT(p, x) = 0
    }
    wipe_more(p);
    x = 0; y = 0
}

/* ---- the registry ---- */

#define SPARE (EPOCHS - epoch - (present[epoch] != (present[epoch] & alive)))

inline new_view(who, l)
{
    present[epoch + 1] = who;
    leader_of[epoch + 1] = l;
    epoch++
}

/* The next leader is a complete member; the old one stays if it can. */
#define HEIR(p) (leader_of[epoch] != p -> leader_of[epoch] : \
    (HAS(present[epoch] & complete & ~B(p), 0) -> 0 : \
    (HAS(present[epoch] & complete & ~B(p), 1) -> 1 : 2)))

proctype Registry()
{
end:
    do
    :: d_step { crashes > 0 && SPARE > 0 && HAS(alive & present[epoch] & complete, CRASHER) ->
        crashes--; alive = alive & ~B(CRASHER); over(CRASHER); crash_more(CRASHER); y = 0 }
#define EVICT(p) \
    :: d_step { epoch < EPOCHS && HAS(present[epoch], p) && HAS(complete, p) && \
        (present[epoch] & complete & ~B(p)) != 0 && \
        (!HAS(alive, p) || (evictions > 0 && SPARE > 0)) -> \
        if :: HAS(alive, p) -> evictions-- :: else fi; \
        held = held | (lease & B(p)); \
        best = HEIR(p); new_view(present[epoch] & ~B(p), best); best = 0 }
    EVICT(0)
    EVICT(1)
    EVICT(2)
#define ADMIT(p) \
    :: d_step { joins > 0 && SPARE > 0 && HAS(fresh, p) && !HAS(present[epoch], p) -> \
        joins--; fresh = fresh & ~B(p); ep[p] = epoch; \
        new_view(present[epoch] | B(p), leader_of[epoch]) }
#if JOINS > 0
    ADMIT(0)
    ADMIT(1)
    ADMIT(2)
#endif
    od
}

/* ---- what every member does ---- */

/* It hears of a view. Outside, it begins anew. A proposal may be taken again by the new leader. */
#define SEE_VIEW(p, e) \
    d_step { HAS(alive, p) && !HAS(fresh, p) && ep[p] < e && epoch >= e -> \
        ep[p] = e; ACKED(e, p) = 0; \
        if \
        :: !HAS(present[e], p) -> wipe(p) \
        :: else -> \
            judged = judged & ~B(p); refused = refused & ~B(p); \
            snapped = snapped & ~(B(p) & ~complete) \
        fi }

/* STATE of all is here; what the leader lacks it fetches; then VIEW. */
#define STATED(l, p) (!HAS(present[ep[l]], p) || ep[p] == ep[l])
#define OPEN(l) \
    d_step { HAS(alive, l) && HAS(complete, l) && leader_of[ep[l]] == l && opened[l] != ep[l] && \
        STATED(l, 0) && STATED(l, 1) && STATED(l, 2) && applied[l] < LOG && \
        applied[0] < LOG && applied[1] < LOG && applied[2] < LOG -> \
        low = l; \
        for (x : 0 .. 2) { \
            if \
            :: HAS(present[ep[l]] & complete, x) && applied[x] > applied[low] -> low = x \
            :: else \
            fi \
        } \
        do \
        :: applied[l] < applied[low] -> op = AT(low, applied[l] + 1); apply(l) \
        :: else -> break \
        od; \
        members[l] = present[ep[l]] & complete; \
        opened[l] = ep[l]; \
        op = OP_VIEW + (ep[l] << 3) + (ALL & ~members[l]); \
        apply(l); \
        view_seq[l] = applied[l]; \
        for (x : 0 .. 2) { \
            if \
            :: HAS(members[l], x) -> ACKED(ep[l], x) = applied[x] \
            :: else \
            fi \
        } \
        low = 0; x = 0 }

/* OP from the leader l to p, and OPACK. */
#ifdef MUTANT_NO_EPOCH_CHECK
#define SAME_EPOCH(l, p) (ep[l] <= ep[p] && leader_of[ep[l]] == l && opened[l] == ep[l])
#else
#define SAME_EPOCH(l, p) (ep[l] == ep[p] && leader_of[ep[l]] == l && opened[l] == ep[l])
#endif
#define DELIVER(p, l) \
    d_step { l != p && HAS(alive, p) && SAME_EPOCH(l, p) && applied[p] < applied[l] && \
        HAS(complete | snapped, p) -> \
        op = AT(l, applied[p] + 1); apply(p); \
        if \
        :: ACKED(ep[l], p) < applied[p] -> ACKED(ep[l], p) = applied[p] \
        :: else \
        fi }
/* BEAT: how far it is committed. */
#define LEARN(p, l) \
    d_step { l != p && HAS(alive, p) && SAME_EPOCH(l, p) && committed[p] < committed[l] && \
        committed[p] < applied[p] && HAS(complete, p) -> \
        committed[p] = (applied[p] < committed[l] -> applied[p] : committed[l]) }

/* The leader counts the acknowledgements of every complete member of its view; while an evicted one
   may still serve, nothing becomes committed that was not. */
#define LACKS(l, s, p) (HAS(members[l], p) && p != l && ACKED(ep[l], p) < (s))
#ifdef MUTANT_COMMIT_AT_ONCE
#define HELD(l, s) false
#elif defined(MUTANT_HOLD_FORGOTTEN) /* only for those whom this view has evicted, not the last one */
#define HELD(l, s) ((waits[l] & present[ep[l] - 1]) != 0)
#elif defined(MUTANT_COMMIT_BELOW_VIEW)
#define HELD(l, s) (waits[l] != 0 && (s) >= view_seq[l])
#else
#define HELD(l, s) (waits[l] != 0)
#endif
#ifdef MUTANT_COMMIT_ALONE
#define MAY_COMMIT(l, s) true
#else
#define MAY_COMMIT(l, s) \
    (!HELD(l, s) && !LACKS(l, s, 0) && !LACKS(l, s, 1) && !LACKS(l, s, 2))
#endif
#define COMMIT(l) \
    d_step { LEADS(l) && committed[l] < applied[l] && MAY_COMMIT(l, committed[l] + 1) -> \
        committed[l]++ }

/* PROPOSE from p reaches the leader l: taken once per epoch, sequenced or refused. */
#ifdef MUTANT_JUDGED_AGAIN
#define TAKES(l, p) (code[p] != 0 && HAS(alive, p) && ep[p] == ep[l] && viewed[p] == ep[p])
#else
#define TAKES(l, p) \
    (HAS(proposal, p) && !HAS(judged, p) && HAS(alive, p) && ep[p] == ep[l] && viewed[p] == ep[p])
#endif
#define SEQUENCE(l, p) \
    d_step { LEADS(l) && TAKES(l, p) && applied[l] + 1 < LOG && judge_ok(l, p) -> \
        judged = judged | B(p); op = sequenced(l, p); apply(l) }
#define REFUSE(l, p) \
    d_step { LEADS(l) && TAKES(l, p) && !HAS(judged, p) -> \
        judged = judged | B(p); refused = refused | B(p) }

/* The joiner: the leader's map as it stands, then operations; MEMBER when it has caught up. */
#define SNAP(l, p) \
    d_step { l != p && LEADS(l) && HAS(alive, p) && ep[p] == ep[l] && HAS(present[ep[l]], p) && \
        !HAS(complete | snapped, p) -> \
        snapped = snapped | B(p); \
        master[p] = master[l]; replicas[p] = replicas[l]; learners[p] = 0; cur[p] = 0; \
        snap_more(l, p); \
        for (x : 0 .. LOG) { \
            AT(p, x) = AT(l, x) \
        } \
        applied[p] = applied[l]; ACKED(ep[l], p) = applied[l]; x = 0 }
#define MEMBER(l, p) \
    d_step { l != p && LEADS(l) && ep[p] == ep[l] && HAS(snapped, p) && !HAS(members[l], p) && \
        HAS(present[ep[l]], p) && ACKED(ep[l], p) == applied[l] && applied[l] < LOG -> \
        members[l] = members[l] | B(p); op = OP_MEMBER + p; apply(l) }

/* An evicted member's lease ends, whether it has heard of the view or not. */
#define LEASE_ENDS(p) \
    d_step { HAS(lease, p) && !HAS(present[epoch], p) && ep[p] < epoch -> over(p); y = 0 }

/* A new master begins to write. By promotion: after the lease of the evicted. By PLACE: when committed. */
#ifdef MUTANT_THAW_EARLY
#define STARTED(p) true
#else
#define STARTED(p) (committed[p] >= start[p])
#endif
#define THAW(p) \
    d_step { SERVES(p) && MASTER(p) && HAS(away, p) && task[p] == 0 && WAITED(p) && STARTED(p) && \
        has_value(p) -> \
        away = away & ~B(p); \
        cur[p] = (cur[p] + 1 > BASE(viewed[p]) -> cur[p] + 1 : BASE(viewed[p])); \
        thawed(p) }

/* COPY to a replica or learner, and its acknowledgement. */
#ifdef MUTANT_NO_EPOCH_CHECK
#define COPY_EPOCH(p, r) (ep[p] <= ep[r])
#else
#define COPY_EPOCH(p, r) (ep[p] == ep[r])
#endif
#define COPY(p, r) \
    d_step { p != r && HAS(alive, p) && HAS(alive, r) && MASTER(p) && master[r] == p && \
        HAS(replicas[p] | learners[p], r) && COPY_EPOCH(p, r) && GOT(p, r) < cur[p] -> \
        cur[r] = (cur[r] > cur[p] -> cur[r] : cur[p]); GOT(p, r) = cur[p] }
#define COPIED(p, r, v) (!HAS(replicas[p] | learners[p], r) || r == p || GOT(p, r) >= (v))
#define ALL_COPIED(p, v) (COPIED(p, 0, v) && COPIED(p, 1, v) && COPIED(p, 2, v))

#define WITH_ALL(act, p) \
    :: act(p, 0) \
    :: act(p, 1) \
    :: act(p, 2)

#define COMMON(p) \
    :: SEE_VIEW(p, 2) \
    SEE_VIEW_3(p) \
    SEE_VIEW_4(p) \
    :: OPEN(p) \
    :: COMMIT(p) \
    :: LEASE_ENDS(p) \
    WITH_ALL(DELIVER, p) \
    WITH_ALL(LEARN, p)
#if EPOCHS > 2
#define SEE_VIEW_3(p) :: SEE_VIEW(p, 3)
#else
#define SEE_VIEW_3(p)
#endif
#if EPOCHS > 3
#define SEE_VIEW_4(p) :: SEE_VIEW(p, 4)
#else
#define SEE_VIEW_4(p)
#endif

/* ---- when nothing can happen any more, everything is well again ---- */

#define HEALED_MEMBER(p) \
    (!HAS(present[epoch], p) || (HAS(alive, p) && ep[p] == epoch && viewed[p] == epoch && \
     HAS(complete, p) && applied[p] == applied[leader_of[epoch]] && \
     (committed[p] == applied[p] || applied[p] == 0) && task[p] == 0 && !HAS(proposal, p)))
#define HEALED (HEALED_MEMBER(0) && HEALED_MEMBER(1) && HEALED_MEMBER(2))

#define RUN \
    d_step { present[1] = ALL; leader_of[1] = LEADER; opened[LEADER] = 1; members[LEADER] = ALL }; \
    run Registry(); \
    run Member(0); \
    run Member(1); \
    run Member(2)
