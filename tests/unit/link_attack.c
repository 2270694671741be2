/* What somebody can do who sees every datagram and may send his own, without the key.
 *
 * Knows: link_world.h, the layout of a datagram. Must not know: the link's inside.
 */
#include "link_world.h"

enum { KIND_AT = 2, DATA = 1, HELLO = 2, WELCOME = 3 };

static struct world w;

/* Traffic of all kinds between two endpoints, recorded. */
static uint64_t traffic(uint64_t number)
{
    for (uint32_t i = 0; i < 30; i++) {
        world_send(&w, i % 2, 1 - i % 2, number++, i % 5 == 0 ? 9000 : 60, i);
        if (i % 3 == 0) {
            world_run(&w, 2);
        }
    }
    world_run(&w, 10);
    return number;
}

static uint64_t all_deliveries(void)
{
    uint64_t n = 0;
    for (uint32_t k = 0; k < w.ends; k++) {
        n += w.end[k].deliveries;
    }
    return n;
}

/* Every recorded datagram at every endpoint, from its own address and from another. */
static void replay_all(size_t count)
{
    uint64_t before = all_deliveries();
    link_addr elsewhere = world_addr(99);
    for (size_t i = 0; i < count; i++) {
        struct datagram d = w.seen[i];
        for (uint32_t k = 0; k < w.ends; k++) {
            world_receive(&w, k, &d.from, d.bytes, d.len);
            world_receive(&w, k, &elsewhere, d.bytes, d.len);
        }
        if (i % 10 == 0) {
            world_run(&w, 1); /* what a HELLO has provoked goes its way */
        }
    }
    CHECK(all_deliveries() == before, "a replay was delivered");
}

/* Replays deliver nothing, to the living and to the restarted, and disturb no session. */
void test_replay(uint64_t seed)
{
    world_begin(&w, seed, 2);
    w.delay_ms = (uint32_t)world_random(&w, 3);
    w.record = true;
    uint64_t number = traffic(1);
    size_t recorded = w.seen_count;
    for (uint32_t round = 0; round < 4; round++) {
        uint64_t hellos = world_stats(&w, 0).hellos + world_stats(&w, 1).hellos;
        replay_all(recorded);
        for (uint32_t k = 0; k < 2; k++) {
            world_send(&w, k, 1 - k, number, 2000, 0);
            world_run(&w, 5);
            CHECK(w.end[1 - k].got[number] == 1, "the session works on");
            CHECK(w.end[1 - k].last_from.ip[15] == w.end[k].addr.ip[15], "at the same address");
        }
        number++;
        CHECK(world_stats(&w, 0).hellos + world_stats(&w, 1).hellos == hellos,
              "without another handshake");
        if (round < 3) {
            world_restart(&w, round % 2);
            replay_all(recorded);
            world_run(&w, 60);
            if (round == 2) {
                world_restart(&w, 1);
                replay_all(recorded);
            }
            for (uint32_t k = 0; k < 2; k++) {
                link_suspect(w.end[k].link, &w.end[1 - k].addr);
                world_send(&w, k, 1 - k, number, 20, 1);
                world_run(&w, 70);
            }
            number = traffic(number + 1);
            recorded = w.seen_count;
        }
    }
    world_end(&w);
}

/* HELLOs of a dead session and from other addresses are claims, nothing more: they get WELCOME, one
 * each, and nothing else is ever sent there. */
void test_claims(uint64_t seed)
{
    world_begin(&w, seed, 2);
    w.record = true;
    traffic(1);
    struct datagram hello = {0};
    for (size_t i = 0; i < w.seen_count; i++) {
        if (w.seen[i].bytes[KIND_AT] == HELLO && w.seen[i].from.ip[15] == w.end[0].addr.ip[15]) {
            hello = w.seen[i];
        }
    }
    CHECK(hello.len > 0, "no HELLO seen");
    world_restart(&w, 0);
    world_send(&w, 0, 1, 100, 20, 0);
    world_run(&w, 5);
    CHECK(w.end[1].got[100] == 1, "the new session");
    w.seen_count = 0;
    CHECK(world_receive(&w, 1, &hello.from, hello.bytes, hello.len), "it is authentic");
    world_run(&w, 2);
    CHECK(w.seen_count == 1 && w.seen[0].bytes[KIND_AT] == WELCOME, "a WELCOME");
    CHECK(w.seen[0].len <= hello.len, "amplified");
    world_send(&w, 1, 0, 101, 20, 0);
    world_run(&w, 2);
    CHECK(w.end[0].got[101] == 1, "the session that lives gets what is sent");
    /* From addresses without number: bounded, and the sessions that live stay. */
    for (uint32_t i = 0; i < 6000; i++) {
        link_addr elsewhere = world_addr(1000 + i);
        world_receive(&w, 1, &elsewhere, hello.bytes, hello.len);
        if (i % 100 == 0) {
            world_collect(&w);
        }
    }
    w.flying = 0;
    link_stats s = world_stats(&w, 1);
    CHECK(s.sessions == 1 && s.evicted >= 5000, "%" PRIu64 " evicted", s.evicted);
    world_send(&w, 1, 0, 102, 20, 0);
    world_run(&w, 60);
    CHECK(w.end[0].got[102] == 1 && world_stats(&w, 1).hellos == s.hellos, "it stays");
    link_addr elsewhere = world_addr(1000 + 5999);
    link_send(w.end[1].link, &elsewhere, "12345678", 8, 0, w.now_ns);
    w.seen_count = 0;
    world_collect(&w);
    for (size_t i = 0; i < w.seen_count; i++) {
        CHECK(w.seen[i].bytes[KIND_AT] != DATA, "a message to who has only claimed");
    }
    world_end(&w);
}

