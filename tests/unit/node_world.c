/* The members, their network and their clients, of node_world.h. */
#include "node_world.h"

#include <unistd.h>

#define ANSWERS_MAX 1024u
#define SIZE SEG_SIZE_BYTES_MIN
#define SETTLE_MS 400u

struct letter {
    struct letter *next;
    uint32_t from, to;
    size_t len;
    uint8_t bytes[];
};

struct member member[MEMBERS_MAX];
uint64_t now_ns;
node_view view;
size_t fail_malloc_bytes;
bool (*lost)(uint32_t from, uint32_t to, const wire_msg *m);
uint64_t lease_ns = 3600 * S;

static struct letter *first, **last = &first;
static struct {
    uint64_t id;
    uint8_t *bytes;
    size_t len;
} heard[ANSWERS_MAX];
static uint32_t heard_count;
static uint64_t next_id;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    return size == fail_malloc_bytes && size != 0 ? NULL : __real_malloc(size);
}

/* ---- the link ---- */

static link_addr address(uint32_t who)
{
    link_addr a = {.port = (uint16_t)(who + 1)};
    memcpy(a.ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01", 16);
    return a;
}

bool link_send(struct link *l, const link_addr *to, const void *message, size_t len, uint64_t tag,
               uint64_t at_ns)
{
    struct letter *one = __real_malloc(sizeof *one + len);
    (void)tag, (void)at_ns;
    CHECK(one != NULL && len > 0);
    one->next = NULL;
    one->from = l->who;
    one->to = to->port - 1u;
    one->len = len;
    memcpy(one->bytes, message, len);
    *last = one;
    last = &one->next;
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

uint64_t link_session(const struct link *l) { return 1001u + l->who; }
void link_suspect(struct link *l, const link_addr *to) { (void)l, (void)to; }
bool link_renewed(struct link *l, link_addr *who)
{
    (void)l, (void)who;
    return false;
}
void link_tick(struct link *l, uint64_t at_ns) { (void)l, (void)at_ns; }
uint64_t link_deadline(const struct link *l)
{
    (void)l;
    return UINT64_MAX;
}

static void hear(const struct letter *one)
{
    wire_msg m;
    CHECK(wire_decode(one->bytes, one->len, &m) && heard_count < ANSWERS_MAX);
    if (m.type != WIRE_REPLY) {
        return;
    }
    heard[heard_count].id = m.id;
    heard[heard_count].len = one->len;
    heard[heard_count].bytes = __real_malloc(one->len);
    CHECK(heard[heard_count].bytes != NULL);
    memcpy(heard[heard_count++].bytes, one->bytes, one->len);
}

static void after(uint32_t who)
{
    link_addr to;
    uint8_t out[LINK_DATAGRAM_BYTES_MAX];
    size_t len;
    CHECK(!node_next(member[who].node, &to, out, &len));
}

static void travel(void)
{
    while (first != NULL) {
        struct letter *one = first;
        wire_msg m;
        first = one->next;
        last = first == NULL ? &first : last;
        CHECK(wire_decode(one->bytes, one->len, &m));
        if (one->to >= MEMBERS_MAX) {
            hear(one);
        } else if (member[one->to].node != NULL && !member[one->to].stopped &&
                   (lost == NULL || !lost(one->from, one->to, &m))) {
            link_addr from = address(one->from);
            node_receive(member[one->to].node, &from, one->bytes, one->len, now_ns);
            after(one->to);
        }
        free(one);
    }
}

/* ---- members ---- */

static void start(uint32_t who)
{
    static const char *const names[MEMBERS_MAX] = {"a", "b", "c"};
    node_config c = {.segment = member[who].seg, .link = &member[who].link, .name = names[who],
                     .resend_ns = 20 * MS, .repair_per_s = 1000, .random = 42 + who};
    member[who].link.who = who;
    member[who].incarnation = seg_generation(member[who].seg);
    member[who].node = node_new(&c, now_ns);
    CHECK(member[who].node != NULL);
    node_set_lease(member[who].node, now_ns + lease_ns, now_ns);
}

static void make(uint32_t who)
{
    char why[200];
    struct member *m = &member[who];
    snprintf(m->path, sizeof m->path, "%s/node-world-%d-%u",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid(), who);
    unlink(m->path);
    CHECK(seg_format(m->path, SIZE, why, sizeof why) == SEG_OK);
    CHECK(seg_open(m->path, false, &m->seg, why, sizeof why) == SEG_OK);
    CHECK(seg_attach(m->seg, &m->client, why, sizeof why) == SEG_OK);
    unlink(m->path); /* a failed check leaves nothing behind */
    CHECK(node_prepare(m->seg, 4711 + who, why, sizeof why) == SEG_OK);
    start(who);
}

static void tell(uint32_t who)
{
    node_set_view(member[who].node, &view, now_ns);
    after(who);
}

void world_view(uint16_t present, uint8_t leader)
{
    uint64_t epoch = view.epoch + 1;
    view = (node_view){.epoch = epoch, .leader = leader, .present = present};
    for (uint8_t who = 0; who < MEMBERS_MAX; who++) {
        link_addr at = address(who);
        view.member[who] = (seg_member){.slot = who, .port = at.port, .incarnation = member[who].incarnation};
        memcpy(view.member[who].ip, at.ip, sizeof at.ip);
        view.member[who].node[0] = (char)('a' + who);
    }
    for (uint32_t who = 0; who < MEMBERS_MAX; who++) {
        if (member[who].node != NULL && (present & BIT_OF(who)) != 0) {
            tell(who);
        }
    }
    travel();
}

void world_begin(uint32_t members, uint64_t at_ns)
{
    memset(member, 0, sizeof member);
    memset(&view, 0, sizeof view);
    lost = NULL;
    fail_malloc_bytes = 0;
    heard_count = 0;
    next_id = 1;
    now_ns = at_ns;
    for (uint32_t who = 0; who < members; who++) {
        make(who);
    }
    world_view(BIT_OF(0), 0);
    if (members > 1) {
        world_view((uint16_t)(BIT_OF(members) - 1), 0);
    }
    world_pass(SETTLE_MS);
    for (uint32_t who = 0; who < members; who++) {
        CHECK(stats_of(who).complete && stats_of(who).serving && stats_of(who).phase == NODE_ACTIVE);
    }
}

void world_end(void)
{
    travel();
    for (uint32_t who = 0; who < MEMBERS_MAX; who++) {
        if (member[who].node != NULL) {
            seg_verdict v;
            node_free(member[who].node);
            CHECK(seg_verify(member[who].seg, &v) == SEG_OK);
            CHECK(v.unreachable + v.misplaced + v.torn_refs + v.shared_blocks + v.locked == 0);
            seg_close(member[who].client);
            seg_close(member[who].seg);
        }
    }
    for (uint32_t i = 0; i < heard_count; i++) {
        free(heard[i].bytes);
    }
}

void world_pass(uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i++) {
        now_ns += MS;
        for (uint32_t who = 0; who < MEMBERS_MAX; who++) {
            if (member[who].node != NULL && !member[who].stopped) {
                node_tick(member[who].node, now_ns);
                after(who);
                travel();
            }
        }
    }
}

void world_restart(uint32_t who)
{
    node_free(member[who].node);
    start(who);
    tell(who);
    travel();
}

void world_anew(uint32_t who)
{
    node_free(member[who].node);
    CHECK(seg_begin_anew(member[who].seg, member[who].incarnation + 1000) == SEG_OK);
    start(who);
}

/* ---- clients ---- */

void ask_again(uint32_t to, wire_msg m, uint64_t id)
{
    static uint8_t bytes[WIRE_MESSAGE_BYTES_MAX];
    struct link client = {CLIENT};
    link_addr at = address(to);
    m.mask |= WIRE_EPOCH | WIRE_ID;
    m.epoch = view.epoch;
    m.id = id;
    m.slot = m.type == WIRE_MOVE ? m.slot : 255;
    size_t len = wire_encode(&m, bytes, sizeof bytes);
    CHECK(len > 0);
    link_send(&client, &at, bytes, len, 0, now_ns);
    travel();
}

void say(uint32_t from, uint32_t to, wire_msg m)
{
    static uint8_t bytes[WIRE_MESSAGE_BYTES_MAX];
    struct link its = {from};
    link_addr at = address(to);
    m.mask |= WIRE_EPOCH;
    m.epoch = view.epoch;
    m.slot = (uint8_t)from;
    size_t len = wire_encode(&m, bytes, sizeof bytes);
    CHECK(len > 0);
    link_send(&its, &at, bytes, len, 0, now_ns);
    travel();
}

uint64_t ask(uint32_t to, wire_msg m)
{
    uint64_t id = next_id++;
    ask_again(to, m, id);
    return id;
}

uint32_t answers(uint64_t id, wire_msg *out)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < heard_count; i++) {
        if (heard[i].id == id) {
            count++;
            CHECK(out == NULL || wire_decode(heard[i].bytes, heard[i].len, out));
        }
    }
    return count;
}

