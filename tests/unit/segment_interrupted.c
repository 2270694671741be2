/* One writer is interrupted at a store that is counted out, again for the next one, to the last. */
#include "segment_stress.h"

#define NEIGHBOURS 12
#define POINTS_MAX 2000

/* ---- the operations that are interrupted ---- */
enum { CREATE, WRITE, GROW, APPEND, APPEND_GROW, DELETE, SWAP, ADD, OWN };
#define OPERATIONS (OWN + MOVES) /* the state server's come after a client's own */
static const char *const own_names[] = {"create", "write", "grow",  "append", "append-grow",
                                        "delete", "swap",  "add"};
static const char *name_of(int what) { return what < OWN ? own_names[what] : move_names[what - OWN]; }

static void make_before(seg *s, int what, const char *key)
{
    uint64_t one = 1;
    seg_op op = {.verb = SEG_APPEND, .data = "old", .len = 3};
    if (what >= OWN) {
        move_before(s, what - OWN, key);
        return;
    }
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
        CHECK(make(s, key, &one, sizeof one, 0, NULL) == SEG_OK, "before");
        return;
    default:
        CHECK(create(s, key, 'o', VALUE, 0, NULL) == SEG_OK, "before");
    }
}

/* What there is before: an item of this segment's own, or (`form`) one that was planted. */
static void before(seg *s, int what, const char *key, bool form)
{
    planted = form;
    make_before(s, what, key);
    planted = false;
}

static seg_status perform(seg *s, int what, const char *key, const seg_grant *g)
{
    uint8_t value[1024];
    uint64_t version = 0;
    size_t len;
    uint8_t scratch[SEG_VALUE_BYTES_MAX];
    seg_op op = {.verb = SEG_WRITE, .data = value, .len = VALUE, .grant = g};
    fill(value, sizeof value, 'n');
    if (what >= OWN) {
        return move_perform(s, what - OWN, key);
    }
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
    if (what >= OWN) {
        return move_state(s, what - OWN, key);
    }
    seg_handle h = {0};
    seg_status status = seg_peek(s, key, strlen(key), &h, value, sizeof value, &len, NULL);
    if (status == SEG_NOT_FOUND) {
        return '-';
    }
    CHECK(status == SEG_OK, "%s of %s: read says %d", name_of(what), key, status);
    if (len > 0 && value[0] == 'r') {
        for (size_t i = 0; i < VALUE && i < len; i++) {
            CHECK(value[i] == 'r', "%s: torn rival value at %zu of %zu", name_of(what), i, len);
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
            CHECK(at + 4 + n <= len, "%s: an entry runs over the end", name_of(what));
            CHECK(n == (entries < 3 ? 3u : 61u), "%s: entry %d of %u bytes", name_of(what), entries,
                  n);
            for (uint32_t i = 0; i < n; i++) {
                uint8_t c = entries < 3 ? (uint8_t)"old"[i] : 'n';
                CHECK(value[at + 4 + i] == c, "%s: torn entry", name_of(what));
            }
            at += 4 + n;
            entries++;
        }
        return at == len && entries == 3 ? 'o' : at == len && entries == 4 ? 'n' : '?';
    }
    for (size_t i = 1; i < len; i++) {
        CHECK(value[i] == value[0], "%s: torn value at %zu of %zu", name_of(what), i, len);
    }
    return len == VALUE || (what == GROW && len == 300) ? (char)value[0] : '?';
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
        CHECK(WEXITSTATUS(state) == 90, "%s: child exit %d", name_of(what), WEXITSTATUS(state));
        return false;
    }
    CHECK(sig == SIGSTOP ? WIFSTOPPED(state) : WIFSIGNALED(state), "%s: state %x", name_of(what),
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
    if (what >= OWN) {
        move_rival(s, what - OWN, key);
        return;
    }
    seg_status status = what == CREATE ? create(s, key, 'r', VALUE, 0, NULL) : update(s, key, &op);
    if ((what == CREATE && status == SEG_EXISTS) || (what == DELETE && status == SEG_NOT_FOUND)) {
        return;
    }
    CHECK(status == SEG_OK, "%s: the rival's write says %d", name_of(what), status);
}

