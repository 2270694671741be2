/* Several clients at once: threads, processes that are killed, and schedules played step by step. */
#include <pthread.h>

#include "segment_stress.h"

#define THREADS 4
#define KEYS 6
static seg *shared;
static _Atomic long added;

static uint32_t dice(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* One thing the state server does. `alone`: nobody else is the server, so a frozen item stands
 * still, and comes back with a higher version. */
static void serve(seg *s, const char *key, uint32_t *seed, bool keep_value, bool alone)
{
    uint8_t value[400];
    seg_facts before, after;
    seg_handle h = {0};
    size_t len = 8 + dice(seed) % 392;
    fill(value, len, (uint8_t)dice(seed));
    seg_copy copy = {.auth = 1 + dice(seed), .version = 1 + dice(seed) % 9, .value = value,
                     .len = len, .away = dice(seed) % 2 == 0};
    seg_status status = seg_lookup(s, key, strlen(key), &h);
    if (status == SEG_NOT_FOUND) {
        copy.stub = copy.away && dice(seed) % 2 == 0;
        status = seg_plant(s, key, strlen(key), &copy, &h);
    }
    if (status != SEG_OK || seg_freeze(s, &h) != SEG_OK ||
        seg_facts_read(s, &h, &before) != SEG_OK) {
        return; /* deleted, or made by another */
    }
    CHECK(!alone || before.away, "frozen and not away");
    uint32_t kind = keep_value ? 0 : dice(seed) % 4;
    copy.version = before.version + 1;
    copy.stub = false;
    CHECK(kind != 1 || seg_strip(s, &h) == SEG_OK || !alone, "strip");
    if (kind != 0) {
        status = seg_overwrite(s, &h, &copy);
        CHECK(!alone || status == SEG_OK, "overwrite says %d", status);
    }
    status = seg_facts_read(s, &h, &after);
    CHECK(!alone || (status == SEG_OK && after.away &&
                     (before.stub || after.version == before.version + (kind != 0))),
          "a frozen item went from %lu to %lu", before.version, after.version);
    if (kind == 2) {
        status = seg_uproot(s, &h);
        CHECK(!alone || status == SEG_OK, "uproot says %d", status);
        return;
    }
    status = seg_thaw(s, &h, 0);
    CHECK(status == SEG_OK || !alone || (after.stub && status == SEG_INVALID), "thaw says %d", status);
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
            CHECK(status == SEG_OK || status == SEG_NOT_FOUND || status == SEG_AWAY, "delete says %d", status);
        } else if (kind <= 3) {
            seg_status status = update(s, key, &op);
            CHECK(status == SEG_OK || status == SEG_NOT_FOUND || status == SEG_AWAY, "write says %d", status);
        } else if (kind == 4) {
            seg_op add = {.verb = SEG_ADD, .delta = 1};
            seg_status status = update(s, "counter", &add);
            CHECK(status == SEG_OK || status == SEG_AWAY, "add says %d", status);
            if (count_adds && status == SEG_OK) {
                added++;
            }
        } else if (kind == 5 && !count_adds) {
            serve(s, key, &seed, false, false);
            serve(s, "counter", &seed, true, false);
        } else {
            seg_status status = get_value(s, key, out, &len, NULL);
            CHECK(status == SEG_OK || status == SEG_NOT_FOUND || status == SEG_AWAY, "read says %d", status);
            for (size_t k = 1; status == SEG_OK && k < len; k++) {
                CHECK(out[k] == out[0], "torn read of %s at %zu of %zu", key, k, len);
            }
        }
    }
}

static void *server(void *seed)
{
    char why[256], key[32];
    uint32_t state = (uint32_t)(size_t)seed;
    seg *s;
    CHECK(seg_attach(shared, &s, why, sizeof why) == SEG_OK, "attach: %s", why);
    for (int i = 0; i < rounds / 4; i++) {
        snprintf(key, sizeof key, "t/%u", dice(&state) % KEYS);
        serve(s, key, &state, false, true);
        serve(s, "counter", &state, true, true);
    }
    seg_close(s);
    return NULL;
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
    pthread_t ids[THREADS + 1];
    uint64_t sum = 0;
    size_t len;
    uint8_t value[SEG_VALUE_BYTES_MAX];
    shared = enter();
    make_counter(shared, "counter");
    for (size_t i = 0; i <= THREADS; i++) {
        CHECK(pthread_create(&ids[i], NULL, i < THREADS ? thread : server, (void *)(i + 1)) == 0,
              "thread");
    }
    for (size_t i = 0; i <= THREADS; i++) {
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
#define ACTORS 4
#define TURNS 3

/* The first actor is the state server, the others are clients. */
static void act_server(seg *s, uint32_t seed)
{
    for (int i = 0; i < TURNS; i++) {
        if (dice(&seed) % 2 == 0) {
            serve(s, "counter", &seed, true, true);
        } else {
            serve(s, "shared", &seed, false, true);
        }
    }
}

static uint64_t guarded(seg *s)
{
    uint8_t out[SEG_VALUE_BYTES_MAX];
    uint64_t sum;
    size_t len;
    CHECK(get_value(s, "guarded", out, &len, NULL) == SEG_OK && len == 8, "guarded");
    memcpy(&sum, out, sizeof sum);
    return sum;
}

static void act(uint32_t seed, bool server)
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
    if (server) {
        act_server(s, seed);
    }
    for (int i = 0; i < TURNS && !server; i++) {
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
    seg_handle h = {0};
    seg_status status = seg_peek(s, "shared", 6, &h, out, sizeof out, &len, NULL);
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
            act(start, i == 0);
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

bool concurrent_modes(const char *mode)
{
    if (strcmp(mode, "threads") == 0) {
        threads();
    } else if (strcmp(mode, "kills") == 0) {
        kills((uint32_t)rounds);
    } else if (strcmp(mode, "schedule") == 0) {
        for (int seed = 1; seed <= rounds; seed++) {
            schedule((uint32_t)seed);
        }
    } else {
        return false;
    }
    return true;
}
