/* What the functions for a cluster promise, one after another, by one client at rest. */
#include "segment_stress.h"

static seg_handle find(seg *s, const char *key)
{
    seg_handle h;
    CHECK(seg_lookup(s, key, strlen(key), &h) == SEG_OK, "lookup of %s", key);
    return h;
}

static seg_facts facts(seg *s, const seg_handle *h)
{
    seg_facts f;
    CHECK(seg_facts_read(s, h, &f) == SEG_OK, "facts");
    return f;
}

static bool same_home(seg_home a, seg_home b)
{
    return a.replicas == b.replicas && a.learners == b.learners && a.master == b.master &&
           a.want == b.want && a.hint == b.hint;
}

static seg_status write_to(seg *s, const char *key, const char *value)
{
    seg_op op = {.verb = SEG_WRITE, .data = value, .len = strlen(value)};
    return update(s, key, &op);
}

/* The value any copy has, and its version. */
static void peeked(seg *s, const char *key, const char *value, uint64_t version)
{
    uint8_t out[SEG_VALUE_BYTES_MAX];
    size_t len;
    seg_facts f;
    seg_handle h = {0};
    CHECK(seg_peek(s, key, strlen(key), &h, out, sizeof out, &len, &f) == SEG_OK, "peek %s", key);
    CHECK(len == strlen(value) && memcmp(out, value, len) == 0, "%s is %.*s", key, (int)len, out);
    CHECK(f.version == version && f.len == len && !f.stub, "%s is at %lu", key, f.version);
}

static void at(seg *s, const char *key, const char *value, uint64_t version)
{
    uint8_t out[SEG_VALUE_BYTES_MAX];
    size_t len;
    uint64_t now;
    CHECK(get_value(s, key, out, &len, &now) == SEG_OK, "read of %s", key);
    CHECK(len == strlen(value) && memcmp(out, value, len) == 0, "%s is %.*s", key, (int)len, out);
    CHECK(now == version, "%s is at %lu, not %lu", key, now, version);
    peeked(s, key, value, version);
}

static void is_away(seg *s, const char *key)
{
    uint8_t out[SEG_VALUE_BYTES_MAX];
    size_t len;
    seg_op ops[] = {{.verb = SEG_WRITE, .data = "x", .len = 1},
                    {.verb = SEG_APPEND, .data = "x", .len = 1},
                    {.verb = SEG_SWAP, .data = "x", .len = 1},
                    {.verb = SEG_ADD, .delta = 1}};
    CHECK(get_value(s, key, out, &len, NULL) == SEG_AWAY, "%s was read", key);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        CHECK(update(s, key, &ops[i]) == SEG_AWAY, "verb %zu on %s", i, key);
    }
}

static seg_copy copy_of(const char *value, uint64_t auth, uint64_t version)
{
    return (seg_copy){.auth = auth, .version = version, .value = value, .len = strlen(value)};
}

static void expect_feed(seg *s, seg_cursor *c, const char *key)
{
    uint8_t found[SEG_KEY_BYTES_MAX];
    size_t len;
    bool deleted;
    CHECK(seg_poll(s, c, key, strlen(key), found, &len, &deleted) == SEG_OK, "%s was not told", key);
}

static void nothing_fed(seg *s, seg_cursor *c)
{
    uint8_t found[SEG_KEY_BYTES_MAX];
    size_t len;
    bool deleted;
    CHECK(seg_poll(s, c, "", 0, found, &len, &deleted) == SEG_NOT_FOUND, "somebody was told");
}

