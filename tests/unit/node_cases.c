/* What members do when something is in their way: one case per run, by its name (test_statestore_node.py).
 *
 * Knows: node_world.h. Must not know: the member's inside.
 */
#include "node_world.h"
#include "seg_internal.h"

/* A host's clock passes the number that ids begin above: who is restarted then still proposes with higher ones
 * than its predecessor, which the leader has seen. */
static void ids_go_on_past_any_uptime(void)
{
    world_begin(3, (1ull << 50) - 2 * S);
    created(1, "before", "x", 1);
    world_pass(3000);
    world_restart(1);
    world_pass(1000);
    CHECK(stats_of(1).phase == NODE_ACTIVE);
    created(1, "after", "x", 1);
    world_end();
}

static bool lose_copies(uint32_t from, uint32_t to, const wire_msg *m)
{
    (void)from, (void)to;
    return m->type == WIRE_COPY;
}

/* A member that takes no copy does not hold others' requests for ever. */
static void who_waits_too_long_is_told(void)
{
    wire_msg write = writes("k", "new"), read = named(WIRE_READ, "k"), move = named(WIRE_MOVE, "k"), m;
    world_begin(2, START_NS);
    created(0, "k", "old", 1);
    world_pass(50);
    lost = lose_copies;
    write.flags = read.flags = WIRE_SYNC;
    move.slot = 1;
    uint64_t id[] = {ask(0, write), ask(0, read), ask(0, move)};
    uint8_t says[] = {WIRE_IN_DOUBT, WIRE_LATER, WIRE_IN_DOUBT};
    world_pass(9000);
    CHECK(stats_of(0).requests == 3);
    world_pass(3000);
    for (int i = 0; i < 3; i++) {
        CHECK(answers(id[i], &m) == 1 && m.status == says[i]);
    }
    CHECK(stats_of(0).requests == 0);
    lost = NULL;
    world_pass(2000);
    CHECK(holds(1, "k", "new") && answers(id[0], &m) == 1 && answers(id[2], &m) == 1);
    m = answer_within(1, named(WIRE_READ, "k"), 100); /* it has moved all the same */
    CHECK(m.status == WIRE_OK && m.value_len == 3);
    world_end();
}

/* An item's change waits to be sent, the item goes, another one takes its place and is changed. */
static void a_place_that_is_anothers_now(void)
{
    enum { ITEMS = 40 }; /* more than may be on their way to one member */
    char key[16] = "";
    wire_msg m;
    seg_handle was, is;
    world_begin(2, START_NS);
    for (int i = 0; i < ITEMS; i++) {
        snprintf(key, sizeof key, "k%d", i);
        created(0, key, "old", 1);
    }
    world_pass(100);
    CHECK(stats_of(0).dirty == 0);
    lost = lose_copies;
    for (int i = 0; i < ITEMS; i++) {
        snprintf(key, sizeof key, "k%d", i);
        CHECK(answers(ask(0, writes(key, "new")), &m) == 1 && m.status == WIRE_OK);
    }
    world_pass(20);
    CHECK(stats_of(0).dirty > 0);
    CHECK(seg_lookup(member[0].seg, key, strlen(key), &was) == SEG_OK);
    CHECK(answers(ask(0, named(WIRE_DELETE, key)), &m) == 1 && m.status == WIRE_OK);
    CHECK(answers(create(0, "other", "old", 1), &m) == 1 && m.status == WIRE_OK);
    CHECK(seg_lookup(member[0].seg, "other", 5, &is) == SEG_OK && is.item == was.item);
    CHECK(answers(ask(0, writes("other", "new")), &m) == 1 && m.status == WIRE_OK);
    world_pass(5);
    lost = NULL;
    world_pass(3000);
    CHECK(holds(1, "k0", "new") && holds(1, "other", "new"));
    CHECK(stats_of(0).dirty == 0 && stats_of(0).flight == 0);
    world_end();
}

