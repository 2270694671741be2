/* One endpoint of DAL's network, without its socket: sealing, sessions, fragments.
 *
 * Knows: keys, datagrams, peers' sessions. Must not know: what a message says, retransmission (who
 * asks repeats; here a lost datagram is lost), clocks (now is an argument), sockets.
 *
 * - A datagram: version 1 | key id 1 | kind 1 | 0 | receiver's index 4 | counter 8 | sealed bytes | tag 16.
 *   HELLO and WELCOME carry the sender's session 8 in clear (authenticated) in place of an index that
 *   the receiver cannot know yet. Nonce: the counter; key: HKDF-SHA256(cluster key, session).
 * - A HELLO may be a replay, so nothing is sent to who says it but a WELCOME with a random index; the
 *   first datagram sealed to that index proves the session, from then on it is the peer at its address.
 * - The first message to an address sends HELLO and waits for WELCOME (at most LINK_WAITING_MAX
 *   messages per peer; older ones are dropped and counted). HELLO is repeated by link_tick while
 *   something waits, up to LINK_HELLO_TRIES_MAX times.
 * - A peer that has forgotten us (restart) cannot say so unauthenticated: who repeats a request calls
 *   link_suspect, and the next message follows a HELLO (at most one per LINK_HELLO_AGAIN_NS). It still
 *   goes to the session we know; if there is a new one, the repetition after its WELCOME reaches it.
 * - Small messages to the same peer that are queued together share a datagram; large ones are cut into
 *   fragments of at most LINK_PAYLOAD_BYTES_MAX, put together again whatever their order, with parts
 *   kept over repetitions of the same message (`tag` equal), in a bounded number of buffers.
 * - Bad bytes are counted by reason and dropped; nothing is ever answered to what does not authenticate.
 */
#ifndef STATESTORE_LINK_H
#define STATESTORE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINK_DATAGRAM_BYTES_MAX 1452u    /* IPv6 in 1500, less its and UDP's header */
#define LINK_MESSAGE_BYTES_MAX 68000u
#define LINK_PEERS_MAX 4096u             /* sessions held; the one unused longest is replaced */
#define LINK_WAITING_MAX 512u            /* messages held for one peer's WELCOME */
#define LINK_HELLO_TRIES_MAX 5u
#define LINK_HELLO_AGAIN_NS 50000000ull
#define LINK_PARTIAL_MAX 64u             /* messages being put together, per endpoint */
#define LINK_PARTIAL_NS 2000000000ull    /* and how long one may take */
#define LINK_REPLAY_WINDOW 1024u
#define LINK_QUEUE_BYTES_MAX (16u << 20) /* queued for sending; more is dropped and counted */
#define LINK_KEYS_MAX 4u
#define LINK_KEY_BYTES 32u

/* IPv4 as ::ffff:a.b.c.d. Host byte order of the port. */
typedef struct {
    uint8_t ip[16];
    uint16_t port;
} link_addr;

typedef struct {
    uint32_t count;
    struct {
        uint8_t id;
        uint8_t bytes[LINK_KEY_BYTES];
    } key[LINK_KEYS_MAX]; /* the first one seals */
} link_keys;

/* `sessions`: held now, proven. `hellos`: sent. The rest is counted from the start. */
typedef struct {
    uint64_t datagrams_in, datagrams_out, messages_in, messages_out, bytes_in, bytes_out;
    uint64_t unauthentic, replayed, malformed, unknown_index, unknown_key, dropped_waiting,
        dropped_queue, dropped_partial, dropped_answers, hellos, sessions, evicted;
} link_stats;

struct link; /* no typedef: unistd.h has a function of that name */

/* One complete, authentic message. `session` is the sender's: it names one incarnation of a peer. */
typedef void (*link_deliver)(void *context, const link_addr *from, uint64_t session,
                             const void *message, size_t len);

/* `session` random and never used before with these keys. NULL: no memory (*why). */
struct link *link_new(const link_keys *keys, uint64_t session, char *why, size_t why_len);
void link_free(struct link *l);
uint64_t link_session(const struct link *l);
/* Rotation: seal with the new first key from now on, open with all of them; sessions stay. */
void link_rekey(struct link *l, const link_keys *keys);

/* Queue one message. tag: equal for repetitions of the same message (0: never repeated). False: empty,
 * too long, or no room (counted). From within `deliver` too, as link_suspect. */
bool link_send(struct link *l, const link_addr *to, const void *message, size_t len, uint64_t tag,
               uint64_t now_ns);
/* As link_send, of what answers a message of that `session`. False too when another one lives there now: what
 * its predecessor asked is not its own, whatever number it has. */
bool link_answer(struct link *l, const link_addr *to, uint64_t session, const void *message, size_t len,
                 uint64_t tag, uint64_t now_ns);
/* The next datagram for the wire; false when there is none. `out` has LINK_DATAGRAM_BYTES_MAX. */
bool link_next(struct link *l, link_addr *to, void *out, size_t *len);
/* One datagram from the wire; calls deliver for each message that is complete. False: dropped. */
bool link_receive(struct link *l, const link_addr *from, const void *datagram, size_t len,
                  uint64_t now_ns, link_deliver deliver, void *context);
/* The peer at this address may have restarted: say HELLO again before the next message. */
void link_suspect(struct link *l, const link_addr *to);
/* Did the last datagram received prove a new session where we knew another? What was sent to that one is
 * lost; who repeats need not wait. */
bool link_renewed(struct link *l, link_addr *who);
/* Repeat HELLOs, forget partial messages. */
void link_tick(struct link *l, uint64_t now_ns);
/* When link_tick is wanted next, UINT64_MAX: not. */
uint64_t link_deadline(const struct link *l);
void link_stats_read(const struct link *l, link_stats *out);

/* ---- keys.c: the key file. The only file access of this room. ---- */
/* 0 when read; else -1 and one line in `why`: missing, mode not 0600 or 0400, not ours, bad line
 * with its number, no key, too many, an id twice. */
int link_keys_load(const char *path, link_keys *out, char *why, size_t why_len);

#endif