static void masters_and_copies(seg *s)
{
    seg_handle h, again;
    seg_cursor c;
    uint8_t out[16];
    size_t len;
    seg_copy copy = copy_of("one", 7, 41);
    copy.home = (seg_home){.replicas = 0xa5c3, .learners = 0x1234, .master = 11, .want = 15,
                           .hint = SEG_HINT_PIN};
    CHECK(seg_watch(s, &c) == SEG_OK, "watch");
    CHECK(seg_plant(s, "m", 1, &copy, &h) == SEG_OK && h.auth == 7, "plant");
    expect_feed(s, &c, "m");
    CHECK(seg_plant(s, "m", 1, &copy, &again) == SEG_EXISTS, "planted twice");
    at(s, "m", "one", 41);
    seg_facts f = facts(s, &h);
    CHECK(f.auth == 7 && !f.away && !f.stub && f.acked == 0 && f.deadline_ns == 0, "facts of m");
    CHECK(same_home(f.home, copy.home), "home of m");

    /* Local writes count on from the version that was planted. */
    CHECK(write_to(s, "m", "two") == SEG_OK, "write");
    at(s, "m", "two", 42);
    seg_op op = {.verb = SEG_SWAP, .data = "no", .len = 2, .version = 41};
    CHECK(update(s, "m", &op) == SEG_CHANGED, "swap of another version");
    op.version = 42;
    CHECK(update(s, "m", &op) == SEG_OK, "swap");
    at(s, "m", "no", 43);
    f = facts(s, &h);

    seg_ack(s, &h, f.control);
    CHECK(facts(s, &h).acked == f.control, "ack");
    seg_ack(s, &h, f.control - 1);
    CHECK(facts(s, &h).acked == f.control, "ack lowered");
    CHECK(seg_freeze(s, &h) == SEG_OK, "freeze");
    expect_feed(s, &c, "m");
    is_away(s, "m");
    peeked(s, "m", "no", 43);
    f = facts(s, &h);
    CHECK(f.away && f.acked == f.control, "a frozen item loses its acknowledgement");
    seg_ack(s, &h, 0);
    CHECK(facts(s, &h).acked == 0, "ack is not set to 0");
    CHECK(seg_freeze(s, &h) == SEG_OK && facts(s, &h).control == f.control, "freeze twice");

    /* Copies: only newer ones. */
    copy = copy_of("same", 7, 43);
    CHECK(seg_overwrite(s, &h, &copy) == SEG_CHANGED, "the same version was written");
    copy.version = 42;
    CHECK(seg_overwrite(s, &h, &copy) == SEG_CHANGED, "an older version was written");
    copy = copy_of("sixty", 7, 60);
    copy.deadline_ns = 1234;
    CHECK(seg_overwrite(s, &h, &copy) == SEG_OK, "overwrite");
    peeked(s, "m", "sixty", 60);
    CHECK(facts(s, &h).deadline_ns == 1234 && facts(s, &h).away, "facts of the copy");
    CHECK(same_home(facts(s, &h).home, f.home), "a copy changed the home");
    copy.version = 1ull << 63;
    CHECK(seg_overwrite(s, &h, &copy) == SEG_INVALID, "version of 64 bits");

    /* Another number for the same value: nobody is told. */
    CHECK(seg_watch(s, &c) == SEG_OK, "watch");
    CHECK(seg_renumber(s, &h, 59, 70) == SEG_CHANGED, "renumbered from another version");
    peeked(s, "m", "sixty", 60);
    CHECK(seg_renumber(s, &h, 60, 1ull << 63) == SEG_INVALID, "renumbered to 64 bits");
    f = facts(s, &h);
    CHECK(seg_renumber(s, &h, 60, 70) == SEG_OK, "renumber");
    peeked(s, "m", "sixty", 70);
    CHECK(facts(s, &h).control == f.control && facts(s, &h).deadline_ns == 1234, "renumbered only");
    CHECK(seg_renumber(s, &h, 60, 70) == SEG_OK && seg_renumber(s, &h, 1, 69) == SEG_OK,
          "renumbered again");
    peeked(s, "m", "sixty", 70);
    CHECK(seg_inherit(s, &h, 12) == SEG_OK, "inherit");
    at(s, "m", "sixty", 71);
    CHECK(seg_renumber(s, &h, 71, 72) == SEG_INVALID, "a master was renumbered");
    nothing_fed(s, &c);
    CHECK(seg_freeze(s, &h) == SEG_OK, "freeze");
    copy.version = 80;
    copy.deadline_ns = 1234;
    CHECK(seg_overwrite(s, &h, &copy) == SEG_OK, "overwrite");

    CHECK(seg_thaw(s, &h, 12) == SEG_OK, "thaw");
    at(s, "m", "sixty", 81);
    CHECK(facts(s, &h).deadline_ns == 1234, "thawed without its deadline");
    CHECK(seg_overwrite(s, &h, &copy) == SEG_INVALID, "a master was overwritten");
    CHECK(seg_thaw(s, &h, 1000) == SEG_OK, "thaw what is not away");
    at(s, "m", "sixty", 81);
    CHECK(seg_freeze(s, &h) == SEG_OK && seg_thaw(s, &h, 5ull << 36) == SEG_OK, "thaw in an epoch");
    at(s, "m", "sixty", 5ull << 36);
    op = (seg_op){.verb = SEG_APPEND, .data = "e", .len = 1};
    CHECK(seg_freeze(s, &h) == SEG_OK && seg_thaw(s, &h, 0) == SEG_OK, "thaw");
    CHECK(update(s, "m", &op) == SEG_OK, "append");
    CHECK(facts(s, &h).version == (5ull << 36) + 2, "append in place counts on: %lx",
          facts(s, &h).version);

    /* Stubs. */
    seg_home home = facts(s, &h).home;
    CHECK(seg_strip(s, &h) == SEG_OK, "strip");
    f = facts(s, &h);
    CHECK(f.stub && f.away && f.len == 0 && f.version == 0 && f.deadline_ns == 0, "stub");
    CHECK(same_home(f.home, home), "strip changed the home");
    is_away(s, "m");
    CHECK(seg_peek(s, "m", 1, &h, out, sizeof out, &len, NULL) == SEG_AWAY, "a stub was read");
    CHECK(seg_thaw(s, &h, 0) == SEG_INVALID, "a stub was thawed");
    CHECK(seg_renumber(s, &h, 0, 1) == SEG_CHANGED, "a stub was renumbered");
    CHECK(seg_strip(s, &h) == SEG_OK && seg_freeze(s, &h) == SEG_OK, "strip twice");
    copy = copy_of("3", 7, 3);
    CHECK(seg_overwrite(s, &h, &copy) == SEG_OK, "a stub takes any version");
    peeked(s, "m", "3", 3);
    CHECK(seg_peek(s, "m", 1, &h, out, 0, &len, NULL) == SEG_TOO_BIG && len == 1, "peek, no room");
    CHECK(seg_thaw(s, &h, 0) == SEG_OK, "thaw");
    at(s, "m", "3", 4);
    CHECK(write_to(s, "m", "5") == SEG_OK, "write");
    at(s, "m", "5", 5);
    CHECK(seg_uproot(s, &h) == SEG_OK, "uproot");
    expect_feed(s, &c, "m");
    CHECK(seg_lookup(s, "m", 1, &again) == SEG_NOT_FOUND, "uprooted and there");
    CHECK(seg_facts_read(s, &h, &f) == SEG_NOT_FOUND, "facts of nothing");
    CHECK(seg_freeze(s, &h) == SEG_NOT_FOUND && seg_thaw(s, &h, 0) == SEG_NOT_FOUND &&
              seg_strip(s, &h) == SEG_NOT_FOUND && seg_uproot(s, &h) == SEG_NOT_FOUND &&
              seg_overwrite(s, &h, &copy) == SEG_NOT_FOUND &&
              seg_home_write(s, &h, &f.home) == SEG_NOT_FOUND,
          "something was done to nothing");
    copy = (seg_copy){.auth = 9, .stub = true, .away = true};
    CHECK(seg_plant(s, "m", 1, &copy, &h) == SEG_OK && facts(s, &h).stub, "plant a stub");
    copy.away = false;
    CHECK(seg_plant(s, "n", 1, &copy, &again) == SEG_INVALID, "a stub that is not away");
    copy = copy_of("x", 0, 1);
    CHECK(seg_plant(s, "n", 1, &copy, &again) == SEG_INVALID, "planted without auth");
    CHECK(seg_uproot(s, &h) == SEG_OK, "uproot a stub");
    CHECK(seg_watch(s, &c) == SEG_OK, "watch");
    seg_note(s, "elsewhere", 9);
    expect_feed(s, &c, "elsewhere");
    keep(s);
    sound(s, "masters and copies", true);
}

