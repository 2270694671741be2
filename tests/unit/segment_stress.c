/* The segment under violence. Built by test_statestore_core.py, never part of the product.
 *
 * crash    a writer is killed at each of its stores, one after another
 * stop     a writer is stopped at each of its stores; others rob it; then it goes on
 * twice    the one who takes over from a killed or stopped writer is killed at each store as well
 * threads  several clients at once on few keys (for the thread sanitizer)
 * kills    processes work at random and are killed at random
 * schedule processes are stopped at every store and a dice decides who goes on: every order of
 *          events can happen, and the seed repeats it
 */
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "segment.h"

#define SIZE (8ull << 20)
#define NEIGHBOURS 12
#define POINTS_MAX 2000
#define VALUE 72

static const char *path;
static _Thread_local long countdown; /* 0: not armed */
static int signal_at_point = SIGKILL;
static int always; /* schedule: stop again at the next one */

void seg_crash_point(const char *where);
void seg_crash_point(const char *where)
{
    (void)where;
    if (countdown > 0 && --countdown == 0) {
        countdown = always;
        kill(getpid(), signal_at_point);
    }
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "FAILED: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    _exit(99);
}

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fail(__VA_ARGS__);                                                                     \
        }                                                                                          \
    } while (0)

static seg *enter(void)
{
    char why[512];
    seg *s;
    CHECK(seg_open(path, false, &s, why, sizeof why) == SEG_OK, "open: %s", why);
    return s;
}

static void fresh(void)
{
    char why[512];
    unlink(path);
    CHECK(seg_format(path, SIZE, why, sizeof why) == SEG_OK, "format: %s", why);
}

/* A value that shows any mixture: every byte is the same. */
static void fill(uint8_t *value, size_t len, uint8_t c) { memset(value, c, len); }

static seg_status create(seg *s, const char *key, uint8_t c, size_t len, size_t room,
                         const seg_grant *g)
{
    uint8_t value[1024];
    seg_handle h;
    fill(value, len, c);
    seg_new n = {.value = value, .len = len, .capacity = room, .grant = g};
    return seg_create(s, key, strlen(key), &n, &h);
}

static seg_status update(seg *s, const char *key, seg_op *op)
{
    seg_handle h = {0};
    return seg_update(s, key, strlen(key), &h, op);
}

static seg_status get_value(seg *s, const char *key, uint8_t *value, size_t *len, uint64_t *version)
{
    seg_handle h = {0};
    return seg_read(s, key, strlen(key), &h, value, SEG_VALUE_BYTES_MAX, len, version);
}

/* ---- the operations that are interrupted ---- */
enum { CREATE, WRITE, GROW, APPEND, APPEND_GROW, DELETE, SWAP, ADD, OPERATIONS };
static const char *const names[] = {"create", "write", "grow",  "append", "append-grow",
                                    "delete", "swap",  "add"};

static void before(seg *s, int what, const char *key)
{
    uint64_t one = 1;
    seg_handle h;
    seg_new n = {.value = &one, .len = sizeof one};
    seg_op op = {.verb = SEG_APPEND, .data = "old", .len = 3};
    switch (what) {
    case CREATE:
        return;
    case APPEND:
    case APPEND_GROW:
        CHECK(create(s, key, 0, 0, what == APPEND ? 512 : 0, NULL) == SEG_OK, "before");
        for (int i = 0; i < 3; i++) {
            CHECK(update(s, key, &op) == SEG_OK, "before");
        }
        return;
    case ADD:
        CHECK(seg_create(s, key, strlen(key), &n, &h) == SEG_OK, "before");
        return;
    default:
        CHECK(create(s, key, 'o', VALUE, 0, NULL) == SEG_OK, "before");
    }
}

static seg_status perform(seg *s, int what, const char *key, const seg_grant *g)
{
    uint8_t value[1024];
    uint64_t version = 0;
    size_t len;
    uint8_t scratch[SEG_VALUE_BYTES_MAX];
    seg_op op = {.verb = SEG_WRITE, .data = value, .len = VALUE, .grant = g};
    fill(value, sizeof value, 'n');
    switch (what) {
    case CREATE:
        return create(s, key, 'n', VALUE, 0, g);
    case GROW:
        op.len = 300;
        break;
    case APPEND:
    case APPEND_GROW:
        op.verb = SEG_APPEND;
        op.len = 61;
        break;
    case DELETE:
        op.verb = SEG_DELETE;
        op.len = 0;
        break;
    case SWAP:
        if (get_value(s, key, scratch, &len, &version) != SEG_OK) {
            return SEG_NOT_FOUND;
        }
        op.verb = SEG_SWAP;
        op.version = version;
        break;
    case ADD:
        op.verb = SEG_ADD;
        op.len = 0;
        op.delta = 41;
        break;
    default:
        break;
    }
    return update(s, key, &op);
}

