/* The peers' word (decision 46): one owner, N peers that may take over from it, one registry.
 *
 * Knows: words, promises, parties, claims (in doubt too), process and machine restarts. Must not know:
 * the state plane, the registry's lease (what it allows is decided elsewhere), clocks. What is left of
 * time is one order: a promise ends, and a machine is done waiting, only after what was granted has.
 *
 * Node 0 is the owner at epoch 0; whoever has claimed from it is its successor for good.
 */
#ifndef N
#define N 2
#endif
#ifndef ASKS
#define ASKS 2
#endif
#ifndef BOOTS
#define BOOTS 1
#endif
#ifndef RESTARTS
#define RESTARTS 1
#endif
#ifndef WRITES
#define WRITES 2
#endif
#define B(p) (1 << (p))
#define PEER(p) p : 1 .. N
#define ALL (B(N + 1) - 2)

/* The registry. */
byte owner;                /* of the group */
byte parties;              /* as the owner's record has them; none: anybody may claim */
byte settled;              /* the last question that the owner gives back */
byte listed;               /* peers with a lease */

/* The owner. */
byte window;               /* parties that may stand in its record since it was last proven to own */
bool anybody;              /* a record without any may stand there */
byte latest;               /* as it last wrote them, or tried to */
bool under_way, written, known; /* that write: sent, has taken effect, its answer has come */
bool given_back;           /* no question is open */
byte gives_back;           /* the write says so of this one */
byte sees;                 /* peers with a lease, as last seen */
bool lost;                 /* it has seen a successor */
byte number, past;         /* of its last question; of the last whose answers are not taken */
byte word;                 /* whose word it has */
bool stands;               /* it forwards by words */
byte stood;                /* by whose */
byte asks = ASKS, boots = BOOTS, writes = WRITES, restarts = RESTARTS;

/* Peers. */
byte question[N + 1], answer[N + 1];  /* on their way: the number, 0 is none */
byte promised[N + 1];      /* to which question; 0: nothing */
bool forgot[N + 1];        /* switched on again: a promise may hold that it does not remember */
bool blank[N + 1];         /* and it has not seen the registry since */
bool claimed[N + 1];       /* it has sent a claim, as far as it remembers */
bool claim[N + 1];         /* one is on its way */
bool knows[N + 1];         /* it has seen a successor */
bool serves[N + 1];        /* it forwards, as the new owner */

#define NEEDED (anybody -> 0 : window)
#define BOUND(p) (promised[p] != 0 || forgot[p])
#define CAN(p) (parties == 0 || parties & B(p))
#define OPEN_FOR(p) (word & B(p) || answer[p] || question[p])

#ifdef MUTANT_NO_PROMISE
#define MAY_CLAIM(p) (!forgot[p])
#else
#define MAY_CLAIM(p) (!BOUND(p))
#endif
#if defined(MUTANT_TAKES_UP) || defined(MUTANT_NO_PROMISE)
#define MAY_SERVE(p) (!forgot[p])
#else
#define MAY_SERVE(p) (!BOUND(p))
#endif
#ifdef MUTANT_ADMITS_ALL
#define ADMITS(p) true
#else
#define ADMITS(p) CAN(p)
#endif

inline write_ends()
{
	under_way = false; written = false; known = true
}

inline step_owner(p)
{
	if
	/* A view: whatever it shows now. */
	:: true ->
		sees = listed;
		lost = owner != 0;
		if
		:: known && !lost -> window = latest; anybody = latest == 0; known = false
		:: else -> skip
		fi;
		if
		:: lost -> stands = false
		:: else -> skip
		fi
	/* It writes its record. Whom it asks stays in it. */
	:: !under_way && writes > 0 && (!given_back || latest != sees) ->
		writes--;
		under_way = true; known = false;
		gives_back = (given_back -> number : 0);
		if
		:: given_back ->
			latest = sees;
#ifdef MUTANT_LEFT_OUT_AT_ONCE
			window = latest; anybody = latest == 0
#else
			window = window | latest; anybody = anybody || latest == 0
#endif
		:: else -> skip
		fi
	:: under_way && written -> /* the answer: it has reached the registry, whose lease counts now */
		write_ends();
		word = 0; stands = false; given_back = true; past = number
	/* It asks, whom it must. */
	:: asks > 0 && !lost && NEEDED != 0 && !stands ->
		asks--;
		number++;
		given_back = false;
		for (PEER(p)) {
			if
			:: NEEDED & B(p) -> question[p] = number
			:: else -> skip
			fi
		}
	:: !lost && NEEDED != 0 && (word & NEEDED) == NEEDED && !stands && !given_back ->
		stands = true; stood = NEEDED
	fi
}

