/* node_receive: a real member over a small segment, and anything that a message can say.
 *
 * Knows: node.h, wire.h, segment.h. Must not know: the member's inside.
 *
 * The link is replaced: what arrives is a message in the clear, from the address and session that the
 * input names; what is sent is checked (it must decode) and remembered, so that later messages of the
 * input can answer with the ids, keys' incarnations and sequence numbers that the member has used.
 *
 * Operation 1, then: 0: raw bytes; 1, 2: a message of fields that may make sense; 3: time passes; 4: a
 * view; 5: a lease; 6: a local client writes; 7: a managed move, or good-bye; 8: what the member has
 * sent is answered as an honest peer would; 9: the next operation of an honest leader's log. At the end
 * the segment must be sound.
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
#define SENT_MAX 32u
#define SENT_BYTES_MAX 2048u

struct link {
    link_stats stats;
};

static struct link net;
static node *n;
static seg *server, *client;
static uint64_t now_ns, epoch, incarnation, pieces;
/* What the member has said lately: numbers to answer with. */
static uint64_t said[NUMBERS];
static uint32_t saying;
/* What waits for an answer of an honest peer; the oldest are overwritten. */
static struct {
    link_addr to;
    size_t len;
    uint8_t bytes[SENT_BYTES_MAX];
} sent[SENT_MAX];
static uint32_t sent_first, sent_count;

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
    (void)l, (void)tag, (void)at_ns;
    MUST(len > 0 && len <= LINK_MESSAGE_BYTES_MAX && wire_decode(message, len, &m));
    const uint64_t numbers[] = {m.id, m.seq, m.auth, m.version};
    for (unsigned i = 0; i < 4; i++) {
        if (numbers[i] != 0) {
            remember(numbers[i]);
        }
    }
    if (len <= SENT_BYTES_MAX) {
        uint32_t at = (sent_first + sent_count) % SENT_MAX;
        if (sent_count == SENT_MAX) {
            sent_first++;
        } else {
            sent_count++;
        }
        sent[at].to = *to;
        sent[at].len = len;
        memcpy(sent[at].bytes, message, len);
    }
    return true;
}