/* 'o' the old state, 'n' the new, 'r' what the rival wrote, '-' absent; anything else is torn. */
static char state_of(seg *s, int what, const char *key)
{
    static uint8_t value[SEG_VALUE_BYTES_MAX];
    size_t len = 0;
    seg_status status = get_value(s, key, value, &len, NULL);
    if (status == SEG_NOT_FOUND) {
        return '-';
    }
    CHECK(status == SEG_OK, "%s of %s: read says %d", names[what], key, status);
    if (len > 0 && value[0] == 'r') {
        for (size_t i = 0; i < VALUE && i < len; i++) {
            CHECK(value[i] == 'r', "%s: torn rival value at %zu of %zu", names[what], i, len);
        }
        /* an append may have come after it */
        return len == VALUE ? 'r' : len == VALUE + 65 ? 'n' : '?';
    }
    if (what == ADD) {
        return len == 8 && value[0] == 1 ? 'o' : len == 8 && value[0] == 42 ? 'n' : '?';
    }
    if (what == APPEND || what == APPEND_GROW) {
        size_t at = 0;
        int entries = 0;
        while (at + 4 <= len) {
            uint32_t n;
            memcpy(&n, value + at, 4);
            CHECK(at + 4 + n <= len, "%s: an entry runs over the end", names[what]);
            CHECK(n == (entries < 3 ? 3u : 61u), "%s: entry %d of %u bytes", names[what], entries,
                  n);
            for (uint32_t i = 0; i < n; i++) {
                uint8_t c = entries < 3 ? (uint8_t)"old"[i] : 'n';
                CHECK(value[at + 4 + i] == c, "%s: torn entry", names[what]);
            }
            at += 4 + n;
            entries++;
        }
        return at == len && entries == 3 ? 'o' : at == len && entries == 4 ? 'n' : '?';
    }
    for (size_t i = 1; i < len; i++) {
        CHECK(value[i] == value[0], "%s: torn value at %zu of %zu", names[what], i, len);
    }
    return len == VALUE || (what == GROW && len == 300) ? (char)value[0] : '?';
}

static void sound(seg *s, const char *when, bool at_rest)
{
    seg_verdict v;
    CHECK(seg_verify(s, &v) == SEG_OK, "verify");
    CHECK(v.unreachable == 0 && v.misplaced == 0 && v.torn_refs == 0 && v.shared_blocks == 0,
          "%s: unreachable %lu misplaced %lu torn %lu shared %lu", when, v.unreachable,
          v.misplaced, v.torn_refs, v.shared_blocks);
    CHECK(!at_rest || (v.orphans == 0 && v.locked == 0 && v.unlocked_dead == 0),
          "%s: orphans %lu locked %lu dead %lu", when, v.orphans, v.locked, v.unlocked_dead);
}

static void keep(seg *s)
{
    seg_kept kept;
    CHECK(seg_housekeep(s, 1, &kept) == SEG_OK, "housekeep");
}

static void neighbours(seg *s)
{
    char key[32];
    for (int i = 0; i < NEIGHBOURS; i++) {
        snprintf(key, sizeof key, "n/%d", i);
        CHECK(create(s, key, (uint8_t)i, 16, 0, NULL) == SEG_OK, "neighbour");
    }
}

static void neighbours_live(seg *s)
{
    char key[32];
    uint8_t value[SEG_VALUE_BYTES_MAX];
    size_t len;
    for (int i = 0; i < NEIGHBOURS; i++) {
        snprintf(key, sizeof key, "n/%d", i);
        CHECK(get_value(s, key, value, &len, NULL) == SEG_OK && len == 16 && value[15] == i,
              "neighbour %d is damaged", i);
    }
}

/* Run the operation in a child that gets `sig` at its point'th store. False when the operation has
 * fewer. For SIGSTOP *child is left stopped. */
