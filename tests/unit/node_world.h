/* A few real members over small segments, joined by a network in memory: what the cases of node_*_cases.c share.
 *
 * Knows: node.h, segment.h, wire.h. Must not know: what a case is about.
 *
 * The link is replaced: messages travel in the clear and in order, and a case may lose any of them. Time is
 * virtual and passes in steps of a millisecond, one tick of every member each.
 */
#ifndef NODE_WORLD_H
#define NODE_WORLD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node.h"

#define MEMBERS_MAX 3u
#define CLIENT 100u /* who asks; members are 0, 1, 2 */
#define MS 1000000ull
#define S 1000000000ull
#define START_NS (1000 * S)
#define BIT_OF(member) ((uint16_t)(1u << (member)))
#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #condition); \
            _Exit(1);                                                               \
        }                                                                           \
    } while (0)

struct link {
    uint32_t who;
};

struct member {
    char path[64];
    seg *seg, *client; /* the server's, and that of a process beside it */
    struct link link;
    node *node;
    uint64_t incarnation;
    bool stopped; /* hears nothing, does nothing */
};

extern struct member member[MEMBERS_MAX];
extern uint64_t now_ns;
extern node_view view;
extern size_t fail_malloc_bytes; /* of the code under test; 0: none */
/* May this message be lost? NULL: none is. */
extern bool (*lost)(uint32_t from, uint32_t to, const wire_msg *m);
extern uint64_t lease_ns; /* of a member that begins */

/* `members` of them, the first leads, all complete and serving. */
void world_begin(uint32_t members, uint64_t at_ns);
void world_end(void);
/* The next view, told to all who run. */
void world_view(uint16_t present, uint8_t leader);
void world_pass(uint64_t ms);
/* The process of that member is another one, over the same segment. */
void world_restart(uint32_t who);
/* It begins anew, as who was evicted does; no view has it yet. */
void world_anew(uint32_t who);

/* A client's request; its id. The messages that follow from it travel at once, without a tick. */
uint64_t ask(uint32_t to, wire_msg m);
/* Again, under the id that it had. */
void ask_again(uint32_t to, wire_msg m, uint64_t id);
/* As that member would. */
void say(uint32_t from, uint32_t to, wire_msg m);
/* Answers to it so far; `out` (may be NULL) is the last one. */
uint32_t answers(uint64_t id, wire_msg *out);
/* Ask, and wait for the answer at most so long. */
wire_msg answer_within(uint32_t to, wire_msg m, uint64_t ms);
uint64_t create(uint32_t at, const char *key, const char *value, uint8_t replicas);
void created(uint32_t at, const char *key, const char *value, uint8_t replicas);
wire_msg named(uint8_t type, const char *key);
wire_msg writes(const char *key, const char *value);

node_stats stats_of(uint32_t who);
bool knows(uint32_t who, const char *key);
/* What stands there, whoever is its master. */
bool holds(uint32_t who, const char *key, const char *value);

/* ---- node_full_cases.c ---- */
void a_full_member_goes(void);
void a_full_joiner_waits(void);
void who_is_slow_stays(void);
void who_was_silent_stays(void);
void a_leader_that_was_stopped_judges_nobody(void);
void a_leader_without_a_lease_judges_nobody(void);
void a_capacity_beyond_all_values(void);

#endif
