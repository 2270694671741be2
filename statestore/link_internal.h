/* What the files of the link share; nobody else includes this.
 *
 * link.c the public functions and the handshake; link_peers.c the table of peers; link_seal.c keys,
 * sealing, the replay window; link_parts.c messages in datagrams.
 *
 * A peer is one address that we talk to, in one of three states:
 * - ASKING: we have said HELLO, nobody has answered; the other's session is not known.
 * - CLAIMED: a HELLO came from there. It may be a replay, so we only answer with WELCOME. It becomes
 *   proven with the first datagram sealed to the index in that WELCOME.
 * - PROVEN: the session that lives there now.
 * At most one peer of an address is ASKING or PROVEN (its *main* one); CLAIMED ones stand beside it.
 */
#ifndef STATESTORE_LINK_INTERNAL_H
#define STATESTORE_LINK_INTERNAL_H

#include "crypto.h"
#include "link.h"

#define LINK_VERSION 1u
#define LINK_CLAIMS_MAX 256u /* CLAIMED peers: replayed HELLOs push out no more than that */
#define LINK_BUCKETS 2048u   /* of both hash tables; a power of two */
#define LINK_DONE_MAX 64u    /* fragmented messages remembered after they were complete */

/* version 1 | key id 1 | kind 1 | 0 | receiver's index 4 | counter 8 */
#define LINK_HEADER_BYTES 16u
/* version 1 | key id 1 | kind 1 | 0 | sender's session 8 | counter 8 */
#define LINK_GREETING_HEADER_BYTES 20u
/* Sealed in a HELLO or WELCOME: sender's index for the receiver 4 | session and counter of the HELLO
 * that a WELCOME answers, zero in a HELLO: 8, 8. Equal sizes: nothing is amplified. */
#define LINK_GREETING_BYTES 20u
#define LINK_PAYLOAD_BYTES_MAX (LINK_DATAGRAM_BYTES_MAX - LINK_HEADER_BYTES - CRYPTO_TAG_BYTES)

/* Parts of a payload: kind 1 | length 2 | a message, or a fragment:
 * id 8 | number of the sending 4 | bytes of the message 4 | number of the fragment 2 | its bytes */
#define LINK_PART_BYTES 3u
#define LINK_FRAGMENT_HEADER_BYTES 18u
#define LINK_WHOLE_BYTES_MAX (LINK_PAYLOAD_BYTES_MAX - LINK_PART_BYTES)
#define LINK_FRAGMENT_BYTES 1392u /* all but the last are that long */

enum { LINK_DATA = 1, LINK_HELLO = 2, LINK_WELCOME = 3 };
enum { PART_WHOLE = 1, PART_FRAGMENT = 2 };
enum peer_state { PEER_ASKING, PEER_CLAIMED, PEER_PROVEN };

/* Sliding window over the sender's counters. */
#define WINDOW_WORDS (2 * LINK_REPLAY_WINDOW / 64)
struct window {
    uint64_t floor; /* at or below: refused, whatever the bits say */
    uint64_t highest;
    uint64_t seen[WINDOW_WORDS]; /* a ring, twice the window */
};

/* One datagram's payload, in the clear. */
struct packet {
    struct packet *next;
    uint16_t len, messages; /* messages that end in it */
    uint8_t bytes[LINK_PAYLOAD_BYTES_MAX];
};

struct waiting {
    struct waiting *next;
    uint64_t tag;
    size_t len;
    uint8_t bytes[];
};

struct index {
    uint32_t number; /* 0: none */
    struct peer *peer;
    struct index *next;
};

struct peer {
    link_addr addr;
    enum peer_state state;
    uint32_t pins;      /* in use further up the stack: not to be freed */
    uint64_t session;   /* 0: ASKING */
    struct index index[2]; /* ours, what it puts in its headers: told in our HELLO; in our WELCOME */
    uint32_t theirs;    /* what we put in ours; 0: not told yet */
    uint64_t theirs_at; /* counter of what told it: a replay tells nothing new */
    uint32_t offered;   /* told by a HELLO: good when its sender has our WELCOME, so when it sends */
    uint64_t offered_at;
    crypto_gcm *open[LINK_KEYS_MAX]; /* by the key's place in the list; made when needed */
    struct window window;

    bool asking;  /* a HELLO is out: on the list of those */
    bool suspect; /* say HELLO before the next message */
    bool want_hello, want_welcome;
    uint32_t tries;
    uint64_t hello_at[LINK_HELLO_TRIES_MAX]; /* counters of this round's HELLOs */
    uint64_t hello_next_ns;
    uint64_t welcome_to; /* counter of the HELLO to be answered */

    struct packet *first, *last;
    struct waiting *wait_first, *wait_last;
    uint32_t waiting;