/* An item's slot has had many versions before: a planted version does not depend on them. */
static void versions(seg *s)
{
    for (int life = 0; life < 20; life++) {
        seg_copy copy = copy_of("v", 100 + (uint64_t)life, 1);
        seg_handle h;
        copy.away = life % 2 == 0;
        CHECK(seg_plant(s, "v", 1, &copy, &h) == SEG_OK, "plant");
        CHECK(facts(s, &h).version == 1, "life %d begins at %lu", life, facts(s, &h).version);
        CHECK(!copy.away || seg_thaw(s, &h, 0) == SEG_OK, "thaw");
        uint64_t version = copy.away ? 2 : 1;
        for (int i = 0; i < 5; i++) {
            CHECK(write_to(s, "v", "w") == SEG_OK, "write");
            at(s, "v", "w", ++version);
        }
        CHECK(seg_uproot(s, &h) == SEG_OK, "uproot");
    }
}

static void homes(seg *s)
{
    uint8_t key[SEG_KEY_BYTES_MAX], found[SEG_KEY_BYTES_MAX];
    size_t len;
    memset(key, 'k', sizeof key);
    for (size_t n = 1; n <= sizeof key; n += 21) {
        seg_copy copy = copy_of("h", n, 1);
        seg_handle h;
        CHECK(seg_plant(s, key, n, &copy, &h) == SEG_OK, "plant");
        seg_home home = {0xffff, 0xffff, 255, 15, SEG_HINT_PIN};
        CHECK(seg_home_write(s, &h, &home) == SEG_OK, "home");
        CHECK(same_home(facts(s, &h).home, home), "home is another");
        home = (seg_home){0};
        CHECK(seg_home_write(s, &h, &home) == SEG_OK, "home");
        CHECK(same_home(facts(s, &h).home, home), "home is another");
        CHECK(seg_key(s, &h, found, &len) == SEG_OK && len == n && memcmp(found, key, n) == 0, "key");
        CHECK(seg_uproot(s, &h) == SEG_OK, "uproot");
        CHECK(seg_key(s, &h, found, &len) == SEG_NOT_FOUND, "key of nothing");
    }
}

