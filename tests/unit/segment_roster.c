/* What the header says about a cluster: readers, another layout, samples, a writer that died. */
#include "segment_stress.h"

seg_cluster some_cluster(void)
{
    seg_cluster c = {.clustered = true, .serving = true, .self = 2, .leader = 15, .epoch = 77,
                     .lease_ns = 99, .applied = 1234, .present = 0x8004};
    for (int slot = 2; slot < 16; slot += 13) {
        seg_member *m = &c.member[slot];
        m->slot = (uint8_t)slot;
        memset(m->ip, 0x10 + slot, sizeof m->ip);
        m->port = (uint16_t)(65000 + slot);
        m->incarnation = UINT64_MAX - (uint64_t)slot;
        memset(m->node, 'a' + slot, SEG_NODE_BYTES_MAX);
    }
    return c;
}

void same_cluster(const seg_cluster *a, const seg_cluster *b, const char *when)
{
    CHECK(a->clustered == b->clustered && a->serving == b->serving && a->self == b->self &&
              a->leader == b->leader && a->epoch == b->epoch && a->lease_ns == b->lease_ns &&
              a->applied == b->applied && a->present == b->present,
          "%s: another cluster", when);
    for (int slot = 0; slot < 16; slot++) {
        const seg_member *x = &a->member[slot], *y = &b->member[slot];
        CHECK(x->slot == y->slot && x->port == y->port && x->incarnation == y->incarnation &&
                  memcmp(x->ip, y->ip, sizeof x->ip) == 0 && strcmp(x->node, y->node) == 0,
              "%s: another member %d", when, slot);
    }
}

static void readonly_clients(const char *segment_path)
{
    char why[256];
    seg *r;
    seg_handle h = {1, 1, 1};
    seg_home home = {0};
    seg_cluster c = {0};
    seg_copy copy = {.auth = 1, .version = 1, .value = "r", .len = 1};
    CHECK(seg_open(segment_path, true, &r, why, sizeof why) == SEG_OK, "open: %s", why);
    CHECK(seg_plant(r, "r", 1, &copy, &h) == SEG_UNAVAILABLE &&
              seg_cluster_write(r, &c) == SEG_UNAVAILABLE &&
              seg_begin_anew(r, 1) == SEG_UNAVAILABLE &&
              seg_home_write(r, &h, &home) == SEG_UNAVAILABLE && seg_freeze(r, &h) == SEG_UNAVAILABLE,
          "a reader wrote");
    seg_ack(r, &h, 1);
    seg_serve(r, false);
    seg_lease(r, 1);
    seg_note(r, "r", 1);
    seg_close(r);
}

/* A segment of the layout before this one is refused in words, not read. */
static void layouts(const char *segment_path)
{
    char path[512], why[512] = "";
    uint32_t layout = SEG_LAYOUT - 1;
    seg *s;
    snprintf(path, sizeof path, "%s.old", segment_path);
    CHECK(seg_format(path, SEG_SIZE_BYTES_MIN, why, sizeof why) == SEG_OK, "format: %s", why);
    FILE *f = fopen(path, "r+b");
    CHECK(f != NULL && fseek(f, 8, SEEK_SET) == 0 && fwrite(&layout, 4, 1, f) == 1 && fclose(f) == 0,
          "patch");
    CHECK(seg_open(path, false, &s, why, sizeof why) == SEG_WRONG_VERSION, "opened: %s", why);
    CHECK(strstr(why, "layout 2, this build speaks 3") != NULL, "refused with: %s", why);
    unlink(path);
}

/* A sample says which items local clients use, and nothing about the server's own accesses. */
static void samples(seg *s)
{
    enum { READS = 64 * 400 };
    uint32_t found[64];
    uint8_t out[8];
    size_t len, n, mine = 0;
    seg_cluster c = {.clustered = true, .serving = true};
    seg_copy copy = {.auth = 11, .version = 1, .value = "s", .len = 1};
    seg_handle h;
    CHECK(seg_cluster_write(s, &c) == SEG_OK, "cluster");
    CHECK(seg_plant(s, "s", 1, &copy, &h) == SEG_OK, "plant");
    seg *client = enter();
    CHECK(seg_samples(s, found, 64) == 0, "samples at first");
    for (int i = 0; i < READS; i++) {
        CHECK(seg_read(client, "s", 1, &h, out, sizeof out, &len, NULL) == SEG_OK, "read");
        CHECK(seg_read(s, "s", 1, &h, out, sizeof out, &len, NULL) == SEG_OK, "read");
        n = seg_samples(s, found, 64);
        for (size_t k = 0; k < n; k++) {
            CHECK(found[k] == h.item, "sample of %u", found[k]);
        }
        mine += n;
    }
    CHECK(mine > READS / SEG_SAMPLE / 2 && mine < READS / SEG_SAMPLE * 2, "%zu samples", mine);
    for (int i = 0; i < READS; i++) {
        CHECK(seg_read(client, "s", 1, &h, out, sizeof out, &len, NULL) == SEG_OK, "read");
    }
    CHECK(seg_samples(s, found, 3) == 3, "cap");
    n = seg_samples(s, found, 64);
    CHECK(n > 0 && n < 64, "%zu samples are kept", n);
    seg_close(client);
    CHECK(seg_begin_anew(s, 1) == SEG_OK, "begin anew");
    c.clustered = false;
    CHECK(seg_cluster_write(s, &c) == SEG_OK, "cluster");
}

/* The roster's writer dies at each store: the old one, the new one, or nobody knows. */
void roster(void)
{
    seg_cluster old = some_cluster(), new = some_cluster(), now;
    long point = 1, torn = 0;
    new.epoch = 78;
    new.leader = 2;
    new.present = 0x0004;
    memset(&new.member[15], 0, sizeof new.member[15]);
    for (bool hit = true; hit; point++) {
        seg *s = enter();
        int state;
        CHECK(seg_cluster_write(s, &old) == SEG_OK, "roster: write");
        pid_t pid = fork();
        CHECK(pid >= 0, "fork");
        if (pid == 0) {
            signal_at_point = SIGKILL;
            seg *mine = enter();
            countdown = point;
            (void)seg_cluster_write(mine, &new);
            _exit(0);
        }
        CHECK(waitpid(pid, &state, 0) == pid, "waitpid");
        hit = WIFSIGNALED(state);
        seg_status status = seg_cluster_read(s, &now);
        if (status == SEG_UNAVAILABLE) {
            torn++;
        } else {
            CHECK(status == SEG_OK && (now.epoch == 77 || now.epoch == 78), "roster: %d", status);
            now.serving = true;
            same_cluster(&now, now.epoch == 77 ? &old : &new, "a dead writer");
        }
        CHECK(seg_cluster_write(s, &new) == SEG_OK && seg_cluster_read(s, &now) == SEG_OK, "repair");
        same_cluster(&now, &new, "repaired");
        seg_close(s);
    }
    CHECK(torn > 10, "the roster was torn only %ld times", torn);
}

void roster_promises(seg *s, const char *segment_path)
{
    readonly_clients(segment_path);
    layouts(segment_path);
    samples(s);
}