static bool interrupted(int what, const char *key, const seg_grant *g, long point, int sig,
                        pid_t *child)
{
    int state;
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        signal_at_point = sig;
        seg *s = enter();
        countdown = point;
        seg_status status = perform(s, what, key, g);
        bool reached = countdown == 0;
        countdown = 0;
        seg_close(s);
        _exit(reached ? 100 + (int)status : 90);
    }
    CHECK(waitpid(pid, &state, WUNTRACED) == pid, "waitpid");
    *child = pid;
    if (WIFEXITED(state)) {
        CHECK(WEXITSTATUS(state) == 90, "%s: child exit %d", names[what], WEXITSTATUS(state));
        return false;
    }
    CHECK(sig == SIGSTOP ? WIFSTOPPED(state) : WIFSIGNALED(state), "%s: state %x", names[what],
          state);
    return true;
}

static int resume(pid_t child)
{
    int state;
    CHECK(kill(child, SIGCONT) == 0, "resume");
    CHECK(waitpid(child, &state, 0) == child && WIFEXITED(state) && WEXITSTATUS(state) >= 100,
          "resumed child ended with %x", state);
    return WEXITSTATUS(state) - 100;
}

static void rival(seg *s, int what, const char *key)
{
    uint8_t value[VALUE];
    fill(value, sizeof value, 'r');
    seg_op op = {.verb = SEG_WRITE, .data = value, .len = VALUE};
    seg_status status = what == CREATE ? create(s, key, 'r', VALUE, 0, NULL) : update(s, key, &op);
    if ((what == CREATE && status == SEG_EXISTS) || (what == DELETE && status == SEG_NOT_FOUND)) {
        return;
    }
    CHECK(status == SEG_OK, "%s: the rival's write says %d", names[what], status);
}

static void drop(seg *s, const char *key)
{
    seg_op op = {.verb = SEG_DELETE};
    seg_status status = update(s, key, &op);
    CHECK(status == SEG_OK || status == SEG_NOT_FOUND, "drop says %d", status);
}

/* The feed tells of every change, or says that it cannot. */
static void told(seg *s, seg_cursor *c, const char *key)
{
    uint8_t found[SEG_KEY_BYTES_MAX];
    size_t len;
    bool deleted;
    for (;;) {
        seg_status status = seg_poll(s, c, key, strlen(key), found, &len, &deleted);
        if (status == SEG_OVERRUN || (status == SEG_OK && len == strlen(key))) {
            return;
        }
        if (status == SEG_NOT_FOUND && c->hole_since != 0 && c->hole_at == c->next) {
            usleep(2000);
            continue;
        }
        CHECK(status != SEG_NOT_FOUND, "a change of %s that the feed does not tell", key);
    }
}

static long crash(int what, bool access_first)
{
    char key[64];
    long point = 1;
    for (;; point++) {
        seg *s = enter();
        seg_cursor cursor;
        pid_t child;
        snprintf(key, sizeof key, "k/%s/%ld", names[what], point);
        before(s, what, key);
        char old = state_of(s, what, key);
        seg_watch(s, &cursor);
        bool hit = interrupted(what, key, NULL, point, SIGKILL, &child);
        CHECK(point < POINTS_MAX, "too many points");
        char now = state_of(s, what, key);
        char new = what == DELETE ? '-' : 'n';
        CHECK(now == old || now == new, "%s, point %ld: '%c' became '%c'", names[what], point, old,
              now);
        if (access_first) {
            rival(s, what, key);
        }
        keep(s);
        sound(s, names[what], true);
        if (!access_first) {
            CHECK(state_of(s, what, key) == now, "%s, point %ld: recovery changed the value",
                  names[what], point);
            if (now != old) {
                told(s, &cursor, key);
            }
            rival(s, what, key);
        }
        drop(s, key);
        CHECK(state_of(s, what, key) == '-', "%s: still there", names[what]);
        neighbours_live(s);
        sound(s, names[what], true);
        seg_close(s);
        if (!hit) {
            return point - 1;
        }
    }
}

enum { RIVAL_WRITES, RIVAL_DELETES, RIVAL_REMAKES, RIVAL_RAISES, RIVALS };