bool link_answer(struct link *l, const link_addr *to, uint64_t session, const void *message, size_t len,
                 uint64_t tag, uint64_t at_ns)
{
    (void)session;
    return link_send(l, to, message, len, tag, at_ns);
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

bool link_renewed(struct link *l, link_addr *who)
{
    (void)l;
    *who = (link_addr){.port = 7400};
    return false;
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
                                    59, 60, 61, 50, 50, 48, 7,  7,  19, 19};
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

static void speak(uint32_t who, wire_msg *m)
{
    static uint8_t bytes[WIRE_MESSAGE_BYTES_MAX];
    m->epoch = epoch;
    m->mask |= WIRE_EPOCH;
    size_t len = wire_encode(m, bytes, sizeof bytes);
    if (len > 0) {
        receive(who, bytes, len);
    }
}

static uint64_t applied(void)
{
    node_stats stats;
    node_stats_read(n, false, &stats);
    return stats.applied;
}

/* The oldest message that waits; false: none. */
static bool answer_one(struct tape *t)
{
    uint8_t bytes[SENT_BYTES_MAX];
    wire_msg m, r = {0};
    if (sent_count == 0) {
        return false;
    }
    uint32_t at = sent_first++ % SENT_MAX, who = sent[at].to.port - 1u;
    sent_count--;
    memcpy(bytes, sent[at].bytes, sent[at].len);
    MUST(wire_decode(bytes, sent[at].len, &m));
    r.slot = (uint8_t)(who < 16 ? who : 255);
    switch (m.type) {
    case WIRE_OP:
    case WIRE_BEAT:
        r.type = WIRE_OPACK;
        r.mask = WIRE_SEQ;
        r.seq = m.seq;
        break;
    case WIRE_SNAP:
        r.type = WIRE_SNAPACK;
        r.mask = WIRE_NUMBER;
        r.number = m.number;
        break;
    case WIRE_PROPOSE: /* sequenced, and committed at once or with the next one */
        r = m;
        r.type = WIRE_OP;
        r.mask |= WIRE_SEQ | WIRE_COMMITTED | WIRE_AUTH | WIRE_ITEM;
        r.slot = (uint8_t)who;
        r.item = SELF; /* the origin */
        r.seq = applied() + 1;
        r.committed = r.seq - tape_byte(t) % 2;
        r.auth = m.sub == WIRE_OP_CREATE ? epoch << 36 | r.seq : m.auth;
        break;
    case WIRE_COPY:
    case WIRE_PUSH:
    case WIRE_TELL:
    case WIRE_ANNOUNCE:
        r.type = WIRE_REPLY;
        r.mask = WIRE_ID;
        r.id = m.id;
        r.status = tape_byte(t) < 200 ? 0 : WIRE_LATER;
        break;
    default: return true;
    }
    speak(who, &r);
    return true;
}

/* A member says how far it is, or the leader goes on. */
static void lead_on(struct tape *t)
{
    char key[16];
    uint8_t kind = tape_byte(t), who = tape_byte(t) & 3;
    wire_msg m = {.type = WIRE_OP, .slot = who, .mask = WIRE_ALL & ~WIRE_FENCE_NAME,
                  .seq = applied() + 1, .sub = kind % 10, .key = key, .value = "value",
                  .value_len = kind % 6};
    m.key_len = some_key(tape_byte(t), key);
    m.committed = m.seq - (kind >> 6 & 1);
    m.auth = m.sub == WIRE_OP_CREATE ? epoch << 36 | m.seq
             : m.sub == WIRE_OP_VIEW ? epoch
                                     : number(t);
    m.home = some_home(t);
    m.number = m.sub == WIRE_OP_VIEW ? 0xfff0u | (tape_byte(t) & 15) : number(t);
    m.version = m.sub == WIRE_OP_VIEW ? 0 : number(t);
    m.grant_epoch = m.sub == WIRE_OP_VIEW ? 7 : tape_byte(t);
    if (kind >= 220) {
        static uint8_t value[4096];
        m.type = kind < 238 ? WIRE_SNAP : WIRE_SNAPEND;
        m.flags = kind % 2 != 0 ? WIRE_FIRST : 0;
        m.mask = WIRE_NUMBER | WIRE_SEQ | WIRE_SUB | WIRE_VALUE;
        m.sub = kind % 3;
        m.number = ++pieces;
        m.seq = kind;
        m.value = value;
        m.value_len = m.type == WIRE_SNAP ? some_value(t, value, sizeof value) : 0;
    } else if (kind >= 160) {
        m.type = kind < 200 ? WIRE_STATE : WIRE_BEAT;
        m.mask = WIRE_SEQ | WIRE_NUMBER | WIRE_ID | WIRE_COMMITTED;
        m.seq = kind % 4 == 0 ? 0 : applied();
        m.committed = m.seq;
        m.number = kind % 3 != 0;
        m.id = 0;
    }
    speak(who, &m);
}

static void step(struct tape *t)
{
    uint8_t op = tape_byte(t);
    const uint8_t *raw;
    size_t len;
    char key[16];
    switch (op % 10) {
    case 0:
        len = tape_number(t, 2) % 2048;
        raw = tape_bytes(t, len, &len);
        receive(op / 10 % 4, raw, len);
        break;
    case 1:
    case 2: sensible(t); break;
    case 3: pass(op / 10); break;
    case 4: see(t); break;
    case 5: node_set_lease(n, now_ns + tape_byte(t) * 20 * MS, now_ns); break;
    case 6: write_locally(t); break;
    case 8:
        for (uint32_t i = 0; i <= op / 10 && answer_one(t); i++) {
        }
        break;
    case 9: lead_on(t); break;
    default:
        len = some_key(tape_byte(t), key);
        if (op >= 240) {
            node_leave(n, now_ns);
        } else if (len > 0) {
            node_move(n, key, len, op / 10 % 4, now_ns);
        }
    }
}

/* A segment of the smallest size, and a member over it. */
static void begin(void)
{
    char path[64], why[200];
    now_ns = 1000000 * MS;
    epoch = pieces = 0;
    saying = sent_first = sent_count = 0;
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

/* ---- first inputs ---- */

static uint8_t *pen;

static void put(size_t count, const uint8_t *bytes)
{
    memcpy(pen, bytes, count);
    pen += count;
}
#define PUT(...) put(sizeof((const uint8_t[]){__VA_ARGS__}), (const uint8_t[]){__VA_ARGS__})

/* As `sensible` reads it: no status, everything there, no fence, a short value. */
static void put_message(uint8_t who, uint8_t type_at, uint8_t flags, uint8_t key, uint8_t id,
                        uint8_t number_, uint8_t auth, uint8_t want)
{
    PUT(1, who, type_at, flags, 0);
    if (who >= 16) {
        PUT(1); /* slot */
    }
    PUT(0, id);
    if (type_at >= 19) {
        PUT(0); /* seq */
    }
    PUT(0, auth, 0, number_, 0, 0, 1, 0, 0, 1, want, number_ % 9, key, 5, 9);
}

/* As `lead_on` reads it: STATE of a complete member, BEAT, or VIEW. */
static void put_state(uint8_t who)
{
    PUT(9, 161, who, 0, 0, 0, 1, 0, 0, 0, 0);
}

/* STATE of one that has to get a snapshot. */
static void put_joiner(uint8_t who)
{
    PUT(9, 171, who, 0, 0, 0, 1, 0, 0, 0, 0);
}

static void put_beat(uint8_t who)
{
    PUT(9, 201, who, 0, 0, 0, 1, 0, 0, 0, 0);
}

/* A snapshot of three items, its end, then VIEW and MEMBER: a joiner is complete. */
static void put_leader(uint8_t who)
{
    PUT(9, 225, who, 0, 0, 0, who, 1, 0, 120, 3);
    for (uint8_t i = 1; i < 4; i++) {
        PUT(2, 0, 0, 1, i, 40 + i);
    }
    PUT(9, 239, who, 0, 0, 0, 0, who, 1, 0, 0, 0);
    PUT(9, 5, who, 0, 0, 0, who, 1, 7);
    PUT(9, 7, who, 0, 0, 0, 0, who, 1, SELF, 7, 0);
    put_beat(who);
}

/* A member alone, leading two others, or led by one: view, lease, states; then items with and without
 * replicas, inboxes and their messages, a joiner, and everything else. */
size_t fuzz_seed(unsigned number_, uint8_t out[FUZZ_INPUT_BYTES_MAX])
{
    enum { ALONE, LEADING, LED };
    unsigned role = number_ % 3;
    if (number_ >= 30) {
        return 0;
    }
    pen = out;
    PUT(4, role == LED ? 0 : SELF << 2, role == ALONE ? 2 : 7, 5, 100, 13);
    if (role == LEADING) {
        put_state(0);
        if (number_ % 2 == 0) {
            put_state(2);
        } else {
            put_joiner(2);
        }
    } else if (role == LED) {
        put_leader(0);
    }
    PUT(13, 118, 13, 118, 13);
    for (uint8_t i = 0; i < 6 + number_; i++) {
        put_message(17, 6, i & 1, i, (uint8_t)(i + 1), i, 0, i % 4); /* CREATE */
        PUT(13, 118, 13, 13, 13, 13, 13, 13, 118, 13, 13, 13, 13, 13, 13); /* some are statuses */
        if (role == LED) {
            put_beat(0);
        }
        PUT(6, (uint8_t)(1 + i % 5), i, 2, 13); /* a local write */
        put_message(18, (uint8_t)(i + number_) % 19, 1, i, (uint8_t)(2 * i + 1), i, 128 + i, 1);
        if (i % 5 == 4) {
            PUT(27, i); /* a move */
        } else if (i % 5 == 1) {
            put_message(18, 17, 0, 130 + i, (uint8_t)(2 * i + 2), 0, 0, 0); /* INBOX */
            PUT(13, 118, 13, 13, 13, 13);
            put_message(19, 15, 0, 130 + i, (uint8_t)(2 * i + 1), 0, 0, 0); /* TELL */
            put_message(19, 16, 0, 0, (uint8_t)(2 * i + 2), 0, 0, 0); /* ANNOUNCE */
        } else if (i == 7 && role == LEADING) {
            put_joiner(2);
        }
        PUT(13, 118, 13, 13, 13, 13, 13, 13);
        put_message(role == LED ? 0 : 2, (uint8_t)(19 + i % 14), 0, i, (uint8_t)(i + 1), i, 128, 1);
    }
    PUT(4, 8, 5, 13, 93); /* another view */
    return (size_t)(pen - out);
}
