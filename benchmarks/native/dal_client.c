/* DAL through dal.h, as a network function uses it.
 *
 *   dal_client local ADDRESS KEY_FILE CALLS ROUNDS          read and write by handle, in memory
 *   dal_client remote ADDRESS KEY_FILE CALLS KIND           read | write | sync: each one waits for the last
 *   dal_client create ADDRESS KEY_FILE COUNT BATCH REPLICAS many keys; BATCH 1: one by one
 *   dal_client writer ADDRESS KEY_FILE SECONDS              one item of equal words, counted up
 *   dal_client reader ADDRESS KEY_FILE SECONDS              looks at it
 *
 * KEY_FILE "-": none, an embedded segment.
 */
#include "measure.h"

#include "dal.h"

#define VALUE_BYTES 64u
#define WORDS (VALUE_BYTES / 8)
#define WARM_UP 2000u
#define NS 1000000000ull
#define LOOK_BACK 64u /* the writer reads what it has written once in so many writes */

static void must(dal *d, const char *what, dal_status s)
{
    if (s != DAL_OK) {
        fprintf(stderr, "%s: status %d: %s\n", what, (int)s, dal_why(d));
        exit(3);
    }
}

static dal *open_store(char **v, bool busy)
{
    char why[256] = "";
    dal *d = NULL;
    dal_options o = DAL_DEFAULTS;
    o.key_file = strcmp(v[3], "-") == 0 ? NULL : v[3];
    o.busy = busy;
    o.timeout_ns = 10 * NS;
    if (dal_open(v[2], &o, &d, why, sizeof why) != DAL_OK) {
        die(v[2], why);
    }
    return d;
}

static void local(char **v)
{
    uint8_t value[VALUE_BYTES] = {1}, buffer[VALUE_BYTES];
    dal *d = open_store(v, false);
    dal_handle h = {0};
    dal_write w = {0};
    size_t len;
    uint32_t calls = number(v[4], 1, CALLS_MAX), rounds = number(v[5], 1, 1000);
    double read_ns = 1e18, write_ns = 1e18;
    must(d, "put", dal_put(d, "native", 6, value, sizeof value, &w, &h));
    for (uint32_t r = 0; r < rounds; r++) {
        uint64_t began = clock_ns();
        for (uint32_t i = 0; i < calls; i++) {
            if (dal_read(d, &h, buffer, sizeof buffer, &len, NULL) != DAL_OK) {
                die("read", dal_why(d));
            }
        }
        double each = (double)(clock_ns() - began) / calls;
        read_ns = each < read_ns ? each : read_ns;
        began = clock_ns();
        for (uint32_t i = 0; i < calls; i++) {
            if (dal_write_value(d, &h, value, sizeof value, &w) != DAL_OK) {
                die("write", dal_why(d));
            }
        }
        each = (double)(clock_ns() - began) / calls;
        write_ns = each < write_ns ? each : write_ns;
    }
    figure("read", read_ns);
    figure("write", write_ns);
    dal_close(d);
}

static void remote(char **v)
{
    uint8_t value[VALUE_BYTES] = {1}, buffer[VALUE_BYTES];
    dal *d = open_store(v, true);
    dal_handle h = {0};
    dal_write w = {0};
    size_t len;
    uint32_t calls = number(v[4], 1, CALLS_MAX);
    uint32_t *ns = latency_array(calls);
    bool sync = strcmp(v[5], "sync") == 0, read = strcmp(v[5], "read") == 0;
    const char *key = sync ? "copied" : "single";
    w.replicas = sync;
    w.sync = sync;
    must(d, "put", dal_put(d, key, 6, value, sizeof value, &w, &h));
    for (uint32_t i = 0; i < WARM_UP + calls; i++) {
        uint64_t began = clock_ns();
        if (read) {
            must(d, "read", dal_read(d, &h, buffer, sizeof buffer, &len, NULL));
        } else {
            must(d, "write", dal_write_value(d, &h, value, sizeof value, &w));
        }
        if (i >= WARM_UP) {
            ns[i - WARM_UP] = (uint32_t)(clock_ns() - began);
        }
    }
    latencies(v[5], ns, calls);
    free(ns);
    dal_close(d);
}