static long stop(int what, int how)
{
    char key[64];
    long point = 1;
    for (;; point++) {
        seg *s = enter();
        pid_t child;
        uint32_t fence;
        bool raised = false;
        snprintf(key, sizeof key, "k/%s/%ld", names[what], point);
        CHECK(seg_fence(s, key, strlen(key), true, &fence) == SEG_OK, "fence");
        seg_grant grant = {1, fence};
        before(s, what, key);
        char old = state_of(s, what, key);
        if (!interrupted(what, key, &grant, point, SIGSTOP, &child)) {
            drop(s, key);
            seg_close(s);
            return point - 1;
        }
        CHECK(point < POINTS_MAX, "too many points");
        char seen = state_of(s, what, key);
        switch (how) {
        case RIVAL_RAISES:
            CHECK(seg_fence_raise(s, fence, 2, &raised) == SEG_OK && raised, "raise");
            seen = state_of(s, what, key);
            break;
        case RIVAL_WRITES:
            rival(s, what, key);
            break;
        default:
            drop(s, key);
            if (how == RIVAL_REMAKES) {
                CHECK(create(s, key, 'r', VALUE, 0, NULL) == SEG_OK, "remake");
                for (int i = 0; i < 4; i++) { /* reuse what was freed */
                    char other[80];
                    snprintf(other, sizeof other, "x/%d", i);
                    CHECK(create(s, other, 'x', VALUE, 0, NULL) == SEG_OK, "other");
                }
            }
        }
        sound(s, names[what], false);
        char between = state_of(s, what, key);
        int status = resume(child);
        char after = state_of(s, what, key);
        if (how == RIVAL_RAISES) {
            CHECK(after == seen, "%s, point %ld: a fenced write took effect: '%c' became '%c'",
                  names[what], point, seen, after);
            bool effect = seen != old;
            CHECK(effect ? status == SEG_OK : status == SEG_FENCED,
                  "%s, point %ld: fenced writer was told %d ('%c' before, '%c' after)",
                  names[what], point, status, old, seen);
        } else if (how == RIVAL_REMAKES) {
            CHECK(after == 'r' || after == 'n' || (what == DELETE && after == '-'),
                  "%s, point %ld: '%c' after a remake, then '%c'", names[what], point, between,
                  after);
        }
        for (int i = 0; how == RIVAL_REMAKES && i < 4; i++) {
            char other[80];
            snprintf(other, sizeof other, "x/%d", i);
            CHECK(state_of(s, WRITE, other) == 'x', "another item was scribbled over");
            drop(s, other);
        }
        drop(s, key);
        keep(s);
        neighbours_live(s);
        sound(s, names[what], true);
        seg_close(s);
    }
}

/* The first is interrupted at `point`, the second is killed at each store of cleaning up. */
static void twice(int what, long point, int sig)
{
    char key[64];
    for (long second = 1;; second++) {
        seg *s = enter();
        pid_t first;
        int state;
        snprintf(key, sizeof key, "k/%ld", second);
        before(s, what, key);
        if (!interrupted(what, key, NULL, point, sig, &first)) {
            drop(s, key);
            seg_close(s);
            return;
        }
        pid_t pid = fork();
        CHECK(pid >= 0, "fork");
        if (pid == 0) {
            signal_at_point = SIGKILL;
            seg *mine = enter();
            countdown = second;
            rival(mine, what, key);
            countdown = 0;
            seg_close(mine);
            _exit(0);
        }
        CHECK(waitpid(pid, &state, 0) == pid, "waitpid");
        CHECK(!WIFEXITED(state) || WEXITSTATUS(state) == 0, "second failed");
        CHECK(second < POINTS_MAX, "too many points");
        state_of(s, what, key);
        rival(s, what, key);
        state_of(s, what, key);
        if (sig == SIGSTOP) {
            resume(first);
            state_of(s, WRITE, key);
        }
        drop(s, key);
        keep(s);
        neighbours_live(s);
        sound(s, names[what], true);
        seg_close(s);
        if (WIFEXITED(state)) {
            return;
        }
    }
}

/* ---- concurrency ---- */
#define THREADS 4
#define KEYS 6
static seg *shared;
static int rounds;
static _Atomic long added;

