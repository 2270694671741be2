/* Chance, the trace, verdicts, the event queue, and the clocks and dice that the code under test sees.
 *
 * Knows: the seed. Must not know: what the events mean.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "sim.h"

static world *running;

static uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

/* xoshiro256** */
uint64_t chance_next(world *w)
{
    uint64_t *s = w->random;
    uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

uint64_t chance(world *w, uint64_t below) { return below == 0 ? 0 : chance_next(w) % below; }
uint64_t chance_between(world *w, uint64_t from, uint64_t to) { return from + chance(w, to - from + 1); }
bool chance_of(world *w, double probability)
{
    return (double)(chance_next(w) >> 11) < probability * 9007199254740992.0;
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

uint64_t hash_bytes(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    uint64_t h = mix(len);
    for (; len >= 8; at += 8, len -= 8) {
        uint64_t v;
        memcpy(&v, at, 8);
        h = mix(h ^ v);
    }
    uint64_t v = 0;
    memcpy(&v, at, len);
    return mix(h ^ v) | 1;
}

void base_begin(world *w, uint64_t seed)
{
    w->seed = seed;
    uint64_t x = seed;
    for (int i = 0; i < 4; i++) {
        w->random[i] = mix(x++ * 0x2545f4914f6cdd1dull);
    }
    running = w;
}

/* ---- trace ---- */

static void print_entry(const trace_entry *t)
{
    printf("  %12.6f ms  %-24s %lld %lld %lld\n", (double)t->at / 1e6, t->what, (long long)t->a,
           (long long)t->b, (long long)t->c);
}

void trace(world *w, const char *what, int64_t a, int64_t b, int64_t c)
{
    trace_entry *t = &w->ring[w->traced++ % TRACE_RING];
    *t = (trace_entry){w->now, what, a, b, c};
    w->digest = mix(w->digest ^ mix(w->now) ^ (uint64_t)a << 40 ^ (uint64_t)b << 20 ^ (uint64_t)c);
    w->digest = mix(w->digest ^ hash_bytes(what, strlen(what)));
    if (w->tracing) {
        print_entry(t);
    }
}

void broken(world *w, const char *rule, const char *format, ...)
{
    if (w->failed) {
        return;
    }
    w->failed = true;
    char line[400];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    snprintf(w->verdict, sizeof w->verdict, "%s: %s (step %llu, %.3f ms)", rule, line,
             (unsigned long long)w->steps, (double)w->now / 1e6);
    if (!w->tracing && !w->quiet) {
        uint64_t from = w->traced > TRACE_RING ? w->traced - TRACE_RING : 0;
        for (uint64_t i = from; i < w->traced; i++) {
            print_entry(&w->ring[i % TRACE_RING]);
        }
    }
}

/* ---- clocks and dice of the code under test (linked with --wrap) ---- */

void clock_of(world *w, uint32_t place) { w->clock_place = place; }

int __wrap_clock_gettime(clockid_t clock, struct timespec *out);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
    (void)clock;
    uint64_t now = host_now(running, running->clock_place);
    out->tv_sec = (time_t)(now / 1000000000ull);
    out->tv_nsec = (long)(now % 1000000000ull);
    return 0;
}

ssize_t __wrap_getrandom(void *out, size_t len, unsigned flags);
ssize_t __wrap_getrandom(void *out, size_t len, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < len; i++) {
        ((uint8_t *)out)[i] = (uint8_t)(chance_next(running) >> 32);
    }
    return (ssize_t)len;
}

