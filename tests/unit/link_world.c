/* The channel between the endpoints of a test, and the program's modes.
 *
 * Knows: link_world.h. Must not know: what a test wants to prove.
 *
 * link_program MODE FIRST_SEED SEEDS: runs the mode with each seed, prints "ok". Modes `vectors` and
 * `load FILE` are for the Python side.
 */
#include "link_world.h"

#include "crypto.h"

uint64_t world_random(struct world *w, uint64_t below)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random % below;
}

link_keys world_keys(uint32_t count, const uint8_t *ids)
{
    link_keys keys = {.count = count};
    for (uint32_t i = 0; i < count; i++) {
        keys.key[i].id = ids[i];
        memset(keys.key[i].bytes, 0x50 + ids[i], LINK_KEY_BYTES);
    }
    return keys;
}

link_addr world_addr(uint32_t number)
{
    link_addr a = {.port = (uint16_t)(9000 + number / 256)};
    memcpy(a.ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0", 15);
    a.ip[15] = (uint8_t)number;
    return a;
}

static struct link *new_link(struct world *w)
{
    char why[200] = "";
    link_keys keys = world_keys(1, (const uint8_t[]){1});
    struct link *l = link_new(&keys, 0x1000 + ++w->sessions, why, sizeof why);
    CHECK(l != NULL, "%s", why);
    return l;
}

void world_begin(struct world *w, uint64_t seed, uint32_t ends)
{
    memset(w, 0, sizeof *w);
    w->random = seed * 0x9e3779b97f4a7c15ull + 1;
    w->now_ns = 5 * MS;
    w->ends = ends;
    for (uint32_t i = 0; i < ends; i++) {
        w->end[i].world = w;
        w->end[i].addr = world_addr(i + 1);
        w->end[i].link = new_link(w);
    }
}

void world_end(struct world *w)
{
    for (uint32_t i = 0; i < w->ends; i++) {
        link_free(w->end[i].link);
    }
    free(w->flight);
    free(w->seen);
}

void world_restart(struct world *w, uint32_t end)
{
    link_free(w->end[end].link);
    w->end[end].link = new_link(w);
}

static void fill(uint8_t *at, uint64_t number, size_t len)
{
    uint64_t x = number * 0x9e3779b97f4a7c15ull + len;
    for (size_t i = 0; i < len; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        at[i] = (uint8_t)(x >> 56);
    }
    memcpy(at, &number, len < 8 ? len : 8);
}

bool world_send(struct world *w, uint32_t from, uint32_t to, uint64_t number, size_t len,
                uint64_t tag)
{
    static uint8_t message[LINK_MESSAGE_BYTES_MAX + 1];
    fill(message, number, len);
    return link_send(w->end[from].link, &w->end[to].addr, message, len, tag, w->now_ns);
}

static void deliver(void *context, const link_addr *from, uint64_t session, const void *message,
                    size_t len)
{
    static uint8_t expected[LINK_MESSAGE_BYTES_MAX];
    struct end *e = context;
    uint64_t number = 0;
    CHECK(len >= 8 && len <= LINK_MESSAGE_BYTES_MAX, "%zu bytes", len);
    memcpy(&number, message, 8);
    fill(expected, number, len);
    CHECK(number < NUMBERS_MAX && memcmp(message, expected, len) == 0, "message %" PRIu64, number);
    e->got[number]++;
    e->deliveries++;
    e->last_session = session;
    e->last_from = *from;
}

bool world_receive(struct world *w, uint32_t end, const link_addr *from, const void *bytes,
                   size_t len)
{
    /* A block of exactly that size: the sanitizer sees every byte too far. */
    uint8_t *exact = malloc(len == 0 ? 1 : len);
    CHECK(exact != NULL, "memory");
    if (len > 0) {
        memcpy(exact, bytes, len);
    }
    struct end *e = &w->end[end];
    bool taken = link_receive(e->link, from, exact, len, w->now_ns, deliver, e);
    link_addr who;
    if (link_renewed(e->link, &who)) {
        CHECK(taken && memcmp(who.ip, from->ip, sizeof who.ip) == 0 && who.port == from->port,
              "another one than who sent it");
        e->renewed++;
    }
    free(exact);
    return taken;
}

static struct datagram *append(struct datagram **list, size_t *count, size_t *room)
{
    if (*count == *room) {
        *room = *room == 0 ? 64 : *room * 2;
        *list = realloc(*list, *room * sizeof **list);
        CHECK(*list != NULL, "memory");
    }
    return &(*list)[(*count)++];
}

void world_collect(struct world *w)
{
    struct datagram d;
    for (uint32_t i = 0; i < w->ends; i++) {
        d.from = w->end[i].addr;
        while (link_next(w->end[i].link, &d.to, d.bytes, &d.len)) {
            CHECK(d.len <= LINK_DATAGRAM_BYTES_MAX, "%zu bytes", d.len);
            if (w->record) {
                *append(&w->seen, &w->seen_count, &w->seen_room) = d;
            }
            uint32_t copies = 1 + (world_random(w, 100) < w->twice_percent);
            copies = world_random(w, 100) < w->loss_percent ? copies - 1 : copies;
            for (; copies > 0; copies--) {
                d.due_ns = w->now_ns + world_random(w, w->delay_ms + 1) * MS;
                *append(&w->flight, &w->flying, &w->flight_room) = d;
            }
        }
    }
}

/* Everything due; in an order of its own if the channel delays. */
static void arrive(struct world *w)
{
    for (size_t i = w->flying; w->delay_ms > 0 && i > 1; i--) {
        size_t other = world_random(w, i);
        struct datagram d = w->flight[i - 1];
        w->flight[i - 1] = w->flight[other];
        w->flight[other] = d;
    }
    size_t kept = 0;
    for (size_t i = 0; i < w->flying; i++) {
        const struct datagram *d = &w->flight[i];
        if (d->due_ns > w->now_ns) {
            w->flight[kept++] = *d;
            continue;
        }
        for (uint32_t k = 0; k < w->ends; k++) {
            if (memcmp(&w->end[k].addr, &d->to, sizeof d->to) == 0) {
                world_receive(w, k, &d->from, d->bytes, d->len);
            }
        }
    }
    w->flying = kept;
}

void world_run(struct world *w, uint32_t ms)
{
    for (uint32_t step = 0; step < ms; step++) {
        for (uint32_t round = 0; round < 4; round++) {
            world_collect(w);
            arrive(w);
        }
        w->now_ns += MS;
        for (uint32_t i = 0; i < w->ends; i++) {
            uint64_t deadline = link_deadline(w->end[i].link);
            if (deadline <= w->now_ns) {
                link_tick(w->end[i].link, w->now_ns);
                CHECK(link_deadline(w->end[i].link) > w->now_ns, "a deadline stays behind");
            }
        }
    }
}

link_stats world_stats(const struct world *w, uint32_t end)
{
    link_stats s;
    link_stats_read(w->end[end].link, &s);
    return s;
}

static void print_hex(const char *name, const uint8_t *at, size_t len)
{
    printf("%s ", name);
    for (size_t i = 0; i < len; i++) {
        printf("%02x", at[i]);
    }
    printf("\n");
}

/* What the Python side computes for itself. */
static int vectors(void)
{
    uint8_t key[CRYPTO_KEY_BYTES] = {0}, nonce[CRYPTO_NONCE_BYTES] = {0}, out[32], in[16] = {0};
    crypto_gcm *g = crypto_sealer(key);
    CHECK(g != NULL, "no memory");
    crypto_seal(g, nonce, "", 0, in, sizeof in, out);
    crypto_free(g);
    print_hex("gcm", out, sizeof out);
    memset(key, 0x61, sizeof key);
    crypto_extract("salt", 4, key, out);
    print_hex("extract", out, sizeof out);
    crypto_expand(out, "information", 11, out);
    print_hex("expand", out, sizeof out);
    return 0;
}

static int load(const char *path)
{
    char why[300] = "";
    link_keys keys;
    if (link_keys_load(path, &keys, why, sizeof why) != 0) {
        printf("%s\n", why);
        return 2;
    }
    for (uint32_t i = 0; i < keys.count; i++) {
        printf("%u ", keys.key[i].id);
        print_hex("key", keys.key[i].bytes, LINK_KEY_BYTES);
    }
    return 0;
}

static const struct {
    const char *name;
    void (*run)(uint64_t seed);
} MODES[] = {
    {"lossy", test_lossy},       {"once", test_once},         {"large", test_large},
    {"restart", test_restart},   {"crossing", test_crossing}, {"replay", test_replay},
    {"claims", test_claims},     {"reflection", test_reflection},
    {"flips", test_flips},       {"keys", test_keys},         {"rotation", test_rotation},
    {"limits", test_limits},     {"partials", test_partials}, {"peers", test_peers},
    {"window", test_window},     {"payloads", test_payloads}, {"welcome", test_welcome},
    {"forgotten", test_forgotten},
};

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "vectors") == 0) {
        return vectors();
    }
    if (argc == 3 && strcmp(argv[1], "load") == 0) {
        return load(argv[2]);
    }
    for (size_t i = 0; argc == 4 && i < sizeof MODES / sizeof MODES[0]; i++) {
        if (strcmp(MODES[i].name, argv[1]) == 0) {
            uint64_t first = strtoull(argv[2], NULL, 10), seeds = strtoull(argv[3], NULL, 10);
            for (uint64_t seed = first; seed < first + seeds; seed++) {
                printf("seed %" PRIu64 "\n", seed);
                fflush(stdout);
                MODES[i].run(seed);
            }
            printf("ok\n");
            return 0;
        }
    }
    fprintf(stderr, "usage: link_program MODE FIRST_SEED SEEDS | vectors | load FILE\n");
    return 2;
}
