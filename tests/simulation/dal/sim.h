/* One simulated cluster: what the files of the simulation share.
 *
 * Knows: hosts with segments, state servers, clients, the network between them, the registry, virtual time.
 * Must not know: the protocol (statestore/node*.c, client*.c do), wall clocks, any randomness but the seed's.
 *
 * Everything runs in one thread, from one queue of events in virtual time. All chance comes from one
 * generator, so a seed is a whole history.
 */
#ifndef SIMULATION_SIM_H
#define SIMULATION_SIM_H

#include "client.h"
#include "node.h"
#include "wgl.h"

#define HOSTS_MAX 5u    /* with a segment and a state server */
#define CLIENTS_MAX 6u
#define PLACES_MAX (HOSTS_MAX + CLIENTS_MAX) /* remote-only clients have a host of their own */
#define ENDPOINTS_MAX (HOSTS_MAX + CLIENTS_MAX)
#define KEYS_MAX 6u
#define FENCES_MAX 2u
#define OPS_MAX 6000u       /* of one history, all keys */
#define OPS_PER_KEY 700u    /* WGL_OPS_MAX less the expiries */
#define DOUBTS_PER_KEY 40u  /* more make the search long */
#define BIT_ADDS 40u        /* the first adds to a counter are bits of their own */
#define TRACE_RING 512u     /* events printed with a failure */
#define EVICTIONS_MAX 256u  /* of one history, remembered */
#define HELD_MAX 256u       /* datagrams a stopped process finds when it goes on */
#define VALUE_MAX 24000u    /* longest value used */
#define SEGMENT_BYTES (8ull << 20) /* room for a slab of every size */

#define US 1000ull
#define MS 1000000ull
#define LEASE_NS (80 * MS)
#define CONFIRM_NS (20 * MS)   /* between two confirmations of a lease */
#define SUSPECT_NS (120 * MS)  /* silence after which the registry evicts */
#define REGISTRY_NS (5 * MS)   /* the registry decides this often */
#define HOUSEKEEP_NS (100 * MS)
#define HEAL_NS (20000 * MS)   /* the cluster is whole within this after the last fault */
#define NEVER UINT64_MAX

/* ---- sim_base.c: chance, trace, failure, the clocks that the code under test reads ---- */

typedef struct world world;

uint64_t chance_next(world *w);
/* 0..below-1 */
uint64_t chance(world *w, uint64_t below);
bool chance_of(world *w, double probability);
uint64_t chance_between(world *w, uint64_t from, uint64_t to);

typedef struct {
    uint64_t at;
    const char *what;
    int64_t a, b, c;
} trace_entry;
void trace(world *w, const char *what, int64_t a, int64_t b, int64_t c);
/* One line that says which rule was broken; the first one counts. */
void broken(world *w, const char *rule, const char *format, ...) __attribute__((format(printf, 3, 4)));
uint64_t hash_bytes(const void *bytes, size_t len);
/* Until the next call the clocks are those of this host. */
void clock_of(world *w, uint32_t place);
void base_begin(world *w, uint64_t seed);

/* ---- events ---- */

typedef enum {
    EV_DATAGRAM,  /* endpoint a */
    EV_TICK,      /* endpoint a, generation b */
    EV_CONFIRM,   /* host a: ask the registry now */
    EV_ASKED,     /* at the registry, from host a, asked at b */
    EV_ANSWERED,  /* at host a; payload: answer */
    EV_REGISTRY,  /* the registry decides */
    EV_FAULT,     /* the next fault begins */
    EV_MEND,      /* fault a, subject b, ends */
    EV_OPERATE,   /* client a starts something, generation b */
    EV_HOUSEKEEP, /* host a */
} event_kind;

typedef struct {
    uint64_t at, order;
    event_kind kind;
    uint32_t a;
    uint64_t b;
    void *payload; /* malloc'd, freed by whoever takes the event */
} event;

void event_at(world *w, uint64_t at, event_kind kind, uint32_t a, uint64_t b, void *payload);
bool event_take(world *w, event *out);
void events_free(world *w);

/* ---- sim_net.c ---- */

typedef struct {
    link_addr from;
    uint32_t from_place;
    uint32_t len;
    uint8_t bytes[LINK_DATAGRAM_BYTES_MAX];
} packet;

typedef struct {
    double loss, twice, spike;
    uint64_t delay_ns, jitter_ns;
    bool cut[PLACES_MAX][PLACES_MAX]; /* from, to */
    uint64_t sent, lost, repeated, refused;
} network;

link_addr net_address(uint32_t endpoint, uint32_t place, uint32_t life);
void net_send(world *w, uint32_t endpoint, const link_addr *to, const void *bytes, size_t len);

/* ---- processes ---- */

