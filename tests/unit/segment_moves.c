/* What the state server does to an item, as operations to be interrupted (segment_interrupted.c),
 * and what they must leave: every copy at exactly its version, whoever was robbed. */
#include "segment_stress.h"

#define OLD_VERSION 10
#define NEW_VERSION 20
#define RIVAL_VERSION 30
#define THAWED_VERSION 40

const char *const move_names[MOVES] = {"freeze", "thaw", "overwrite", "fill",
                                       "plant",  "strip", "renumber", "uproot"};

/* What nobody here changes, whatever happens to the item. */
static const seg_home home = {.master = 3, .replicas = 0x1001, .want = 2};
#define ACKED (1ull << 40)

static seg_copy copy_of(uint8_t *value, uint8_t c, uint64_t version)
{
    fill(value, VALUE, c);
    return (seg_copy){.auth = 1, .version = version, .home = home, .value = value, .len = VALUE,
                      .away = true};
}

static seg_status plant(seg *s, const char *key, uint8_t c, uint64_t auth, uint64_t version,
                        bool away)
{
    uint8_t value[VALUE];
    seg_handle h;
    seg_copy copy = copy_of(value, c, version);
    copy.auth = auth;
    copy.away = away;
    return seg_plant(s, key, strlen(key), &copy, &h);
}

static seg_status overwrite(seg *s, const char *key, uint8_t c, uint64_t version)
{
    uint8_t value[VALUE];
    seg_handle h;
    seg_copy copy = copy_of(value, c, version);
    seg_status status = seg_lookup(s, key, strlen(key), &h);
    return status == SEG_OK ? seg_overwrite(s, &h, &copy) : status;
}

void move_before(seg *s, int move, const char *key)
{
    seg_handle h;
    seg_copy stub = {.auth = 1, .home = home, .stub = true, .away = true};
    switch (move) {
    case PLANT:
        return;
    case FILL:
        CHECK(seg_plant(s, key, strlen(key), &stub, &h) == SEG_OK, "before");
        break;
    case OVERWRITE: /* into a cell that is there */
        CHECK(plant(s, key, 'x', 1, OLD_VERSION - 1, true) == SEG_OK, "before");
        CHECK(overwrite(s, key, 'o', OLD_VERSION) == SEG_OK, "before");
        break;
    default:
        CHECK(plant(s, key, 'o', 1, OLD_VERSION, move != FREEZE) == SEG_OK, "before");
    }
    CHECK(seg_lookup(s, key, strlen(key), &h) == SEG_OK, "before");
    seg_ack(s, &h, ACKED);
}

seg_status move_perform(seg *s, int move, const char *key)
{
    seg_handle h;
    if (move == PLANT) {
        return plant(s, key, 'n', 1, NEW_VERSION, true);
    }
    if (move == OVERWRITE || move == FILL) {
        return overwrite(s, key, 'n', NEW_VERSION);
    }
    seg_status status = seg_lookup(s, key, strlen(key), &h);
    if (status != SEG_OK) {
        return status;
    }
    return move == FREEZE  ? seg_freeze(s, &h)
           : move == THAW  ? seg_thaw(s, &h, THAWED_VERSION)
           : move == STRIP ? seg_strip(s, &h)
           : move == RENUMBER ? seg_renumber(s, &h, OLD_VERSION, NEW_VERSION)
                           : seg_uproot(s, &h);
}

char move_done(int move) { return "OoNNNsO-"[move]; }

/* A small letter: local clients may write it; a capital: it is away. */
char move_state(seg *s, int move, const char *key)
{
    static uint8_t value[SEG_VALUE_BYTES_MAX];
    size_t len = 0;
    seg_facts f;
    seg_handle h = {0};
    seg_status status = seg_peek(s, key, strlen(key), &h, value, sizeof value, &len, &f);
    if (status == SEG_NOT_FOUND) {
        return '-';
    }
    CHECK(f.home.master == home.master && f.home.replicas == home.replicas &&
              f.home.want == home.want,
          "%s: its home has changed", move_names[move]);
    CHECK(move == PLANT || f.auth != 1 || f.acked == ACKED, "%s: acked has changed to %lu",
          move_names[move], f.acked);
    if (status == SEG_AWAY) {
        CHECK(f.stub && f.away && f.len == 0, "%s: not even a stub", move_names[move]);
        return 's';
    }
    CHECK(status == SEG_OK && len == VALUE, "%s: peek says %d", move_names[move], status);
    for (size_t i = 1; i < len; i++) {
        CHECK(value[i] == value[0], "%s: torn value at %zu", move_names[move], i);
    }
    if (!f.away) {
        return (char)value[0];
    }
    uint64_t wanted = value[0] == 'o'   ? OLD_VERSION
                      : value[0] == 'n' ? NEW_VERSION
                                        : RIVAL_VERSION;
    /* A master that was robbed may have counted on; one that is being thawed has its new version, and so
     * has what is renumbered. */
    CHECK(f.version == wanted || (move == FREEZE && f.version > OLD_VERSION) ||
              (move == THAW && f.version >= THAWED_VERSION) ||
              (move == RENUMBER && value[0] == 'o' && f.version == NEW_VERSION),
          "%s: a copy of '%c' says it is at %lu", move_names[move], value[0], f.version);
    return (char)(value[0] - 'a' + 'A');
}

void move_rival(seg *s, int move, const char *key)
{
    uint8_t value[VALUE];
    fill(value, sizeof value, 'r');
    seg_op op = {.verb = SEG_WRITE, .data = value, .len = VALUE};
    seg_status status = update(s, key, &op);
    if (status == SEG_AWAY) {
        status = overwrite(s, key, 'r', move == THAW ? 2 * THAWED_VERSION : RIVAL_VERSION);
        if (status == SEG_INVALID) {
            status = update(s, key, &op); /* the last one thawed it meanwhile */
        }
    } else if (status == SEG_NOT_FOUND && move == PLANT) {
        status = plant(s, key, 'r', 2, RIVAL_VERSION, true);
    }
    CHECK(status == SEG_OK || (status == SEG_EXISTS && move == PLANT) ||
              (status == SEG_CHANGED && move_state(s, move, key) == 'R') ||
              (status == SEG_NOT_FOUND && move == UPROOT),
          "%s: the rival's write says %d", move_names[move], status);
}

seg_status move_remake(seg *s, const char *key) { return plant(s, key, 'r', 2, RIVAL_VERSION, true); }

seg_status uproot(seg *s, const char *key)
{
    seg_handle h;
    seg_status status = seg_lookup(s, key, strlen(key), &h);
    return status == SEG_OK ? seg_uproot(s, &h) : status;
}

seg_status freeze(seg *s, const char *key, seg_facts *facts)
{
    seg_handle h;
    seg_status status = seg_lookup(s, key, strlen(key), &h);
    if (status == SEG_OK) {
        status = seg_freeze(s, &h);
    }
    return status == SEG_OK ? seg_facts_read(s, &h, facts) : status;
}

seg_status thaw(seg *s, const char *key)
{
    seg_handle h;
    seg_status status = seg_lookup(s, key, strlen(key), &h);
    return status == SEG_OK ? seg_thaw(s, &h, 0) : status;
}
