/* A member of the cluster, without sockets and clocks: receive(datagram, now) and tick(now) in,
 * datagrams out. The same code runs in the server's loop and in the simulation.
 *
 * Knows: the map log, views, copies, moves, clients' requests (docs/dal.md). Must not know: etcd, who
 * should be in the view, threads.
 *
 * node.c dispatch, sessions, requests; node_map.c the map log and views; node_copy.c replication,
 * repair, moves.
 */
#ifndef STATESTORE_NODE_H
#define STATESTORE_NODE_H

#include "link.h"
#include "segment.h"
#include "wire.h"

#ifndef NODE_MANY
#define NODE_MANY 65536u                   /* less in the fuzzer, which makes a member per input */
#endif
#define NODE_LOG_BYTES_MAX (64u << 20)     /* map operations kept for those who lag */
#define NODE_PROPOSALS_MAX NODE_MANY       /* of this member, not yet done */
#define NODE_REQUESTS_MAX NODE_MANY        /* of clients, not yet answered */
#define NODE_SESSIONS_MAX 4096u            /* clients with a table of replies */
#define NODE_REPLIES_MAX 256u              /* kept per session; a power of two */
#define NODE_FLIGHT_MAX 1024u              /* copies sent and not acknowledged */
#define NODE_MOVES_MAX 1024u               /* moves and repairs under way */
#define NODE_INBOXES_MAX 4096u
#define NODE_HISTORY_MAX 16u               /* accesses remembered per item */
#ifdef NODE_TIGHT /* in half of the simulated worlds: every limit is met */
#define NODE_LOG_OPS_MAX 24u
#define NODE_DIRTY_MAX 2u
#define NODE_TRACKED_MAX 3u
#else
#define NODE_LOG_OPS_MAX (4u * NODE_MANY)
#define NODE_DIRTY_MAX NODE_MANY           /* items waiting for replication, before everything is walked */
#define NODE_TRACKED_MAX NODE_MANY         /* items whose accesses are remembered */
#endif

typedef struct {
    seg *segment;
    struct link *link;
    const char *name;           /* node id, at most SEG_NODE_BYTES_MAX */
    uint8_t history;            /* accesses that decide a move, 1..NODE_HISTORY_MAX; 0: never move */
    uint64_t promote_delay_ns;  /* at least the lease of a dead member, unless stale reads there are accepted */
    uint64_t resend_ns;         /* repetition of what is not acknowledged */
    uint32_t repair_per_s;      /* copies made again, per second */
    uint64_t random;            /* seed of what has to differ between members */
} node_config;

typedef struct {
    uint64_t epoch;
    uint8_t leader;
    uint16_t present;   /* slots */
    uint16_t left;      /* slots of the last view that left in good order */
    seg_member member[SEG_SLOTS_MAX];
} node_view;

/* Where a member stands. */
typedef enum { NODE_OUTSIDE, NODE_JOINING, NODE_CHANGING, NODE_ACTIVE } node_phase;

typedef struct {
    node_phase phase;
    bool complete, leading, serving, leaving, left;
    uint8_t self, leader;
    uint64_t epoch, applied, committed, last;
    uint64_t items, masters, replicas, stubs, damaged; /* walked when asked; damaged: passed over */
    uint64_t proposals, requests, dirty, flight, moving, repairing, inboxes, sessions;
    uint64_t lost, promoted, promote_ns, thawed, confirmed, moves, moves_failed, repaired, evictions_wanted;
    uint64_t stale, later, misses, in_doubt, refused, copies, copies_applied, notes, overruns, expired;
    uint64_t requests_by_type[32], replies_by_status[128];
    uint64_t waited[32][32]; /* requests that had to wait, by type and power of two of nanoseconds */
} node_stats;

typedef struct node node;

/* Before node_new: make the segment a cluster's. One that cannot be gone on with (torn, joining when it
 * stopped) begins anew; one that holds an embedded store's items is refused. */
seg_status node_prepare(seg *s, uint64_t random, char *why, size_t why_len);
node *node_new(const node_config *c, uint64_t now_ns);
void node_free(node *n);
void node_receive(node *n, const link_addr *from, const void *datagram, size_t len, uint64_t now_ns);
void node_tick(node *n, uint64_t now_ns);
bool node_next(node *n, link_addr *to, void *out, size_t *len);
uint64_t node_deadline(const node *n);
/* What the registry says. Older views are ignored. A view without us, or with another incarnation
 * in our place, ends our service; the caller then begins anew (seg_begin_anew) and joins. */
void node_set_view(node *n, const node_view *v, uint64_t now_ns);
/* A registry confirmation: serve until then. */
void node_set_lease(node *n, uint64_t deadline_ns, uint64_t now_ns);
/* Managed move of one item. SEG_AWAY: we are not its master. */
seg_status node_move(node *n, const void *key, size_t key_len, uint8_t to, uint64_t now_ns);
/* Clean stop: hand over what has no copy elsewhere; node_stats.left says when it is done. */
void node_leave(node *n, uint64_t now_ns);
/* A complete member that takes no operation any more, or lags too far for the log: the leader wants it out. Slots. */
uint16_t node_unwanted(const node *n);
/* Only `promoted` and `thawed`: so that who has a clock can time them. */
void node_promotion_read(const node *n, node_stats *out);
void node_stats_read(node *n, bool walk, node_stats *out);

#endif
