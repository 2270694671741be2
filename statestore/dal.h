/* DAL for network functions in C: state that costs a memory access where it is used.
 *
 * Link with libdal (`python -m statestore --cflags --libs`). A `dal` belongs to one thread.
 *
 *   dal *d; char why[256];
 *   dal_options o = DAL_DEFAULTS;
 *   if (dal_open("dal:///run/bgf/state", &o, &d, why, sizeof why) != DAL_OK) ...
 *   dal_handle h;
 *   dal_put(d, "flow/1", 6, "hello", 5, &o.write, &h);
 *   dal_read(d, &h, buf, sizeof buf, &len, NULL);
 *
 * Addresses: `dal:///DIRECTORY` the segment of this host (embedded, or a member of a cluster: the segment
 * knows); `dal://HOST:PORT[,HOST:PORT...]` remote-only, any members of the cluster ([IPv6] in
 * brackets).
 */
#ifndef STATESTORE_DAL_H
#define STATESTORE_DAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DAL_VALUE_BYTES_MAX 65536u
#define DAL_KEY_BYTES_MAX 232u
#define DAL_INBOX_MESSAGES_MAX 1024u /* held for one process that does not take them */

#if defined(__GNUC__)
#define DAL_API __attribute__((visibility("default")))
#else
#define DAL_API
#endif

typedef enum {
    DAL_OK = 0,
    DAL_NOT_FOUND,
    DAL_EXISTS,
    DAL_FULL,
    DAL_FENCED,
    DAL_CORRUPT,
    DAL_WRONG_VERSION,
    DAL_TOO_BIG,
    DAL_OVERRUN,
    DAL_UNAVAILABLE, /* not now: nobody answers, no view, no client slot; dal_why says more */
    DAL_CHANGED,
    DAL_INVALID,
    DAL_AWAY,        /* dal_peek: no copy here */
    DAL_NOT_SERVING, /* this member is outside the view, or its lease is over */
    DAL_IN_DOUBT,    /* sent, not answered: it may or may not have taken effect */
} dal_status;

typedef enum { DAL_HINT_NONE, DAL_HINT_LOCAL, DAL_HINT_REMOTE, DAL_HINT_PIN } dal_hint;

typedef struct dal dal;

/* Keep it and use it: the location is inside. Zero is "not looked up yet". The key must stay valid
 * and unchanged beside it (`key` points to the caller's bytes). */
typedef struct {
    const void *key;
    size_t key_len;
    uint64_t auth, hash;
    uint32_t item;        /* in the local segment */
    uint32_t remote_item; /* at the remote master */
    uint8_t remote_slot;  /* 255: not known */
} dal_handle;

typedef struct {
    const char *fence;  /* NULL: none */
    size_t fence_len;
    uint64_t epoch;
} dal_grant;

typedef struct {
    bool sync;          /* wait for the replicas */
    bool set_ttl;       /* write: replace the time to live */
    uint64_t ttl_ns;    /* 0: for ever */
    size_t capacity;    /* create: room to reserve for appends */
    uint8_t replicas;   /* create: copies besides the master's, 0..15 */
    dal_hint hint;      /* create */
    const dal_grant *grant;
    uint64_t epoch_seen; /* out, DAL_FENCED */
} dal_write;

typedef struct {
    const char *key_file; /* cluster key; needed for anything over the network. With it, a segment is a
                             member's: it serves only once its server is in the view */
    uint64_t timeout_ns;  /* of one operation */
    bool busy;            /* spin for answers instead of sleeping */
    bool readonly;
    dal_write write;      /* room for your defaults; the library itself does not use them */
} dal_options;
#define DAL_DEFAULTS ((dal_options){.timeout_ns = 1000000000ull})
#define DAL_NO_SLOT 255u

typedef struct {
    uint16_t replicas, learners;
    uint8_t master, want, hint;
} dal_home;

typedef struct {
    char node[64], address[64]; /* name; IP and port */
    uint64_t incarnation;
    uint8_t slot;
    bool leader, self; /* self: the server of this host */
} dal_member;
#define DAL_MEMBERS_MAX 16u

DAL_API dal_status dal_open(const char *address, const dal_options *o, dal **out, char *why,
                            size_t why_len);
DAL_API void dal_close(dal *d);
/* Read the key file again. A rotation adds the new key everywhere, then puts it first, then removes
 * the old one; sessions go on. */
DAL_API dal_status dal_reload_keys(dal *d);
/* One line about the last status that was not DAL_OK. */
DAL_API const char *dal_why(const dal *d);

