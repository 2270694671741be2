/* The link over bad channels: what is delivered, and how often.
 *
 * Knows: link_world.h. Must not know: the link's inside.
 */
#include "link_world.h"

static struct world w;

static size_t some_length(void)
{
    uint64_t kind = world_random(&w, 20);
    return kind < 14   ? 8 + world_random(&w, 200)
           : kind < 19 ? 8 + world_random(&w, 6000)
                       : 8 + world_random(&w, LINK_MESSAGE_BYTES_MAX - 8);
}

/* Repeated by who sends it, every message arrives; never more often than it was sent. */
void test_lossy(uint64_t seed)
{
    enum { MESSAGES = 120, ROUNDS_MAX = 400 };
    static size_t len[MESSAGES];
    static uint32_t sent[MESSAGES], from[MESSAGES], to[MESSAGES];
    world_begin(&w, seed, 3);
    w.loss_percent = 5 + (uint32_t)world_random(&w, 25);
    w.twice_percent = 20;
    w.delay_ms = (uint32_t)world_random(&w, 8);
    uint32_t missing = MESSAGES;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        len[i] = some_length();
        from[i] = (uint32_t)world_random(&w, 3);
        to[i] = (from[i] + 1 + (uint32_t)world_random(&w, 2)) % 3;
        sent[i] = 0;
    }
    for (uint32_t round = 0; missing > 0; round++) {
        CHECK(round < ROUNDS_MAX, "%u messages missing", missing);
        missing = 0;
        for (uint32_t i = 0; i < MESSAGES; i++) {
            if (w.end[to[i]].got[i] > 0 && world_random(&w, 10) > 0) {
                continue;
            }
            missing += w.end[to[i]].got[i] == 0;
            if (sent[i] > 0) {
                link_suspect(w.end[from[i]].link, &w.end[to[i]].addr);
            }
            CHECK(world_send(&w, from[i], to[i], i, len[i], i + 1), "send");
            sent[i]++;
        }
        world_run(&w, 20);
    }
    for (uint32_t i = 0; i < MESSAGES; i++) {
        for (uint32_t k = 0; k < 3; k++) {
            CHECK(w.end[k].got[i] <= (k == to[i] ? sent[i] : 0), "message %u: %u times, sent %u", i,
                  w.end[k].got[i], sent[i]);
        }
    }
    for (uint32_t k = 0; k < 3; k++) {
        link_stats s = world_stats(&w, k);
        CHECK(s.unauthentic + s.malformed + s.unknown_key + s.evicted + s.dropped_queue == 0,
              "no such thing has happened");
        CHECK(s.sessions == 2, "%" PRIu64 " sessions", s.sessions);
    }
    world_end(&w);
}

/* Sent once over a channel that repeats and reorders but loses nothing: exactly once. With loss: at
 * most once. */
void test_once(uint64_t seed)
{
    enum { MESSAGES = 400 };
    world_begin(&w, seed, 2);
    w.loss_percent = seed % 2 == 0 ? 0 : 20;
    w.twice_percent = 50;
    w.delay_ms = 5;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        CHECK(world_send(&w, i % 2, 1 - i % 2, i, some_length(), 0), "send");
        if (world_random(&w, 4) == 0) {
            world_run(&w, 1);
        }
    }
    world_run(&w, 400);
    for (uint32_t i = 0; i < MESSAGES; i++) {
        uint32_t got = w.end[1 - i % 2].got[i];
        CHECK(got <= 1 && (got == 1 || w.loss_percent > 0), "message %u: %u times", i, got);
    }
    world_run(&w, 3000);
    for (uint32_t k = 0; k < 2; k++) {
        CHECK(link_deadline(w.end[k].link) == UINT64_MAX, "something is left");
        CHECK(w.loss_percent > 0 || world_stats(&w, k).dropped_partial == 0, "left over");
    }
    world_end(&w);
}

/* 64 KiB and one datagram in ten lost: whole sendings hardly ever arrive, parts add up. */
void test_large(uint64_t seed)
{
    world_begin(&w, seed, 2);
    world_send(&w, 0, 1, 100, 20, 0);
    world_run(&w, 5);
    w.loss_percent = 10 + 10 * (uint32_t)(seed % 3);
    w.twice_percent = 5;
    w.delay_ms = 3;
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t sendings = 0;
        while (w.end[1].got[i] == 0) {
            CHECK(sendings < 12, "message %u has not arrived after %u sendings", i, sendings);
            CHECK(world_send(&w, 0, 1, i, 65536 + i * 200, 77), "send");
            sendings++;
            world_run(&w, 10);
        }
        world_run(&w, 10);
        CHECK(w.end[1].got[i] == 1, "%u times", w.end[1].got[i]);
    }
    world_end(&w);
}

