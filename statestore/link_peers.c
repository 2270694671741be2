/* The table of peers: by address, by index, by last use.
 *
 * Knows: the three states of a peer (link_internal.h). Must not know: datagrams, cryptography.
 */
#include "link_internal.h"

#include <stdlib.h>
#include <string.h>

/* Lists through the fields NAME_prev and NAME_next of the peers. */
#define LIST(name)                                                                                \
    static void name##_append(struct list *list, struct peer *p)                                  \
    {                                                                                             \
        p->name##_prev = list->last;                                                              \
        p->name##_next = NULL;                                                                    \
        *(list->last == NULL ? &list->first : &list->last->name##_next) = p;                      \
        list->last = p;                                                                           \
    }                                                                                             \
    static void name##_remove(struct list *list, struct peer *p)                                  \
    {                                                                                             \
        *(p->name##_prev == NULL ? &list->first : &p->name##_prev->name##_next) = p->name##_next; \
        *(p->name##_next == NULL ? &list->last : &p->name##_next->name##_prev) = p->name##_prev;  \
        p->name##_prev = p->name##_next = NULL;                                                   \
    }
LIST(used)
LIST(ready)
LIST(ask)

static struct peer **addr_bucket(const struct link *l, const link_addr *addr)
{
    uint64_t a, b;
    memcpy(&a, addr->ip, 8);
    memcpy(&b, addr->ip + 8, 8);
    uint64_t h = (a ^ l->session) * 0x9e3779b97f4a7c15ull;
    h = (h ^ h >> 32 ^ b) * 0xff51afd7ed558ccdull;
    h = (h ^ h >> 32 ^ addr->port) * 0xc4ceb9fe1a85ec53ull;
    return (struct peer **)&l->by_addr[(h >> 32) % LINK_BUCKETS];
}

static bool same_addr(const link_addr *a, const link_addr *b)
{
    return a->port == b->port && memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

struct peer *link_main(const struct link *l, const link_addr *addr)
{
    struct peer *p = *addr_bucket(l, addr);
    while (p != NULL && (p->state == PEER_CLAIMED || !same_addr(&p->addr, addr))) {
        p = p->addr_next;
    }
    return p;
}

struct peer *link_claim(const struct link *l, const link_addr *addr, uint64_t session)
{
    struct peer *p = *addr_bucket(l, addr);
    while (p != NULL &&
           (p->state != PEER_CLAIMED || p->session != session || !same_addr(&p->addr, addr))) {
        p = p->addr_next;
    }
    return p;
}

struct peer *link_by_index(const struct link *l, uint32_t index)
{
    const struct index *i = index == 0 ? NULL : l->by_index[index % LINK_BUCKETS];
    while (i != NULL && i->number != index) {
        i = i->next;
    }
    return i == NULL ? NULL : i->peer;
}

static void index_remove(struct link *l, struct peer *p, unsigned which)
{
    struct index *i = &p->index[which], **at = &l->by_index[i->number % LINK_BUCKETS];
    if (i->number != 0) {
        while (*at != i) {
            at = &(*at)->next;
        }
        *at = i->next;
        i->number = 0;
    }
}

static void index_insert(struct link *l, struct peer *p, unsigned which, uint32_t number)
{
    struct index **bucket = &l->by_index[number % LINK_BUCKETS];
    p->index[which] = (struct index){.number = number, .peer = p, .next = *bucket};
    *bucket = &p->index[which];
}

bool link_peer_index(struct link *l, struct peer *p, unsigned which)
{
    uint8_t number[8], drawn[CRYPTO_KEY_BYTES];
    uint32_t index;
    index_remove(l, p, which);
    do {
        link_put(number, ++l->indices, 8);
        crypto_expand(l->index_secret, number, sizeof number, drawn);
        index = (uint32_t)link_get(drawn, 4);
    } while (index == 0 || link_by_index(l, index) != NULL);
    index_insert(l, p, which, index);
    return true;
}

/* The one unused longest of this list goes; false: none may. */
static bool evict(struct link *l, const struct list *list)
{
    struct peer *p = list->first;
    while (p != NULL && p->pins > 0) {
        p = p->used_next;
    }
    if (p == NULL) {
        return false;
    }
    l->stats.evicted++;
    link_peer_free(l, p);
    return true;
}

struct peer *link_peer_new(struct link *l, const link_addr *addr, enum peer_state state)
{
    if (state == PEER_CLAIMED && l->claims >= LINK_CLAIMS_MAX && !evict(l, &l->claimed)) {
        return NULL;
    }
    if (l->peers >= LINK_PEERS_MAX && !evict(l, &l->used) && !evict(l, &l->claimed)) {
        return NULL;
    }
    struct peer *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    p->addr = *addr;
    p->state = state;
    struct peer **bucket = addr_bucket(l, addr);
    p->addr_next = *bucket;
    *bucket = p;
    used_append(state == PEER_CLAIMED ? &l->claimed : &l->used, p);
    l->claims += state == PEER_CLAIMED;
    l->peers++;
    return p;
}

static void forget_openers(struct peer *p)
{
    for (uint32_t i = 0; i < LINK_KEYS_MAX; i++) {
        crypto_free(p->open[i]);
        p->open[i] = NULL;
    }
}

void link_peer_free(struct link *l, struct peer *p)
{
    struct peer **at = addr_bucket(l, &p->addr);
    while (*at != p) {
        at = &(*at)->addr_next;
    }
    *at = p->addr_next;
    index_remove(l, p, 0);
    index_remove(l, p, 1);
    link_unready(l, p);
    link_ask_end(l, p);
    link_wait_drop(l, p, 0);
    for (struct packet *k; (k = link_packet_take(p)) != NULL;) {
        l->stats.dropped_queue += k->messages;
        link_packet_free(l, k);
    }
    link_partials_forget(l, p);
    forget_openers(p);
    used_remove(p->state == PEER_CLAIMED ? &l->claimed : &l->used, p);
    l->claims -= p->state == PEER_CLAIMED;
    l->stats.sessions -= p->state == PEER_PROVEN;
    l->peers--;
    free(p);
}

void link_peer_used(struct link *l, struct peer *p)
{
    if (p->used_next != NULL && p->state != PEER_CLAIMED) {
        used_remove(&l->used, p);
        used_append(&l->used, p);
    }
}

void link_become(struct link *l, struct peer *p, uint64_t session, uint64_t floor)
{
    if (p->session != session) {
        if (p->state == PEER_PROVEN) {
            l->renewed = true;
            l->renewed_at = p->addr;
        }
        forget_openers(p);
        link_partials_forget(l, p);
        index_remove(l, p, 1);
        p->session = session;
        p->theirs = p->offered = 0;
        p->theirs_at = p->offered_at = 0;
        p->want_welcome = false;
        p->window = (struct window){.floor = floor, .highest = floor};
    }
    l->stats.sessions += p->state != PEER_PROVEN;
    p->state = PEER_PROVEN;
}

void link_absorb(struct link *l, struct peer *p, struct peer *claim)
{
    link_become(l, p, claim->session, 0);
    p->window = claim->window;
    p->theirs = claim->theirs;
    p->theirs_at = claim->theirs_at;
    memcpy(p->open, claim->open, sizeof p->open);
    memset(claim->open, 0, sizeof claim->open);
    if (claim->want_welcome) {
        p->want_welcome = true;
        p->welcome_to = claim->welcome_to;
        link_ready(l, p);
    }
    uint32_t index = claim->index[1].number;
    link_peer_free(l, claim);
    index_remove(l, p, 1);
    index_insert(l, p, 1, index);
}

void link_promote(struct link *l, struct peer *claim)
{
    used_remove(&l->claimed, claim);
    used_append(&l->used, claim);
    l->claims--;
    claim->state = PEER_PROVEN;
    l->stats.sessions++;
}

void link_ready(struct link *l, struct peer *p)
{
    if (!p->ready) {
        p->ready = true;
        ready_append(&l->ready, p);
    }
}

void link_unready(struct link *l, struct peer *p)
{
    if (p->ready) {
        p->ready = false;
        ready_remove(&l->ready, p);
    }
}

/* Another HELLO of this round. The list stays in order: the pause is always the same. */
void link_ask_again(struct link *l, struct peer *p, uint64_t now_ns)
{
    if (p->asking) {
        ask_remove(&l->asking, p);
    }
    p->asking = true;
    p->tries++;
    p->want_hello = true;
    p->hello_next_ns = now_ns + LINK_HELLO_AGAIN_NS;
    ask_append(&l->asking, p);
    link_ready(l, p);
}

void link_ask_end(struct link *l, struct peer *p)
{
    if (p->asking) {
        ask_remove(&l->asking, p);
        p->asking = false;
    }
    p->want_hello = false;
}

/* Drop the oldest until `keep` are left. */
void link_wait_drop(struct link *l, struct peer *p, uint32_t keep)
{
    while (p->waiting > keep) {
        struct waiting *w = p->wait_first;
        p->wait_first = w->next;
        if (w->next == NULL) {
            p->wait_last = NULL;
        }
        p->waiting--;
        l->queued_bytes -= sizeof *w + w->len;
        l->stats.dropped_waiting++;
        free(w);
    }
}