/* One damaged item does not hide those behind it: after a death they get their new master. */
static void a_damaged_item_is_passed_over(void)
{
    seg_handle h;
    world_begin(2, START_NS);
    created(1, "first", "x", 1);
    created(1, "second", "y", 1);
    created(1, "third", "z", 1);
    world_pass(100);
    CHECK(stats_of(0).items == 3 && stats_of(0).damaged == 0 && stats_of(0).replicas == 3);
    CHECK(seg_lookup(member[0].seg, "first", 5, &h) == SEG_OK);
    struct item *it = at_ref(member[0].client, h.item);
    uint64_t next = peek(&it->next);
    poke(&it->next, next & ~KEYED);
    CHECK(stats_of(0).items == 2 && stats_of(0).damaged == 1);
    member[1].stopped = true;
    world_view(BIT_OF(0), 0);
    world_pass(500);
    CHECK(stats_of(0).promoted == 2 && stats_of(0).masters == 2);
    wire_msg m = answer_within(0, named(WIRE_READ, "third"), 100);
    CHECK(m.status == WIRE_OK && m.value_len == 1);
    poke(&it->next, next);
    world_end();
}

/* Right after a death every home says who the heir is, what is asked for is served, and the rest waits. */
static void a_death_is_one_word(void)
{
    seg_handle h;
    seg_facts f;
    world_begin(3, START_NS);
    created(2, "one", "x", 2);
    created(2, "two", "y", 2);
    created(2, "lost", "z", 0);
    created(0, "mine", "m", 2);
    world_pass(100);
    CHECK(stats_of(2).masters == 3);
    member[2].stopped = true;
    world_view(BIT_OF(0) | BIT_OF(1), 0);
    world_pass(20);
    static const char *const keys[] = {"one", "two", "mine"};
    for (unsigned k = 0; k < 3; k++) {
        uint8_t heirs[2];
        for (uint32_t at = 0; at < 2; at++) {
            CHECK(seg_bequest_of(member[at].client) != 0 && stats_of(at).promoted <= k);
            CHECK(seg_lookup(member[at].client, keys[k], strlen(keys[k]), &h) == SEG_OK);
            CHECK(seg_facts_read(member[at].client, &h, &f) == SEG_OK);
            CHECK((f.home.replicas & BIT_OF(2)) == 0 && f.home.master < 2 && f.legacy != SEG_LOST);
            heirs[at] = f.home.master;
        }
        CHECK(heirs[0] == heirs[1]);
        CHECK(answer_within(heirs[0], writes(keys[k], "new"), 50).status == WIRE_OK);
    }
    CHECK(stats_of(0).promoted + stats_of(1).promoted == 2);
    CHECK(answer_within(0, named(WIRE_LOOKUP, "lost"), 10).status == SEG_NOT_FOUND);
    CHECK(answer_within(1, named(WIRE_READ, "lost"), 10).status == WIRE_MISS);
    created(1, "lost", "again", 1);
    world_pass(500);
    for (uint32_t at = 0; at < 2; at++) {
        CHECK(seg_bequest_of(member[at].client) == 0 && holds(at, "one", "new") && holds(at, "lost", "again"));
    }
    CHECK(stats_of(0).promoted + stats_of(1).promoted == 2 && stats_of(0).lost == 1 && stats_of(1).lost == 1);
    CHECK(stats_of(0).masters + stats_of(1).masters == 4);
    world_end();
}

/* An heir whose process is another one before the homes are written goes on, and so does one that sees the
 * next death by then. */
static void an_heir_is_restarted(void)
{
    enum { ITEMS = 12 };
    char key[8];
    world_begin(3, START_NS);
    for (unsigned i = 0; i < ITEMS; i++) {
        snprintf(key, sizeof key, "k%u", i);
        created(2, key, "x", 2);
    }
    world_pass(100);
    member[2].stopped = true;
    world_view(BIT_OF(0) | BIT_OF(1), 0);
    world_pass(20);
    world_restart(1);
    CHECK(seg_bequest_of(member[1].client) != 0);
    world_view(BIT_OF(0) | BIT_OF(1), 0);
    world_pass(20);
    member[1].stopped = true;
    world_view(BIT_OF(0), 0);
    world_pass(500);
    CHECK(stats_of(0).masters == ITEMS && stats_of(0).lost == 0 && seg_bequest_of(member[0].client) == 0);
    for (unsigned i = 0; i < ITEMS; i++) {
        snprintf(key, sizeof key, "k%u", i);
        CHECK(answer_within(0, writes(key, "y"), 50).status == WIRE_OK);
    }
    world_end();
}