static uint32_t dice(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void work(seg *s, uint32_t seed, int turns, bool count_adds)
{
    uint8_t value[2048];
    uint8_t out[SEG_VALUE_BYTES_MAX];
    char key[32];
    size_t len;
    for (int i = 0; i < turns; i++) {
        snprintf(key, sizeof key, "t/%u", dice(&seed) % KEYS);
        uint32_t kind = dice(&seed) % 8;
        size_t n = 8 + dice(&seed) % 400;
        seg_op op = {.verb = SEG_WRITE, .data = value, .len = n};
        fill(value, n, (uint8_t)dice(&seed));
        if (kind == 0) {
            seg_status status = create(s, key, (uint8_t)dice(&seed), n, 0, NULL);
            CHECK(status == SEG_OK || status == SEG_EXISTS, "create says %d", status);
        } else if (kind == 1) {
            op.verb = SEG_DELETE;
            seg_status status = update(s, key, &op);
            CHECK(status == SEG_OK || status == SEG_NOT_FOUND, "delete says %d", status);
        } else if (kind <= 3) {
            seg_status status = update(s, key, &op);
            CHECK(status == SEG_OK || status == SEG_NOT_FOUND, "write says %d", status);
        } else if (kind == 4) {
            seg_op add = {.verb = SEG_ADD, .delta = 1};
            seg_status status = update(s, "counter", &add);
            CHECK(status == SEG_OK, "add says %d", status);
            if (count_adds) {
                added++;
            }
        } else {
            seg_status status = get_value(s, key, out, &len, NULL);
            CHECK(status == SEG_OK || status == SEG_NOT_FOUND, "read says %d", status);
            for (size_t k = 1; status == SEG_OK && k < len; k++) {
                CHECK(out[k] == out[0], "torn read of %s at %zu of %zu", key, k, len);
            }
        }
    }
}

static void *thread(void *seed)
{
    char why[256];
    seg *s;
    CHECK(seg_attach(shared, &s, why, sizeof why) == SEG_OK, "attach: %s", why);
    work(s, (uint32_t)(size_t)seed, rounds, true);
    seg_close(s);
    return NULL;
}

static void make_counter(seg *s, const char *key)
{
    uint64_t zero = 0;
    seg_handle h;
    seg_new n = {.value = &zero, .len = sizeof zero};
    CHECK(seg_create(s, key, strlen(key), &n, &h) == SEG_OK, "counter");
}

static void threads(void)
{
    pthread_t ids[THREADS];
    uint64_t sum = 0;
    size_t len;
    uint8_t value[SEG_VALUE_BYTES_MAX];
    shared = enter();
    make_counter(shared, "counter");
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&ids[i], NULL, thread, (void *)(i + 1)) == 0, "thread");
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
    }
    keep(shared);
    sound(shared, "threads", true);
    CHECK(get_value(shared, "counter", value, &len, NULL) == SEG_OK && len == 8, "counter");
    memcpy(&sum, value, 8);
    CHECK((long)sum == added, "counter is %lu, %ld were added", sum, added);
    seg_close(shared);
}

static void kills(uint32_t seed)
{
    seg *s = enter();
    pid_t child[THREADS] = {0};
    make_counter(s, "counter");
    for (int i = 0; i < rounds; i++) {
        int slot = i % THREADS;
        if (child[slot] != 0) {
            usleep(dice(&seed) % 3000);
            kill(child[slot], SIGKILL);
            waitpid(child[slot], NULL, 0);
        }
        keep(s);
        uint32_t start = dice(&seed);
        child[slot] = fork();
        CHECK(child[slot] >= 0, "fork");
        if (child[slot] == 0) {
            seg *mine = enter();
            work(mine, start, 1 << 30, false);
            _exit(0);
        }
    }
    for (int slot = 0; slot < THREADS; slot++) {
        if (child[slot] != 0) {
            int state;
            kill(child[slot], SIGKILL);
            waitpid(child[slot], &state, 0);
            CHECK(WIFSIGNALED(state), "a worker failed");
        }
    }
    keep(s);
    keep(s);
    sound(s, "kills", true);
    seg_close(s);
}

/* ---- schedules ---- */
#define ACTORS 3
#define TURNS 3

static uint64_t guarded(seg *s)
{
    uint8_t out[SEG_VALUE_BYTES_MAX];
    uint64_t sum;
    size_t len;
    CHECK(get_value(s, "guarded", out, &len, NULL) == SEG_OK && len == 8, "guarded");
    memcpy(&sum, out, sizeof sum);
    return sum;
}