/* What a death makes of the homes, before and after they are written. */
static void bequests(seg *s)
{
    enum { SELF = 2, DEAD = 1 << 0 | 1 << 5 };
    static const struct {
        seg_home was, is;
        seg_legacy legacy;
    } cases[] = {
        {{0x06, 0, 3, 1, 0}, {0x06, 0, 3, 1, 0}, SEG_AS_IT_WAS},
        {{0x21, 0, 3, 2, 1}, {0x00, 0, 3, 2, 1}, SEG_FEWER_COPIES},
        {{0x02, 0x20, 3, 2, 1}, {0x02, 0x00, 3, 2, 1}, SEG_FEWER_COPIES},
        {{0x04, 0, 0, 1, 2}, {0x00, 0x04, SELF, 1, 2}, SEG_PASSED_ON},
        {{0x22, 0x08, 0, 2, 0}, {0x00, 0x00, 1, 2, 0}, SEG_PASSED_ON},
        {{0x20, 0, 0, 1, 0}, {0x00, 0, 0, 1, 0}, SEG_LOST},
        {{0x00, 0, 255, 1, 0}, {0x00, 0, 255, 1, 0}, SEG_AS_IT_WAS},
    };
    enum { CASES = sizeof cases / sizeof *cases };
    seg_handle h[CASES];
    for (unsigned i = 0; i < CASES; i++) {
        seg_copy copy = copy_of("b", 3000 + i, 1);
        char key[8];
        copy.home = cases[i].was;
        copy.away = true;
        int len = snprintf(key, sizeof key, "b/%u", i);
        CHECK(seg_plant(s, key, (size_t)len, &copy, &h[i]) == SEG_OK, "plant");
    }
    CHECK(seg_bequest_of(s) == 0, "one stands");
    seg_bequest(s, DEAD, SELF, 7);
    CHECK(seg_bequest_of(s) == DEAD, "none stands");
    for (unsigned i = 0; i < CASES; i++) {
        seg_facts f = facts(s, &h[i]);
        CHECK(f.legacy == cases[i].legacy && same_home(f.home, cases[i].is), "case %u: %d, home %u/%x/%x", i,
              f.legacy, f.home.master, f.home.replicas, f.home.learners);
        if (f.legacy == SEG_FEWER_COPIES || f.legacy == SEG_PASSED_ON) {
            CHECK(seg_home_write(s, &h[i], &f.home) == SEG_OK, "write");
            CHECK(facts(s, &h[i]).legacy == SEG_AS_IT_WAS, "case %u is not over", i);
        }
    }
    seg_bequest(s, 0, SELF, 0);
    for (unsigned i = 0; i < CASES; i++) {
        const seg_home *home = cases[i].legacy == SEG_LOST ? &cases[i].was : &cases[i].is;
        CHECK(same_home(facts(s, &h[i]).home, *home), "case %u: the home is another", i);
        CHECK(seg_uproot(s, &h[i]) == SEG_OK, "uproot");
    }
    /* All copies draw one heir, and each of many is drawn. */
    uint16_t drawn = 0;
    for (uint64_t auth = 1; auth < 64; auth++) {
        drawn |= (uint16_t)(1u << seg_pick(0x8421, auth));
        CHECK(seg_pick(0x8421, auth) == seg_pick(0x8421, auth), "pick");
    }
    CHECK(drawn == 0x8421 && seg_pick(0, 3) == SEG_NO_SLOT, "drawn %x", drawn);
}

