/* The link's limits, each reached and counted; and its inner parts against simple models.
 *
 * Knows: link_world.h, link_internal.h. Must not know: other rooms.
 */
#include "link_internal.h"
#include "link_world.h"

static struct world w;

static void nothing(void *context, const link_addr *from, uint64_t session, const void *message,
                    size_t len)
{
    (void)from, (void)session, (void)message, (void)len;
    ++*(uint64_t *)context;
}

void test_limits(uint64_t seed)
{
    world_begin(&w, seed, 2);
    CHECK(!world_send(&w, 0, 1, 0, 0, 0), "an empty message");
    CHECK(!world_send(&w, 0, 1, 0, LINK_MESSAGE_BYTES_MAX + 1, 0), "too long");
    CHECK(link_deadline(w.end[0].link) == UINT64_MAX, "nothing was queued");
    /* Waiting for WELCOME: the oldest go. */
    for (uint32_t i = 0; i < LINK_WAITING_MAX + 10; i++) {
        CHECK(world_send(&w, 0, 1, i, 8, 0), "send");
    }
    CHECK(world_stats(&w, 0).dropped_waiting == 10, "dropped");
    world_run(&w, 5);
    for (uint32_t i = 0; i < LINK_WAITING_MAX + 10; i++) {
        CHECK(w.end[1].got[i] == (i >= 10), "message %u", i);
    }
    CHECK(world_stats(&w, 0).datagrams_out < 20, "small messages share datagrams");
    /* The queue. */
    uint64_t dropped = world_stats(&w, 0).dropped_queue, taken = 0;
    while (world_send(&w, 0, 1, 1000, 65536, 0)) {
        taken++;
    }
    CHECK(taken > 200 && taken * 65536 < LINK_QUEUE_BYTES_MAX, "%" PRIu64 " taken", taken);
    CHECK(world_stats(&w, 0).dropped_queue == dropped + 1, "counted");
    CHECK(!world_send(&w, 0, 0, 1000, 65536, 0), "nor to anybody else");
    world_run(&w, 200);
    CHECK(w.end[1].got[1000] == taken, "%u", w.end[1].got[1000]);
    CHECK(w.end[0].link->queued_bytes == 0, "nothing is left");
    CHECK(world_send(&w, 0, 1, 1001, 65536, 0), "there is room again");
    /* Nobody answers: HELLO_TRIES_MAX times, then it is given up, and may begin again. */
    world_run(&w, 1000);
    link_addr nobody = world_addr(77);
    for (uint32_t round = 0; round < 2; round++) {
        uint64_t hellos = world_stats(&w, 0).hellos, lost = world_stats(&w, 0).dropped_waiting;
        CHECK(link_send(w.end[0].link, &nobody, "12345678", 8, 0, w.now_ns), "send");
        CHECK(link_deadline(w.end[0].link) == w.now_ns + LINK_HELLO_AGAIN_NS, "deadline");
        world_run(&w, 1000);
        CHECK(world_stats(&w, 0).hellos == hellos + LINK_HELLO_TRIES_MAX, "tries");
        CHECK(world_stats(&w, 0).dropped_waiting == lost + 1, "given up");
        CHECK(link_deadline(w.end[0].link) == UINT64_MAX, "at rest");
        CHECK(w.end[0].link->queued_bytes == 0, "nothing is left");
    }
    /* A peer that is suspected again and again gets one HELLO in that time, and keeps its session. */
    uint64_t hellos = world_stats(&w, 0).hellos;
    w.loss_percent = 100;
    for (uint32_t i = 0; i < 100; i++) {
        link_suspect(w.end[0].link, &w.end[1].addr);
        world_send(&w, 0, 1, 1002, 20, 0);
        world_run(&w, 1);
    }
    CHECK(world_stats(&w, 0).hellos == hellos + 2, "HELLOs");
    w.loss_percent = 0;
    world_run(&w, 1000);
    hellos = world_stats(&w, 0).hellos;
    world_send(&w, 0, 1, 1003, 20, 0);
    world_run(&w, 5);
    CHECK(w.end[1].got[1003] == 1 && world_stats(&w, 0).hellos <= hellos + 1, "it stays");
    world_end(&w);
}