/* What receives datagrams: endpoint 0..HOSTS_MAX-1 servers, then clients. */
typedef struct {
    bool up, stopped, tick_missed;
    uint32_t place, life; /* life: which process of this endpoint; part of the address */
    link_addr addr;
    uint64_t tick_generation, tick_at;
    packet *held[HELD_MAX];
    uint32_t held_count;
} endpoint;

typedef struct {
    char path[128];
    seg *watcher;       /* readonly: the checks' own view */
    seg *seg;           /* the server's */
    struct link *link;
    node *node;
    uint64_t generation; /* incarnation */
    uint64_t offset_ns;  /* this host's clock is the world's plus this */
    bool exists;         /* the segment */
    bool joined;         /* this incarnation was in a view */
    bool leaving, gone;  /* a clean leave: begun, done */
    uint32_t reboots;
    uint64_t epoch_told;
} host;

typedef enum { REGISTER, COUNTER, LOG } key_kind;

typedef struct {
    char name[16];
    uint8_t want, hint;
    key_kind kind;
    bool sync;      /* all operations are: it is checked */
    bool mortal;    /* with a time to live */
    bool big;
    int fence;      /* writes carry a grant of it; -1: none */
    bool deletable;
    bool pure;      /* adds and appends only: what was acknowledged is there at the end */
    bool last_there;
    uint64_t last_value; /* as the last read saw it */
    uint32_t operations, doubts, adds;
    uint64_t lost_at; /* want 0: from here on its history says nothing; NEVER */
} key_info;

/* One operation as its client saw it. */
typedef struct {
    client_verb verb;
    uint32_t client, key;
    uint64_t invoked, returned; /* returned 0: under way */
    dal_status status;
    uint64_t value, expect;
    uint64_t unique; /* of the value or entry written; 0 none */
    uint64_t grant_epoch, epoch_seen, ttl_ns, version;
    int fence;
    bool crashed, sync, set_ttl;
} record;

/* What one client knows of one key. */
typedef struct {
    client_place place;
    uint64_t version, value;
    bool there, known;
} memory;

#define SLOTS_PER_CLIENT 2u
typedef struct {
    bool busy, last; /* last: it must succeed */
    int op;
    uint32_t record; /* NO_RECORD: none */
    uint32_t key;
    client_verb verb;
    uint8_t value[VALUE_MAX];
    uint8_t out[VALUE_MAX];
    char name[32];
    uint64_t told; /* TELL, ANNOUNCE: number */
    uint32_t to;
} task;
#define GRAVES_MAX 512u
#define NO_RECORD UINT32_MAX

typedef struct {
    bool local;
    uint32_t host; /* local: whose segment */
    seg *seg;
    struct link *link;
    client *client;
    memory memory[KEYS_MAX];
    uint64_t fence_epoch[FENCES_MAX];
    task task[SLOTS_PER_CLIENT];
    uint64_t generation;
    uint64_t numbers; /* of messages told */
    bool telling;
} caller;

/* ---- sim_registry.c: what etcd and the members' agents do, simplified ---- */

typedef struct {
    bool in_use, complete, leaving;
    uint32_t host;
    uint64_t incarnation, confirmed_at;
} slot_info;

typedef struct {
    bool up, slow;
    bool cut[HOSTS_MAX];
    bool suspected[HOSTS_MAX]; /* wrongly */
    bool lost[SEG_SLOTS_MAX];  /* the data of this slot is gone */
    node_view view;
    slot_info slot[SEG_SLOTS_MAX];
    bool wants_in[HOSTS_MAX];
    uint64_t join_incarnation[HOSTS_MAX];
    uint64_t asked_at[HOSTS_MAX]; /* when the host asked for what it got last, */
    uint64_t gone_at[HOSTS_MAX];  /* and when it went: what was asked before is late */
    uint16_t unwanted;
    uint64_t evicted_at[EVICTIONS_MAX]; /* the first ones */
    uint64_t views, evictions, joins, leaves, held_back, forsaken;
} registry;

void registry_begin(world *w);
void registry_decide(world *w);
void registry_ask(world *w, uint32_t host);
void registry_asked(world *w, uint32_t host, void *payload);
void registry_answered(world *w, uint32_t host, void *payload);
/* Would every item with replicas survive without this slot? */
bool registry_can_lose(world *w, uint32_t slot);
/* May it be lost now? If the world is reckless, the items that only it has are forsaken. */
bool registry_may_lose(world *w, uint32_t slot);
void registry_lose(world *w); /* a member goes: keys without replicas say nothing from now on */
int registry_slot_of(const world *w, uint32_t host); /* -1: none */

/* ---- sim_host.c ---- */

