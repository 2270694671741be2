/* The segment under violence. Built by test_statestore_core.py, never part of the product.
 *
 * crash    a writer is killed at each of its stores, one after another
 * stop     a writer is stopped at each of its stores; others rob it; then it goes on
 * sweep    a client signs in while another sweeps, and is stopped at each of its stores
 * twice    the one who takes over from a killed or stopped writer is killed at each store as well
 * threads  several clients at once on few keys (for the thread sanitizer)
 * kills    processes work at random and are killed at random
 * schedule processes are stopped at every store and a dice decides who goes on: every order of
 *          events can happen, and the seed repeats it
 * cluster  what the functions for a cluster promise
 * roster   the writer of the cluster's members is killed at each store
 */
#include "segment_stress.h"

#define SIZE (8ull << 20)

static const char *path;
_Thread_local long countdown;
int signal_at_point = SIGKILL;
int always;
int rounds;
bool planted;
static uint32_t auths;

void seg_crash_point(const char *where)
{
    (void)where;
    if (countdown > 0 && --countdown == 0) {
        countdown = always;
        kill(getpid(), signal_at_point);
    }
}

void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "FAILED: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    _exit(99);
}

seg *enter(void)
{
    char why[512];
    seg *s;
    CHECK(seg_open(path, false, &s, why, sizeof why) == SEG_OK, "open: %s", why);
    return s;
}

void fresh(void)
{
    char why[512];
    unlink(path);
    CHECK(seg_format(path, SIZE, why, sizeof why) == SEG_OK, "format: %s", why);
}

void fill(uint8_t *value, size_t len, uint8_t c) { memset(value, c, len); }

seg_status make(seg *s, const char *key, const void *value, size_t len, size_t room, const seg_grant *g)
{
    seg_handle h;
    seg_new n = {.value = value, .len = len, .capacity = room, .grant = g};
    if (planted) {
        seg_copy copy = {.auth = (uint64_t)getpid() << 32 | ++auths, .version = 1, .value = value, .len = len,
                         .capacity = room};
        return seg_plant(s, key, strlen(key), &copy, &h);
    }
    return seg_create(s, key, strlen(key), &n, &h);
}

seg_status create(seg *s, const char *key, uint8_t c, size_t len, size_t room, const seg_grant *g)
{
    uint8_t value[1024];
    fill(value, len, c);
    return make(s, key, value, len, room, g);
}

seg_status update(seg *s, const char *key, seg_op *op)
{
    seg_handle h = {0};
    return seg_update(s, key, strlen(key), &h, op);
}

seg_status get_value(seg *s, const char *key, uint8_t *value, size_t *len, uint64_t *version)
{
    seg_handle h = {0};
    return seg_read(s, key, strlen(key), &h, value, SEG_VALUE_BYTES_MAX, len, version);
}

void sound(seg *s, const char *when, bool at_rest)
{
    seg_verdict v;
    CHECK(seg_verify(s, &v) == SEG_OK, "verify");
    CHECK(v.unreachable == 0 && v.misplaced == 0 && v.torn_refs == 0 && v.shared_blocks == 0,
          "%s: unreachable %lu misplaced %lu torn %lu shared %lu", when, v.unreachable,
          v.misplaced, v.torn_refs, v.shared_blocks);
    CHECK(!at_rest || (v.orphans == 0 && v.locked == 0 && v.unlocked_dead == 0),
          "%s: orphans %lu locked %lu dead %lu", when, v.orphans, v.locked, v.unlocked_dead);
}

void keep(seg *s)
{
    seg_kept kept;
    CHECK(seg_housekeep(s, 1, &kept) == SEG_OK, "housekeep");
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: segment_stress MODE PATH ROUNDS\n");
        return 2;
    }
    path = argv[2];
    rounds = atoi(argv[3]);
    fresh();
    if (!concurrent_modes(argv[1]) && !cluster_modes(argv[1], path)) {
        interrupted_modes(argv[1]);
    }
    unlink(path);
    printf("ok\n");
    return 0;
}
