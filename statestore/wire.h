/* The messages of DAL as bytes: one encoding for all of them, one parser to fuzz.
 *
 * Knows: fields. Must not know: who sends what when (node*.c, client.c), sealing (link.c).
 *
 * A message is: type 1 | flags 1 | status 1 | slot 1 | mask 4 | the fields in the order of the mask's
 * bits, little endian | key length 1, key | fence length 1, fence | value length 4, value (the last
 * three only if their bit is set). docs/dal.md says what each message means.
 */
#ifndef STATESTORE_WIRE_H
#define STATESTORE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "segment.h"

#define WIRE_SLOTS_MAX 16u
#define WIRE_HEADER_BYTES 8u
#define WIRE_MESSAGE_BYTES_MAX (SEG_VALUE_BYTES_MAX + 1024u)

typedef enum {
    /* client -> server; answered by REPLY with the same id. seq, when there: the incarnation it is meant
       for; a server that is another one does nothing and answers STALE, its own incarnation in seq. */
    WIRE_READ = 1,   /* key, item, auth -> value, version, item, auth */
    WIRE_WRITE,      /* key, item, auth, value, ttl (SET_TTL), grant -> version */
    WIRE_APPEND,     /* key, item, auth, value (one entry), grant -> version */
    WIRE_SWAP,       /* key, item, auth, value, version, grant -> version; CHANGED */
    WIRE_ADD,        /* key, item, auth, number = delta, grant -> number = sum, version */
    WIRE_DELETE,     /* key, item, auth, grant */
    WIRE_CREATE,     /* key, value, home (want, hint), ttl, number = capacity, grant -> auth, home */
    WIRE_LOOKUP,     /* key -> auth, home, item (the answering member's) */
    WIRE_SCAN,       /* key = prefix, number = cursor, -> number = cursor, value = packed keys; NOT_FOUND at the end */
    WIRE_POLL,       /* key = prefix, number = cursor (0: from now on; else the place in the feed, and one) -> number,
                         value = packed changes; OVERRUN */
    WIRE_RAISE,      /* fence, grant_epoch -> grant_epoch as it stands; FENCED: it stood past it */
    WIRE_FENCE,      /* fence -> grant_epoch */
    WIRE_MEMBERS,    /* -> value = packed members (wire_put_member), epoch, slot = who answers, number = leader */
    WIRE_MOVE,       /* key, slot = to */
    WIRE_ENSURE,     /* key, auth, version: answered when the version or a later one is replicated */
    WIRE_TELL,       /* key = inbox, value; between servers (ANY): version, auth = the sender's session and id */
    WIRE_ANNOUNCE,   /* value; between servers number: the sender's place in the log when it began */
    WIRE_INBOX,      /* key = inbox: this session takes its messages, until CLOSE (number = 1) */
    WIRE_COPY,       /* also server -> server. key, auth, version, value, ttl, home, slot = master;
                         seq: the receiver's map must have come that far (it is to learn) */
    /* READ..ENSURE: slot = the member on the asker's host, 255 none: whom an item may move to.
       `flags` ANY of TELL and ANNOUNCE, between servers: deliver to your own clients only. */
    /* answers */
    WIRE_REPLY = 32,
    /* server -> client: one message for an inbox; answered by REPLY with the same id */
    WIRE_PUSH,       /* key = inbox, value, number = sequence per inbox */
    /* server <-> server */
    WIRE_PROPOSE = 48, /* id, op in `sub`, its fields */
    WIRE_REFUSED,      /* id, status, grant_epoch; with seq: only if it is not in the log up to there */
    WIRE_OP,           /* seq, sub = op, slot + id = origin, committed, its fields */
    WIRE_OPACK,        /* seq = applied */
    WIRE_BEAT,         /* seq = last, committed */
    WIRE_STATE,        /* seq = applied, number = complete */
    WIRE_FETCH,        /* seq = first wanted, number = slot that wants it (none: the sender) */
    WIRE_SNAP,         /* number = chunk, value = packed entries; sub 0 items, 1 fences (auth = epoch),
                          2 inboxes (home.master = server) */
    WIRE_SNAPACK,      /* number = chunk */
    WIRE_SNAPEND,      /* seq */
    WIRE_NOTE,         /* value = packed keys that have changed */
    WIRE_WANTS,        /* number = 1: this member's clients watch */
    WIRE_STRAY,        /* id, key, auth: is the copy here one of yours? number = 1: no, drop it */
    WIRE_BOXES,        /* which inboxes are there, from version on? number = 1: these (value: packed entries,
                          home.master = server; flag ANY: perhaps more), seq = applied, version = where to go on, 0 the end */
    WIRE_SAME,         /* id, version, value = packed numbered items: is what you have of these at that number? Then
                          it is at `version` from now on. Answer: id, number = one bit each, the lowest the first's */
} wire_type;

