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

#define SEG_LAYOUT 1u                        /* bumped whenever a byte moves */
#define SEG_VALUE_BYTES_MAX 65536u           /* longest value */
#define SEG_KEY_BYTES_MAX 232u               /* longest key; longer ones: hash them first */
#define SEG_FENCE_NAME_BYTES_MAX 200u        /* longest fence name */
#define SEG_CLIENTS_MAX 256u                 /* open segments at one time, over all processes */
#define SEG_SIZE_BYTES_MIN (4ull << 20)      /* smallest segment */
#define SEG_SIZE_BYTES_MAX (64ull << 30)     /* references are 32 bits of 16 bytes */
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
} seg_status;

typedef struct seg seg;

/* A hint where an item is. `auth` says which incarnation; on a mismatch the functions look the
 * key up again by themselves. */
typedef struct {
    uint64_t auth;
    uint64_t hash;
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