static void drop(seg *s, const char *key)
{
    seg_op op = {.verb = SEG_DELETE};
    seg_status status = update(s, key, &op);
    if (status == SEG_AWAY) {
        status = uproot(s, key);
    }
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

static long crash(int what, bool access_first, bool form)
{
    char key[64];
    long point = 1;
    for (;; point++) {
        seg *s = enter();
        seg_cursor cursor;
        pid_t child;
        snprintf(key, sizeof key, "k/%s/%ld", name_of(what), point);
        before(s, what, key, form);
        char old = state_of(s, what, key);
        CHECK(seg_watch(s, &cursor) == SEG_OK, "watch");
        bool hit = interrupted(what, key, NULL, point, SIGKILL, &child);
        CHECK(point < POINTS_MAX, "too many points");
        char now = state_of(s, what, key);
        char new = what >= OWN ? move_done(what - OWN) : what == DELETE ? '-' : 'n';
        CHECK(now == old || now == new, "%s, point %ld: '%c' became '%c'", name_of(what), point, old,
              now);
        if (access_first) {
            rival(s, what, key);
        }
        keep(s);
        sound(s, name_of(what), true);
        if (!access_first) {
            CHECK(state_of(s, what, key) == now, "%s, point %ld: recovery changed the value",
                  name_of(what), point);
            if (now != old) {
                told(s, &cursor, key);
            }
            rival(s, what, key);
        }
        drop(s, key);
        CHECK(state_of(s, what, key) == '-', "%s: still there", name_of(what));
        neighbours_live(s);
        sound(s, name_of(what), true);
        seg_close(s);
        if (!hit) {
            return point - 1;
        }
    }
}

enum { RIVAL_WRITES, RIVAL_DELETES, RIVAL_REMAKES, RIVAL_FREEZES, RIVAL_RAISES, RIVALS };

/* Local writers only: the server's operations have no grants, and there is one server. */
static bool makes_sense(int what, int how)
{
    return (how != RIVAL_RAISES && how != RIVAL_FREEZES) ||
           (what < OWN && (what != CREATE || how == RIVAL_RAISES));
}

/* Is there an item before, of either form? The server's are planted in any case. */
static bool has_forms(int what) { return what < OWN && what != CREATE; }

/* After a fence was raised, or the item frozen: the writer that goes on changes nothing. */
static void powerless(int what, int how, long point, char old, char seen, char after, int status)
{
    seg_status refusal = how == RIVAL_RAISES ? SEG_FENCED : SEG_AWAY;
    CHECK(after == seen, "%s, point %ld: a write took effect that was %s: '%c' became '%c'",
          name_of(what), point, how == RIVAL_RAISES ? "fenced" : "frozen out", seen, after);
    CHECK((seg_status)status == (seen != old ? SEG_OK : refusal),
          "%s, point %ld: the writer was told %d ('%c' before, '%c' after)", name_of(what), point,
          status, old, seen);
}

static long stop(int what, int how, bool form)
{
    char key[64], name[80];
    long point = 1;
    for (;; point++) {
        seg *s = enter();
        pid_t child;
        uint32_t fence;
        bool raised = false;
        seg_facts facts = {0}, now = {0};
        snprintf(key, sizeof key, "k/%s/%ld", name_of(what), point);
        snprintf(name, sizeof name, "%s%s", key, form ? "/planted" : "");
        CHECK(seg_fence(s, name, strlen(name), true, &fence) == SEG_OK, "fence");
        seg_grant grant = {1, fence};
        before(s, what, key, form);
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
        case RIVAL_FREEZES: {
            seg_status frozen = freeze(s, key, &facts);
            CHECK(frozen == SEG_OK || (frozen == SEG_NOT_FOUND && what == DELETE), "freeze");
            seen = state_of(s, what, key);
            break;
        }
        case RIVAL_WRITES:
            rival(s, what, key);
            break;
        default:
            drop(s, key);
            if (how == RIVAL_REMAKES) {
                CHECK((what < OWN ? create(s, key, 'r', VALUE, 0, NULL) : move_remake(s, key)) ==
                          SEG_OK,
                      "remake");
                for (int i = 0; i < 4; i++) { /* reuse what was freed */
                    char other[80];
                    snprintf(other, sizeof other, "x/%d", i);
                    CHECK(create(s, other, 'x', VALUE, 0, NULL) == SEG_OK, "other");
                }
            }
        }
        sound(s, name_of(what), false);
        char between = state_of(s, what, key);
        int status = resume(child);
        char after = state_of(s, what, key);
        if (how == RIVAL_RAISES || how == RIVAL_FREEZES) {
            powerless(what, how, point, old, seen, after, status);
            CHECK(how == RIVAL_RAISES || after == '-' ||
                      (freeze(s, key, &now) == SEG_OK && now.version == facts.version),
                  "%s, point %ld: a frozen item went from %lu to %lu", name_of(what), point,
                  facts.version, now.version);
        } else if (how == RIVAL_REMAKES) {
            CHECK(what >= OWN ? after == 'R'
                              : after == 'r' || after == 'n' || (what == DELETE && after == '-'),
                  "%s, point %ld: '%c' after a remake, then '%c'", name_of(what), point, between,
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
        sound(s, name_of(what), true);
        seg_close(s);
    }
}

/* The first is interrupted at `point`, the second is killed at each store of cleaning up. */
static void twice(int what, long point, int sig, bool form)
{
    char key[64];
    for (long second = 1;; second++) {
        seg *s = enter();
        pid_t first;
        int state;
        snprintf(key, sizeof key, "k/%ld", second);
        before(s, what, key, form);
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
            state_of(s, what < OWN ? WRITE : what, key);
        }
        drop(s, key);
        keep(s);
        neighbours_live(s);
        sound(s, name_of(what), true);
        seg_close(s);
        if (WIFEXITED(state)) {
            return;
        }
    }
}

/* ---- a sweep that was under way when a client signed in ---- */

#define ROOM 3000 /* of a size that nothing else here has: its slab comes after the garbage's */

static void makes(seg *s, const char *key)
{
    CHECK(create(s, key, 'n', VALUE, ROOM, NULL) == SEG_OK, "create %s", key);
}

static void sweeps(seg *s, const char *key)
{
    (void)key;
    keep(s);
}

/* The child that does this, stopped at its point'th store; 0: it has fewer, and has ended. */
static pid_t stopped_in(void (*act)(seg *, const char *), const char *key, long point)
{
    int state;
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        signal_at_point = SIGSTOP;
        seg *s = enter();
        countdown = point;
        act(s, key);
        countdown = 0;
        seg_close(s);
        _exit(0);
    }
    CHECK(waitpid(pid, &state, WUNTRACED) == pid, "waitpid");
    CHECK(WIFSTOPPED(state) || (WIFEXITED(state) && WEXITSTATUS(state) == 0), "state %x", state);
    return WIFSTOPPED(state) ? pid : 0;
}