wire_msg answer_within(uint32_t to, wire_msg m, uint64_t ms)
{
    wire_msg out = {0};
    uint64_t id = ask(to, m);
    for (uint64_t i = 0; i < ms && answers(id, &out) == 0; i++) {
        world_pass(1);
    }
    CHECK(answers(id, &out) > 0);
    return out;
}

wire_msg named(uint8_t type, const char *key)
{
    return (wire_msg){.type = type, .mask = WIRE_KEY, .key = key, .key_len = strlen(key)};
}

wire_msg writes(const char *key, const char *value)
{
    wire_msg m = named(WIRE_WRITE, key);
    m.mask |= WIRE_VALUE;
    m.value = value;
    m.value_len = strlen(value);
    return m;
}

static wire_msg making(const char *key, const char *value, uint8_t replicas)
{
    wire_msg m = writes(key, value);
    m.type = WIRE_CREATE;
    m.mask |= WIRE_HOME;
    m.home.want = replicas;
    return m;
}

uint64_t create(uint32_t at, const char *key, const char *value, uint8_t replicas)
{
    return ask(at, making(key, value, replicas));
}

void created(uint32_t at, const char *key, const char *value, uint8_t replicas)
{
    wire_msg m = answer_within(at, making(key, value, replicas), 1000);
    CHECK(m.status == WIRE_OK);
}

/* ---- what is there ---- */

node_stats stats_of(uint32_t who)
{
    node_stats s;
    node_stats_read(member[who].node, true, &s);
    return s;
}

bool knows(uint32_t who, const char *key)
{
    seg_handle h;
    return seg_lookup(member[who].seg, key, strlen(key), &h) == SEG_OK;
}

bool holds(uint32_t who, const char *key, const char *value)
{
    static uint8_t out[SEG_VALUE_BYTES_MAX];
    size_t len;
    seg_handle h = {0};
    return seg_peek(member[who].seg, key, strlen(key), &h, out, sizeof out, &len, NULL) == SEG_OK &&
           len == strlen(value) && memcmp(out, value, len) == 0;
}