/* Our own datagrams, sent back to us: we do not talk to ourselves. */
void test_reflection(uint64_t seed)
{
    world_begin(&w, seed, 2);
    w.record = true;
    for (uint32_t round = 0; round < 4; round++) {
        world_send(&w, 0, 1, 1, 20, 0);
        w.flying = 0;
        for (uint32_t step = 0; step < 4; step++) {
            w.seen_count = 0;
            world_collect(&w);
            w.flying = 0;
            for (size_t i = 0; i < w.seen_count; i++) {
                struct datagram d = w.seen[i];
                CHECK(!world_receive(&w, 0, &d.to, d.bytes, d.len), "taken");
            }
        }
        w.now_ns += LINK_HELLO_AGAIN_NS;
        link_tick(w.end[0].link, w.now_ns);
    }
    link_stats s = world_stats(&w, 0);
    CHECK(s.sessions == 0 && w.end[0].deliveries == 0 && s.replayed == s.hellos, "reflected");
    world_run(&w, 60);
    CHECK(w.end[1].got[1] == 4, "and the other one is heard");
    traffic(10);
    uint64_t before = all_deliveries();
    for (size_t i = 0; i < w.seen_count; i++) {
        struct datagram d = w.seen[i];
        world_receive(&w, d.from.ip[15] == w.end[0].addr.ip[15] ? 0 : 1, &d.to, d.bytes, d.len);
    }
    CHECK(all_deliveries() == before, "reflected");
    world_end(&w);
}

/* A WELCOME counts only as the answer to our own, unanswered HELLO. */
void test_welcome(uint64_t seed)
{
    struct datagram old = {0}, other = {0};
    world_begin(&w, seed, 3);
    w.record = true;
    world_send(&w, 0, 1, 1, 20, 0);
    world_run(&w, 5);
    for (size_t i = 0; i < w.seen_count; i++) {
        old = w.seen[i].bytes[KIND_AT] == WELCOME ? w.seen[i] : old;
    }
    CHECK(old.len > 0, "no WELCOME seen");
    /* The peer begins anew, we ask, and an old one arrives before the right one. */
    world_restart(&w, 1);
    world_run(&w, 60);
    link_suspect(w.end[0].link, &w.end[1].addr);
    world_send(&w, 0, 1, 2, 20, 2);
    CHECK(!world_receive(&w, 0, &old.from, old.bytes, old.len), "before the HELLO is on its way");
    world_collect(&w);
    CHECK(!world_receive(&w, 0, &old.from, old.bytes, old.len), "another HELLO's");
    world_run(&w, 5);
    world_send(&w, 0, 1, 2, 20, 2);
    world_run(&w, 5);
    CHECK(w.end[1].got[2] == 1, "the right one was taken");
    /* One that answers somebody else's HELLO of the same counter. */
    world_restart(&w, 0);
    world_restart(&w, 2);
    w.seen_count = 0;
    world_send(&w, 0, 1, 3, 20, 0);
    world_send(&w, 2, 1, 3, 20, 0);
    world_collect(&w);
    for (size_t i = 0; i < w.flying; i++) {
        world_receive(&w, 1, &w.flight[i].from, w.flight[i].bytes, w.flight[i].len);
    }
    w.flying = 0;
    world_collect(&w);
    for (size_t i = 0; i < w.flying; i++) {
        other = w.flight[i].to.ip[15] == w.end[2].addr.ip[15] ? w.flight[i] : other;
    }
    CHECK(other.len > 0 && other.bytes[KIND_AT] == WELCOME, "no WELCOME seen");
    CHECK(!world_receive(&w, 0, &other.from, other.bytes, other.len), "somebody else's");
    world_run(&w, 5);
    CHECK(w.end[1].got[3] == 2, "and both are heard");
    world_end(&w);
}

/* One datagram with every bit flipped, every length but its own, and other addresses: nothing. Then
 * the datagram itself: that it would have been taken. */
static void torture(uint32_t end, const struct datagram *d)
{
    uint64_t before = all_deliveries();
    struct datagram bad = *d;
    for (size_t bit = 0; bit < d->len * 8; bit++) {
        bad.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(!world_receive(&w, end, &d->from, bad.bytes, d->len), "bit %zu", bit);
        bad.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t len = 0; len < sizeof bad.bytes; len++) {
        CHECK(len == d->len || !world_receive(&w, end, &d->from, bad.bytes, len), "length %zu", len);
    }
    link_addr to;
    uint8_t out[LINK_DATAGRAM_BYTES_MAX];
    size_t len;
    CHECK(!link_next(w.end[end].link, &to, out, &len), "answered");
    CHECK(all_deliveries() == before, "delivered");
    CHECK(world_receive(&w, end, &d->from, d->bytes, d->len), "the datagram itself");
}

void test_flips(uint64_t seed)
{
    static const uint8_t KINDS[3] = {HELLO, WELCOME, DATA};
    world_begin(&w, seed, 2);
    world_send(&w, 0, 1, 1, 500, 0);
    for (uint32_t step = 0; step < 3; step++) {
        world_collect(&w);
        CHECK(w.flying == 1 && w.flight[0].bytes[KIND_AT] == KINDS[step], "step %u", step);
        struct datagram d = w.flight[0];
        w.flying = 0;
        if (d.bytes[KIND_AT] == DATA) {
            link_addr elsewhere = world_addr(50);
            CHECK(!world_receive(&w, 1, &elsewhere, d.bytes, d.len), "from elsewhere");
        }
        torture(1 - step % 2, &d);
    }
    CHECK(w.end[1].got[1] == 1, "delivered");
    link_stats s = world_stats(&w, 1);
    CHECK(s.unauthentic > 0 && s.malformed > 0 && s.unknown_key > 0 && s.unknown_index > 0,
          "counted by reason");
    world_end(&w);
}
