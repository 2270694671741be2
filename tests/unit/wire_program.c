/* The wire encoding against random messages and random damage.
 *
 * Knows: wire.h. Must not know: what messages are for.
 *
 * wire_program FIRST_SEED SEEDS: prints "ok". wire_program vector: one message, for the Python side.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            printf("%s:%d: seed %llu: %s\n", __FILE__, __LINE__, (unsigned long long)seed_now, \
                   #condition);                                                              \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)

static uint64_t state, seed_now;

static uint64_t below(uint64_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % n;
}

static uint64_t word(void)
{
    return below(4) == 0 ? below(3) : state * 0x9e3779b97f4a7c15ull;
}

/* Lengths at the ends, and between. */
static size_t length(size_t max)
{
    uint64_t kind = below(8);
    return kind == 0 ? 0 : kind == 1 ? max : kind == 2 ? max - 1 : below(max < 80 ? max : 80);
}

static const uint8_t TYPES[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17,
                                18, 19, 32, 33, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62};
static uint8_t strings[SEG_VALUE_BYTES_MAX];

static seg_home some_home(void)
{
    return (seg_home){.replicas = (uint16_t)word(), .learners = (uint16_t)word(),
                      .master = (uint8_t)below(16), .want = (uint8_t)below(16),
                      .hint = (uint8_t)below(4)};
}

static wire_msg some_message(void)
{
    wire_msg m = {.type = TYPES[below(sizeof TYPES)], .flags = (uint8_t)word(),
                  .status = (uint8_t)word(), .slot = (uint8_t)word()};
    m.mask = (uint32_t)(below(5) == 0 ? WIRE_ALL : word() & WIRE_ALL);
    uint64_t *words[] = {&m.epoch,   &m.id,     &m.seq,    &m.committed,  &m.auth,
                         &m.version, &m.number, &m.ttl_ns, &m.grant_epoch};
    for (unsigned i = 0; i < 9; i++) {
        *words[i] = (m.mask >> i & 1) != 0 ? word() : 0;
    }
    m.item = m.mask & WIRE_ITEM ? (uint32_t)word() : 0;
    m.sub = m.mask & WIRE_SUB ? (uint8_t)word() : 0;
    if (m.mask & WIRE_HOME) {
        m.home = some_home();
    }
    m.key = m.fence = m.value = strings;
    m.key_len = m.mask & WIRE_KEY ? length(SEG_KEY_BYTES_MAX) : 0;
    m.fence_len = m.mask & WIRE_FENCE_NAME ? length(SEG_FENCE_NAME_BYTES_MAX) : 0;
    m.value_len = m.mask & WIRE_VALUE ? length(SEG_VALUE_BYTES_MAX) : 0;
    return m;
}

static int same_home(const seg_home *a, const seg_home *b)
{
    return a->replicas == b->replicas && a->learners == b->learners && a->master == b->master &&
           a->want == b->want && a->hint == b->hint;
}

static int same(const wire_msg *a, const wire_msg *b)
{
    return a->type == b->type && a->flags == b->flags && a->status == b->status &&
           a->slot == b->slot && a->mask == b->mask && a->epoch == b->epoch && a->id == b->id &&
           a->seq == b->seq && a->committed == b->committed && a->auth == b->auth &&
           a->version == b->version && a->number == b->number && a->ttl_ns == b->ttl_ns &&
           a->grant_epoch == b->grant_epoch && a->item == b->item && a->sub == b->sub &&
           same_home(&a->home, &b->home) && a->key_len == b->key_len &&
           a->fence_len == b->fence_len && a->value_len == b->value_len &&
           (a->key_len == 0 || memcmp(a->key, b->key, a->key_len) == 0) &&
           (a->fence_len == 0 || memcmp(a->fence, b->fence, a->fence_len) == 0) &&
           (a->value_len == 0 || memcmp(a->value, b->value, a->value_len) == 0);
}

/* In a block of exactly that size: the sanitizer sees every byte too far. */
static uint8_t *exact(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len == 0 ? 1 : len);
    CHECK(copy != NULL);
    memcpy(copy, bytes, len);
    return copy;
}

/* What decodes encodes to the same bytes. */
static bool canonical(const uint8_t *bytes, size_t len)
{
    static uint8_t again[WIRE_MESSAGE_BYTES_MAX];
    wire_msg m;
    uint8_t *in = exact(bytes, len);
    bool good = wire_decode(in, len, &m);
    if (good) {
        CHECK(wire_size(&m) == len);
        CHECK(wire_encode(&m, again, sizeof again) == len && memcmp(again, in, len) == 0);
    }
    free(in);
    return good;
}

