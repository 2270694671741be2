/* One segment of shared memory that several processes read and write: the public C interface.
 *
 * Knows: items (key -> value), handles, fences, the change feed, housekeeping.
 * Must not know: Python, what the bytes mean, who owns which group.
 *
 * The rules every function keeps (docs: ARCHITECTURE.md, "The segment"):
 * - Readers never write to the segment. They copy out, then validate; retries are capped.
 * - A value is published by one compare-and-swap of its item's control word. Until then the old
 *   value is what everybody reads, whatever became of the writer.
 * - A lock names its holder. A dead holder's lock is taken over at once; a stopped holder's after
 *   SEG_STEAL_AFTER_NS, and then nothing it may still write to is ever used again while it lives.
 * - Everything read from the segment is checked before use: it may be garbage, it is never trusted.
 *
 * A `seg` belongs to one thread of one process: it does not survive fork(), and two threads take
 * two (seg_attach). All functions return SEG_OK or a seg_status; none aborts.
 */
#ifndef STATESTORE_SEGMENT_H
#define STATESTORE_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SEG_LAYOUT 3u                        /* bumped whenever a byte moves */
#define SEG_VALUE_BYTES_MAX 65536u           /* longest value */
#define SEG_KEY_BYTES_MAX 232u               /* longest key; longer ones: hash them first */
#define SEG_FENCE_NAME_BYTES_MAX 200u        /* longest fence name */
#define SEG_CLIENTS_MAX 256u                 /* open segments at one time, over all processes */
#define SEG_SIZE_BYTES_MIN (4ull << 20)      /* smallest segment */
#define SEG_SIZE_BYTES_MAX (32ull << 30)     /* references are 32 bits of 8 bytes */
#ifndef SEG_STEAL_AFTER_NS
#define SEG_STEAL_AFTER_NS 20000000ull       /* a live holder is robbed after this long */
#endif
#define SEG_FENCE_WAIT_NS 2000000ull         /* a raise waits this long for a write in flight */
#define SEG_HOLE_WAIT_NS 10000000ull         /* a feed entry may stay unfinished this long */
#define SEG_READ_TRIES_MAX 10000u            /* torn copies before a read gives up */
#define SEG_WRITE_TRIES_MAX 1000u            /* lost publishes before a write gives up */
#define SEG_HOUSEKEEP_ITEMS_MAX 65536u       /* items looked at for expiry in one call */

typedef enum {
    SEG_OK = 0,
    SEG_NOT_FOUND,     /* no such key */
    SEG_EXISTS,        /* create: the key is there */
    SEG_FULL,          /* no room of that size in the segment */
    SEG_FENCED,        /* the grant is older than its fence */
    SEG_CORRUPT,       /* the segment contradicts itself */
    SEG_WRONG_VERSION, /* another layout */
    SEG_TOO_BIG,       /* key or value over its limit */
    SEG_OVERRUN,       /* the feed went on without this watcher: rescan */
    SEG_UNAVAILABLE,   /* cannot be used now (no file, no client slot, after fork, contended) */
    SEG_CHANGED,       /* compare-and-swap: another version */
    SEG_INVALID,       /* the operation does not fit the value (add to what is no counter) */
    SEG_AWAY,          /* the item's master is another member, or it is frozen for a move */
    SEG_NOT_SERVING,   /* this member is outside the view, or its lease is over */
} seg_status;

typedef struct seg seg;

/* A hint where an item is. `auth` says which incarnation; on a mismatch the functions look the
 * key up again by themselves. */
typedef struct {
    uint64_t auth;
    uint64_t hash; /* of the key; 0: whoever needs it computes it */
    uint32_t item;
} seg_handle;

/* A right to write under a fence. fence 0: none. */
typedef struct {
    uint64_t epoch;
    uint32_t fence;
} seg_grant;

typedef enum { SEG_WRITE = 1, SEG_APPEND, SEG_SWAP, SEG_ADD, SEG_DELETE, SEG_EXPIRE } seg_verb;

typedef struct {
    seg_verb verb;
    bool set_deadline;     /* WRITE, SWAP: replace the deadline, else it stays */
    const void *data;      /* WRITE, SWAP: the value; APPEND: one entry */
    size_t len;            /* bytes of data */
    uint64_t version;      /* SWAP: the version that must still stand */
    int64_t delta;         /* ADD: wraps at 64 bits */
    uint64_t deadline_ns;  /* CLOCK_BOOTTIME, 0 never; EXPIRE: now */
    const seg_grant *grant;
    int64_t sum;           /* out, ADD */
    uint64_t epoch_seen;   /* out, SEG_FENCED */
} seg_op;

