/* The link's public functions, and its handshake.
 *
 * Knows: who may be believed when. Must not know: what a message says, sockets, clocks.
 *
 * What an attacker who records and replays can do with a greeting:
 * - HELLO of a session that lives: WELCOME comes again, nothing changes.
 * - HELLO of a dead session, or from another address: a claim is noted beside whoever is proven
 *   there; no more, because no datagram was ever sealed to the index in our WELCOME.
 * - WELCOME: counts only while a HELLO of ours is unanswered, and must name its counter.
 * - Our own greetings, sent back to us: refused by their session.
 */
#include "link_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct link *link_new(const link_keys *keys, uint64_t session, char *why, size_t why_len)
{
    if (session == 0 || keys->count == 0 || keys->count > LINK_KEYS_MAX) {
        snprintf(why, why_len, "a link needs a session that is not 0 and 1 to %u keys",
                 LINK_KEYS_MAX);
        return NULL;
    }
    struct link *l = calloc(1, sizeof *l);
    if (l != NULL) {
        l->session = session;
        if (link_keys_set(l, keys)) {
            return l;
        }
    }
    snprintf(why, why_len, "no memory for a link");
    free(l);
    return NULL;
}

void link_free(struct link *l)
{
    if (l == NULL) {
        return;
    }
    while (l->used.first != NULL) {
        link_peer_free(l, l->used.first);
    }
    while (l->claimed.first != NULL) {
        link_peer_free(l, l->claimed.first);
    }
    while (l->spare != NULL) {
        struct packet *k = l->spare;
        l->spare = k->next;
        free(k);
    }
    crypto_free(l->seal);
    crypto_wipe(l, sizeof *l);
    free(l);
}

uint64_t link_session(const struct link *l)
{
    return l->session;
}

void link_rekey(struct link *l, const link_keys *keys)
{
    if (!link_keys_set(l, keys)) {
        return;
    }
    for (int claimed = 0; claimed < 2; claimed++) {
        for (struct peer *p = claimed ? l->claimed.first : l->used.first; p; p = p->used_next) {
            for (uint32_t i = 0; i < LINK_KEYS_MAX; i++) {
                crypto_free(p->open[i]);
                p->open[i] = NULL; /* made again when it is needed */
            }
        }
    }
}

void link_stats_read(const struct link *l, link_stats *out)
{
    *out = l->stats;
}

/* ---- out ---- */

/* Begin a round of HELLOs. False: no index. */
static bool ask(struct link *l, struct peer *p, uint64_t now_ns)
{
    if (p->index[0].number == 0 && !link_peer_index(l, p, 0)) {
        return false;
    }
    p->suspect = false;
    p->tries = 0;
    memset(p->hello_at, 0, sizeof p->hello_at);
    link_ask_again(l, p, now_ns);
    return true;
}

/* Hold a message until the peer's WELCOME. */
static bool hold(struct link *l, struct peer *p, const void *message, size_t len, uint64_t tag)
{
    struct waiting *w = NULL;
    link_wait_drop(l, p, LINK_WAITING_MAX - 1);
    if (l->queued_bytes + sizeof *w + len > LINK_QUEUE_BYTES_MAX ||
        (w = malloc(sizeof *w + len)) == NULL) {
        l->stats.dropped_queue++;
        return false;
    }
    w->next = NULL;
    w->tag = tag;
    w->len = len;
    memcpy(w->bytes, message, len);
    *(p->wait_last == NULL ? &p->wait_first : &p->wait_last->next) = w;
    p->wait_last = w;
    p->waiting++;
    l->queued_bytes += sizeof *w + len;
    return true;
}

/* What waited may go. */
static void release(struct link *l, struct peer *p)
{
    while (p->wait_first != NULL) {
        struct waiting *w = p->wait_first;
        p->wait_first = w->next;
        if (w->next == NULL) {
            p->wait_last = NULL;
        }
        p->waiting--;
        l->queued_bytes -= sizeof *w + w->len;
        link_pack(l, p, w->bytes, w->len, w->tag);
        free(w);
    }
}

