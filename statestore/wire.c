/* The messages of DAL as bytes.
 *
 * Knows: the order and the widths of the fields. Must not know: what a message is for.
 *
 * What is decoded is canonical: encoding it again gives the same bytes. Decoding allocates nothing
 * and copies no string. The nine fields of 64 bits stand in `wire_msg` in the order of their bits,
 * so that one loop over the mask moves them.
 */
#include "wire.h"

#include <string.h>

#define WORDS 511u /* the mask's bits that stand for 8 bytes each */
#define STRINGS (WIRE_KEY | WIRE_FENCE_NAME | WIRE_VALUE)
#define HOME_BITS 42u

_Static_assert(offsetof(wire_msg, grant_epoch) == offsetof(wire_msg, epoch) + 8 * 8,
               "the words of wire_msg stand in the order of the mask");
_Static_assert(WIRE_GRANT_EPOCH == 1u << 8 && WIRE_ALL == (WIRE_VALUE << 1) - 1, "mask");

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LE64(x) __builtin_bswap64(x)
#define LE32(x) __builtin_bswap32(x)
#else
#define LE64(x) (x)
#define LE32(x) (x)
#endif

static inline uint8_t *put64(uint8_t *p, uint64_t x)
{
    x = LE64(x);
    memcpy(p, &x, 8);
    return p + 8;
}

static inline uint8_t *put32(uint8_t *p, uint32_t x)
{
    x = LE32(x);
    memcpy(p, &x, 4);
    return p + 4;
}

static inline uint8_t *put_bytes(uint8_t *p, const void *from, size_t len)
{
    if (len > 0) {
        memcpy(p, from, len);
    }
    return p + len;
}

static inline uint64_t get64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
    return LE64(x);
}

static inline uint32_t get32(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, 4);
    return LE32(x);
}

/* want 4 | hint 2 | master 4 | replicas 16 | learners 16, from the lowest bit. */
static inline bool home_fits(const seg_home *h)
{
    return h->want < 16 && h->hint < 4 && h->master < WIRE_SLOTS_MAX;
}

static inline uint64_t home_word(const seg_home *h)
{
    return (uint64_t)h->want | (uint64_t)h->hint << 4 | (uint64_t)h->master << 6 |
           (uint64_t)h->replicas << 10 | (uint64_t)h->learners << 26;
}

static inline bool home_of(uint64_t w, seg_home *h)
{
    h->want = w & 15;
    h->hint = w >> 4 & 3;
    h->master = w >> 6 & 15;
    h->replicas = w >> 10 & 0xffff;
    h->learners = w >> 26 & 0xffff;
    return w >> HOME_BITS == 0;
}

static inline bool known(uint8_t type)
{
    return (type >= WIRE_READ && type <= WIRE_COPY) || (type >= WIRE_REPLY && type <= WIRE_PUSH) ||
           (type >= WIRE_PROPOSE && type <= WIRE_SAME);
}

/* Bytes of the fields before the strings. */
static inline size_t fixed_bytes(uint32_t mask)
{
    return (size_t)__builtin_popcount(mask & (WORDS | WIRE_HOME)) * 8 +
           ((mask & WIRE_ITEM) != 0 ? 4 : 0) + ((mask & WIRE_SUB) != 0 ? 1 : 0);
}

size_t wire_size(const wire_msg *m)
{
    size_t size = WIRE_HEADER_BYTES + fixed_bytes(m->mask);
    if (m->mask > WIRE_ALL || !known(m->type) || ((m->mask & WIRE_HOME) && !home_fits(&m->home))) {
        return 0;
    }
    if ((m->mask & WIRE_KEY) != 0) {
        if (m->key_len > SEG_KEY_BYTES_MAX) {
            return 0;
        }
        size += 1 + m->key_len;
    }
    if ((m->mask & WIRE_FENCE_NAME) != 0) {
        if (m->fence_len > SEG_FENCE_NAME_BYTES_MAX) {
            return 0;
        }
        size += 1 + m->fence_len;
    }
    if ((m->mask & WIRE_VALUE) != 0) {
        if (m->value_len > SEG_VALUE_BYTES_MAX) {
            return 0;
        }
        size += 4 + m->value_len;
    }
    return size;
}