typedef struct {
    const void *value;
    size_t len;
    size_t capacity;      /* room to reserve for later appends, 0: just the value */
    uint64_t deadline_ns; /* CLOCK_BOOTTIME, 0 never */
    const seg_grant *grant;
    uint64_t epoch_seen; /* out, SEG_FENCED */
} seg_new;

typedef struct {
    uint64_t items, bytes, free_bytes, total_bytes, clients, feed_sequence, feed_capacity;
    uint64_t writes, creates, deletes, retries, auth_misses, takeovers, steals, fenced;
    uint64_t generation;
} seg_stats;

typedef struct {
    uint64_t expired, dead_clients, locks_recovered, items_reaped, blocks_freed;
} seg_kept;

/* What seg_verify found, all of it zero in a sound segment at rest. */
typedef struct {
    uint64_t items, unreachable, misplaced, unlocked_dead, torn_refs, shared_blocks;
    uint64_t orphans; /* blocks nobody references: garbage until their client is known dead */
    uint64_t locked;
} seg_verdict;

typedef struct {
    uint64_t next;        /* sequence of the next entry to read */
    uint64_t hole_at;     /* entry that was unfinished, */
    uint64_t hole_since;  /* and since when */
} seg_cursor;

/* Make the file `path` of `size` bytes, complete or not at all. SEG_EXISTS when it is there. */
seg_status seg_format(const char *path, uint64_t size, char *why, size_t why_len);
/* Map `path`. `why` gets one line on failure. readonly: no client slot, no writes. */
seg_status seg_open(const char *path, bool readonly, seg **out, char *why, size_t why_len);
/* A second client on the same mapping, for another thread. Close it before `parent`. */
seg_status seg_attach(const seg *parent, seg **out, char *why, size_t why_len);
void seg_close(seg *s);
/* In the child of a fork: drop the inherited descriptor, so that the parent's death shows. */
void seg_forget(seg *s);
/* False in the child of a fork. */
bool seg_usable(const seg *s);

/* ---- in a cluster (docs/dal.md); all of it rests in an embedded segment ---- */

#define SEG_SLOTS_MAX 16u
#define SEG_NODE_BYTES_MAX 63u
typedef enum { SEG_HINT_NONE, SEG_HINT_LOCAL, SEG_HINT_REMOTE, SEG_HINT_PIN } seg_hint;

/* Where an item lives. One word in the segment. */
typedef struct {
    uint16_t replicas; /* slots with a complete copy, not the master */
    uint16_t learners; /* slots being filled: sync waits for them, no promotion */
    uint8_t master;    /* slot */
    uint8_t want;      /* replicas wanted, 0..15 */
    uint8_t hint;      /* seg_hint */
} seg_home;

