/* A member that has no room takes no operation of the key map, and nothing is committed before every complete member
 * has it: the leader has to notice, and nobody else must be taken for one.
 *
 * Knows: node_world.h, how a block is claimed. Must not know: how the leader counts.
 */
#include "node_world.h"
#include "seg_internal.h"

#define ITEMS 20u
#define FULL 2u /* the member that is */
#define CLAIMED_MAX 65536u

static uint32_t claimed[CLAIMED_MAX], claimed_items;
static bool cut; /* lose_operations: none gets there */
static uint64_t next_ns, every_ns;

static const char *key_of(unsigned i)
{
    static char key[16];
    snprintf(key, sizeof key, "k%u", i);
    return key;
}

/* Until nothing fits, not even a stub, which has no cell. Fences and what a living client has claimed outlive a new
 * beginning, so there is never room for more items than now. */
static void fill(uint32_t who)
{
    char name[24];
    uint32_t fence;
    seg_status status = SEG_OK;
    for (unsigned i = 0; status == SEG_OK; i++) {
        snprintf(name, sizeof name, "f%u", i);
        status = seg_fence(member[who].client, name, strlen(name), true, &fence);
    }
    CHECK(status == SEG_FULL);
    for (uint32_t ref; (ref = seg_claim_item(member[who].client, sizeof(struct item))) != 0; claimed_items++) {
        CHECK(claimed_items < CLAIMED_MAX);
        claimed[claimed_items] = ref;
    }
}

/* For the check at the end, which finds nothing locked. */
static void let_go(uint32_t who)
{
    while (claimed_items > 0) {
        seg_unlock(member[who].client, at_ref(member[who].client, claimed[--claimed_items]));
    }
}

static void three_with_items(void)
{
    world_begin(3, START_NS);
    for (unsigned i = 0; i < ITEMS; i++) {
        created(0, key_of(i), "x", 0);
    }
}

static wire_msg after_s(uint64_t id, uint64_t s)
{
    wire_msg m = {0};
    for (uint64_t ms = 0; ms < s * 1000 && answers(id, &m) == 0; ms++) {
        world_pass(1);
    }
    CHECK(answers(id, &m) == 1);
    return m;
}

/* It takes neither the creation nor, behind them, the deletions that would make room: it goes, and begins anew. */
static void goes(const char *made, const char *one, const char *other)
{
    uint64_t creation = create(0, made, "x", 0);
    uint64_t deletion[] = {ask(0, named(WIRE_DELETE, one)), ask(0, named(WIRE_DELETE, other))};
    world_pass(4500);
    CHECK(answers(creation, NULL) == 0 && answers(deletion[0], NULL) == 0);
    CHECK(node_unwanted(member[0].node) == 0);
    world_pass(1500);
    CHECK(node_unwanted(member[0].node) == BIT_OF(FULL));
    world_view(BIT_OF(0) | BIT_OF(1), 0);
    CHECK(after_s(creation, 1).status == WIRE_OK);
    CHECK(after_s(deletion[0], 1).status == WIRE_OK && after_s(deletion[1], 1).status == WIRE_OK);
    world_anew(FULL);
    world_view(BIT_OF(0) | BIT_OF(1) | BIT_OF(FULL), 0);
}

/* The first time it is back at once, the second time it rests. */
void a_full_member_goes(void)
{
    three_with_items();
    fill(FULL);
    goes("new", "k0", "k1");
    world_pass(2000);
    CHECK(stats_of(FULL).complete && stats_of(FULL).serving && knows(FULL, "new") && !knows(FULL, "k0"));
    created(1, "k0", "y", 0);
    CHECK(knows(FULL, "k0"));

    goes("newer", "k2", "k3");
    world_pass(50 * 1000);
    CHECK(!stats_of(FULL).complete && node_unwanted(member[0].node) == 0);
    created(1, "k2", "y", 0); /* nobody waits for it meanwhile, */
    CHECK(knows(FULL, "k2"));  /* and it follows */
    world_pass(15 * 1000);
    CHECK(stats_of(FULL).complete && stats_of(FULL).serving && knows(FULL, "newer"));
    let_go(FULL);
    world_end();
}

/* A map that does not fit is never taken for whole, and is in nobody's way. When it fits, it is. */
void a_full_joiner_waits(void)
{
    three_with_items();
    fill(FULL);
    world_view(BIT_OF(0) | BIT_OF(1), 0);
    world_pass(100);
    for (unsigned i = 0; i < 4; i++) {
        created(0, key_of(ITEMS + i), "x", 0);
    }
    world_anew(FULL);
    world_view(BIT_OF(0) | BIT_OF(1) | BIT_OF(FULL), 0);
    for (unsigned minute = 0; minute < 3; minute++) {
        world_pass(60 * 1000);
        CHECK(!stats_of(FULL).complete && node_unwanted(member[0].node) == 0);
    }
    created(1, "between", "x", 0);
    for (unsigned i = 0; i < 6; i++) {
        CHECK(answer_within(0, named(WIRE_DELETE, key_of(i)), 1000).status == WIRE_OK);
    }
    world_pass(130 * 1000);
    CHECK(stats_of(FULL).complete && stats_of(FULL).items == stats_of(0).items);
    CHECK(knows(FULL, "between") && !knows(FULL, "k0"));
    let_go(FULL);
    world_end();
}