/* Messages that are begun and not ended: the oldest goes, and each after its time. */
void test_partials(uint64_t seed)
{
    world_begin(&w, seed, 2);
    world_send(&w, 0, 1, 0, 20, 0);
    world_run(&w, 5);
    for (uint32_t i = 0; i < LINK_PARTIAL_MAX + 6; i++) {
        world_send(&w, 0, 1, 100 + i, 5000, i + 1);
        world_collect(&w);
        CHECK(w.flying == 4, "%zu fragments", w.flying);
        w.flight[0].due_ns = w.now_ns;
        w.flying = 3;
        world_run(&w, 1);
    }
    CHECK(w.end[1].link->partials == LINK_PARTIAL_MAX, "begun");
    CHECK(world_stats(&w, 1).dropped_partial == 6, "dropped");
    for (uint32_t i = 0; i < LINK_PARTIAL_MAX + 6; i++) { /* the last fragment of another sending */
        world_send(&w, 0, 1, 100 + i, 5000, i + 1);
        world_collect(&w);
        w.flight[0] = w.flight[3];
        w.flying = i < 6 || i % 2 == 0 ? 0 : 1;
        world_run(&w, 1);
        CHECK(w.end[1].got[100 + i] == (i >= 6 && i % 2 == 1), "message %u", 100 + i);
    }
    /* Other bytes under the same tag never complete each other. */
    uint64_t before = w.end[1].deliveries;
    for (uint32_t i = 0; i < 2; i++) {
        world_send(&w, 0, 1, 300 + i, 5000, 9999);
        world_collect(&w);
        w.flight[0] = w.flight[i == 0 ? 0 : 2];
        w.flight[1] = w.flight[i == 0 ? 1 : 3];
        w.flying = 2;
        world_run(&w, 1);
    }
    CHECK(w.end[1].deliveries == before && w.end[1].link->partials == 34, "mixed");
    /* One sending completes another: what is left of it begins nothing anew. */
    for (uint32_t i = 0; i < 2; i++) {
        world_send(&w, 0, 1, 310, 5000, 12);
        world_collect(&w);
        if (i == 0) {
            w.flight[0] = w.flight[--w.flying];
        }
        world_run(&w, 1);
    }
    CHECK(w.end[1].got[310] == 1 && w.end[1].link->partials == 34, "left over");
    world_send(&w, 0, 1, 310, 5000, 12); /* but a third one is delivered again */
    world_run(&w, 1);
    CHECK(w.end[1].got[310] == 2 && w.end[1].link->partials == 34, "left over");
    uint64_t lost = world_stats(&w, 1).dropped_partial;
    world_run(&w, 2100);
    CHECK(w.end[1].link->partials == 0, "expired");
    CHECK(world_stats(&w, 1).dropped_partial == lost + 34, "counted");
    CHECK(link_deadline(w.end[1].link) == UINT64_MAX, "at rest");
    /* The sender begins anew: what its predecessor left is nothing to it. */
    world_send(&w, 0, 1, 400, 5000, 1);
    world_collect(&w);
    w.flying = 2;
    world_run(&w, 1);
    world_restart(&w, 0);
    world_send(&w, 0, 1, 401, 20, 0);
    world_run(&w, 5);
    CHECK(w.end[1].got[401] == 1 && w.end[1].link->partials == 0, "forgotten");
    world_end(&w);
}

/* More peers than there is room for, all of them proven: the one unused longest goes. */
void test_peers(uint64_t seed)
{
    enum { PEERS = LINK_PEERS_MAX + 50 };
    char why[200];
    world_begin(&w, seed, 1);
    link_keys keys = world_keys(1, (const uint8_t[]){1});
    struct link *server = w.end[0].link, *keeper = NULL;
    link_addr at, to, keeper_at = world_addr(500);
    uint8_t d[LINK_DATAGRAM_BYTES_MAX];
    size_t len;
    uint64_t got = 0, answered = 0, sent = 0;
    for (uint32_t i = 0; i < PEERS; i++) {
        struct link *c = link_new(&keys, 0x9000 + i, why, sizeof why);
        at = world_addr(500 + i);
        CHECK(c != NULL && link_send(c, &w.end[0].addr, "12345678", 8, 0, i), "send");
        while (link_next(c, &to, d, &len) || link_next(server, &to, d, &len)) {
            bool to_server = memcmp(&to, &w.end[0].addr, sizeof to) == 0;
            link_receive(to_server ? server : c, to_server ? &at : &w.end[0].addr, d, len, i,
                         nothing, to_server ? &got : &answered);
        }
        CHECK(got == i + 1 + sent, "client %u", i);
        if (i == 0) {
            keeper = c;
        } else {
            link_free(c);
        }
        if (i % 500 == 1) { /* the first one is in use all the time */
            CHECK(link_send(keeper, &w.end[0].addr, "12345678", 8, 0, i), "send");
            CHECK(link_next(keeper, &to, d, &len), "next");
            CHECK(link_receive(server, &keeper_at, d, len, i, nothing, &got), "the keeper is known");
            sent++;
        }
    }
    link_stats s;
    link_stats_read(server, &s);
    CHECK(s.sessions == LINK_PEERS_MAX && s.evicted == 50, "%" PRIu64 " sessions", s.sessions);
    CHECK(server->peers == LINK_PEERS_MAX && server->claims == 0, "peers");
    CHECK(link_main(server, &keeper_at) != NULL, "used, so it stays");
    at = world_addr(501);
    CHECK(link_main(server, &at) == NULL, "unused longest");
    /* Asked for by ourselves: as many HELLOs as you like, still bounded. */
    for (uint32_t i = 0; i < PEERS; i++) {
        at = world_addr(10000 + i);
        CHECK(link_send(server, &at, "12345678", 8, 0, 1), "send");
    }
    CHECK(server->peers == LINK_PEERS_MAX, "peers");
    link_free(keeper);
    world_end(&w);
}