static void go_on(pid_t pid)
{
    int state;
    CHECK(pid == 0 || (kill(pid, SIGCONT) == 0 && waitpid(pid, &state, 0) == pid && state == 0), "resume");
}

/* A dead client's block that no item has. */
static void leave_garbage(seg *s)
{
    for (long point = 1;; point++) {
        pid_t child;
        seg_verdict v;
        CHECK(interrupted(CREATE, "k/garbage", NULL, point, SIGKILL, &child), "no garbage");
        CHECK(seg_verify(s, &v) == SEG_OK, "verify");
        if (v.orphans > 0) {
            return;
        }
        keep(s);
    }
}

static void sweep(void)
{
    long last = 0; /* store of a sweep: it frees the garbage, and goes on to the other slabs */
    seg *s = enter();
    for (pid_t pid = 1; pid != 0; last += pid != 0) {
        leave_garbage(s);
        pid = stopped_in(sweeps, "", last + 1);
        go_on(pid);
    }
    CHECK(last > 0, "nothing was swept");
    for (long point = 1;; point++) {
        uint8_t value[SEG_VALUE_BYTES_MAX];
        size_t len;
        leave_garbage(s);
        pid_t sweeper = stopped_in(sweeps, "", last);
        pid_t maker = stopped_in(makes, "k/new", point);
        CHECK(sweeper != 0 && point < POINTS_MAX, "the sweep was not stopped");
        go_on(sweeper);
        CHECK(create(s, "k/other", 'x', VALUE, ROOM, NULL) == SEG_OK, "other");
        go_on(maker);
        CHECK(get_value(s, "k/new", value, &len, NULL) == SEG_OK && len == VALUE && value[0] == 'n' &&
                  get_value(s, "k/other", value, &len, NULL) == SEG_OK && len == VALUE && value[0] == 'x',
              "point %ld: a value is another item's", point);
        sound(s, "a sweep and a new client", false);
        drop(s, "k/new");
        drop(s, "k/other");
        keep(s);
        sound(s, "a sweep and a new client", true);
        if (maker == 0) {
            break;
        }
    }
    seg_close(s);
}

void interrupted_modes(const char *mode)
{
    seg *s = enter();
    neighbours(s);
    seg_close(s);
    if (strcmp(mode, "sweep") == 0) {
        sweep();
        return;
    }
    for (int each = 0; each < 2 * OPERATIONS; each++) {
        int what = each / 2;
        bool form = each % 2 == 1;
        const char *said = form ? ", planted" : "";
        if (form && !has_forms(what)) {
            continue;
        }
        if (strcmp(mode, "crash") == 0) {
            printf("%s%s: %ld points\n", name_of(what), said, crash(what, false, form));
            crash(what, true, form);
        } else if (strcmp(mode, "stop") == 0) {
            for (int how = 0; how < RIVALS; how++) {
                if (makes_sense(what, how) && (form || how != RIVAL_FREEZES)) {
                    printf("%s%s: %ld points\n", name_of(what), said, stop(what, how, form));
                }
            }
        } else {
            for (long point = 1; point < 60; point += rounds) {
                twice(what, point, SIGKILL, form);
                twice(what, point, SIGSTOP, form);
            }
        }
        fflush(stdout);
    }
}