static const char *const type_names[64] = {
    [WIRE_READ] = "READ", [WIRE_WRITE] = "WRITE", [WIRE_APPEND] = "APPEND", [WIRE_SWAP] = "SWAP",
    [WIRE_ADD] = "ADD", [WIRE_DELETE] = "DELETE", [WIRE_CREATE] = "CREATE", [WIRE_LOOKUP] = "LOOKUP",
    [WIRE_SCAN] = "SCAN", [WIRE_POLL] = "POLL", [WIRE_RAISE] = "RAISE", [WIRE_FENCE] = "FENCE",
    [WIRE_MEMBERS] = "MEMBERS", [WIRE_MOVE] = "MOVE", [WIRE_ENSURE] = "ENSURE", [WIRE_TELL] = "TELL",
    [WIRE_ANNOUNCE] = "ANNOUNCE", [WIRE_INBOX] = "INBOX", [WIRE_COPY] = "COPY", [WIRE_REPLY] = "REPLY",
    [WIRE_PUSH] = "PUSH", [WIRE_PROPOSE] = "PROPOSE", [WIRE_REFUSED] = "REFUSED", [WIRE_OP] = "OP",
    [WIRE_OPACK] = "OPACK", [WIRE_BEAT] = "BEAT", [WIRE_STATE] = "STATE", [WIRE_FETCH] = "FETCH",
    [WIRE_SNAP] = "SNAP", [WIRE_SNAPACK] = "SNAPACK", [WIRE_SNAPEND] = "SNAPEND", [WIRE_NOTE] = "NOTE",
    [WIRE_WANTS] = "WANTS", [WIRE_STRAY] = "STRAY", [WIRE_BOXES] = "BOXES", [WIRE_SAME] = "SAME",
};

/* Every message that is taken in passes here: with --trace it can be read. */
bool __real_wire_decode(const void *in, size_t len, wire_msg *m);
bool __wrap_wire_decode(const void *in, size_t len, wire_msg *m);
bool __wrap_wire_decode(const void *in, size_t len, wire_msg *m)
{
    bool good = __real_wire_decode(in, len, m);
    if (good && running->tracing) {
        const char *name = m->type < 64 && type_names[m->type] != NULL ? type_names[m->type] : "?";
        printf("      > %-8s slot %u flags %x st %u", name, m->slot, m->flags, m->status);
        const struct {
            uint32_t bit;
            const char *name;
            uint64_t value;
        } numbers[] = {
            {WIRE_SUB, "sub", m->sub}, {WIRE_EPOCH, "ep", m->epoch}, {WIRE_ID, "id", m->id},
            {WIRE_SEQ, "seq", m->seq}, {WIRE_COMMITTED, "com", m->committed}, {WIRE_AUTH, "auth", m->auth},
            {WIRE_VERSION, "ver", m->version}, {WIRE_NUMBER, "num", m->number}, {WIRE_ITEM, "item", m->item},
            {WIRE_GRANT_EPOCH, "grant", m->grant_epoch}, {WIRE_VALUE, "len", m->value_len},
        };
        for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
            if ((m->mask & numbers[i].bit) != 0) {
                printf(" %s %llx", numbers[i].name, (unsigned long long)numbers[i].value);
            }
        }
        if ((m->mask & WIRE_HOME) != 0) {
            printf(" home %u/%x/%x want %u", m->home.master, m->home.replicas, m->home.learners, m->home.want);
        }
        if ((m->mask & WIRE_KEY) != 0) {
            printf(" key %.*s", (int)m->key_len, (const char *)m->key);
        }
        printf("\n");
    }
    return good;
}

/* ---- the queue: a binary heap by time, then by order of arrival ---- */

static bool before(const event *a, const event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void event_at(world *w, uint64_t at, event_kind kind, uint32_t a, uint64_t b, void *payload)
{
    if (w->queued == w->queue_room) {
        w->queue_room = w->queue_room == 0 ? 1024 : w->queue_room * 2;
        w->queue = realloc(w->queue, w->queue_room * sizeof *w->queue);
        if (w->queue == NULL) {
            abort();
        }
    }
    event e = {at < w->now ? w->now : at, w->order++, kind, a, b, payload};
    size_t i = w->queued++;
    for (; i > 0 && before(&e, &w->queue[(i - 1) / 2]); i = (i - 1) / 2) {
        w->queue[i] = w->queue[(i - 1) / 2];
    }
    w->queue[i] = e;
}

bool event_take(world *w, event *out)
{
    if (w->queued == 0) {
        return false;
    }
    *out = w->queue[0];
    event last = w->queue[--w->queued];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= w->queued) {
            break;
        }
        child += child + 1 < w->queued && before(&w->queue[child + 1], &w->queue[child]);
        if (!before(&w->queue[child], &last)) {
            break;
        }
        w->queue[i] = w->queue[child];
        i = child;
    }
    w->queue[i] = last;
    return true;
}

void events_free(world *w)
{
    for (size_t i = 0; i < w->queued; i++) {
        free(w->queue[i].payload);
    }
    free(w->queue);
    w->queue = NULL;
    w->queued = w->queue_room = 0;
}