/* The window against a list of everything seen. */
void test_window(uint64_t seed)
{
    enum { COUNTERS = 40000 };
    static bool seen[COUNTERS];
    static struct window window;
    world_begin(&w, seed, 0);
    memset(seen, 0, sizeof seen);
    uint64_t floor = world_random(&w, 3000), highest = floor;
    window = (struct window){.floor = floor, .highest = floor};
    while (highest < COUNTERS - 5000) {
        uint64_t jump = world_random(&w, 50), c;
        c = jump == 0   ? highest + world_random(&w, 4000)
            : jump < 25 ? highest + world_random(&w, 4)
                        : highest - world_random(&w, highest < 1200 ? highest + 1 : 1200);
        bool fresh = c > floor && !seen[c] && (c > highest || highest - c < LINK_REPLAY_WINDOW);
        CHECK(window_fresh(&window, c) == fresh, "counter %" PRIu64 ", highest %" PRIu64, c, highest);
        if (fresh) {
            window_mark(&window, c);
            seen[c] = true;
            highest = c > highest ? c : highest;
            CHECK(!window_fresh(&window, c), "counter %" PRIu64 " twice", c);
        }
    }
    world_end(&w);
}

/* A peer forgets us (no room), and speaks first: it is answered under its new index. */
void test_forgotten(uint64_t seed)
{
    world_begin(&w, seed, 2);
    world_send(&w, 0, 1, 1, 20, 0);
    world_run(&w, 5);
    struct peer *p = link_main(w.end[1].link, &w.end[0].addr);
    CHECK(p != NULL && p->window.floor == 1, "the window begins at the HELLO");
    for (uint64_t number = 2; number < 20; number += 2) {
        link_peer_free(w.end[1].link, link_main(w.end[1].link, &w.end[0].addr));
        uint64_t hellos = world_stats(&w, 0).hellos;
        world_send(&w, 1, 0, number, 20, 0);
        world_run(&w, 5);
        world_send(&w, 0, 1, number + 1, 20, 0);
        world_run(&w, 5);
        CHECK(w.end[0].got[number] == 1 && w.end[1].got[number + 1] == 1, "%" PRIu64, number);
        CHECK(world_stats(&w, 0).hellos == hellos, "one handshake is enough");
    }
    world_end(&w);
}

/* A payload that is one part, sealed: is it taken? */
static bool takes(uint8_t kind, size_t said, size_t len, uint64_t total, uint64_t number)
{
    uint8_t payload[LINK_PAYLOAD_BYTES_MAX] = {kind}, out[LINK_DATAGRAM_BYTES_MAX];
    struct peer *p = link_main(w.end[0].link, &w.end[1].addr);
    link_put(payload + 1, said, 2);
    if (kind == PART_FRAGMENT) {
        link_put(payload + 3, 7777 + total, 8);
        link_put(payload + 11, 1, 4);
        link_put(payload + 15, total, 4);
        link_put(payload + 19, number, 2);
    }
    size_t n = link_seal_data(w.end[0].link, p->theirs, payload, LINK_PART_BYTES + len, out);
    uint64_t got = 0;
    bool taken = link_receive(w.end[1].link, &w.end[0].addr, out, n, w.now_ns, nothing, &got);
    CHECK(got == (taken && kind == PART_WHOLE), "delivered");
    return taken;
}