static void walks(seg *s)
{
    enum { ITEMS = 50 };
    char key[16];
    uint64_t cursor = 0, seen = 0, late = 0;
    uint32_t fence;
    seg_handle h;
    seg_facts f;
    CHECK(seg_fence(s, "w", 1, true, &fence) == SEG_OK, "fence");
    for (unsigned i = 0; i < ITEMS; i++) {
        seg_copy copy = copy_of("w", 1000 + i, 1 + i);
        snprintf(key, sizeof key, "w/%u", i);
        copy.away = i % 2 == 0;
        copy.stub = i % 4 == 0;
        copy.deadline_ns = i % 3 == 0 ? 100 + i : 0;
        CHECK(seg_plant(s, key, strlen(key), &copy, &h) == SEG_OK, "plant");
    }
    while (seg_walk(s, &cursor, &h, &f) == SEG_OK) {
        unsigned i = (unsigned)(f.auth - 1000);
        CHECK(i < ITEMS && (seen >> i & 1) == 0 && h.auth == f.auth, "walk finds %lu", f.auth);
        seen |= 1ull << i;
        CHECK(f.away == (i % 2 == 0) && f.stub == (i % 4 == 0), "walk: facts of %u", i);
        CHECK(f.version == (f.stub ? 0 : 1 + i), "walk: version of %u", i);
        snprintf(key, sizeof key, "w/%u", i);
        CHECK(find(s, key).item == h.item && find(s, key).auth == h.auth, "walk: handle of %u", i);
    }
    CHECK(seen == (1ull << ITEMS) - 1, "walk saw %lx", seen);
    for (cursor = 0; seg_overdue(s, 121, &cursor, &h) == SEG_OK;) {
        unsigned i = (unsigned)(h.auth - 1000);
        CHECK(i % 2 == 1 && i % 3 == 0 && i <= 21, "%u is not overdue", i);
        late |= 1ull << i;
    }
    CHECK(late == (1ull << 3 | 1ull << 9 | 1ull << 15 | 1ull << 21), "overdue: %lx", late);
    for (cursor = 0; seg_walk(s, &cursor, &h, &f) == SEG_OK;) {
        CHECK(seg_uproot(s, &h) == SEG_OK, "uproot");
    }
}

/* Every fence with its epoch; the items between them do not count. */
static void fences(seg *s)
{
    char name[SEG_KEY_BYTES_MAX], key[16];
    size_t len;
    uint32_t fence;
    bool raised;
    uint64_t cursor = 0, epoch, seen = 0;
    for (unsigned i = 0; i < 20; i++) {
        seg_handle h;
        seg_copy copy = copy_of("f", 500 + i, 1);
        snprintf(key, sizeof key, "f/%02u", i);
        CHECK(seg_plant(s, key, strlen(key), &copy, &h) == SEG_OK, "plant");
        CHECK(seg_fence(s, key, strlen(key), true, &fence) == SEG_OK &&
                  seg_fence_raise(s, fence, 100 + i, &raised) == SEG_OK && raised,
              "raise");
    }
    while (seg_fence_walk(s, &cursor, name, &len, &epoch) == SEG_OK) {
        if (len == 4 && memcmp(name, "f/", 2) == 0) {
            CHECK(epoch == 100 + (uint64_t)(name[2] - '0') * 10 + (uint64_t)(name[3] - '0'),
                  "fence %.4s stands at %lu", name, epoch);
            seen |= 1ull << (epoch - 100);
        }
    }
    CHECK(seen == (1ull << 20) - 1, "fences seen: %lx", seen);
    seg_handle h;
    seg_facts f;
    for (cursor = 0; seg_walk(s, &cursor, &h, &f) == SEG_OK;) {
        CHECK(seg_uproot(s, &h) == SEG_OK, "uproot");
    }
}