static void create(char **v)
{
    uint8_t value[VALUE_BYTES] = {1};
    dal *d = open_store(v, false);
    dal_write w = {0};
    uint32_t count = number(v[4], 1, 10000000), batch = number(v[5], 1, 65536);
    char(*keys)[24] = calloc(count, sizeof *keys);
    dal_new *items = calloc(batch, sizeof *items);
    w.replicas = (uint8_t)number(v[6], 0, 15);
    if (keys == NULL || items == NULL) {
        die("create", "no memory");
    }
    for (uint32_t i = 0; i < count; i++) {
        snprintf(keys[i], sizeof *keys, "f/%u/%u", w.replicas, i);
    }
    uint64_t began = clock_ns();
    if (batch == 1) {
        for (uint32_t i = 0; i < count; i++) {
            dal_handle h;
            must(d, "create", dal_create(d, keys[i], strlen(keys[i]), value, sizeof value, &w, &h));
        }
    } else {
        for (uint32_t i = 0; i < count; i += batch) {
            uint32_t n = count - i < batch ? count - i : batch;
            for (uint32_t k = 0; k < n; k++) {
                items[k] = (dal_new){keys[i + k], value, strlen(keys[i + k]), sizeof value, DAL_OK};
            }
            must(d, "create_many", dal_create_many(d, items, n, &w));
        }
    }
    figure("creates_per_s", count / ((double)(clock_ns() - began) / NS));
    free(items);
    free(keys);
    dal_close(d);
}

static void writer(char **v)
{
    uint64_t value[WORDS] = {0}, back[WORDS], version = 0, first = 0, lost = 0, writes = 0;
    dal *d = open_store(v, false);
    dal_handle h = {0};
    dal_write w = {0};
    size_t len;
    must(d, "put", dal_put(d, "shared", 6, value, sizeof value, &w, &h));
    must(d, "read", dal_read(d, &h, back, sizeof back, &len, &first));
    uint64_t until = clock_ns() + number(v[4], 1, 3600) * NS;
    while (writes % LOOK_BACK != 0 || clock_ns() < until) {
        writes++;
        for (uint32_t i = 0; i < WORDS; i++) {
            value[i] = writes;
        }
        must(d, "write", dal_write_value(d, &h, value, sizeof value, &w));
        if (writes % LOOK_BACK == 0) {
            must(d, "read", dal_read(d, &h, back, sizeof back, &len, &version));
            lost += memcmp(back, value, sizeof value) != 0;
        }
    }
    lost += version - first != writes; /* each write is one version */
    figure("writes", (double)writes);
    figure("lost", (double)lost);
    dal_close(d);
}

static void reader(char **v)
{
    uint64_t value[WORDS], last = 0, reads = 0, torn = 0, back = 0, starved = 0;
    dal *d = open_store(v, false);
    dal_handle h = {0};
    size_t len;
    must(d, "lookup", dal_lookup(d, "shared", 6, &h));
    uint32_t seconds = number(v[4], 1, 3600);
    uint64_t until = clock_ns() + seconds * NS;
    while (clock_ns() < until) {
        uint64_t second = clock_ns() + NS, before = reads;
        while (clock_ns() < second) {
            dal_status s = dal_read(d, &h, value, sizeof value, &len, NULL);
            if (s == DAL_UNAVAILABLE) { /* it gave up after all its tries */
                starved++;
                continue;
            }
            must(d, "read", s);
            reads++;
            for (uint32_t i = 1; i < WORDS; i++) {
                torn += value[i] != value[0];
            }
            back += value[0] < last;
            last = value[0];
        }
        starved += reads == before;
    }
    figure("reads", (double)reads);
    figure("torn", (double)torn);
    figure("back", (double)back);
    figure("starved", (double)starved);
    dal_close(d);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 3 ? argv[1] : "";
    if (argc == 6 && strcmp(mode, "local") == 0) {
        local(argv);
    } else if (argc == 6 && strcmp(mode, "remote") == 0) {
        remote(argv);
    } else if (argc == 7 && strcmp(mode, "create") == 0) {
        create(argv);
    } else if (argc == 5 && strcmp(mode, "writer") == 0) {
        writer(argv);
    } else if (argc == 5 && strcmp(mode, "reader") == 0) {
        reader(argv);
    } else {
        die("dal_client", "local | remote | create | writer | reader: see the source");
    }
    return 0;
}