static void bounds(void)
{
    const size_t full = LINK_FRAGMENT_HEADER_BYTES + LINK_FRAGMENT_BYTES;
    const uint64_t f = LINK_FRAGMENT_BYTES;
    CHECK(takes(PART_WHOLE, 100, 100, 0, 0), "a message");
    CHECK(!takes(PART_WHOLE, 101, 100, 0, 0), "longer than the payload");
    CHECK(!takes(PART_WHOLE, 99, 100, 0, 0), "something behind it");
    CHECK(!takes(PART_WHOLE, 0, 0, 0, 0), "an empty one");
    CHECK(takes(PART_FRAGMENT, full, full, LINK_MESSAGE_BYTES_MAX, 0), "a fragment");
    CHECK(takes(PART_FRAGMENT, full, full, 3 * f, 2), "the last one, full");
    CHECK(!takes(PART_FRAGMENT, full, full, LINK_MESSAGE_BYTES_MAX + 1, 0), "of too long a message");
    CHECK(!takes(PART_FRAGMENT, full, full, 3 * f, 3), "behind its end");
    CHECK(!takes(PART_FRAGMENT, full, full, 3 * f, 4), "far behind it");
    CHECK(!takes(PART_FRAGMENT, full, full, f, 0), "of one that needs no fragments");
    CHECK(!takes(PART_FRAGMENT, full - 1, full - 1, 3 * f, 0), "short in the middle");
    CHECK(!takes(PART_FRAGMENT, full, full, 3 * f - 1, 2), "longer than the rest");
    CHECK(!takes(PART_FRAGMENT, 18, 18, 3 * f, 0), "without bytes");
    CHECK(!takes(PART_FRAGMENT, 5, 5, 0, 0), "without a header");
}

/* Payloads that no link of ours would seal, from somebody with the key: counted, never a crash, and
 * nothing is delivered of one that is wrong anywhere. */
void test_payloads(uint64_t seed)
{
    world_begin(&w, seed, 2);
    world_send(&w, 0, 1, 0, 20, 0);
    world_run(&w, 5);
    struct link *l = w.end[0].link;
    struct peer *p = link_main(l, &w.end[1].addr);
    CHECK(p != NULL, "peer");
    bounds();
    uint64_t malformed = world_stats(&w, 1).malformed;
    for (uint32_t round = 0; round < 3000; round++) {
        uint8_t payload[LINK_PAYLOAD_BYTES_MAX], out[LINK_DATAGRAM_BYTES_MAX];
        size_t len = 0, parts = 1 + world_random(&w, 3);
        uint64_t before = w.end[1].deliveries, number = 10 + round;
        memset(payload, 0, sizeof payload);
        for (size_t i = 0; i < parts; i++) { /* fragments of a message that never ends */
            size_t n = LINK_FRAGMENT_HEADER_BYTES + 8;
            payload[len] = PART_FRAGMENT;
            link_put(payload + len + 1, n, 2);
            link_put(payload + len + 3, number, 8);
            link_put(payload + len + 11, round, 4);
            link_put(payload + len + 15, LINK_FRAGMENT_BYTES * 2 + 8, 4);
            link_put(payload + len + 19, 2, 2);
            len += LINK_PART_BYTES + n;
        }
        bool sound = world_random(&w, 4) == 0;
        if (!sound) {
            size_t part = world_random(&w, parts) * (LINK_PART_BYTES + LINK_FRAGMENT_HEADER_BYTES + 8);
            switch (world_random(&w, 7)) {
            case 0: payload[part] = (uint8_t)(world_random(&w, 2) ? 0 : 3 + world_random(&w, 253)); break;
            case 1: link_put(payload + part + 1, world_random(&w, 2) ? 0 : 5000, 2); break;
            case 2: link_put(payload + part + 15, world_random(&w, LINK_WHOLE_BYTES_MAX + 1), 4); break;
            case 3: link_put(payload + part + 15, LINK_MESSAGE_BYTES_MAX + 1, 4); break;
            case 4: link_put(payload + part + 19, 3 + world_random(&w, 60000), 2); break;
            case 5: link_put(payload + part + 15, LINK_FRAGMENT_BYTES * 2 + 9, 4); break;
            default: len -= 1 + world_random(&w, len < 29 ? len - 1 : 28); break;
            }
        }
        size_t n = link_seal_data(l, p->theirs, payload, len, out);
        bool taken = world_receive(&w, 1, &w.end[0].addr, out, n);
        CHECK(taken == sound, "round %u", round);
        malformed += !sound;
        CHECK(world_stats(&w, 1).malformed == malformed, "counted");
        CHECK(w.end[1].deliveries == before, "delivered");
    }
    CHECK(w.end[1].link->partials <= LINK_PARTIAL_MAX, "bounded");
    world_end(&w);
}