void host_begin(world *w, uint32_t h);
void host_boot(world *w, uint32_t h);         /* a new segment, and the server */
void host_start_server(world *w, uint32_t h); /* on the segment that is there */
void host_kill_server(world *w, uint32_t h);
void bury(world *w, seg *s); /* as if its process were killed */
void host_lose(world *w, uint32_t h);         /* and the segment, and its clients */
void host_view(world *w, uint32_t h, const node_view *v);
void host_lease(world *w, uint32_t h, uint64_t asked_at);
void host_leave(world *w, uint32_t h);
void host_housekeep(world *w, uint32_t h);
void host_receive(world *w, uint32_t h, const packet *p);
void host_tick(world *w, uint32_t h);
void host_after(world *w, uint32_t h);
void host_end(world *w, uint32_t h);
uint64_t host_now(const world *w, uint32_t place);

/* ---- sim_clients.c ---- */

void callers_begin(world *w);
void caller_start(world *w, uint32_t c);
void caller_crash(world *w, uint32_t c);
void caller_operate(world *w, uint32_t c, uint64_t generation);
void caller_receive(world *w, uint32_t c, const packet *p);
void caller_tick(world *w, uint32_t c);
void caller_after(world *w, uint32_t c);
bool callers_idle(const world *w);
/* Read every checked key through every client, synchronously. */
void callers_last_reads(world *w);
void callers_end(world *w);

/* ---- sim_faults.c ---- */

typedef enum {
    FAULT_CUT_ONE_WAY, FAULT_CUT_PAIR, FAULT_ISOLATE, FAULT_STORM, FAULT_STOP_SERVER, FAULT_STOP_CLIENT,
    FAULT_STOP_HOST, FAULT_KILL_SERVER, FAULT_LOSE_HOST, FAULT_KILL_CLIENT, FAULT_LEAVE, FAULT_REGISTRY_DOWN,
    FAULT_REGISTRY_SLOW, FAULT_REGISTRY_CUT, FAULT_SUSPECT, FAULTS
} fault_kind;
extern const char *const fault_names[FAULTS];

void faults_begin(world *w);
void fault_next(world *w);
void fault_mend(world *w, uint32_t kind, uint64_t subject);
void faults_end(world *w);

/* ---- checks, one file per invariant ---- */

void check_one_master(world *w);  /* check_master.c, after every event */
/* check_message.c */
typedef struct {
    uint32_t sender, inbox; /* inbox: EVERYBODY for an announcement */
    uint64_t number;        /* of the sender, growing */
} letter;
#define EVERYBODY UINT32_MAX
void check_messages_begin(world *w);
void check_messages_told(world *w, const letter *l);
void check_messages_taken(world *w, uint32_t inbox, const void *message, size_t len);
void check_messages_end(world *w);
void check_fences(world *w);      /* check_fence.c */
/* When the first raise past `epoch` returned, NEVER: none has. */
uint64_t check_fence_raised(const world *w, int fence, uint64_t epoch);
void check_linear(world *w);      /* check_linear.c */
void check_lost(world *w);        /* check_lost.c */
/* check_whole.c: false and one line while it is not. */
bool whole(world *w, char *why, size_t why_len);
void check_sound(world *w);       /* the segments, at rest */

/* ---- sim_world.c ---- */

typedef struct {
    uint64_t told, taken, announced;
} counts;

struct world {
    uint64_t seed, now, random[4], order, digest, steps;
    uint32_t clock_place;
    bool tracing, quiet, failed;
    uint32_t without; /* mask of fault kinds */
    char verdict[512];
    const char *directory;
    trace_entry ring[TRACE_RING];
    uint64_t traced;

    event *queue;
    size_t queued, queue_room;

    uint32_t hosts, clients, keys, fences;
    uint8_t history;
    bool at_once;  /* a new master does not wait for the lease of the last one */
    bool reckless; /* losses are not held back: what had no other copy is not checked from then on */
    uint64_t fault_every_ns, faults_until, operations_until;
    double usual_loss;
    network net;
    registry registry;
    endpoint endpoint[ENDPOINTS_MAX];
    host host[HOSTS_MAX];
    caller caller[CLIENTS_MAX];
    key_info key[KEYS_MAX];
    record *record;
    uint32_t records;
    uint32_t written[OPS_MAX + 1]; /* unique -> record */
    bool seen[OPS_MAX + 1];        /* unique: some read has seen it */
    bool last_seen[OPS_MAX + 1];   /* unique: the last reads show it */
    uint32_t uniques;
    seg *graves[GRAVES_MAX]; /* handles of crashed processes, closed at the end */
    uint32_t graves_count;
    link_keys keys_used;
    bool calm; /* the fault phase is over */
    uint32_t sessions;
    uint64_t fault_count[FAULTS], undecided;
    counts count;
    struct messages *messages;
};

/* Run one world. False: a rule was broken; w->verdict says which. */
bool world_run(world *w, uint64_t seed);
/* Run events until `until` or until done says so. */
void world_run_until(world *w, uint64_t until, bool (*done)(world *));

#endif
