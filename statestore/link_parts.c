/* Messages in datagrams: several small ones in one, a large one in several.
 *
 * Knows: packets and parts. Must not know: sessions' keys, handshakes.
 *
 * The id of a fragmented message is its content's hash mixed with its tag: fragments of two sendings
 * of the same bytes complete each other, fragments of different bytes never meet. A message is
 * delivered at most once per sending: what is left of a sending that has delivered is dropped.
 */
#include "link_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- out ---- */

static uint64_t mix(uint64_t h, uint64_t w)
{
    h = (h ^ w) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

/* Four lanes, so that the multiplications do not wait for each other. Against accidents only: who
 * can choose these bytes has the key. */
static uint64_t hash_of(const uint8_t *at, size_t len)
{
    uint64_t lane[4] = {1, 2, 3, 4}, w[4];
    size_t i = 0;
    for (; i + sizeof w <= len; i += sizeof w) {
        memcpy(w, at + i, sizeof w);
        for (unsigned k = 0; k < 4; k++) {
            lane[k] = mix(lane[k], w[k]);
        }
    }
    memset(w, 0, sizeof w);
    memcpy(w, at + i, len - i);
    uint64_t h = len;
    for (unsigned k = 0; k < 4; k++) {
        h = mix(h, mix(lane[k], w[k]));
    }
    return h;
}

/* Room for `need` more bytes of payload to this peer; NULL: no memory. */
static uint8_t *room(struct link *l, struct peer *p, size_t need)
{
    struct packet *k = p->last;
    if (k == NULL || sizeof k->bytes - k->len < need) {
        k = l->spare;
        if (k != NULL) {
            l->spare = k->next;
        } else if ((k = malloc(sizeof *k)) == NULL) {
            return NULL;
        }
        k->next = NULL;
        k->len = k->messages = 0;
        *(p->last == NULL ? &p->first : &p->last->next) = k;
        p->last = k;
        l->queued_bytes += sizeof *k;
    }
    uint8_t *at = k->bytes + k->len;
    k->len += (uint16_t)need;
    return at;
}

struct packet *link_packet_take(struct peer *p)
{
    struct packet *k = p->first;
    if (k != NULL) {
        p->first = k->next;
        if (k->next == NULL) {
            p->last = NULL;
        }
    }
    return k;
}

void link_packet_free(struct link *l, struct packet *k)
{
    l->queued_bytes -= sizeof *k;
    k->next = l->spare;
    l->spare = k;
}

static bool pack_whole(struct link *l, struct peer *p, const uint8_t *message, size_t len)
{
    uint8_t *at = room(l, p, LINK_PART_BYTES + len);
    if (at == NULL) {
        return false;
    }
    at[0] = PART_WHOLE;
    link_put(at + 1, len, 2);
    memcpy(at + LINK_PART_BYTES, message, len);
    return true;
}

static bool pack_fragments(struct link *l, struct peer *p, const uint8_t *message, size_t len,
                           uint64_t tag)
{
    uint32_t sending = ++l->sending;
    uint64_t id = tag != 0 ? mix(hash_of(message, len), tag) : mix(0, (uint64_t)sending << 1 | 1);
    for (uint32_t number = 0; number * LINK_FRAGMENT_BYTES < len; number++) {
        size_t from = number * LINK_FRAGMENT_BYTES, n = len - from;
        n = n < LINK_FRAGMENT_BYTES ? n : LINK_FRAGMENT_BYTES;
        uint8_t *at = room(l, p, LINK_PART_BYTES + LINK_FRAGMENT_HEADER_BYTES + n);
        if (at == NULL) {
            return false;
        }
        at[0] = PART_FRAGMENT;
        link_put(at + 1, LINK_FRAGMENT_HEADER_BYTES + n, 2);
        link_put(at + 3, id, 8);
        link_put(at + 11, sending, 4);
        link_put(at + 15, len, 4);
        link_put(at + 19, number, 2);
        memcpy(at + 21, message + from, n);
    }
    return true;
}

bool link_pack(struct link *l, struct peer *p, const void *message, size_t len, uint64_t tag)
{
    bool whole = len <= LINK_WHOLE_BYTES_MAX;
    size_t packets = whole ? 1 : len / LINK_FRAGMENT_BYTES + 1;
    if (l->queued_bytes + packets * sizeof(struct packet) > LINK_QUEUE_BYTES_MAX ||
        !(whole ? pack_whole(l, p, message, len) : pack_fragments(l, p, message, len, tag))) {
        l->stats.dropped_queue++;
        return false;
    }
    p->last->messages++;
    l->stats.messages_out++;
    link_ready(l, p);
    return true;
}

/* ---- in ---- */

/* Out of the table, not freed. */
static struct partial *take_partial(struct link *l, uint32_t at)
{
    struct partial *m = l->partial[at];
    l->partials--;
    memmove(&l->partial[at], &l->partial[at + 1], (l->partials - at) * sizeof l->partial[0]);
    return m;
}

static void drop_partial(struct link *l, uint32_t at)
{
    l->stats.dropped_partial++;
    free(take_partial(l, at));
}

void link_partials_forget(struct link *l, const struct peer *p)
{
    for (uint32_t i = l->partials; i-- > 0;) {
        if (l->partial[i]->peer == p) {
            drop_partial(l, i);
        }
    }
}

void link_partials_expire(struct link *l, uint64_t now_ns)
{
    while (l->partials > 0 && l->partial[0]->started_ns + LINK_PARTIAL_NS <= now_ns) {
        drop_partial(l, 0);
    }
}

/* Has this sending, or a later one of the same message, been delivered? */
static bool delivered(const struct link *l, uint64_t session, uint64_t id, uint32_t sending)
{
    for (uint32_t i = 0; i < LINK_DONE_MAX; i++) {
        const struct done *d = &l->done[i];
        if (d->id == id && d->session == session && (int32_t)(sending - d->sending) <= 0) {
            return true;
        }
    }
    return false;
}

static struct partial *begin(struct link *l, const struct peer *p, uint64_t id, uint32_t sending,
                             uint32_t total, uint64_t now_ns)
{
    if (l->partials == LINK_PARTIAL_MAX) {
        drop_partial(l, 0);
    }
    struct partial *m = malloc(sizeof *m + total);
    if (m == NULL) {
        return NULL;
    }
    uint32_t count = (total + LINK_FRAGMENT_BYTES - 1) / LINK_FRAGMENT_BYTES;
    *m = (struct partial){
        .peer = p, .id = id, .started_ns = now_ns, .sending = sending, .total = total,
        .missing = count == 64 ? UINT64_MAX : (1ull << count) - 1,
    };
    l->partial[l->partials++] = m;
    return m;
}

/* One fragment, its form checked before. */
static void put_together(struct link *l, struct peer *p, const uint8_t *body, size_t len,
                         uint64_t now_ns, link_deliver deliver, void *context)
{
    uint64_t id = link_get(body, 8);
    uint32_t sending = (uint32_t)link_get(body + 8, 4), total = (uint32_t)link_get(body + 12, 4);
    uint32_t number = (uint32_t)link_get(body + 16, 2);
    uint32_t at = 0;
    while (at < l->partials && (l->partial[at]->id != id || l->partial[at]->peer != p)) {
        at++;
    }
    if (delivered(l, p->session, id, sending)) {
        return;
    }
    struct partial *m = at < l->partials ? l->partial[at] : begin(l, p, id, sending, total, now_ns);
    if (m == NULL || m->total != total) {
        l->stats.dropped_partial++;
        return;
    }
    memcpy(m->bytes + number * LINK_FRAGMENT_BYTES, body + LINK_FRAGMENT_HEADER_BYTES,
           len - LINK_FRAGMENT_HEADER_BYTES);
    if ((int32_t)(sending - m->sending) > 0) {
        m->sending = sending;
    }
    m->missing &= ~(1ull << number);
    if (m->missing != 0) {
        return;
    }
    l->done[l->done_next++ % LINK_DONE_MAX] =
        (struct done){.session = p->session, .id = id, .sending = m->sending};
    for (at = 0; l->partial[at] != m;) {
        at++;
    }
    take_partial(l, at); /* deliver may come back here */
    l->stats.messages_in++;
    deliver(context, &p->addr, p->session, m->bytes, m->total);
    free(m);
}

static bool fragment_sound(const uint8_t *body, size_t len)
{
    if (len <= LINK_FRAGMENT_HEADER_BYTES) {
        return false;
    }
    uint64_t total = link_get(body + 12, 4), from = link_get(body + 16, 2) * LINK_FRAGMENT_BYTES;
    if (total <= LINK_WHOLE_BYTES_MAX || total > LINK_MESSAGE_BYTES_MAX || from >= total) {
        return false;
    }
    uint64_t rest = total - from;
    return len - LINK_FRAGMENT_HEADER_BYTES ==
           (rest < LINK_FRAGMENT_BYTES ? rest : LINK_FRAGMENT_BYTES);
}

/* Nothing is delivered of a payload that is not sound to its end. */
static bool sound(const uint8_t *in, size_t len)
{
    if (len == 0) {
        return false;
    }
    while (len > 0) {
        if (len < LINK_PART_BYTES) {
            return false;
        }
        size_t n = link_get(in + 1, 2);
        const uint8_t *body = in + LINK_PART_BYTES;
        if (n == 0 || n > len - LINK_PART_BYTES ||
            !(in[0] == PART_WHOLE || (in[0] == PART_FRAGMENT && fragment_sound(body, n)))) {
            return false;
        }
        in = body + n;
        len -= LINK_PART_BYTES + n;
    }
    return true;
}

bool link_unpack(struct link *l, struct peer *p, const uint8_t *in, size_t len, uint64_t now_ns,
                 link_deliver deliver, void *context)
{
    if (!sound(in, len)) {
        return false;
    }
    for (const uint8_t *end = in + len; in < end;) {
        size_t n = link_get(in + 1, 2);
        const uint8_t *body = in + LINK_PART_BYTES;
        if (in[0] == PART_WHOLE) {
            l->stats.messages_in++;
            deliver(context, &p->addr, p->session, body, n);
        } else {
            put_together(l, p, body, n, now_ns, deliver, context);
        }
        in = body + n;
    }
    return true;
}
