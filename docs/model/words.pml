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
#define OPEN_FOR(p) (word & B(p) || answer[p])

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

#define CHECK(p) assert(!(stands && serves[p]))

/* The owner. */

inline view()
{
	!lost && (owner != 0 || sees != listed || known);
	sees = listed;
	lost = owner != 0;
	if
	:: known && !lost -> window = latest; anybody = latest == 0; known = false
	:: lost -> /* for good: nothing of the owner matters any more */
		stands = false; stood = 0; word = 0; sees = 0; window = 0; latest = 0; anybody = true;
		under_way = false; written = false; known = false; gives_back = 0; given_back = true;
		writes = 0; asks = 0; question[1] = 0; answer[1] = 0;
#if N > 1
		question[2] = 0; answer[2] = 0;
#endif
		skip
	:: else -> skip
	fi
}

/* It writes its record. Whom it asks stays in it. */
inline write()
{
	!under_way && writes > 0 && (!given_back || latest != sees || settled != number);
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
}

inline takes_effect()
{
	under_way && !written;
	parties = latest; written = true;
	if
#ifdef MUTANT_GIVES_BACK_EARLY
	:: true -> settled = number
#else
	:: gives_back > settled -> settled = gives_back
	:: else -> skip
#endif
	fi
}

/* The answer: it has reached the registry, whose lease counts now. */
inline is_told()
{
	under_way && written;
	under_way = false; written = false; known = true;
	word = 0; stands = false; stood = 0; given_back = true; gives_back = 0; past = number
}

inline ask()
{
	asks > 0 && !lost && NEEDED != 0 && !stands;
	asks--;
	number++;
	given_back = false;
	question[1] = (NEEDED & B(1) -> number : question[1]);
#if N > 1
	question[2] = (NEEDED & B(2) -> number : question[2]);
#endif
	skip
}

inline stand()
{
	!lost && NEEDED != 0 && (word & NEEDED) == NEEDED && !stands && !given_back;
	stands = true; stood = NEEDED
}

inline word_ends(p)
{
	word & B(p);
	word = word & ~B(p);
	stands = stands && !(stood & B(p));
	stood = (stands -> stood : 0)
}

/* The registry. */

inline lease(p) { listed = listed ^ B(p) }

inline granted(p)
{
	claim[p];
	claim[p] = false;
	owner = (owner == 0 && ADMITS(p) -> p : owner)
}

/* Peers. */

inline read(p)
{
	blank[p] = false;
	knows[p] = owner != 0;
#ifdef MUTANT_WON_UNNOTICED
	claimed[p] = claimed[p] && owner == p;
#else
	claimed[p] = owner == p; /* a claim may come through yet: then it is noticed */
#endif
	promised[p] = (settled >= promised[p] -> 0 : promised[p])
}

inline send_claim(p)
{
	!blank[p] && !knows[p] && !claim[p] && MAY_CLAIM(p) && owner == 0 && listed & B(p);
	claimed[p] = true; claim[p] = true
}

inline serve(p)
{
	owner == p && knows[p] && !serves[p] && MAY_SERVE(p);
	serves[p] = true
}

inline vouch(p)
{
#ifdef MUTANT_KNOWS_BETTER
	question[p] && !blank[p];
#else
	question[p] && !blank[p] && !knows[p] && !claimed[p];
#endif
	promised[p] = question[p]; answer[p] = question[p]; question[p] = 0
}

inline heard(p)
{
	answer[p];
	word = (!given_back && answer[p] > past -> word | B(p) : word);
	answer[p] = 0
}

inline no_answer(p) { answer[p]; answer[p] = 0 }

inline promise_ends(p) { promised[p] && !OPEN_FOR(p); promised[p] = 0 }

inline waited(p) { forgot[p] && !OPEN_FOR(p); forgot[p] = false }

/* Its process starts again: what it forwards goes on, what it had read is gone. */
inline restart(p) { restarts > 0 && knows[p]; restarts--; knows[p] = false }

/* The machine is switched off and on. */
inline boot(p)
{
	boots > 0;
	boots--;
#ifndef MUTANT_FORGETS
	forgot[p] = true;
#endif
	blank[p] = true; promised[p] = 0; claimed[p] = false; knows[p] = false; serves[p] = false
}

#define PEER(p) \
	:: d_step { lease(p) } \
	:: d_step { granted(p) } \
	:: d_step { read(p) } \
	:: d_step { send_claim(p) } \
	:: d_step { serve(p); CHECK(p) } \
	:: d_step { vouch(p) } \
	:: d_step { heard(p) } \
	:: d_step { no_answer(p) } \
	:: d_step { word_ends(p) } \
	:: d_step { promise_ends(p) } \
	:: d_step { waited(p) } \
	:: d_step { restart(p) } \
	:: d_step { boot(p) }

active proctype world()
{
	d_step {
		listed = ALL; sees = ALL; parties = ALL; latest = ALL; window = ALL; given_back = true
	}
	do
	:: d_step { view() }
	:: d_step { write() }
	:: d_step { takes_effect() }
	:: d_step { is_told() }
	:: d_step { ask() }
#if N > 1
	:: d_step { stand(); CHECK(1); CHECK(2) }
	PEER(2)
#else
	:: d_step { stand(); CHECK(1) }
#endif
	PEER(1)
	od
}
