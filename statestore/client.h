/* A client of DAL without sockets and clocks: operations and datagrams in, datagrams and results out.
 * The same code runs in dal.c and in the simulation.
 *
 * Knows: where an operation goes (docs/dal.md), repetition, copies of a synchronous write. Must not
 * know: the cluster's inside (node*.c), sockets, clocks (now is CLOCK_BOOTTIME, an argument).
 *
 * With a local segment, what can be done in memory is done by client_start itself; the operation is
 * then complete when it returns. One client belongs to one thread.
 *
 * Rules that a server keeps with us:
 * - A request's `seq` is the incarnation of the member it is meant for. A server that is another one
 *   answers STALE with its own incarnation in `seq` and does nothing: a request that its predecessor
 *   may have carried out is in doubt, and must not be carried out twice.
 * - Any refusal (MISS, AWAY, LATER, STALE, NOT_SERVING) says that the request had no effect; we go on
 *   with a new id. Ids grow by one; the oldest unanswered one is less than CLIENT_IN_FLIGHT_MAX back.
 * - ENSURE with version 0 means what stands now.
 */
#ifndef STATESTORE_CLIENT_H
#define STATESTORE_CLIENT_H

#include "dal.h"
#include "link.h"
#include "segment.h"

#define CLIENT_IN_FLIGHT_MAX 256u         /* operations not collected yet; as many ids unanswered */
#define CLIENT_CONTACTS_MAX 16u           /* servers named in a remote address */
#define CLIENT_RESEND_NS 20000000ull      /* the first repetition, */
#define CLIENT_RESEND_NS_MAX 200000000ull /* doubling up to this */
#define CLIENT_SUSPECT_AFTER 2u           /* silent repetitions before HELLO, and before another contact */
#define CLIENT_AGAIN_NS 500000ull         /* after a refusal that time heals, */
#define CLIENT_AGAIN_NS_MAX 20000000ull   /* doubling up to this */
#define CLIENT_INBOXES_MAX 16u
#define CLIENT_INBOX_NAME_BYTES_MAX 63u
#define CLIENT_RENEW_NS 500000000ull      /* inboxes and interest in changes are told again this often */
#define CLIENT_HELD_BYTES_MAX (4u << 20)  /* of messages not taken yet, besides DAL_INBOX_MESSAGES_MAX */
#define CLIENT_WHY_BYTES 160u
#define CLIENT_NO_SLOT 255u

typedef enum {
    CLIENT_LOOKUP = 1, /* key -> place, home */
    CLIENT_READ,       /* key, place, out -> len, version, place; sync */
    CLIENT_WRITE,      /* key, place, value; set_ttl, ttl_ns, grant, sync */
    CLIENT_APPEND,     /* key, place, value = one entry; grant, sync */
    CLIENT_SWAP,       /* key, place, value, version; grant, sync; CHANGED */
    CLIENT_ADD,        /* key, place, delta -> number; grant, sync */
    CLIENT_DELETE,     /* key, place; grant */
    CLIENT_CREATE,     /* key, value, capacity, ttl_ns, want, hint; grant -> place, home */
    CLIENT_ENSURE,     /* key, place: what stands is on all replicas */
    CLIENT_MOVE,       /* key, place, slot = to */
    CLIENT_RAISE,      /* fence, grant_epoch -> epoch_seen; FENCED */
    CLIENT_FENCE,      /* fence -> epoch_seen */
    CLIENT_SCAN,       /* key = prefix, cursor, out -> cursor, len = packed keys (wire_take_key) */
    CLIENT_POLL,       /* key = prefix, cursor, out -> cursor, len = packed changes; OVERRUN */
    CLIENT_TELL,       /* key = inbox, value */
    CLIENT_ANNOUNCE,   /* value */
    CLIENT_INBOX,      /* key = inbox: its messages come to client_take from now on */
    CLIENT_MEMBERS,    /* learn the members anew (client_view) */
    CLIENT_VERBS
} client_verb;

/* Where an item was last seen. All zero: not known. */
typedef struct {
    uint64_t auth;        /* which incarnation of the key */
    uint64_t hash;        /* in the local segment */
    uint32_t item;        /* in the local segment; 0: not there */
    uint32_t remote_item; /* at the member remote_slot; 0: not known */
    uint8_t remote_slot;  /* the master when it was last asked; CLIENT_NO_SLOT, or no auth: not known */
} client_place;

/* One operation. What the pointers point to stays valid until it is collected by client_done. */
typedef struct {
    client_verb verb;
    bool sync, set_ttl;
    uint8_t want, hint, slot;
    const void *key;
    size_t key_len;
    client_place place;
    const void *value;
    size_t len;
    void *out; /* READ, SCAN, POLL */
    size_t cap;
    uint64_t version, cursor, ttl_ns;
    int64_t delta;
    size_t capacity;
    const void *fence; /* NULL: no grant */
    size_t fence_len;
    uint64_t grant_epoch;
    uint64_t timeout_ns; /* 0: that of the options */
} client_request;

typedef struct {
    dal_status status;
    client_place place;
    seg_home home;
    size_t len; /* of the value, also when `cap` was too small for it (TOO_BIG) */
    uint64_t version, cursor, epoch_seen;
    int64_t number;
    bool local;                 /* done in memory alone */
    char why[CLIENT_WHY_BYTES]; /* of a failure: one line, "" when the status says it all */
} client_result;

typedef struct {
    link_addr contact[CLIENT_CONTACTS_MAX]; /* remote-only: any members */
    uint32_t contacts;
    uint64_t timeout_ns; /* of one operation */
} client_options;

typedef struct {
    uint64_t started, remote, repeated, rerouted, confirmed, copies, in_doubt, unavailable, pushes,
        pushes_refused, strange;
} client_stats;

typedef struct client client;

/* `local` NULL: remote-only. Neither it nor the link is freed by client_free. NULL: no memory. */
client *client_new(seg *local, struct link *l, const client_options *o, uint64_t now_ns);
void client_free(client *c);

/* Start an operation; its number, or -1 when CLIENT_IN_FLIGHT_MAX are not collected yet. */
int client_start(client *c, const client_request *r, uint64_t now_ns);
/* Is it complete? Then *out is filled and the number is free again. */
bool client_done(client *c, int op, client_result *out);
/* Stop waiting for it: as its timeout now. client_done is true afterwards. */
void client_give_up(client *c, int op, uint64_t now_ns);

void client_receive(client *c, const link_addr *from, const void *datagram, size_t len,
                    uint64_t now_ns);
void client_tick(client *c, uint64_t now_ns);
/* The next datagram for the wire; `out` has LINK_DATAGRAM_BYTES_MAX. False: none. */
bool client_next(client *c, link_addr *to, void *out, size_t *len);
/* When client_tick is wanted next, UINT64_MAX: not. */
uint64_t client_deadline(const client *c);

/* The process ends: close its inboxes. Send what client_next gives once more. */
void client_goodbye(client *c, uint64_t now_ns);

/* The members as last known; clustered false before the first answer to a remote-only client. */
const seg_cluster *client_view(client *c);
/* Tell our server that changes elsewhere interest us; at most once per CLIENT_RENEW_NS. */
void client_watching(client *c, uint64_t now_ns);
/* The oldest message of our inboxes; NOT_FOUND: none. `inbox` has CLIENT_INBOX_NAME_BYTES_MAX + 1,
 * ends with 0. TOO_BIG, *len set: it stays. */
dal_status client_take(client *c, void *buf, size_t cap, size_t *len, char *inbox);
void client_stats_read(const client *c, client_stats *out);

#endif