static void act(uint32_t seed)
{
    uint8_t value[600];
    int adds = 0;
    uint32_t fence = 0;
    bool raised = false;
    uint64_t stands = 0;
    seg *s = enter();
    CHECK(seg_fence(s, "f", 1, true, &fence) == SEG_OK, "fence");
    const seg_grant grant = {1, fence};
    always = 1;
    countdown = 1;
    signal_at_point = SIGSTOP;
    for (int i = 0; i < TURNS; i++) {
        size_t n = 8 + dice(&seed) % 120;
        seg_op op = {.verb = SEG_WRITE, .data = value, .len = n};
        fill(value, n, (uint8_t)(1 + dice(&seed) % 250));
        switch (dice(&seed) % 9) {
        case 0:
            (void)create(s, "shared", 'c', n, 0, NULL);
            break;
        case 1:
            op.verb = SEG_DELETE;
            (void)update(s, "shared", &op);
            break;
        case 2:
        case 3:
            (void)update(s, "shared", &op);
            break;
        case 4:
        case 5:
            op = (seg_op){.verb = SEG_ADD, .delta = 1, .grant = &grant};
            (void)update(s, "guarded", &op);
            break;
        case 6:
            CHECK(seg_fence_raise(s, fence, 2, &raised) == SEG_OK && raised, "raise");
            stands = guarded(s);
            break;
        default:
            op = (seg_op){.verb = SEG_ADD, .delta = 1};
            adds += update(s, "counter", &op) == SEG_OK;
        }
    }
    countdown = 0;
    CHECK(!raised || guarded(s) == stands, "a fenced write took effect");
    seg_close(s);
    _exit(adds);
}

static void whole(seg *s, uint32_t seed)
{
    uint8_t out[SEG_VALUE_BYTES_MAX];
    size_t len;
    seg_status status = get_value(s, "shared", out, &len, NULL);
    for (size_t k = 1; status == SEG_OK && k < len; k++) {
        CHECK(out[k] == out[0], "schedule %u: torn at %zu of %zu", seed, k, len);
    }
}

static void schedule(uint32_t seed)
{
    uint32_t random = seed;
    pid_t actor[ACTORS];
    int left = ACTORS, now = 0, state;
    uint64_t sum = 0, adds = 0;
    size_t len;
    uint8_t value[SEG_VALUE_BYTES_MAX];
    fresh();
    seg *s = enter();
    make_counter(s, "counter");
    make_counter(s, "guarded");
    CHECK(create(s, "shared", 1, 40, 0, NULL) == SEG_OK, "shared");
    for (int i = 0; i < ACTORS; i++) {
        uint32_t start = dice(&random);
        actor[i] = fork();
        CHECK(actor[i] >= 0, "fork");
        if (actor[i] == 0) {
            act(start);
        }
        CHECK(waitpid(actor[i], &state, WUNTRACED) == actor[i] && WIFSTOPPED(state), "start");
    }
    while (left > 0) {
        if (dice(&random) % 8 == 0 || actor[now] == 0) {
            now = (int)(dice(&random) % ACTORS);
            continue;
        }
        CHECK(kill(actor[now], SIGCONT) == 0, "continue");
        CHECK(waitpid(actor[now], &state, WUNTRACED) == actor[now], "waitpid");
        whole(s, seed);
        if (!WIFSTOPPED(state)) {
            CHECK(WIFEXITED(state) && WEXITSTATUS(state) <= TURNS, "schedule %u: actor died %x",
                  seed, state);
            adds += (uint64_t)WEXITSTATUS(state);
            actor[now] = 0;
            left--;
        }
    }
    CHECK(get_value(s, "counter", value, &len, NULL) == SEG_OK && len == 8, "counter");
    memcpy(&sum, value, 8);
    CHECK(sum == adds, "schedule %u: counter is %lu, %lu were added", seed, sum, adds);
    keep(s);
    sound(s, "schedule", true);
    seg_close(s);
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
    if (strcmp(argv[1], "threads") == 0) {
        threads();
    } else if (strcmp(argv[1], "kills") == 0) {
        kills((uint32_t)rounds);
    } else if (strcmp(argv[1], "schedule") == 0) {
        for (int seed = 1; seed <= rounds; seed++) {
            schedule((uint32_t)seed);
        }
    } else {
        seg *s = enter();
        neighbours(s);
        seg_close(s);
        for (int what = 0; what < OPERATIONS; what++) {
            if (strcmp(argv[1], "crash") == 0) {
                printf("%s: %ld points\n", names[what], crash(what, false));
                crash(what, true);
            } else if (strcmp(argv[1], "stop") == 0) {
                for (int how = 0; how < RIVALS; how++) {
                    printf("%s: %ld points\n", names[what], stop(what, how));
                }
            } else {
                for (long point = 1; point < 60; point += rounds) {
                    twice(what, point, SIGKILL);
                    twice(what, point, SIGSTOP);
                }
            }
            fflush(stdout);
        }
    }
    unlink(path);
    printf("ok\n");
    return 0;
}