bool link_send(struct link *l, const link_addr *to, const void *message, size_t len, uint64_t tag,
               uint64_t now_ns)
{
    if (len == 0 || len > LINK_MESSAGE_BYTES_MAX) {
        l->stats.dropped_queue++;
        return false;
    }
    struct peer *p = link_main(l, to);
    if (p == NULL) {
        p = link_peer_new(l, to, PEER_ASKING);
        if (p == NULL || !ask(l, p, now_ns)) {
            if (p != NULL) {
                link_peer_free(l, p);
            }
            l->stats.dropped_queue++;
            return false;
        }
    }
    link_peer_used(l, p);
    if (p->state == PEER_ASKING) {
        return hold(l, p, message, len, tag);
    }
    if (p->suspect && !p->asking && now_ns >= p->hello_next_ns) {
        ask(l, p, now_ns); /* the message follows it, to the session that we know */
    }
    return link_pack(l, p, message, len, tag);
}

bool link_answer(struct link *l, const link_addr *to, uint64_t session, const void *message, size_t len,
                 uint64_t tag, uint64_t now_ns)
{
    const struct peer *p = link_main(l, to);
    if (p == NULL || p->state != PEER_PROVEN || p->session != session) {
        l->stats.dropped_answers++;
        return false;
    }
    return link_send(l, to, message, len, tag, now_ns);
}

void link_suspect(struct link *l, const link_addr *to)
{
    struct peer *p = link_main(l, to);
    if (p != NULL && p->state == PEER_PROVEN) {
        p->suspect = true;
    }
}

bool link_renewed(struct link *l, link_addr *who)
{
    *who = l->renewed_at;
    return l->renewed;
}

/* The next thing this peer is to get, sealed. 0: it could not be. */
static size_t emit(struct link *l, struct peer *p, uint8_t *out)
{
    size_t len;
    if (p->want_welcome) {
        p->want_welcome = false;
        uint32_t index = p->index[p->index[1].number != 0].number;
        return link_seal_greeting(l, LINK_WELCOME, index, p->session, p->welcome_to, out);
    }
    if (p->want_hello) {
        p->want_hello = false;
        len = link_seal_greeting(l, LINK_HELLO, p->index[0].number, 0, 0, out);
        p->hello_at[(p->tries - 1) % LINK_HELLO_TRIES_MAX] = l->counter;
        l->stats.hellos++;
        return len;
    }
    struct packet *k = link_packet_take(p);
    len = k == NULL ? 0 : link_seal_data(l, p->theirs, k->bytes, k->len, out);
    if (k != NULL) {
        link_packet_free(l, k);
    }
    return len;
}

bool link_next(struct link *l, link_addr *to, void *out, size_t *len)
{
    struct peer *p;
    while ((p = l->ready.first) != NULL) {
        size_t n = emit(l, p, out);
        link_unready(l, p);
        if (p->want_welcome || p->want_hello || p->first != NULL) {
            link_ready(l, p); /* behind the others */
        }
        if (n > 0) {
            *to = p->addr;
            *len = n;
            l->stats.datagrams_out++;
            l->stats.bytes_out += n;
            return true;
        }
    }
    return false;
}

/* ---- in ---- */

/* Open with the peer's context for that key, made on first use. */
static bool open_as(struct link *l, struct peer *p, uint32_t slot, const uint8_t *datagram,
                    size_t header, size_t len, void *out)
{
    if (p->open[slot] == NULL) {
        p->open[slot] = link_opener(l, p->session, slot);
    }
    return p->open[slot] != NULL && link_unseal(p->open[slot], datagram, header, len, out);
}

/* The peer's own word on the index under which it knows us; a replay is older than what we know. */
static void told(struct peer *p, uint64_t counter, uint32_t index)
{
    if (counter > p->theirs_at) {
        p->theirs_at = counter;
        p->theirs = index;
    }
}