size_t wire_encode(const wire_msg *m, void *out, size_t cap)
{
    size_t size = wire_size(m);
    if (size == 0 || size > cap) {
        return 0;
    }
    uint8_t *p = out;
    uint32_t mask = m->mask;
    p[0] = m->type;
    p[1] = m->flags;
    p[2] = m->status;
    p[3] = m->slot;
    p = put32(p + 4, mask);
    const char *words = (const char *)m + offsetof(wire_msg, epoch);
    for (uint32_t left = mask & WORDS; left != 0; left &= left - 1) {
        uint64_t w;
        memcpy(&w, words + 8 * __builtin_ctz(left), 8);
        p = put64(p, w);
    }
    if ((mask & WIRE_ITEM) != 0) {
        p = put32(p, m->item);
    }
    if ((mask & WIRE_HOME) != 0) {
        p = put64(p, home_word(&m->home));
    }
    if ((mask & WIRE_SUB) != 0) {
        *p++ = m->sub;
    }
    if ((mask & WIRE_KEY) != 0) {
        *p++ = (uint8_t)m->key_len;
        p = put_bytes(p, m->key, m->key_len);
    }
    if ((mask & WIRE_FENCE_NAME) != 0) {
        *p++ = (uint8_t)m->fence_len;
        p = put_bytes(p, m->fence, m->fence_len);
    }
    if ((mask & WIRE_VALUE) != 0) {
        p = put32(p, (uint32_t)m->value_len);
        p = put_bytes(p, m->value, m->value_len);
    }
    return size;
}

/* A string with a length of one byte, at most `max`. */
static inline bool take_short(wire_reader *r, size_t max, const void **at, size_t *len)
{
    if (r->at == r->end) {
        return false;
    }
    size_t n = *r->at;
    if (n > max || (size_t)(r->end - r->at) - 1 < n) {
        return false;
    }
    *at = r->at + 1;
    *len = n;
    r->at += 1 + n;
    return true;
}

bool wire_decode(const void *in, size_t len, wire_msg *m)
{
    if (len < WIRE_HEADER_BYTES) {
        return false;
    }
    const uint8_t *p = in;
    uint32_t mask = get32(p + 4);
    if (mask > WIRE_ALL || !known(p[0]) || len - WIRE_HEADER_BYTES < fixed_bytes(mask)) {
        return false;
    }
    memset(m, 0, sizeof *m);
    m->type = p[0];
    m->flags = p[1];
    m->status = p[2];
    m->slot = p[3];
    m->mask = mask;
    m->key = m->fence = m->value = ""; /* what is absent is empty, never NULL */
    wire_reader r = {.at = p + WIRE_HEADER_BYTES, .end = p + len};
    char *words = (char *)m + offsetof(wire_msg, epoch);
    for (uint32_t left = mask & WORDS; left != 0; left &= left - 1) {
        uint64_t w = get64(r.at);
        memcpy(words + 8 * __builtin_ctz(left), &w, 8);
        r.at += 8;
    }
    if ((mask & WIRE_ITEM) != 0) {
        m->item = get32(r.at);
        r.at += 4;
    }
    if ((mask & WIRE_HOME) != 0) {
        if (!home_of(get64(r.at), &m->home)) {
            return false;
        }
        r.at += 8;
    }
    if ((mask & WIRE_SUB) != 0) {
        m->sub = *r.at++;
    }
    if ((mask & WIRE_KEY) != 0 && !take_short(&r, SEG_KEY_BYTES_MAX, &m->key, &m->key_len)) {
        return false;
    }
    if ((mask & WIRE_FENCE_NAME) != 0 &&
        !take_short(&r, SEG_FENCE_NAME_BYTES_MAX, &m->fence, &m->fence_len)) {
        return false;
    }
    if ((mask & WIRE_VALUE) != 0) {
        if (r.end - r.at < 4) {
            return false;
        }
        m->value_len = get32(r.at);
        m->value = r.at + 4;
        if (m->value_len > SEG_VALUE_BYTES_MAX || (size_t)(r.end - r.at) - 4 < m->value_len) {
            return false;
        }
        r.at += 4 + m->value_len;
    }
    return r.at == r.end;
}

/* ---- packed lists. A taker that fails leaves its reader where it was. ---- */