DAL_API dal_status dal_lookup(dal *d, const void *key, size_t key_len, dal_handle *out);
DAL_API dal_status dal_create(dal *d, const void *key, size_t key_len, const void *value, size_t len,
                              dal_write *w, dal_handle *out);
/* Many at once, in flight together: statuses[i] per item. The first failure other than EXISTS is returned. */
typedef struct {
    const void *key, *value;
    size_t key_len, len;
    dal_status status;
} dal_new;
DAL_API dal_status dal_create_many(dal *d, dal_new *items, size_t count, dal_write *w);
/* Create, or replace. */
DAL_API dal_status dal_put(dal *d, const void *key, size_t key_len, const void *value, size_t len,
                           dal_write *w, dal_handle *out);
/* *len is the value's length also when cap is too small (DAL_TOO_BIG). version may be NULL. */
DAL_API dal_status dal_read(dal *d, dal_handle *h, void *buf, size_t cap, size_t *len, uint64_t *version);
/* The latest value that every replica has: what was read survives any single death. */
DAL_API dal_status dal_read_sync(dal *d, dal_handle *h, void *buf, size_t cap, size_t *len,
                                 uint64_t *version);
/* Many of these in flight together; a row's status and length say what came of it (DAL_TOO_BIG: cap). */
typedef struct {
    dal_handle *handle;
    void *buf;
    size_t cap, len;
    dal_status status;
} dal_get;
/* `settled`: nobody is writing these, nor was when their last writer was fenced, so that any copy that counts is
 * the latest one: this host's, and the master's where there is none. */
DAL_API dal_status dal_read_many(dal *d, dal_get *items, size_t count, bool settled);
/* The copy on this host, however old, without asking anybody. DAL_AWAY: none here. */
DAL_API dal_status dal_peek(dal *d, dal_handle *h, void *buf, size_t cap, size_t *len, uint64_t *version);
DAL_API dal_status dal_write_value(dal *d, dal_handle *h, const void *value, size_t len, dal_write *w);
DAL_API dal_status dal_append(dal *d, dal_handle *h, const void *entry, size_t len, dal_write *w);
DAL_API dal_status dal_swap(dal *d, dal_handle *h, uint64_t version, const void *value, size_t len,
                            dal_write *w);
DAL_API dal_status dal_add(dal *d, dal_handle *h, int64_t delta, int64_t *sum, dal_write *w);
DAL_API dal_status dal_delete(dal *d, dal_handle *h, dal_write *w);
/* Wait until what stands now is on all replicas. */
DAL_API dal_status dal_ensure(dal *d, dal_handle *h);

/* *cursor begins at 0; DAL_NOT_FOUND at the end. `key` has DAL_KEY_BYTES_MAX; h->key points to it. Keep
 * the cursor in one place: over the network a batch waits beside the address of it. */
DAL_API dal_status dal_scan(dal *d, uint64_t *cursor, const void *prefix, size_t prefix_len, void *key,
                            dal_handle *h);
/* *cursor begins at 0 (from now on). DAL_NOT_FOUND: nothing yet. DAL_OVERRUN: scan, then go on. */
DAL_API dal_status dal_watch(dal *d, uint64_t *cursor, const void *prefix, size_t prefix_len, void *key,
                             size_t *key_len, bool *deleted);

DAL_API dal_status dal_fence(dal *d, const char *fence, size_t len, uint64_t *epoch);
/* DAL_FENCED: it stands past `epoch` already. After DAL_OK no write with an older grant takes effect
 * anywhere in the cluster. */
DAL_API dal_status dal_raise(dal *d, const char *fence, size_t len, uint64_t epoch);

DAL_API dal_status dal_home_of(dal *d, dal_handle *h, dal_home *out);
DAL_API dal_status dal_move(dal *d, dal_handle *h, uint8_t to_slot);

/* The view: who is a member. An embedded segment has none (DAL_OK, *count 0). */
DAL_API dal_status dal_members(dal *d, dal_member *out /* DAL_MEMBERS_MAX */, size_t *count,
                               uint64_t *epoch);

DAL_API dal_status dal_inbox(dal *d, const char *name, size_t len);
/* The next message of this client's inboxes; DAL_NOT_FOUND: none. Never waits. */
DAL_API dal_status dal_take(dal *d, void *buf, size_t cap, size_t *len, char *inbox /* 64 */);
DAL_API dal_status dal_tell(dal *d, const char *inbox, size_t inbox_len, const void *message, size_t len);
DAL_API dal_status dal_announce(dal *d, const void *message, size_t len);

#endif