/* A HELLO's word. What we have goes on, until the peer sends: then it knows us under the new one. */
static void offered(struct peer *p, uint64_t counter, uint32_t index)
{
    if (p->state == PEER_CLAIMED) {
        told(p, counter, index);
    } else if (counter > p->theirs_at && counter > p->offered_at) {
        p->offered_at = counter;
        p->offered = index;
    }
}

static void welcome(struct link *l, struct peer *p, uint64_t counter)
{
    if (!p->want_welcome || counter > p->welcome_to) {
        p->welcome_to = counter;
    }
    p->want_welcome = true;
    link_ready(l, p);
}

static bool receive_hello(struct link *l, const link_addr *from, uint64_t session, uint64_t counter,
                          uint32_t index)
{
    struct peer *p = link_main(l, from);
    if (p == NULL || p->state != PEER_PROVEN || p->session != session) {
        p = link_claim(l, from, session);
    }
    if (p == NULL) {
        p = link_peer_new(l, from, PEER_CLAIMED);
        if (p == NULL || !link_peer_index(l, p, 1)) {
            if (p != NULL) {
                link_peer_free(l, p);
            }
            return false;
        }
        p->session = session;
    }
    if (p->state == PEER_CLAIMED && counter > p->window.floor) {
        p->window.floor = p->window.highest = counter;
    }
    offered(p, counter, index);
    welcome(l, p, counter);
    return true;
}

static bool receive_welcome(struct link *l, struct peer *p, uint64_t session, uint64_t counter,
                            const uint8_t body[LINK_GREETING_BYTES])
{
    uint64_t echo = link_get(body + 12, 8);
    bool ours = false;
    for (uint32_t i = 0; i < LINK_HELLO_TRIES_MAX; i++) {
        ours = ours || (echo != 0 && p->hello_at[i] == echo);
    }
    if (!ours || link_get(body + 4, 8) != l->session) {
        l->stats.replayed++;
        return false;
    }
    if (p->state != PEER_PROVEN || p->session != session) {
        struct peer *claim = link_claim(l, &p->addr, session);
        if (claim != NULL) {
            link_absorb(l, p, claim);
            p->offered = p->theirs; /* if later than this WELCOME: greetings that have crossed */
            p->offered_at = p->theirs_at;
            p->theirs_at = 0;
        } else {
            link_become(l, p, session, counter);
        }
    }
    told(p, counter, (uint32_t)link_get(body, 4));
    link_ask_end(l, p);
    release(l, p);
    return true;
}

static bool receive_greeting(struct link *l, const link_addr *from, const uint8_t *d, size_t len,
                             uint32_t slot)
{
    uint8_t body[LINK_GREETING_BYTES];
    uint64_t session = link_get(d + 4, 8), counter = link_get(d + 12, 8);
    if (len != LINK_GREETING_HEADER_BYTES + LINK_GREETING_BYTES + CRYPTO_TAG_BYTES ||
        session == 0) {
        l->stats.malformed++;
        return false;
    }
    struct peer *p = link_main(l, from);
    if (session == l->session || (d[2] == LINK_WELCOME && (p == NULL || !p->asking))) {
        l->stats.replayed++;
        return false;
    }
    bool authentic;
    if (p != NULL && p->state == PEER_PROVEN && p->session == session) {
        authentic = open_as(l, p, slot, d, LINK_GREETING_HEADER_BYTES, len, body);
    } else {
        crypto_gcm *g = link_opener(l, session, slot);
        authentic = g != NULL && link_unseal(g, d, LINK_GREETING_HEADER_BYTES, len, body);
        crypto_free(g);
    }
    if (!authentic) {
        l->stats.unauthentic++;
        return false;
    }
    uint32_t index = (uint32_t)link_get(body, 4);
    if (index == 0 || counter == 0) {
        l->stats.malformed++;
        return false;
    }
    return d[2] == LINK_HELLO ? receive_hello(l, from, session, counter, index)
                              : receive_welcome(l, p, session, counter, body);
}

