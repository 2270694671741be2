/* The scripted servers of client_fake.h. */
#include "client_fake.h"

static const link_keys keys = {.count = 1, .key = {{.id = 1, .bytes = {1, 2, 3}}}};
static uint64_t sessions = 100;

static struct link *new_link(void)
{
    char why[256] = "";
    struct link *l = link_new(&keys, sessions++, why, sizeof why);
    if (l == NULL) {
        printf("%s\n", why);
        exit(1);
    }
    return l;
}

static link_addr address_of(uint16_t port)
{
    return (link_addr){.ip = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}, .port = port};
}

void fake_set_view(struct fake *f)
{
    if (f->local != NULL) {
        CHECK(seg_cluster_write(f->local, &f->view) == SEG_OK);
    }
}

void fake_begin(struct fake *f, bool local)
{
    char why[512] = "";
    memset(f, 0, sizeof *f);
    f->now = START_NS;
    f->link = new_link();
    f->client_address = address_of(9000);
    f->members = true;
    f->view = (seg_cluster){.clustered = true,
                            .serving = true,
                            .self = local ? 0 : CLIENT_NO_SLOT,
                            .leader = 1,
                            .epoch = 5,
                            .lease_ns = START_NS + 3600 * 1000 * MS,
                            .present = 7};
    for (uint8_t slot = 0; slot < SERVERS; slot++) {
        f->server[slot] = new_link();
        f->address[slot] = address_of((uint16_t)(7000 + slot));
        seg_member *m = &f->view.member[slot];
        *m = (seg_member){.slot = slot, .port = f->address[slot].port,
                          .incarnation = INCARNATION(slot)};
        memcpy(m->ip, f->address[slot].ip, sizeof m->ip);
        snprintf(m->node, sizeof m->node, "n%u", slot);
    }
    if (local) {
        snprintf(f->path, sizeof f->path, "%s/client-%d", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
                 (int)getpid());
        unlink(f->path);
        CHECK(seg_format(f->path, SEG_SIZE_BYTES_MIN, why, sizeof why) == SEG_OK);
        CHECK(seg_open(f->path, false, &f->local, why, sizeof why) == SEG_OK);
        unlink(f->path); /* a failed check leaves nothing behind */
        fake_set_view(f);
        seg_serve(f->local, true);
        seg_lease(f->local, f->view.lease_ns);
    }
    client_options o = {.contacts = 2, .contact = {f->address[0], f->address[1]},
                        .timeout_ns = 1000 * MS};
    f->c = client_new(f->local, f->link, &o, f->now);
    CHECK(f->c != NULL);
    fake_pass(f, MS);
}

void fake_end(struct fake *f)
{
    client_free(f->c);
    link_free(f->link);
    for (uint32_t i = 0; i < SERVERS; i++) {
        link_free(f->server[i]);
    }
    for (uint32_t i = 0; i < f->heard_count; i++) {
        free(f->heard[i].bytes);
    }
    if (f->local != NULL) {
        seg_close(f->local);
    }
}

struct ear {
    struct fake *f;
    uint32_t server;
};

static void answer_members(struct fake *f, struct heard *h)
{
    uint8_t list[2048];
    size_t len = 0;
    for (uint8_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        if ((f->view.present >> slot & 1) != 0) {
            len += wire_put_member(list + len, sizeof list - len, &f->view.member[slot]);
        }
    }
    wire_msg reply = {.slot = (uint8_t)h->server,
                      .mask = WIRE_EPOCH | WIRE_NUMBER | WIRE_VALUE,
                      .epoch = f->view.epoch,
                      .number = f->view.leader,
                      .value = list,
                      .value_len = len};
    fake_answer(f, h, reply);
}

