/* What all models share, the state: the registry, members with their logs, the item, proposals.
 *
 * Knows: three members, one item, one crash, evictions whether justified or not, joiners.
 * Must not know: time (a lease ends at any moment after its member was evicted, and who waits for
 * `promote_delay` waits for just that), sockets, bytes.
 *
 * How the network is modelled. A message that is repeated until it is answered is read from its sender's
 * state at the moment when it arrives: any delay, loss, duplicate or reordering of such messages is
 * a later or an earlier arrival. An acknowledgement arrives with what it acknowledges, and its receiver
 * acts on it at any later moment. A partition is a delay, and the registry may evict whom it likes. What only
 * an unguarded receiver could be confused by (messages of an old epoch, a proposal that comes twice)
 * is what the mutants let through.
 */
#ifndef EPOCHS
#define EPOCHS 3 /* views in one run */
#endif
#ifndef LOG
#define LOG 4 /* operations in one run */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef EVICTIONS
#define EVICTIONS 1 /* of the living; the dead are evicted as well */
#endif
#ifndef JOINS
#define JOINS 0
#endif
#define N 3
#define ALL 7
#define NOBODY 3
#define B(s) (1 << (s))
#define HAS(mask, s) (((mask) >> (s)) & 1)
#define BASE(e) ((e) << 2) /* logical versions of a master that was promoted in epoch e begin here */

/* An operation is one byte. */
#define OP_VIEW 128   /* + epoch << 3 + the slots that are not complete members */
#define OP_PLACE 64   /* + master << 3 + replicas */
#define OP_MEMBER 32  /* + slot */
#define OP_FENCE 16   /* raises the fence from 1 to 2 */
#define OP_CREATE 8   /* + replicas; the master is 0 */
#define OP_DELETE 4
#define PLACE(t, r) (OP_PLACE + ((t) << 3) + (r))

/* The registry. */
byte epoch = 1;
byte present[EPOCHS + 1];
byte leader_of[EPOCHS + 1];
byte crashes = CRASHES, evictions = EVICTIONS, joins = JOINS;

/* Members. Masks have a bit per slot. */
byte alive = ALL;
byte complete = ALL;
byte lease = ALL;           /* may serve, as far as it knows */
byte held = 0;              /* evicted, and its lease still runs */
byte fresh = 0;             /* has begun anew, waits to be admitted */
byte snapped = 0;
byte ep[N] = 1;             /* of the view it knows */
byte viewed[N] = 1;         /* of the last VIEW it has applied */
byte opened[N] = 0;         /* leader: the epoch that it has opened */
byte members[N] = 0;        /* leader: complete members, in its epoch */
byte applied[N] = 0;
byte committed[N] = 0;
byte log[N * (LOG + 1)] = 0;
byte view_seq[N] = 0;       /* leader: where its VIEW stands */
byte acked[(EPOCHS + 1) * N] = 0; /* what each acknowledged in that epoch */
byte waits[N] = 0;          /* evicted ones whose lease may still run, as promote_delay knows */
#define AT(p, i) log[(p) * (LOG + 1) + (i)]
#define ACKED(e, p) acked[(e) * N + (p)]

/* The item, as each member's map has it. */
byte master[N] = 0;
byte replicas[N] = HOLDERS;
byte learners[N] = 0;
byte away = ALL - 1;        /* mask: may not be written here */
byte start[N] = 0;          /* a new master by PLACE or CREATE starts when this is committed */
byte cur[N] = 0;            /* logical version */
byte got[N * N] = 0;        /* master: version that the other one has acknowledged */
#define GOT(p, x) got[(p) * N + (x)]
bool lost = 0;

/* Proposals: one per member at a time. */
byte proposal = 0;          /* mask: not done yet */
byte judged = 0;            /* mask: its id was taken in this epoch */
byte refused = 0;           /* mask: REFUSED is on its way */
byte code[N] = 0;

/* The states of a move, a repair, a raise. */
byte task[N] = 0;
byte target[N] = NOBODY;
#define FILL 1
#define FROZEN 2
#define PROPOSED 3

/* Scratch: not part of the state. */
hidden byte x, y, best, low, op, dead;

#define IN_VIEW(p) HAS(present[ep[p]], p)
#define SERVES(p) (HAS(alive, p) && HAS(complete, p) && HAS(lease, p))
#define MASTER(p) (master[p] == (p))
#define WRITES(p) (SERVES(p) && MASTER(p) && !HAS(away, p))
#define LEADS(p) (HAS(alive, p) && leader_of[ep[p]] == (p) && opened[p] == ep[p])
#define OTHERS_WRITE(p) \
    ((p != 0 && WRITES(0)) || (p != 1 && WRITES(1)) || (p != 2 && WRITES(2)))
#ifdef MUTANT_PROMOTE_AT_ONCE
#define WAITED(p) true
#else
#define WAITED(p) (waits[p] == 0)
#endif