/* A datagram sealed to the index in our WELCOME: whoever sent it is alive, and lives there now. */
static struct peer *believe(struct link *l, struct peer *claim)
{
    struct peer *p = link_main(l, &claim->addr);
    if (p == NULL) {
        link_promote(l, claim);
        return claim;
    }
    link_absorb(l, p, claim);
    link_ask_end(l, p);
    release(l, p);
    return p;
}

static bool receive_data(struct link *l, const link_addr *from, const uint8_t *d, size_t len,
                         uint32_t slot, uint64_t now_ns, link_deliver deliver, void *context)
{
    uint8_t payload[LINK_PAYLOAD_BYTES_MAX];
    uint64_t counter = link_get(d + 8, 8);
    struct peer *p = link_by_index(l, (uint32_t)link_get(d + 4, 4));
    if (p == NULL || p->state == PEER_ASKING || p->addr.port != from->port ||
        memcmp(p->addr.ip, from->ip, sizeof from->ip) != 0) {
        l->stats.unknown_index++;
        return false;
    }
    if (!window_fresh(&p->window, counter)) {
        l->stats.replayed++;
        return false;
    }
    if (!open_as(l, p, slot, d, LINK_HEADER_BYTES, len, payload)) {
        l->stats.unauthentic++;
        return false;
    }
    window_mark(&p->window, counter);
    if (p->state == PEER_CLAIMED) {
        p = believe(l, p);
    } else if (counter > p->offered_at) {
        told(p, p->offered_at, p->offered);
    }
    link_peer_used(l, p);
    p->pins++; /* deliver may send, and sending may evict */
    bool sound = link_unpack(l, p, payload, len - LINK_HEADER_BYTES - CRYPTO_TAG_BYTES, now_ns,
                             deliver, context);
    p->pins--;
    l->stats.malformed += !sound;
    return sound;
}

bool link_receive(struct link *l, const link_addr *from, const void *datagram, size_t len,
                  uint64_t now_ns, link_deliver deliver, void *context)
{
    const uint8_t *d = datagram;
    l->renewed = false;
    l->stats.datagrams_in++;
    l->stats.bytes_in += len;
    if (len <= LINK_HEADER_BYTES + CRYPTO_TAG_BYTES || len > LINK_DATAGRAM_BYTES_MAX ||
        d[0] != LINK_VERSION || d[2] < LINK_DATA || d[2] > LINK_WELCOME || d[3] != 0) {
        l->stats.malformed++;
        return false;
    }
    uint32_t slot = link_key_slot(l, d[1]);
    if (slot == LINK_KEYS_MAX) {
        l->stats.unknown_key++;
        return false;
    }
    return d[2] == LINK_DATA ? receive_data(l, from, d, len, slot, now_ns, deliver, context)
                             : receive_greeting(l, from, d, len, slot);
}

/* ---- time ---- */

void link_tick(struct link *l, uint64_t now_ns)
{
    struct peer *p;
    while ((p = l->asking.first) != NULL && p->hello_next_ns <= now_ns) {
        if (p->tries < LINK_HELLO_TRIES_MAX) {
            link_ask_again(l, p, now_ns);
        } else if (p->state == PEER_ASKING && p->pins == 0) {
            link_peer_free(l, p); /* what waits is dropped and counted */
        } else {
            link_ask_end(l, p);
        }
    }
    link_partials_expire(l, now_ns);
}

uint64_t link_deadline(const struct link *l)
{
    uint64_t deadline = l->asking.first == NULL ? UINT64_MAX : l->asking.first->hello_next_ns;
    if (l->partials > 0 && l->partial[0]->started_ns + LINK_PARTIAL_NS < deadline) {
        deadline = l->partial[0]->started_ns + LINK_PARTIAL_NS;
    }
    return deadline;
}