static void round_trip(void)
{
    static uint8_t out[WIRE_MESSAGE_BYTES_MAX];
    wire_msg m = some_message(), back;
    size_t size = wire_size(&m);
    CHECK(size >= WIRE_HEADER_BYTES && size <= WIRE_MESSAGE_BYTES_MAX);
    uint8_t *tight = malloc(size);
    CHECK(tight != NULL && wire_encode(&m, tight, size) == size);
    CHECK(wire_encode(&m, out, size - 1) == 0);
    memcpy(out, tight, size);
    CHECK(wire_decode(tight, size, &back) && same(&m, &back));
    free(tight);
    /* Shorter and longer is no message. */
    for (unsigned i = 0; i < 8; i++) {
        CHECK(!canonical(out, i == 0 ? size - 1 : below(size)));
    }
    if (size < sizeof out) {
        out[size] = (uint8_t)word();
        CHECK(!canonical(out, size + 1));
    }
    /* Damage, mostly in what is not a string. */
    for (unsigned i = 0; i < 30; i++) {
        size_t at = below(size < 120 ? size : 120);
        uint8_t was = out[at];
        out[at] ^= (uint8_t)(1u << below(8));
        canonical(out, size);
        out[at] = was;
    }
    out[7] |= 0x80;
    CHECK(!canonical(out, size));
}