static void hear(void *context, const link_addr *from, uint64_t session, const void *message,
                 size_t len)
{
    struct ear *ear = context;
    struct fake *f = ear->f;
    CHECK(f->heard_count < HEARD_MAX && from->port == 9000);
    struct heard *h = &f->heard[f->heard_count++];
    h->server = ear->server;
    h->session = session;
    h->answered = false;
    h->bytes = malloc(len);
    CHECK(h->bytes != NULL);
    memcpy(h->bytes, message, len);
    CHECK(wire_decode(h->bytes, len, &h->m));
    if (h->m.type == WIRE_MEMBERS && f->members) {
        answer_members(f, h);
    }
}

void fake_pump(struct fake *f)
{
    uint8_t datagram[LINK_DATAGRAM_BYTES_MAX];
    size_t len;
    link_addr to;
    for (bool moved = true; moved;) {
        moved = false;
        while (client_next(f->c, &to, datagram, &len)) {
            uint32_t slot = (uint32_t)(to.port - 7000);
            moved = true;
            if (slot < SERVERS && !f->deaf[slot]) {
                struct ear ear = {f, slot};
                link_receive(f->server[slot], &f->client_address, datagram, len, f->now, hear, &ear);
            }
        }
        for (uint32_t slot = 0; slot < SERVERS; slot++) {
            while (link_next(f->server[slot], &to, datagram, &len)) {
                moved = true;
                if (!f->deaf[slot]) {
                    client_receive(f->c, &f->address[slot], datagram, len, f->now);
                }
            }
        }
    }
}

void fake_pass(struct fake *f, uint64_t ns)
{
    uint64_t end = f->now + ns;
    fake_pump(f);
    while (f->now < end) {
        uint64_t next = client_deadline(f->c);
        next = next <= f->now ? f->now + MS / 10 : next;
        f->now = next < end ? next : end;
        client_tick(f->c, f->now);
        fake_pump(f);
    }
}

struct heard *fake_heard(struct fake *f, uint32_t server, wire_type type)
{
    for (uint32_t i = f->heard_count; i-- > 0;) {
        struct heard *h = &f->heard[i];
        if (h->server == server && h->m.type == type && !h->answered) {
            return h;
        }
    }
    return NULL;
}

uint32_t fake_count(const struct fake *f, uint32_t server, wire_type type)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->heard_count; i++) {
        n += f->heard[i].server == server && f->heard[i].m.type == type;
    }
    return n;
}

void fake_answer(struct fake *f, struct heard *h, wire_msg reply)
{
    static uint8_t bytes[WIRE_MESSAGE_BYTES_MAX];
    reply.type = WIRE_REPLY;
    reply.slot = (uint8_t)h->server;
    reply.mask |= WIRE_ID | WIRE_EPOCH;
    reply.id = h->m.id;
    reply.epoch = reply.epoch != 0 ? reply.epoch : f->view.epoch;
    size_t len = wire_encode(&reply, bytes, sizeof bytes);
    CHECK(len > 0);
    CHECK(link_send(f->server[h->server], &f->client_address, bytes, len, 0, f->now));
    h->answered = true;
    fake_pump(f);
}

void fake_status(struct fake *f, struct heard *h, uint8_t status)
{
    CHECK(h != NULL);
    fake_answer(f, h, (wire_msg){.status = status});
}

int fake_start(struct fake *f, client_request r)
{
    int op = client_start(f->c, &r, f->now);
    fake_pump(f);
    return op;
}

client_result fake_result(struct fake *f, int op)
{
    client_result t;
    memset(&t, 0xee, sizeof t);
    CHECK(client_done(f->c, op, &t));
    return t;
}

bool fake_running(const struct fake *f, int op)
{
    client_result t;
    struct fake *copy = (struct fake *)(uintptr_t)f;
    if (client_done(copy->c, op, &t)) {
        printf("completed too early, status %d %s\n", t.status, t.why);
        return false;
    }
    return true;
}

void fake_restart(struct fake *f, uint32_t server)
{
    link_free(f->server[server]);
    f->server[server] = new_link();
}

int main(void)
{
    test_remote();
    test_local();
    test_messages();
    printf("ok\n");
    return 0;
}