bool wire_take_key(wire_reader *r, const void **key, size_t *len)
{
    wire_reader t = *r;
    if (!take_short(&t, SEG_KEY_BYTES_MAX, key, len) || *len == 0) {
        return false;
    }
    *r = t;
    return true;
}

bool wire_take_change(wire_reader *r, bool *deleted, const void **key, size_t *len)
{
    wire_reader t = *r;
    if (t.at == t.end || *t.at > 1) {
        return false;
    }
    *deleted = *t.at++ == 1;
    if (!wire_take_key(&t, key, len)) {
        return false;
    }
    *r = t;
    return true;
}

bool wire_take_entry(wire_reader *r, uint64_t *auth, seg_home *home, const void **key, size_t *len)
{
    wire_reader t = *r;
    if (t.end - t.at < 16) {
        return false;
    }
    *auth = get64(t.at);
    bool sound = home_of(get64(t.at + 8), home);
    t.at += 16;
    if (!sound || !wire_take_key(&t, key, len)) {
        return false;
    }
    *r = t;
    return true;
}

bool wire_take_numbered(wire_reader *r, uint64_t *auth, uint64_t *version, const void **key, size_t *len)
{
    wire_reader t = *r;
    if (t.end - t.at < 16) {
        return false;
    }
    *auth = get64(t.at);
    *version = get64(t.at + 8);
    t.at += 16;
    if (!wire_take_key(&t, key, len)) {
        return false;
    }
    *r = t;
    return true;
}

bool wire_take_member(wire_reader *r, seg_member *m)
{
    wire_reader t = *r;
    if (t.end - t.at < 27 || *t.at >= SEG_SLOTS_MAX) {
        return false;
    }
    memset(m, 0, sizeof *m);
    m->slot = t.at[0];
    m->port = (uint16_t)(t.at[1] | t.at[2] << 8);
    memcpy(m->ip, t.at + 3, 16);
    m->incarnation = get64(t.at + 19);
    t.at += 27;
    const void *node;
    size_t len;
    if (!take_short(&t, SEG_NODE_BYTES_MAX, &node, &len) ||
        (len > 0 && memchr(node, 0, len) != NULL)) {
        return false;
    }
    put_bytes((uint8_t *)m->node, node, len);
    *r = t;
    return true;
}

size_t wire_put_key(void *out, size_t cap, const void *key, size_t len)
{
    if (len == 0 || len > SEG_KEY_BYTES_MAX || cap < 1 + len) {
        return 0;
    }
    uint8_t *p = out;
    *p = (uint8_t)len;
    put_bytes(p + 1, key, len);
    return 1 + len;
}

size_t wire_put_change(void *out, size_t cap, bool deleted, const void *key, size_t len)
{
    uint8_t *p = out;
    if (cap < 1 || wire_put_key(p + 1, cap - 1, key, len) == 0) {
        return 0;
    }
    *p = deleted ? 1 : 0;
    return 2 + len;
}

size_t wire_put_entry(void *out, size_t cap, uint64_t auth, const seg_home *home, const void *key,
                      size_t len)
{
    uint8_t *p = out;
    if (cap < 16 || !home_fits(home) || wire_put_key(p + 16, cap - 16, key, len) == 0) {
        return 0;
    }
    put64(put64(p, auth), home_word(home));
    return 17 + len;
}

size_t wire_put_numbered(void *out, size_t cap, uint64_t auth, uint64_t version, const void *key, size_t len)
{
    uint8_t *p = out;
    if (cap < 16 || wire_put_key(p + 16, cap - 16, key, len) == 0) {
        return 0;
    }
    put64(put64(p, auth), version);
    return 17 + len;
}

size_t wire_put_member(void *out, size_t cap, const seg_member *m)
{
    uint8_t *p = out;
    size_t len = strnlen(m->node, sizeof m->node);
    if (len > SEG_NODE_BYTES_MAX || cap < 28 + len || m->slot >= SEG_SLOTS_MAX) {
        return 0;
    }
    p[0] = m->slot;
    p[1] = (uint8_t)m->port;
    p[2] = (uint8_t)(m->port >> 8);
    memcpy(p + 3, m->ip, 16);
    put64(p + 19, m->incarnation);
    p[27] = (uint8_t)len;
    put_bytes(p + 28, m->node, len);
    return 28 + len;
}