/* The peer begins anew behind its address: after link_suspect it gets what is repeated. */
void test_restart(uint64_t seed)
{
    world_begin(&w, seed, 2);
    uint64_t number = 0;
    for (uint32_t round = 0; round < 6; round++) {
        number++;
        world_send(&w, 0, 1, number, 100, number);
        world_send(&w, 1, 0, number, 100, number);
        world_run(&w, 5);
        CHECK(w.end[1].got[number] == 1 && w.end[0].got[number] == 1, "round %u", round);
        CHECK(w.end[1].last_session == link_session(w.end[0].link), "session of the sender");
        uint32_t restarted = (uint32_t)world_random(&w, 2), other = 1 - restarted;
        uint64_t predecessor = link_session(w.end[restarted].link), answer = NUMBERS_MAX - 1;
        world_restart(&w, restarted);
        uint64_t hellos = world_stats(&w, other).hellos;
        uint32_t renewed = w.end[other].renewed;
        world_run(&w, 60);
        for (uint32_t repeat = 0; w.end[restarted].got[number + 1] == 0; repeat++) {
            CHECK(repeat < 3, "repeated in vain");
            if (repeat > 0) {
                link_suspect(w.end[other].link, &w.end[restarted].addr);
            }
            world_send(&w, other, restarted, number + 1, 3000, number + 1);
            world_run(&w, 5);
        }
        number++;
        CHECK(w.end[restarted].got[number] == 1, "%u times", w.end[restarted].got[number]);
        CHECK(world_stats(&w, other).hellos == hellos + 1, "one HELLO is enough");
        CHECK(w.end[other].renewed == renewed + 1, "told that what was sent before is lost");
        CHECK(world_stats(&w, other).sessions == 1, "the old session is forgotten");
        uint64_t dropped = world_stats(&w, other).dropped_answers;
        CHECK(!link_answer(w.end[other].link, &w.end[restarted].addr, predecessor, &answer, sizeof answer, 0, w.now_ns),
              "what its predecessor asked is answered");
        CHECK(link_answer(w.end[other].link, &w.end[restarted].addr, link_session(w.end[restarted].link), &answer,
                          sizeof answer, 0, w.now_ns), "what it asked itself is not");
        world_run(&w, 5);
        CHECK(w.end[restarted].got[answer] == 1 && world_stats(&w, other).dropped_answers == dropped + 1, "once");
        w.end[restarted].got[answer] = 0;
        /* Or the other one speaks first: nobody has to suspect anything. */
        world_restart(&w, restarted);
        world_send(&w, restarted, other, ++number, 50, 0);
        world_run(&w, 5);
        world_send(&w, other, restarted, number, 50, 0);
        world_run(&w, 5);
        CHECK(w.end[0].got[number] == 1 && w.end[1].got[number] == 1, "round %u", round);
        CHECK(w.end[other].renewed == renewed + 2, "told it in this case too");
        CHECK(world_stats(&w, other).hellos == hellos + 1, "answered without another handshake");
    }
    world_end(&w);
}

/* Both say HELLO at once, with every loss of the four greetings; with both restarted, too. */
void test_crossing(uint64_t seed)
{
    for (uint32_t lost = 0; lost < 16; lost++) {
        world_begin(&w, seed, 2);
        w.delay_ms = (uint32_t)world_random(&w, 4);
        for (uint32_t round = 0; round < 3; round++) {
            uint64_t number = round * 10;
            for (uint32_t i = 0; i < 3; i++) {
                world_send(&w, 0, 1, number + i, 20 + 2000 * i, 0);
                world_send(&w, 1, 0, number + i, 20 + 2000 * i, 0);
            }
            for (uint32_t step = 0, kept = 0; step < 4; step++) {
                world_collect(&w);
                for (size_t i = kept; i < w.flying; i++) {
                    if (w.flight[i].bytes[2] != 1 && (lost >> (step + i) % 4 & 1) != 0) {
                        w.flight[i] = w.flight[--w.flying];
                    }
                }
                world_run(&w, 1);
                kept = (uint32_t)w.flying;
            }
            world_run(&w, 500);
            for (uint32_t i = 0; i < 3; i++) {
                CHECK(w.end[0].got[number + i] == 1 && w.end[1].got[number + i] == 1,
                      "lost %u: message %u: %u and %u times", lost, i, w.end[0].got[number + i],
                      w.end[1].got[number + i]);
            }
            CHECK(world_stats(&w, 0).sessions == 1 && world_stats(&w, 1).sessions == 1, "sessions");
            CHECK(link_deadline(w.end[0].link) == UINT64_MAX, "HELLO after it was answered");
            world_restart(&w, 0);
            world_restart(&w, 1);
        }
        world_end(&w);
    }
}

