/* Endpoints over a channel that loses, repeats and reorders: shared by the link's tests.
 *
 * Knows: the link's public interface. Must not know: what a test wants to prove.
 *
 * A message of the tests: its number 8 | bytes that follow from the number and the length. So every
 * delivery can be checked, and counted by number.
 */
#ifndef LINK_WORLD_H
#define LINK_WORLD_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "link.h"

#define CHECK(condition, ...)                                            \
    do {                                                                 \
        if (!(condition)) {                                              \
            printf("%s:%d: %s; ", __FILE__, __LINE__, #condition);       \
            printf(__VA_ARGS__);                                         \
            printf("\n");                                                \
            fflush(stdout);                                              \
            exit(1);                                                     \
        }                                                                \
    } while (0)

#define ENDS_MAX 4u
#define NUMBERS_MAX 20000u
#define MS 1000000ull

struct world;

struct end {
    struct world *world;
    struct link *link;
    link_addr addr;
    uint32_t got[NUMBERS_MAX]; /* deliveries by message number */
    uint64_t deliveries, last_session;
    link_addr last_from;
    uint32_t renewed; /* datagrams that proved another session than the one known */
};

struct datagram {
    link_addr from, to;
    uint64_t due_ns;
    size_t len;
    uint8_t bytes[LINK_DATAGRAM_BYTES_MAX];
};

struct world {
    uint64_t random, now_ns, sessions;
    uint32_t loss_percent, twice_percent, delay_ms; /* a datagram takes 0..delay_ms */
    struct end end[ENDS_MAX];
    uint32_t ends;
    struct datagram *flight, *seen; /* under way; every one ever sent, if `record` */
    size_t flying, flight_room, seen_count, seen_room;
    bool record;
};

void world_begin(struct world *w, uint64_t seed, uint32_t ends);
void world_end(struct world *w);
uint64_t world_random(struct world *w, uint64_t below);
link_keys world_keys(uint32_t count, const uint8_t *ids);
link_addr world_addr(uint32_t number);
/* A new incarnation behind the same address. */
void world_restart(struct world *w, uint32_t end);
/* Send the test message of that number; tag 0: never repeated. */
bool world_send(struct world *w, uint32_t from, uint32_t to, uint64_t number, size_t len,
                uint64_t tag);
/* Into the channel what the endpoints have; then `ms` steps of one millisecond. */
void world_collect(struct world *w);
void world_run(struct world *w, uint32_t ms);
bool world_receive(struct world *w, uint32_t end, const link_addr *from, const void *bytes,
                   size_t len);
link_stats world_stats(const struct world *w, uint32_t end);

/* One function per mode of the program. */
void test_lossy(uint64_t seed);
void test_once(uint64_t seed);
void test_large(uint64_t seed);
void test_restart(uint64_t seed);
void test_crossing(uint64_t seed);
void test_replay(uint64_t seed);
void test_claims(uint64_t seed);
void test_welcome(uint64_t seed);
void test_reflection(uint64_t seed);
void test_flips(uint64_t seed);
void test_keys(uint64_t seed);
void test_rotation(uint64_t seed);
void test_limits(uint64_t seed);
void test_partials(uint64_t seed);
void test_peers(uint64_t seed);
void test_window(uint64_t seed);
void test_forgotten(uint64_t seed);
void test_payloads(uint64_t seed);

#endif