    bool ready; /* on the list of those with something to send */
    struct peer *ready_prev, *ready_next;
    struct peer *ask_prev, *ask_next;
    struct peer *used_prev, *used_next; /* of its kind, by last use */
    struct peer *addr_next;
};

struct partial {
    const struct peer *peer;
    uint64_t id, started_ns;
    uint64_t missing; /* bit per fragment */
    uint32_t sending; /* the latest that has given a fragment */
    uint32_t total;
    uint8_t bytes[];
};

struct done {
    uint64_t session, id;
    uint32_t sending;
};

struct key_slot {
    uint8_t id;
    uint8_t extracted[CRYPTO_KEY_BYTES];
};

struct list {
    struct peer *first, *last;
};

struct link {
    uint64_t session, counter; /* of the last datagram: over all peers and keys, never used twice */
    uint32_t keys;
    struct key_slot key[LINK_KEYS_MAX];
    crypto_gcm *seal;
    uint8_t index_secret[CRYPTO_KEY_BYTES];
    uint64_t indices; /* drawn so far */

    uint32_t peers, claims;
    struct list used, claimed; /* ASKING and PROVEN; CLAIMED */
    struct list ready, asking; /* asking: in the order of hello_next_ns */
    struct peer *by_addr[LINK_BUCKETS];
    struct index *by_index[LINK_BUCKETS];

    size_t queued_bytes;
    struct packet *spare;
    uint32_t sending; /* number of the last fragmented message sent */
    bool renewed;     /* by the last datagram received: */
    link_addr renewed_at;

    uint32_t partials;
    struct partial *partial[LINK_PARTIAL_MAX]; /* oldest first */
    struct done done[LINK_DONE_MAX];
    uint32_t done_next;

    link_stats stats;
};

static inline void link_put(uint8_t *p, uint64_t x, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(x >> 8 * i);
    }
}

static inline uint64_t link_get(const uint8_t *p, unsigned bytes)
{
    uint64_t x = 0;
    for (unsigned i = 0; i < bytes; i++) {
        x |= (uint64_t)p[i] << 8 * i;
    }
    return x;
}

/* ---- link_peers.c ---- */
struct peer *link_main(const struct link *l, const link_addr *addr);
struct peer *link_claim(const struct link *l, const link_addr *addr, uint64_t session);
struct peer *link_by_index(const struct link *l, uint32_t index);
/* NULL: no memory, or all are pinned. */
struct peer *link_peer_new(struct link *l, const link_addr *addr, enum peer_state state);
void link_peer_free(struct link *l, struct peer *p);
void link_peer_used(struct link *l, struct peer *p);
/* Give it a fresh random index in that place; false: no entropy. */
bool link_peer_index(struct link *l, struct peer *p, unsigned which);
/* p becomes PROVEN as this session. What belonged to another one is forgotten. */
void link_become(struct link *l, struct peer *p, uint64_t session, uint64_t floor);
/* p becomes PROVEN as what `claim` says, which is freed. */
void link_absorb(struct link *l, struct peer *p, struct peer *claim);
void link_promote(struct link *l, struct peer *claim);
void link_ready(struct link *l, struct peer *p);
void link_unready(struct link *l, struct peer *p);
void link_ask_again(struct link *l, struct peer *p, uint64_t now_ns);
void link_ask_end(struct link *l, struct peer *p);
void link_wait_drop(struct link *l, struct peer *p, uint32_t keep);

/* ---- link_seal.c ---- */
bool link_keys_set(struct link *l, const link_keys *keys);
/* Place of the key in the list; LINK_KEYS_MAX: not known. */
uint32_t link_key_slot(const struct link *l, uint8_t id);
crypto_gcm *link_opener(const struct link *l, uint64_t session, uint32_t slot);
size_t link_seal_data(struct link *l, uint32_t index, const void *in, size_t len, uint8_t *out);
size_t link_seal_greeting(struct link *l, uint8_t kind, uint32_t index, uint64_t echo_session,
                          uint64_t echo_counter, uint8_t *out);
/* `header` bytes in clear, then what is sealed. */
bool link_unseal(crypto_gcm *g, const uint8_t *datagram, size_t header, size_t len, void *out);
bool window_fresh(const struct window *w, uint64_t counter);
void window_mark(struct window *w, uint64_t counter);

/* ---- link_parts.c ---- */
bool link_pack(struct link *l, struct peer *p, const void *message, size_t len, uint64_t tag);
bool link_unpack(struct link *l, struct peer *p, const uint8_t *in, size_t len, uint64_t now_ns,
                 link_deliver deliver, void *context);
struct packet *link_packet_take(struct peer *p);
void link_packet_free(struct link *l, struct packet *k);
void link_partials_forget(struct link *l, const struct peer *p);
void link_partials_expire(struct link *l, uint64_t now_ns);

#endif