static void a_fence_is_no_item(seg *s)
{
    seg_handle h;
    uint32_t fence;
    bool raised;
    seg_facts f;
    seg_copy copy = copy_of("a", 77, 1);
    CHECK(seg_plant(s, "a", 1, &copy, &h) == SEG_OK, "plant");
    seg_ack(s, &h, 1000);
    uint32_t item = h.item;
    CHECK(seg_uproot(s, &h) == SEG_OK, "uproot");
    CHECK(seg_fence(s, "n", 1, true, &fence) == SEG_OK && fence == item, "another slot");
    CHECK(seg_fence_epoch(s, fence) == 0, "a fence begins at %lu", seg_fence_epoch(s, fence));
    CHECK(seg_fence_raise(s, fence, UINT64_MAX, &raised) == SEG_OK && raised, "raise");
    CHECK(seg_fence_epoch(s, fence) == UINT64_MAX, "raised to %lu", seg_fence_epoch(s, fence));
    CHECK(seg_lookup(s, "\0fence/n", 8, &h) == SEG_OK, "lookup");
    seg_ack(s, &h, 5);
    seg_ack(s, &h, 0);
    CHECK(seg_fence_epoch(s, fence) == UINT64_MAX, "an ack changed a fence");
    CHECK(seg_facts_read(s, &h, &f) == SEG_NOT_FOUND && seg_freeze(s, &h) == SEG_INVALID &&
              seg_uproot(s, &h) == SEG_INVALID,
          "a fence is an item");
}

/* A late ack does not take a fence for the item that was there before. */
static void a_late_ack(seg *s)
{
    seg_handle h;
    uint32_t fence;
    int state;
    seg_copy copy = copy_of("l", 88, 1);
    CHECK(seg_plant(s, "l", 1, &copy, &h) == SEG_OK, "plant");
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        signal_at_point = SIGSTOP;
        seg *mine = enter();
        countdown = 1;
        seg_ack(mine, &h, 1000);
        seg_close(mine);
        _exit(0);
    }
    CHECK(waitpid(pid, &state, WUNTRACED) == pid && WIFSTOPPED(state), "stop");
    uint32_t item = h.item;
    CHECK(seg_uproot(s, &h) == SEG_OK, "uproot");
    CHECK(seg_fence(s, "l", 1, true, &fence) == SEG_OK && fence == item, "another slot");
    CHECK(kill(pid, SIGCONT) == 0 && waitpid(pid, &state, 0) == pid && state == 0, "resume");
    CHECK(seg_fence_epoch(s, fence) == 0, "an ack raised a fence to %lu", seg_fence_epoch(s, fence));
}

static uint64_t bytes_used(seg *s)
{
    seg_stats t;
    CHECK(seg_stats_read(s, &t) == SEG_OK, "stats");
    return t.bytes;
}

/* A stub, and what is deleted, holds no more than it needs. */
static void blocks(seg *s)
{
    uint64_t empty = bytes_used(s);
    seg_handle h;
    seg_copy copy = copy_of("b", 66, 1);
    copy.capacity = 1000;
    copy.away = true;
    CHECK(seg_plant(s, "b", 1, &copy, &h) == SEG_OK, "plant");
    copy.version = 2;
    CHECK(seg_overwrite(s, &h, &copy) == SEG_OK, "overwrite");
    uint64_t full = bytes_used(s);
    CHECK(full - empty > 2000, "two cells of %lu bytes", full - empty);
    CHECK(seg_strip(s, &h) == SEG_OK, "strip");
    CHECK(bytes_used(s) < full - 2000, "a stub of %lu bytes", bytes_used(s) - empty);
    CHECK(seg_uproot(s, &h) == SEG_OK, "uproot");
    CHECK(bytes_used(s) == empty, "%lu bytes are left", bytes_used(s) - empty);
}