typedef struct {
    uint8_t slot;
    uint8_t ip[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint16_t port;
    uint64_t incarnation;
    char node[SEG_NODE_BYTES_MAX + 1];
} seg_member;

typedef struct {
    bool clustered, serving;
    uint8_t self, leader;
    uint64_t epoch;    /* of the view */
    uint64_t lease_ns; /* CLOCK_BOOTTIME deadline; 0: none yet */
    uint64_t applied;  /* of the map log */
    uint16_t present;  /* slots in the view */
    seg_member member[SEG_SLOTS_MAX];
} seg_cluster;

/* The server writes, everybody reads (a sequence lock: a dead server leaves the last whole one, or
 * SEG_UNAVAILABLE). */
seg_status seg_cluster_write(seg *s, const seg_cluster *c);
seg_status seg_cluster_read(const seg *s, seg_cluster *out);
/* Single words of it, cheap: */
bool seg_clustered(const seg *s);
bool seg_serving(const seg *s); /* true for an embedded one */
void seg_serve(seg *s, bool serving);
uint64_t seg_epoch(const seg *s);
uint64_t seg_lease_ns(const seg *s);
void seg_lease(seg *s, uint64_t deadline_ns);
void seg_applied(seg *s, uint64_t seq);
uint64_t seg_generation(const seg *s);

/* A copy of an item as it travels. */
typedef struct {
    uint64_t auth;
    uint64_t version;     /* logical */
    uint64_t deadline_ns; /* CLOCK_BOOTTIME, 0 never */
    seg_home home;
    const void *value;
    size_t len;
    size_t capacity; /* room to reserve */
    bool stub;       /* no value here */
    bool away;       /* others write it */
} seg_copy;

/* The rest is for the state server alone (one thread of one process). None of it looks at serving or
 * grants; all tell the feed, but for what says otherwise. */
/* Make an item with a given auth. SEG_EXISTS when the key is there (whatever its auth). */
seg_status seg_plant(seg *s, const void *key, size_t key_len, const seg_copy *c, seg_handle *out);
/* Put a copy's value into an item that is AWAY, at exactly c->version, if that is more than what is
 * here (a stub has none). SEG_CHANGED: it is not more. SEG_AWAY is not asked: SEG_INVALID when the
 * item is not away. */
seg_status seg_overwrite(seg *s, seg_handle *h, const seg_copy *c);
/* Set AWAY: when it returns no local write can publish any more. This and the rest that changes a
 * planted item says SEG_INVALID of one that seg_create has made: it has no version but its own. */
seg_status seg_freeze(seg *s, seg_handle *h);
/* Clear AWAY: the logical version becomes max(version + 1, at_least). SEG_INVALID: a stub. What is
 * not away stays as it is. */
seg_status seg_thaw(seg *s, seg_handle *h, uint64_t at_least);
/* As seg_thaw, of a value that the watchers have been told of when it came: the feed is told nothing. */
seg_status seg_inherit(seg *s, seg_handle *h, uint64_t at_least);
/* The copy here of logical version `from` is of version `to` from now on: the same value, and the feed is
 * told nothing. SEG_OK also when it is of that version or a later one; SEG_CHANGED: it is of another one,
 * or a stub; SEG_INVALID: not away. */
seg_status seg_renumber(seg *s, seg_handle *h, uint64_t from, uint64_t to);
/* Make it a stub (AWAY, no value, its blocks freed). */
seg_status seg_strip(seg *s, seg_handle *h);
/* Delete it, away or not. */
seg_status seg_uproot(seg *s, seg_handle *h);
/* Tell the watchers that this key has changed somewhere else. */
void seg_note(seg *s, const void *key, size_t key_len);

/* A death in one word. While it stands, every home that names one of `dead` is read as what it has become: without
 * them, and where the master was one of them, with the heir that everybody draws from the copies; `self` is
 * among the learners of what it inherits. No home may name one of them anew. Dead 0: none stands; before that,
 * each home must have been written. */
void seg_bequest(seg *s, uint16_t dead, uint8_t self, uint64_t epoch);
/* Who is dead by the one that stands. */
uint16_t seg_bequest_of(const seg *s);
typedef enum { SEG_AS_IT_WAS, SEG_FEWER_COPIES, SEG_PASSED_ON, SEG_LOST /* there is no copy: it names the dead */ } seg_legacy;
#define SEG_NO_SLOT 255u
/* One of the slots, the same one for the same `by`; SEG_NO_SLOT when there is none. */
uint8_t seg_pick(uint16_t slots, uint64_t by);

typedef struct {
    uint64_t version;  /* logical */
    uint64_t control;  /* publication count: what seg_acked compares with */
    uint64_t acked;    /* control up to which all replicas have it */
    uint64_t auth;
    uint64_t deadline_ns;
    size_t len;
    seg_home home;     /* as a bequest has it, if one stands */
    seg_legacy legacy; /* what that has made of it; seg_home_write ends it */
    bool away, stub;
} seg_facts;
/* What stands about the item h names (by item and auth; never looks the key up). SEG_NOT_FOUND. */
seg_status seg_facts_read(seg *s, const seg_handle *h, seg_facts *out);
/* As seg_read, from any copy, away or not, serving or not; facts may be NULL. SEG_AWAY: a stub. */
seg_status seg_peek(seg *s, const void *key, size_t key_len, seg_handle *h, void *buf, size_t cap,
                    size_t *len, seg_facts *facts);
seg_status seg_home_write(seg *s, const seg_handle *h, const seg_home *home);
/* Raise `acked` to `control` (never lowers it), or set it to 0 with control 0. */
void seg_ack(seg *s, const seg_handle *h, uint64_t control);
/* The key of the item h names. */
seg_status seg_key(seg *s, const seg_handle *h, void *key /* SEG_KEY_BYTES_MAX */, size_t *key_len);
/* Every item in the order of its place, with its facts; stubs too. *cursor begins at 0. Cheap: no key. One that makes
 * no sense is passed over, and counted. */
seg_status seg_walk(seg *s, uint64_t *cursor, seg_handle *out, seg_facts *facts);
/* How many this client's walks have passed over so far. */
uint64_t seg_damaged(const seg *s);
/* Items whose deadline lies before now and that are not away; as seg_walk. */
seg_status seg_overdue(seg *s, uint64_t now_ns, uint64_t *cursor, seg_handle *out);
/* Every fence with its epoch; as seg_walk. */
seg_status seg_fence_walk(seg *s, uint64_t *cursor, void *name /* SEG_KEY_BYTES_MAX */, size_t *len,
                          uint64_t *epoch);
/* A sample of what local clients have accessed since the last call: item references (handles' `item`), at
 * most cap; one per SEG_SAMPLE accesses. */
#define SEG_SAMPLE 64u
size_t seg_samples(seg *s, uint32_t *items, size_t cap);
/* Delete every item (not the fences) and forget the view: this member begins anew, with a new
 * generation (its incarnation). A clustered segment stays clustered and serves nothing. Whoever
 * finds generation 0 must call it again: the last one did not come to its end. */
seg_status seg_begin_anew(seg *s, uint64_t generation);

/* ---- items ---- */

/* In a clustered segment reads and updates say SEG_NOT_SERVING when this member does not serve, and
 * SEG_AWAY when others write the item (its copy here, if any: seg_peek); seg_create and SEG_DELETE
 * are SEG_INVALID there, and nothing expires by itself: that is the map log's. */

seg_status seg_lookup(seg *s, const void *key, size_t key_len, seg_handle *out);
/* Copies at most `cap` bytes; *len is the value's length. SEG_TOO_BIG when cap is smaller: then
 * nothing useful was copied. version may be NULL. */
seg_status seg_read(seg *s, const void *key, size_t key_len, seg_handle *h, void *buf, size_t cap,
                    size_t *len, uint64_t *version);
/* The value's length as it is now: a hint for the buffer, 0 when the handle is stale. */
size_t seg_length(const seg *s, const seg_handle *h);
seg_status seg_create(seg *s, const void *key, size_t key_len, seg_new *n, seg_handle *out);
seg_status seg_update(seg *s, const void *key, size_t key_len, seg_handle *h, seg_op *op);

/* Items whose key begins with prefix, in no order. *cursor begins at 0; SEG_NOT_FOUND at the end.
 * Sees every item that lives throughout; one deleted and made again may come twice. */
seg_status seg_scan(seg *s, uint64_t *cursor, const void *prefix, size_t prefix_len,
                    void *key /* SEG_KEY_BYTES_MAX */, size_t *key_len, seg_handle *out);

/* The fence of that name, made at epoch 0 if missing (unless readonly). */
seg_status seg_fence(seg *s, const void *name, size_t len, bool make, uint32_t *fence);
uint64_t seg_fence_epoch(seg *s, uint32_t fence);
/* Monotonic. *raised false: it already stood past `epoch`. After true, no write with a grant older
 * than `epoch` can take effect, whatever its writer does. */
seg_status seg_fence_raise(seg *s, uint32_t fence, uint64_t epoch, bool *raised);

seg_status seg_watch(seg *s, seg_cursor *c);
/* The next change of a key with that prefix. SEG_NOT_FOUND: none yet. SEG_OVERRUN: rescan.
 * `deleted` is what is true now, not what was true when the entry was made. */
seg_status seg_poll(seg *s, seg_cursor *c, const void *prefix, size_t prefix_len,
                    void *key /* SEG_KEY_BYTES_MAX */, size_t *key_len, bool *deleted);

/* Expire, recover dead clients' locks, free what they left. One caller at a time (the keeper). */
seg_status seg_housekeep(seg *s, uint64_t now_ns, seg_kept *kept);
seg_status seg_stats_read(seg *s, seg_stats *out);
/* Walks everything; meaningful only while nobody writes. */
seg_status seg_verify(seg *s, seg_verdict *out);

#endif