/* A wrong key, and one that is not known: nothing, and no answer either. */
void test_keys(uint64_t seed)
{
    char why[200];
    for (uint32_t wrong_id = 0; wrong_id < 2; wrong_id++) {
        world_begin(&w, seed, 2);
        link_keys keys = world_keys(1, (const uint8_t[]){wrong_id ? 9 : 1});
        keys.key[0].bytes[31] ^= 1;
        link_free(w.end[1].link);
        w.end[1].link = link_new(&keys, 0x77, why, sizeof why);
        world_send(&w, 0, 1, 1, 20, 0);
        world_send(&w, 1, 0, 1, 20, 0);
        world_run(&w, 600);
        for (uint32_t k = 0; k < 2; k++) {
            link_stats s = world_stats(&w, k);
            CHECK(w.end[k].deliveries == 0 && s.messages_in == 0, "delivered");
            CHECK((wrong_id ? s.unknown_key : s.unauthentic) == LINK_HELLO_TRIES_MAX, "counted");
            CHECK(s.hellos == LINK_HELLO_TRIES_MAX && s.datagrams_out == s.hellos, "no answer");
            CHECK(s.dropped_waiting == 1 && s.sessions == 0, "the message is given up");
        }
        world_end(&w);
    }
    link_keys none = {.count = 0}, many = {.count = LINK_KEYS_MAX + 1},
              one = world_keys(1, (const uint8_t[]){1});
    CHECK(link_new(&none, 1, why, sizeof why) == NULL, "no key");
    CHECK(link_new(&many, 1, why, sizeof why) == NULL, "too many keys");
    CHECK(link_new(&one, 0, why, sizeof why) == NULL, "no session");
}

static void rekey(uint32_t end, uint32_t count, const uint8_t *ids)
{
    link_keys keys = world_keys(count, ids);
    link_rekey(w.end[end].link, &keys);
}

/* Add, promote, think again, promote, remove, at every end in its own time, under load: nothing is
 * lost. */
void test_rotation(uint64_t seed)
{
    enum { STEPS = 5 };
    static const uint8_t STEP[STEPS][2] = {{1, 2}, {2, 1}, {1, 2}, {2, 1}, {2, 0}};
    world_begin(&w, seed, 3);
    w.delay_ms = 2;
    w.record = true;
    uint64_t number = 0;
    for (uint32_t step = 0; step < STEPS; step++) {
        uint32_t first = (uint32_t)world_random(&w, 3);
        for (uint32_t k = 0; k <= 3; k++) {
            for (uint32_t i = 0; i < 30; i++) {
                uint32_t from = (uint32_t)world_random(&w, 3);
                CHECK(world_send(&w, from, (from + 1 + i % 2) % 3, number, some_length(), 0), "send");
                number++;
                if (i % 7 == 0) {
                    world_run(&w, 1);
                }
            }
            if (step == STEPS - 1) {
                world_run(&w, 5); /* removed when nothing sealed with it is under way */
            }
            if (k < 3) {
                rekey((first + k) % 3, STEP[step][1] == 0 ? 1 : 2, STEP[step]);
            }
        }
        world_run(&w, 5);
    }
    world_run(&w, 50);
    for (uint64_t i = 0; i < number; i++) {
        CHECK(w.end[0].got[i] + w.end[1].got[i] + w.end[2].got[i] == 1, "message %" PRIu64, i);
    }
    CHECK(world_stats(&w, 0).hellos <= 2, "the sessions stay");
    /* What was sealed with the removed key opens nothing any more, what comes newly in neither. */
    uint64_t before = world_stats(&w, 1).unknown_key;
    for (size_t i = 0; i < w.seen_count; i++) {
        if (w.seen[i].bytes[1] == 1) {
            CHECK(!world_receive(&w, 1, &w.seen[i].from, w.seen[i].bytes, w.seen[i].len), "opened");
            before++;
        }
    }
    CHECK(before > 0 && world_stats(&w, 1).unknown_key == before, "counted");
    link_keys nothing = {.count = 0};
    link_rekey(w.end[0].link, &nothing); /* refused: the keys stay */
    world_send(&w, 0, 1, number, 20, 0);
    world_run(&w, 5);
    CHECK(w.end[1].got[number] == 1, "after a refused rotation");
    world_end(&w);
}