static void clusters(seg *s)
{
    seg_cluster none = {0}, now, some = some_cluster();
    seg_new n = {.value = "x", .len = 1};
    seg_copy copy = copy_of("c", 5, 1);
    seg_handle h;
    uint8_t out[8];
    size_t len;
    seg_op gone = {.verb = SEG_DELETE}, late = {.verb = SEG_EXPIRE, .deadline_ns = 10};
    seg_kept kept;
    CHECK(seg_cluster_read(s, &now) == SEG_OK, "read nothing");
    same_cluster(&now, &none, "at first");
    CHECK(!seg_clustered(s) && seg_serving(s) && seg_epoch(s) == 0, "at first");
    seg_serve(s, false);
    CHECK(seg_serving(s), "an embedded segment always serves");

    CHECK(seg_cluster_write(s, &some) == SEG_OK && seg_cluster_read(s, &now) == SEG_OK, "write");
    same_cluster(&now, &some, "written");
    CHECK(seg_clustered(s) && seg_serving(s) && seg_epoch(s) == 77 && seg_lease_ns(s) == 99, "words");
    seg_lease(s, 100);
    seg_applied(s, 1235);
    some.lease_ns = 100;
    some.applied = 1235;
    CHECK(seg_cluster_read(s, &now) == SEG_OK, "read");
    same_cluster(&now, &some, "lease and applied");

    CHECK(seg_create(s, "c", 1, &n, &h) == SEG_INVALID, "a client made an item by itself");
    copy.deadline_ns = 5;
    CHECK(seg_plant(s, "c", 1, &copy, &h) == SEG_OK, "plant");
    CHECK(update(s, "c", &gone) == SEG_INVALID && update(s, "c", &late) == SEG_INVALID,
          "a client deleted an item by itself");
    CHECK(seg_housekeep(s, 10, &kept) == SEG_OK && kept.expired == 0, "housekeeping expired it");
    at(s, "c", "c", 1);
    seg_serve(s, false);
    CHECK(!seg_serving(s) && get_value(s, "c", out, &len, NULL) == SEG_NOT_SERVING &&
              write_to(s, "c", "y") == SEG_NOT_SERVING,
          "served without leave");
    peeked(s, "c", "c", 1);
    CHECK(seg_freeze(s, &h) == SEG_OK && seg_thaw(s, &h, 0) == SEG_OK, "the server goes on");
    seg_serve(s, true);
    at(s, "c", "c", 2);

    uint32_t fence;
    bool raised;
    uint64_t cursor = 0;
    CHECK(seg_fence(s, "kept", 4, true, &fence) == SEG_OK &&
              seg_fence_raise(s, fence, 3, &raised) == SEG_OK,
          "raise");
    CHECK(seg_begin_anew(s, 0) == SEG_INVALID && seg_begin_anew(s, 4242) == SEG_OK, "begin anew");
    CHECK(seg_generation(s) == 4242 && seg_clustered(s) && !seg_serving(s), "after begin anew");
    CHECK(seg_cluster_read(s, &now) == SEG_OK && now.present == 0 && now.epoch == 0, "forgotten");
    CHECK(seg_scan(s, &cursor, "", 0, out, &len, &h) == SEG_NOT_FOUND, "an item is left");
    CHECK(seg_fence_epoch(s, fence) == 3, "the fence is lost");
    CHECK(seg_cluster_write(s, &none) == SEG_OK && seg_serving(s) && !seg_clustered(s), "embedded");
    CHECK(seg_create(s, "c", 1, &n, &h) == SEG_OK && update(s, "c", &gone) == SEG_OK, "embedded");
    keep(s);
    sound(s, "clusters", true);
}

bool cluster_modes(const char *mode, const char *segment_path)
{
    if (strcmp(mode, "cluster") == 0) {
        seg *s = enter();
        masters_and_copies(s);
        versions(s);
        homes(s);
        bequests(s);
        walks(s);
        fences(s);
        a_fence_is_no_item(s);
        a_late_ack(s);
        blocks(s);
        clusters(s);
        roster_promises(s, segment_path);
        keep(s);
        sound(s, "cluster", true);
        seg_close(s);
    } else if (strcmp(mode, "roster") == 0) {
        roster();
    } else {
        return false;
    }
    return true;
}