static void limits(void)
{
    static uint8_t out[2 * WIRE_MESSAGE_BYTES_MAX], big[SEG_VALUE_BYTES_MAX + 1];
    wire_msg m = {.type = WIRE_READ, .mask = WIRE_KEY, .key = big,
                  .key_len = SEG_KEY_BYTES_MAX + 1};
    CHECK(wire_encode(&m, out, sizeof out) == 0 && wire_size(&m) == 0);
    m = (wire_msg){.type = WIRE_READ, .mask = WIRE_FENCE_NAME, .fence = big,
                   .fence_len = SEG_FENCE_NAME_BYTES_MAX + 1};
    CHECK(wire_encode(&m, out, sizeof out) == 0);
    m = (wire_msg){.type = WIRE_READ, .mask = WIRE_VALUE, .value = big, .value_len = sizeof big};
    CHECK(wire_encode(&m, out, sizeof out) == 0);
    m = (wire_msg){.type = WIRE_READ, .mask = WIRE_ALL + 1};
    CHECK(wire_encode(&m, out, sizeof out) == 0);
    for (unsigned type = 0; type < 256; type++) {
        m = (wire_msg){.type = (uint8_t)type};
        bool known = memchr(TYPES, (int)type, sizeof TYPES) != NULL;
        CHECK((wire_encode(&m, out, sizeof out) == WIRE_HEADER_BYTES) == known);
        memset(out, 0, WIRE_HEADER_BYTES);
        out[0] = (uint8_t)type;
        CHECK(canonical(out, WIRE_HEADER_BYTES) == known);
    }
    /* As bytes: a key, a fence, a value one too long; a home with a bit too many. */
    static const uint32_t MASK[] = {WIRE_KEY, WIRE_FENCE_NAME, WIRE_VALUE};
    static const size_t MAX[] = {SEG_KEY_BYTES_MAX, SEG_FENCE_NAME_BYTES_MAX, SEG_VALUE_BYTES_MAX};
    for (unsigned i = 0; i < 3; i++) {
        for (size_t n = MAX[i]; n <= MAX[i] + 1; n++) {
            memset(out, 0, sizeof out);
            out[0] = WIRE_READ;
            memcpy(out + 4, &MASK[i], 4);
            size_t head = WIRE_HEADER_BYTES + (i == 2 ? 4 : 1);
            memcpy(out + WIRE_HEADER_BYTES, &n, i == 2 ? 4 : 1);
            CHECK(canonical(out, head + n) == (n == MAX[i]));
        }
    }
    m = (wire_msg){.type = WIRE_READ, .mask = WIRE_HOME};
    for (unsigned bit = 0; bit < 64; bit++) {
        CHECK(wire_encode(&m, out, sizeof out) == 16);
        out[8 + bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(canonical(out, 16) == (bit < 42));
    }
    m.home = (seg_home){.want = 16};
    CHECK(wire_encode(&m, out, sizeof out) == 0);
    m.home = (seg_home){.master = 16};
    CHECK(wire_encode(&m, out, sizeof out) == 0);
    m.home = (seg_home){.hint = 4};
    CHECK(wire_encode(&m, out, sizeof out) == 0);
}

enum list { KEYS, CHANGES, ENTRIES, NUMBERED, MEMBERS, LISTS };

/* Put one random element, take it back, compare. 0: no room. */
static size_t put_one(enum list list, uint8_t *at, size_t cap)
{
    seg_home home = some_home();
    size_t len = 1 + length(SEG_KEY_BYTES_MAX - 1);
    uint64_t auth = word(), version = word();
    bool deleted = below(2) == 0;
    seg_member member = {.slot = (uint8_t)below(16), .port = (uint16_t)word(),
                         .incarnation = word()};
    memcpy(member.ip, strings + below(100), 16);
    memset(member.node, 'n', below(SEG_NODE_BYTES_MAX + 1));
    size_t n = list == KEYS      ? wire_put_key(at, cap, strings, len)
               : list == CHANGES ? wire_put_change(at, cap, deleted, strings, len)
               : list == ENTRIES ? wire_put_entry(at, cap, auth, &home, strings, len)
               : list == NUMBERED ? wire_put_numbered(at, cap, auth, version, strings, len)
                                 : wire_put_member(at, cap, &member);
    if (n == 0) {
        return 0;
    }
    CHECK(n <= cap);
    wire_reader r = {at, at + n};
    const void *key = NULL;
    size_t key_len = 0;
    uint64_t auth_back = 0, version_back = 0;
    seg_home home_back = {0};
    bool deleted_back = !deleted;
    seg_member m;
    switch (list) {
    case KEYS: CHECK(wire_take_key(&r, &key, &key_len)); break;
    case CHANGES:
        CHECK(wire_take_change(&r, &deleted_back, &key, &key_len) && deleted == deleted_back);
        break;
    case ENTRIES:
        CHECK(wire_take_entry(&r, &auth_back, &home_back, &key, &key_len) && auth == auth_back &&
              same_home(&home, &home_back));
        break;
    case NUMBERED:
        CHECK(wire_take_numbered(&r, &auth_back, &version_back, &key, &key_len) && auth == auth_back &&
              version == version_back);
        break;
    default:
        CHECK(wire_take_member(&r, &m) && m.slot == member.slot && m.port == member.port &&
              m.incarnation == member.incarnation && memcmp(m.ip, member.ip, 16) == 0 &&
              strcmp(m.node, member.node) == 0);
    }
    CHECK(r.at == r.end);
    CHECK(list == MEMBERS || (key_len == len && memcmp(key, strings, len) == 0));
    return n;
}

static bool take_one(enum list list, wire_reader *r)
{
    const void *key;
    size_t len;
    bool deleted;
    uint64_t auth, version;
    seg_home home;
    seg_member member;
    const uint8_t *was = r->at;
    bool good = list == KEYS      ? wire_take_key(r, &key, &len)
                : list == CHANGES ? wire_take_change(r, &deleted, &key, &len)
                : list == ENTRIES ? wire_take_entry(r, &auth, &home, &key, &len)
                : list == NUMBERED ? wire_take_numbered(r, &auth, &version, &key, &len)
                                  : wire_take_member(r, &member);
    CHECK(good ? r->at > was && r->at <= r->end : r->at == was);
    return good;
}

static void lists(void)
{
    uint8_t packed[2000];
    for (enum list list = KEYS; list < LISTS; list++) {
        size_t len = 0, count = 0, n;
        while ((n = put_one(list, packed + len, sizeof packed - len)) > 0) {
            len += n;
            count++;
        }
        uint8_t *in = exact(packed, len);
        wire_reader r = {in, in + len};
        for (size_t i = 0; i < count; i++) {
            CHECK(take_one(list, &r));
        }
        CHECK(r.at == r.end && !take_one(list, &r));
        free(in);
        for (unsigned damage = 0; damage < 20; damage++) {
            size_t cut = below(len + 1), at = below(len);
            packed[at] ^= (uint8_t)(1u << below(8));
            in = exact(packed, cut);
            r = (wire_reader){in, in + cut};
            while (take_one(list, &r)) {
            }
            free(in);
        }
        CHECK(wire_put_key(packed, sizeof packed, strings, 0) == 0);
        CHECK(wire_put_key(packed, sizeof packed, strings, SEG_KEY_BYTES_MAX + 1) == 0);
    }
}

static int vector(void)
{
    uint8_t out[256];
    wire_msg m = {.type = WIRE_OP, .flags = WIRE_SYNC, .status = 3, .slot = 15, .sub = WIRE_OP_PLACE,
                  .mask = WIRE_ALL, .epoch = 1, .id = 2, .seq = 3, .committed = 4, .auth = 5,
                  .version = 6, .number = 7, .ttl_ns = 8, .grant_epoch = 0x0102030405060708,
                  .item = 0xa0b0c0d0, .key = "key", .key_len = 3, .fence = "fence", .fence_len = 5,
                  .value = "value", .value_len = 5,
                  .home = {.replicas = 0x8001, .learners = 0x4002, .master = 9, .want = 5,
                           .hint = SEG_HINT_PIN}};
    size_t n = wire_encode(&m, out, sizeof out);
    for (size_t i = 0; i < n; i++) {
        printf("%02x", out[i]);
    }
    printf("\n");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "vector") == 0) {
        return vector();
    }
    if (argc != 3) {
        return 2;
    }
    for (size_t i = 0; i < sizeof strings; i++) {
        strings[i] = (uint8_t)(i * 7 + i / 251);
    }
    limits();
    uint64_t first = strtoull(argv[1], NULL, 10), seeds = strtoull(argv[2], NULL, 10);
    for (seed_now = first; seed_now < first + seeds; seed_now++) {
        state = seed_now * 0x9e3779b97f4a7c15ull + 1;
        round_trip();
        lists();
    }
    printf("ok\n");
    return 0;
}
