/* node_receive: a real member over a small segment, and anything that a message can say.
 *
 * Knows: node.h, wire.h, segment.h. Must not know: the member's inside.
 *
 * The link is replaced: what arrives is a message in the clear, from the address and session that the
 * input names; what is sent is checked (it must decode) and remembered, so that later messages of the
 * input can answer with the ids, keys' incarnations and sequence numbers that the member has used.
 *
 * Operation 1, then: 0: raw bytes; 1, 2: a message of fields that may make sense; 3: time passes; 4: a
 * view; 5: a lease; 6: a local client writes; 7: a managed move, or good-bye. At the end the segment
 * must be sound.
 */
#include <stdio.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"
#include "node.h"

#define STEPS_MAX 400u
#define SELF 1u
#define MS 1000000ull
#define NUMBERS 16u

struct link {
    link_stats stats;
};

static struct link net;
static node *n;
static seg *server, *client;
static uint64_t now_ns, epoch, incarnation;
/* What the member has said lately: numbers to answer with. */
static uint64_t said[NUMBERS];
static uint32_t saying;

/* In place of the system's clock and dice (scripts/fuzz.sh): an input always does the same. */
int fuzz_clock(clockid_t clock, struct timespec *out)
{
    (void)clock;
    out->tv_sec = (time_t)(now_ns / 1000000000ull);
    out->tv_nsec = (long)(now_ns % 1000000000ull);
    return 0;
}

ssize_t fuzz_random(void *out, size_t len, unsigned flags)
{
    (void)flags;
    memset(out, 0x5a, len);
    return (ssize_t)len;
}

/* ---- the link ---- */

static void remember(uint64_t number)
{
    said[saying++ % NUMBERS] = number;
}

bool link_send(struct link *l, const link_addr *to, const void *message, size_t len, uint64_t tag,
               uint64_t at_ns)
{
    wire_msg m;
    (void)l, (void)to, (void)tag, (void)at_ns;
    MUST(len > 0 && len <= LINK_MESSAGE_BYTES_MAX && wire_decode(message, len, &m));
    const uint64_t numbers[] = {m.id, m.seq, m.auth, m.version};
    for (unsigned i = 0; i < 4; i++) {
        if (numbers[i] != 0) {
            remember(numbers[i]);
        }
    }
    return true;
}

bool link_receive(struct link *l, const link_addr *from, const void *datagram, size_t len,
                  uint64_t at_ns, link_deliver deliver, void *context)
{
    (void)l, (void)at_ns;
    deliver(context, from, 1000u + from->port, datagram, len);
    return true;
}

bool link_next(struct link *l, link_addr *to, void *out, size_t *len)
{
    (void)l, (void)to, (void)out, (void)len;
    return false;
}

uint64_t link_session(const struct link *l)
{
    (void)l;
    return 7;
}

void link_suspect(struct link *l, const link_addr *to)
{
    (void)l, (void)to;
}

void link_tick(struct link *l, uint64_t at_ns)
{
    (void)l, (void)at_ns;
}

uint64_t link_deadline(const struct link *l)
{
    (void)l;
    return UINT64_MAX;
}

void link_stats_read(const struct link *l, link_stats *out)
{
    *out = l->stats;
}

/* ---- what a message may say ---- */