inline step_registry(p)
{
	if
	:: under_way && !written ->
		parties = latest; written = true;
		if
#ifdef MUTANT_GIVES_BACK_EARLY
		:: true -> settled = number
#else
		:: gives_back > settled -> settled = gives_back
#endif
		:: else -> skip
		fi
	:: claim[p] ->
		claim[p] = false;
		if
		:: owner == 0 && ADMITS(p) -> owner = p
		:: else -> skip
		fi
	:: listed & B(p) -> listed = listed & ~B(p) /* its lease ends */
	:: !(listed & B(p)) -> listed = listed | B(p) /* it renews */
	fi
}

inline step_peer(p)
{
	if
	/* It reads the registry. */
	:: true ->
		blank[p] = false;
		knows[p] = owner != 0;
#ifdef MUTANT_WON_UNNOTICED
		claimed[p] = claimed[p] && owner == p;
#else
		claimed[p] = owner == p; /* a claim may come through yet: then it is noticed */
#endif
		if
		:: settled >= promised[p] -> promised[p] = 0
		:: else -> skip
		fi
	:: !blank[p] && !knows[p] && !claim[p] && MAY_CLAIM(p) && owner == 0 && listed & B(p) ->
		claimed[p] = true; claim[p] = true
	:: owner == p && knows[p] && !serves[p] && MAY_SERVE(p) -> serves[p] = true
	/* It vouches, or the question is lost. */
	:: question[p] ->
		if
#ifdef MUTANT_KNOWS_BETTER
		:: !blank[p] ->
#else
		:: !blank[p] && !knows[p] && !claimed[p] ->
#endif
			promised[p] = question[p]; answer[p] = question[p]
		:: true -> skip
		fi;
		question[p] = 0
	:: answer[p] ->
		if
		:: !given_back && answer[p] > past -> word = word | B(p)
		:: true -> skip
		fi;
		answer[p] = 0
	/* Its word ends, and with it what stood by it. */
	:: word & B(p) ->
		word = word & ~B(p);
		if
		:: stood & B(p) -> stands = false
		:: else -> skip
		fi
	/* Then its promise, or the time that it waits for one which it has forgotten. */
	:: promised[p] && !OPEN_FOR(p) -> promised[p] = 0
	:: forgot[p] && !OPEN_FOR(p) -> forgot[p] = false
	/* Its process starts again: what it forwards goes on, what it had read is gone. */
	:: restarts > 0 ->
		restarts--;
		knows[p] = false
	/* The machine is switched off and on. */
	:: boots > 0 ->
		boots--;
#ifndef MUTANT_FORGETS
		forgot[p] = true;
#endif
		blank[p] = true; promised[p] = 0; claimed[p] = false; knows[p] = false; serves[p] = false
	fi
}

active proctype world()
{
	byte p, q;
	listed = ALL; sees = ALL; parties = ALL; latest = ALL; window = ALL; given_back = true;
	do
	:: atomic {
		if
#if N >= 1
		:: p = 1
#endif
#if N >= 2
		:: p = 2
#endif
#if N >= 3
		:: p = 3
#endif
		fi;
		if
		:: step_owner(q)
		:: step_registry(p)
		:: step_peer(p)
		fi;
		q = 0;
		for (PEER(q)) { assert(!(stands && serves[q])) }
		p = 0; q = 0
	}
	od
}