/* Who watches from the first change on hears of the first change. */
static void a_watch_of_a_fresh_feed(void)
{
    seg_stats s;
    wire_msg poll = named(WIRE_POLL, ""), m;
    bool deleted = true;
    const void *key;
    size_t len;
    world_begin(1, START_NS);
    CHECK(seg_stats_read(member[0].client, &s) == SEG_OK && s.feed_sequence == 0);
    poll.mask |= WIRE_NUMBER;
    m = answer_within(0, poll, 10);
    CHECK(m.status == WIRE_OK && m.value_len == 0);
    poll.number = m.number;
    created(0, "k", "v", 0);
    m = answer_within(0, poll, 10);
    CHECK(m.status == WIRE_OK && m.value_len > 0);
    wire_reader r = {m.value, (const uint8_t *)m.value + m.value_len};
    CHECK(wire_take_change(&r, &deleted, &key, &len) && !deleted && len == 1 && memcmp(key, "k", 1) == 0);
    poll.number = m.number;
    m = answer_within(0, poll, 10);
    CHECK(m.status == SEG_NOT_FOUND && m.number == poll.number);
    world_end();
}

/* A read that waits for copies and has no memory to remember its value does not answer an empty one. */
static void a_read_without_memory(void)
{
    enum { LONG = 777 };
    char value[LONG + 1];
    wire_msg read = named(WIRE_READ, "k"), m;
    memset(value, 'v', LONG);
    value[LONG] = '\0';
    world_begin(2, START_NS);
    created(0, "k", value, 1);
    world_pass(50);
    lost = lose_copies;
    CHECK(answers(ask(0, writes("k", value)), &m) == 1 && m.status == WIRE_OK);
    read.flags = WIRE_SYNC;
    fail_malloc_bytes = LONG + 1;
    uint64_t id = ask(0, read);
    fail_malloc_bytes = 0;
    lost = NULL;
    world_pass(2000);
    CHECK(answers(id, &m) == 1 && m.status == WIRE_LATER);
    CHECK(stats_of(0).requests == 0);
    world_end();
}

/* A repetition of a read that waits is not another read that waits. */
static void a_repeated_read(void)
{
    wire_msg read = named(WIRE_READ, "k"), ensure = named(WIRE_ENSURE, "k"), m;
    world_begin(2, START_NS);
    created(0, "k", "old", 1);
    world_pass(50);
    lost = lose_copies;
    CHECK(answers(ask(0, writes("k", "new")), &m) == 1 && m.status == WIRE_OK);
    read.flags = WIRE_SYNC;
    uint64_t id[] = {ask(0, read), ask(0, ensure), ask(0, read)};
    for (int i = 0; i < 20; i++) {
        ask_again(0, read, id[0]);
        ask_again(0, ensure, id[1]);
        world_pass(10);
    }
    CHECK(stats_of(0).requests == 3);
    lost = NULL;
    world_pass(2000);
    for (int i = 0; i < 3; i++) {
        CHECK(answers(id[i], &m) == 1 && m.status == WIRE_OK);
    }
    CHECK(stats_of(0).requests == 0);
    ask_again(0, read, id[0]); /* its answer was lost */
    CHECK(answers(id[0], &m) == 2 && m.status == WIRE_OK && m.value_len == 3);
    world_end();
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"ids", ids_go_on_past_any_uptime},
    {"overdue", who_waits_too_long_is_told},
    {"place", a_place_that_is_anothers_now},
    {"damaged", a_damaged_item_is_passed_over},
    {"death", a_death_is_one_word},
    {"heir-restarted", an_heir_is_restarted},
    {"feed", a_watch_of_a_fresh_feed},
    {"memory", a_read_without_memory},
    {"repeated", a_repeated_read},
    {"full", a_full_member_goes},
    {"full-joiner", a_full_joiner_waits},
    {"slow", who_is_slow_stays},
    {"silent", who_was_silent_stays},
    {"leader-stopped", a_leader_that_was_stopped_judges_nobody},
    {"leader-cut", a_leader_without_a_lease_judges_nobody},
    {"capacity", a_capacity_beyond_all_values},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(argv[1], cases[i].name) == 0) {
            cases[i].run();
            printf("ok\n");
            return 0;
        }
    }
    fprintf(stderr, "usage: node_cases CASE\n");
    return 2;
}