/* What a map log operation does. */
typedef enum {
    WIRE_OP_CREATE = 1, /* key, auth (epoch << 36 | seq, set by the leader), home, value, ttl, number = capacity */
    WIRE_OP_DELETE,     /* key, auth */
    WIRE_OP_PLACE,      /* key, auth, home; number = master it replaces */
    WIRE_OP_FENCE,      /* fence, grant_epoch */
    WIRE_OP_VIEW,       /* auth = its epoch, number = dead slots (mask), version = of these, left in good
                           order (mask), grant_epoch = complete slots (mask) */
    WIRE_OP_INBOX,      /* key = inbox, home.master = its server, number = 1: closed */
    WIRE_OP_MEMBER,     /* number = slot: it is complete from here on */
    WIRE_OP_LEAVE,      /* number = slot: it takes no item any more in this epoch; version = 1: it stays */
} wire_op;

/* Statuses: seg_status, and these. */
typedef enum {
    WIRE_OK = 0,
    WIRE_STALE = 64, /* your epoch is over; `epoch` is mine */
    WIRE_LATER,      /* not yet (a view is changing, my map lags): repeat */
    WIRE_MISS,       /* no such incarnation here */
    WIRE_IN_DOUBT,   /* may or may not have taken effect */
    WIRE_BAD,        /* malformed or not allowed */
} wire_status;

#define WIRE_SYNC 1u    /* flag: wait for the replicas */
#define WIRE_SET_TTL 2u /* flag: replace the deadline */
#define WIRE_ANY 4u     /* flag, READ: any copy will do */
#define WIRE_FIRST 8u   /* flag, SNAP: a new snapshot begins here */
#define WIRE_REPEAT 16u /* flag, request: sent before; who has no table of replies for it answers IN_DOUBT */

/* Fields, in the order they stand. */
#define WIRE_EPOCH 1u
#define WIRE_ID 2u
#define WIRE_SEQ 4u
#define WIRE_COMMITTED 8u
#define WIRE_AUTH 16u
#define WIRE_VERSION 32u
#define WIRE_NUMBER 64u
#define WIRE_TTL 128u
#define WIRE_GRANT_EPOCH 256u
#define WIRE_ITEM 512u
#define WIRE_HOME 1024u
#define WIRE_SUB 2048u
#define WIRE_KEY 4096u
#define WIRE_FENCE_NAME 8192u
#define WIRE_VALUE 16384u
#define WIRE_ALL 32767u

typedef struct {
    uint8_t type, flags, status, slot, sub;
    uint32_t mask;
    uint64_t epoch, id, seq, committed, auth, version, number;
    uint64_t ttl_ns; /* remaining, 0: never */
    uint64_t grant_epoch;
    uint32_t item;
    seg_home home;
    const void *key, *fence, *value;
    size_t key_len, fence_len, value_len;
} wire_msg;

/* Bytes written, 0 when `cap` is too small or a length is over its limit. */
size_t wire_encode(const wire_msg *m, void *out, size_t cap);
size_t wire_size(const wire_msg *m);
/* Strings point into `in`; absent ones are empty, not NULL. False: not a message; *m is then undefined. */
bool wire_decode(const void *in, size_t len, wire_msg *m);

/* Packed lists inside a value: cursors that check every bound. */
typedef struct {
    const uint8_t *at, *end;
} wire_reader;
/* key length 1 | key. */
bool wire_take_key(wire_reader *r, const void **key, size_t *len);
/* One change: deleted 1 | key length 1 | key. */
bool wire_take_change(wire_reader *r, bool *deleted, const void **key, size_t *len);
/* One entry of the key map: auth 8 | home word 8 | key length 1 | key. */
bool wire_take_entry(wire_reader *r, uint64_t *auth, seg_home *home, const void **key, size_t *len);
/* One numbered item: auth 8 | logical version 8 | key length 1 | key. */
bool wire_take_numbered(wire_reader *r, uint64_t *auth, uint64_t *version, const void **key, size_t *len);
/* One member: slot 1 | port 2 | ip 16 | incarnation 8 | node length 1 | node. */
bool wire_take_member(wire_reader *r, seg_member *m);
/* The same ways round; 0 when there is no room. */
size_t wire_put_key(void *out, size_t cap, const void *key, size_t len);
size_t wire_put_change(void *out, size_t cap, bool deleted, const void *key, size_t len);
size_t wire_put_entry(void *out, size_t cap, uint64_t auth, const seg_home *home, const void *key,
                      size_t len);
size_t wire_put_numbered(void *out, size_t cap, uint64_t auth, uint64_t version, const void *key, size_t len);
size_t wire_put_member(void *out, size_t cap, const seg_member *m);

#endif