/* Ports 1..16 are the members' by slot, those above are clients'. */
static link_addr address(uint32_t who)
{
    link_addr a = {.port = (uint16_t)(who + 1)};
    memcpy(a.ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01", 16);
    return a;
}

static void receive(uint32_t who, const uint8_t *bytes, size_t len)
{
    uint8_t *exact = malloc(len == 0 ? 1 : len);
    link_addr from = address(who);
    MUST(exact != NULL);
    if (len > 0) {
        memcpy(exact, bytes, len);
    }
    node_receive(n, &from, exact, len, now_ns);
    free(exact);
}

static uint64_t number(struct tape *t)
{
    uint8_t kind = tape_byte(t);
    return kind < 128   ? kind
           : kind < 224 ? said[kind % NUMBERS] + (kind >= 208) - (kind < 144)
           : kind < 240 ? epoch << 36 | tape_byte(t)
                        : (uint64_t)tape_number(t, 4) << 32 | tape_number(t, 4);
}

static size_t some_key(uint8_t kind, char out[16])
{
    if (kind >= 250) {
        return 0;
    }
    return (size_t)snprintf(out, 16, "%s%u", kind < 128 ? "k" : kind < 200 ? "inbox/" : "f",
                            kind % 8);
}

static seg_home some_home(struct tape *t)
{
    return (seg_home){.replicas = tape_byte(t), .learners = tape_byte(t) & 6,
                      .master = tape_byte(t) & 3, .want = tape_byte(t) & 3, .hint = 0};
}

/* A value: bytes, or the packed list that a message of some kind carries. */
static size_t some_value(struct tape *t, uint8_t *out, size_t cap)
{
    char key[16];
    size_t len = 0;
    uint8_t kind = tape_byte(t), count = tape_byte(t);
    if (kind < 100) {
        len = kind < 90 ? count : count * 250u;
        len = len < cap ? len : cap;
        memset(out, kind, len);
        return len;
    }
    for (unsigned i = 0; i < count % 20u; i++) {
        seg_home home = some_home(t);
        size_t key_len = some_key(tape_byte(t), key);
        len += kind < 170 ? wire_put_entry(out + len, cap - len, number(t), &home, key, key_len)
                          : wire_put_key(out + len, cap - len, key, key_len);
    }
    return len;
}

static void sensible(struct tape *t)
{
    static uint8_t value[SEG_VALUE_BYTES_MAX], bytes[WIRE_MESSAGE_BYTES_MAX];
    static const uint8_t TYPES[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16,
                                    17, 18, 19, 32, 33, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58,
                                    59, 50, 50, 48, 7,  7,  19, 19};
    char key[16], fence[16];
    uint8_t who = tape_byte(t) % 20;
    wire_msg m = {.type = TYPES[tape_byte(t) % sizeof TYPES], .flags = tape_byte(t)};
    m.status = tape_byte(t) & 1 ? tape_byte(t) : 0;
    m.slot = who < 16 ? who : m.type < WIRE_REPLY && m.type != WIRE_COPY ? tape_byte(t) & 3 : 255;
    uint8_t lack = tape_byte(t); /* mostly everything is there */
    m.mask = lack < 200 ? WIRE_ALL : WIRE_ALL & ~tape_number(t, 2);
    m.epoch = epoch + (lack % 16 == 1) - (lack % 16 == 2);
    m.id = number(t);
    m.seq = m.type < WIRE_REPLY && lack % 4 != 3 ? incarnation : number(t);
    m.committed = number(t);
    m.auth = number(t);
    m.version = number(t);
    m.number = number(t);
    m.ttl_ns = (uint64_t)tape_byte(t) * MS;
    m.grant_epoch = tape_byte(t);
    m.item = (uint32_t)number(t);
    m.home = some_home(t);
    m.sub = tape_byte(t) % 12;
    m.key = key;
    m.key_len = some_key(tape_byte(t), key);
    m.fence = fence;
    m.fence_len = m.grant_epoch % 2 ? some_key(tape_byte(t), fence) : 0;
    m.mask &= m.fence_len == 0 ? ~WIRE_FENCE_NAME : WIRE_ALL;
    m.value = value;
    m.value_len = some_value(t, value, sizeof value);
    size_t len = wire_encode(&m, bytes, sizeof bytes);
    MUST(len > 0);
    receive(who, bytes, len);
}

static void see(struct tape *t)
{
    uint8_t kind = tape_byte(t), present = tape_byte(t);
    node_view v = {.epoch = epoch + (kind % 4 != 3), .leader = kind >> 2 & 3};
    v.present = (uint16_t)((present & 15) | (kind < 230 ? 1u << SELF : 0) | 1u << v.leader);
    v.left = present >> 4;
    for (uint8_t slot = 0; slot < 4; slot++) {
        link_addr a = address(slot);
        v.member[slot] = (seg_member){.slot = slot, .port = a.port, .incarnation = 100u + slot};
        memcpy(v.member[slot].ip, a.ip, sizeof a.ip);
        v.member[slot].node[0] = (char)('a' + slot);
    }
    v.member[SELF].incarnation = incarnation + (kind >= 250);
    epoch = v.epoch;
    node_set_view(n, &v, now_ns);
}

static void write_locally(struct tape *t)
{
    char key[16];
    uint8_t value[300] = {0}, kind = tape_byte(t);
    size_t len = some_key(tape_byte(t), key);
    seg_handle h = {0};
    seg_op op = {.verb = SEG_WRITE + kind % 6, .data = value, .len = kind, .version = number(t)};
    if (len == 0 || seg_lookup(client, key, len, &h) != SEG_OK) {
        return;
    }
    if (kind < 200) {
        seg_update(client, key, len, &h, &op);
    } else {
        size_t n_read;
        seg_read(client, key, len, &h, value, sizeof value, &n_read, NULL);
    }
}

static void pass(uint64_t ms)
{
    now_ns += ms * MS;
    node_tick(n, now_ns);
    link_addr to;
    uint8_t out[LINK_DATAGRAM_BYTES_MAX];
    size_t len;
    MUST(!node_next(n, &to, out, &len));
}

static void step(struct tape *t)
{
    uint8_t op = tape_byte(t);
    const uint8_t *raw;
    size_t len;
    char key[16];
    switch (op % 8) {
    case 0:
        len = tape_number(t, 2) % 2048;
        raw = tape_bytes(t, len, &len);
        receive(op >> 3 & 3, raw, len);
        break;
    case 1:
    case 2: sensible(t); break;
    case 3: pass(op >> 3); break;
    case 4: see(t); break;
    case 5: node_set_lease(n, now_ns + tape_byte(t) * 20 * MS, now_ns); break;
    case 6: write_locally(t); break;
    default:
        len = some_key(tape_byte(t), key);
        if (op >= 250) {
            node_leave(n, now_ns);
        } else if (len > 0) {
            node_move(n, key, len, op >> 3 & 3, now_ns);
        }
    }
}

/* A segment of the smallest size, and a member over it. */
static void begin(void)
{
    char path[64], why[200];
    now_ns = 1000000 * MS;
    epoch = 0;
    saying = 0;
    memset(said, 0, sizeof said);
    snprintf(path, sizeof path, "/dev/shm/fuzz-node-%d", (int)getpid());
    unlink(path);
    MUST(seg_format(path, SEG_SIZE_BYTES_MIN, why, sizeof why) == SEG_OK);
    MUST(seg_open(path, false, &server, why, sizeof why) == SEG_OK);
    MUST(seg_attach(server, &client, why, sizeof why) == SEG_OK);
    unlink(path);
    MUST(node_prepare(server, 4711, why, sizeof why) == SEG_OK);
    incarnation = seg_generation(server);
    node_config c = {.segment = server, .link = &net, .name = "b", .history = 3,
                     .promote_delay_ns = 100 * MS, .resend_ns = 5 * MS, .repair_per_s = 1000,
                     .random = 42};
    n = node_new(&c, now_ns);
    MUST(n != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    struct tape t = {in, in + len};
    begin();
    for (uint32_t i = 0; i < STEPS_MAX && t.at < t.end; i++) {
        step(&t);
    }
    pass(20);
    node_stats stats;
    node_stats_read(n, true, &stats);
    node_free(n);
    seg_verdict v;
    MUST(seg_verify(server, &v) == SEG_OK);
    MUST(v.unreachable + v.misplaced + v.unlocked_dead + v.torn_refs + v.shared_blocks + v.locked ==
         0);
    seg_close(client);
    seg_close(server);
    return 0;
}

/* A member alone: view, lease, time, then creations; or one of three, leading or not. */
size_t fuzz_seed(unsigned number_, uint8_t out[FUZZ_INPUT_BYTES_MAX])
{
    size_t len = 0;
    if (number_ >= 24) {
        return 0;
    }
    unsigned leader = number_ % 3 == 2 ? 0 : SELF, present = number_ % 3 == 0 ? 2 : 7;
    const uint8_t first[] = {4, (uint8_t)(leader << 2), (uint8_t)present, 5, 100, 3 + 8, 3 + 8 * 5};
    memcpy(out, first, sizeof first);
    len = sizeof first;
    uint32_t x = number_ * 2654435761u + 1;
    for (unsigned i = 0; i < 6 + number_; i++) { /* messages of every type, time between them */
        uint8_t m[] = {1, (uint8_t)(i % 3 == 2 ? 17 : i % 3), (uint8_t)(i + number_), 0, 0, 0, 0};
        memcpy(out + len, m, sizeof m);
        len += sizeof m;
        for (unsigned k = 0; k < 24; k++) {
            x = x * 1664525u + 1013904223u;
            out[len++] = (uint8_t)(x >> 24) & 0x8f;
        }
        out[len++] = 3 + 8 * 2;
    }
    return len;
}