/* To FULL; now and then the next one is let through. */
static bool lose_operations(uint32_t from, uint32_t to, const wire_msg *m)
{
    (void)from;
    if (to != FULL || m->type != WIRE_OP) {
        return false;
    }
    if (cut || now_ns < next_ns || m->seq != stats_of(FULL).applied + 1) {
        return true;
    }
    next_ns = now_ns + every_ns;
    return false;
}

static void lag(uint64_t every)
{
    cut = every == 0;
    every_ns = every;
    next_ns = now_ns + every;
    lost = lose_operations;
}

/* Any progress will do, and who begins to lag after a long time without operations has all of the time. */
void who_is_slow_stays(void)
{
    three_with_items();
    world_pass(30 * 1000);
    lag(4 * S);
    uint64_t last = 0;
    for (unsigned i = 0; i < 8; i++) {
        last = create(0, key_of(ITEMS + i), "x", 0);
    }
    for (unsigned s = 0; s < 30; s++) {
        world_pass(1000);
        CHECK(node_unwanted(member[0].node) == 0 && answers(last, NULL) == 0);
    }
    CHECK(after_s(last, 10).status == WIRE_OK);
    lag(0); /* none at all, then, but it is heard */
    (void)create(FULL, "never", "x", 0);
    world_pass(6500);
    CHECK(node_unwanted(member[0].node) == BIT_OF(FULL));
    world_end();
}

/* Who says nothing is the registry's business; who speaks again has the time anew. */
void who_was_silent_stays(void)
{
    three_with_items();
    member[FULL].stopped = true;
    uint64_t id = create(0, "new", "x", 0);
    world_pass(20 * 1000);
    CHECK(node_unwanted(member[0].node) == 0);
    lag(0);
    member[FULL].stopped = false;
    (void)create(FULL, "other", "x", 0); /* it is heard again */
    world_pass(4500);
    CHECK(node_unwanted(member[0].node) == 0 && answers(id, NULL) == 0);
    lost = NULL;
    CHECK(after_s(id, 2).status == WIRE_OK && node_unwanted(member[0].node) == 0);
    world_end();
}

void a_leader_that_was_stopped_judges_nobody(void)
{
    three_with_items();
    lag(0);
    uint64_t id = create(0, "new", "x", 0);
    world_pass(3000);
    member[0].stopped = true;
    world_pass(20 * 1000);
    member[0].stopped = false;
    (void)create(FULL, "other", "x", 0); /* it hears this before it looks at its clocks */
    world_pass(1);
    CHECK(node_unwanted(member[0].node) == 0);
    lost = NULL;
    CHECK(after_s(id, 2).status == WIRE_OK && node_unwanted(member[0].node) == 0);
    world_end();
}

static bool lose_what_leads(uint32_t from, uint32_t to, const wire_msg *m)
{
    (void)to, (void)m;
    return from == 0;
}

/* It hears the others and is heard by nobody, the registry included: its lease ends, and the others have what it
 * lacks (chaos, one-way-from-active-mgmt: back in the view and told that they are stuck, it evicted both). */
void a_leader_without_a_lease_judges_nobody(void)
{
    lease_ns = 3 * S;
    three_with_items();
    node_set_lease(member[1].node, now_ns + 3600 * S, now_ns);
    node_set_lease(member[2].node, now_ns + 3600 * S, now_ns);
    lost = lose_what_leads;
    uint64_t id = create(0, "new", "x", 0);
    for (uint32_t who = 1; who < 3; who++) {
        (void)create(who, "other", "x", 0);
    }
    world_pass(20 * 1000);
    CHECK(node_unwanted(member[0].node) == 0 && answers(id, NULL) == 0);
    lost = NULL;
    node_set_lease(member[0].node, now_ns + 3600 * S, now_ns);
    CHECK(after_s(id, 2).status == WIRE_OK && node_unwanted(member[0].node) == 0);
    world_end();
}

/* One message with a capacity that no segment has would stop every replica. */
void a_capacity_beyond_all_values(void)
{
    wire_msg m = writes("huge", "x");
    world_begin(3, START_NS);
    m.type = WIRE_CREATE;
    m.mask |= WIRE_HOME | WIRE_NUMBER;
    m.home.want = 2;
    m.number = SEG_VALUE_BYTES_MAX + 1;
    CHECK(answer_within(0, m, 1000).status == SEG_TOO_BIG);
    CHECK(answer_within(1, m, 1000).status == SEG_TOO_BIG);
    /* A member of an earlier version proposes it all the same. */
    m.type = WIRE_PROPOSE;
    m.mask |= WIRE_ID | WIRE_SUB;
    m.sub = WIRE_OP_CREATE;
    m.id = 1ull << 60;
    m.home.master = 1;
    say(1, 0, m);
    created(0, "new", "x", 2);
    CHECK(!knows(0, "huge"));
    m.type = WIRE_CREATE;
    m.key = "large";
    m.key_len = 5;
    m.number = SEG_VALUE_BYTES_MAX;
    CHECK(answer_within(0, m, 1000).status == WIRE_OK);
    world_end();
}
