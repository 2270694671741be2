/* What a segment says about its cluster, and what its clients access: written and read in pieces.
 *
 * Knows: the roster in the header, the clients' samples. Must not know: how members are chosen.
 *
 * The roster is under a sequence lock with one writer. A writer that died in the middle leaves it
 * odd, and two of them (one was stopped for long) a check that does not fit: readers then say
 * SEG_UNAVAILABLE, and the next write puts it right.
 */
#include <stdlib.h>

#include "seg_internal.h"

#define ROSTER_TRIES_MAX 300u /* the last of them asleep: some milliseconds */
#define NODE_WORDS ((SEG_NODE_BYTES_MAX + 1) / 8)

_Static_assert(4 + NODE_WORDS == MEMBER_WORDS, "layout");

bool seg_clustered(const seg *s) { return (peek(&s->header->standing) & CLUSTERED) != 0; }
bool seg_serving(const seg *s) { return !seg_idle(s); }
uint64_t seg_epoch(const seg *s) { return get(&s->header->roster.epoch); }
uint64_t seg_lease_ns(const seg *s) { return get(&s->header->lease_ns); }
uint64_t seg_generation(const seg *s) { return get(&s->header->generation); }

static bool writable(const seg *s) { return seg_usable(s) && !s->readonly; }

void seg_serve(seg *s, bool serving)
{
    if (writable(s) && seg_clustered(s)) {
        put(&s->header->standing, serving ? CLUSTERED | SERVING : CLUSTERED);
        POINT("standing");
    }
}

void seg_lease(seg *s, uint64_t deadline_ns)
{
    if (writable(s)) {
        put(&s->header->lease_ns, deadline_ns);
    }
}

void seg_applied(seg *s, uint64_t seq)
{
    if (writable(s)) {
        put(&s->header->applied, seq);
    }
}

/* Copy the roster's words out and tell what their check should be. */
static uint64_t roster_copy(const seg *s, uint64_t seq, uint64_t *who, uint64_t *epoch,
                            uint64_t member[SEG_SLOTS_MAX][MEMBER_WORDS])
{
    const struct roster *r = &s->header->roster;
    *who = peek(&r->who);
    *epoch = peek(&r->epoch);
    uint64_t sum = seg_mix(s, seq, *who, *epoch);
    for (uint32_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        for (uint32_t i = 0; i < MEMBER_WORDS; i++) {
            member[slot][i] = peek(&r->member[slot][i]);
            sum = seg_mix(s, sum, i, member[slot][i]);
        }
    }
    return sum;
}

static void member_words(const seg_member *m, uint64_t *w)
{
    w[0] = (uint64_t)m->port << 8 | m->slot;
    memcpy(w + 1, m->ip, sizeof m->ip);
    w[3] = m->incarnation;
    memcpy(w + 4, m->node, SEG_NODE_BYTES_MAX);
}

static void member_of(const uint64_t *w, seg_member *m)
{
    m->slot = (uint8_t)w[0];
    m->port = (uint16_t)(w[0] >> 8);
    memcpy(m->ip, w + 1, sizeof m->ip);
    m->incarnation = w[3];
    memcpy(m->node, w + 4, SEG_NODE_BYTES_MAX);
}

seg_status seg_cluster_write(seg *s, const seg_cluster *c)
{
    if (!writable(s)) {
        return SEG_UNAVAILABLE;
    }
    struct header *head = s->header;
    struct roster *r = &head->roster;
    uint64_t standing = !c->clustered ? 0 : c->serving ? CLUSTERED | SERVING : CLUSTERED;
    if (standing == CLUSTERED) {
        put(&head->standing, standing); /* first stop serving */
        POINT("standing");
    }
    uint64_t odd = (get(&r->seq) + 1) | 1;
    put(&r->seq, odd);
    POINT("roster");
    atomic_thread_fence(memory_order_release);
    poke(&r->who, (uint64_t)c->present << 16 | (uint64_t)c->leader << 8 | c->self);
    POINT("roster who");
    poke(&r->epoch, c->epoch);
    POINT("roster epoch");
    for (uint32_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
        uint64_t w[MEMBER_WORDS] = {0};
        if ((c->present >> slot & 1) != 0) {
            member_words(&c->member[slot], w);
        }
        for (uint32_t i = 0; i < MEMBER_WORDS; i++) {
            poke(&r->member[slot][i], w[i]);
        }
        POINT("roster member");
    }
    uint64_t who, epoch, members[SEG_SLOTS_MAX][MEMBER_WORDS];
    poke(&r->check, roster_copy(s, odd + 1, &who, &epoch, members));
    POINT("roster check");
    put(&r->seq, odd + 1);
    POINT("roster whole");
    put(&head->lease_ns, c->lease_ns);
    put(&head->applied, c->applied);
    put(&head->standing, standing);
    POINT("standing");
    return SEG_OK;
}

seg_status seg_cluster_read(const seg *s, seg_cluster *out)
{
    const struct roster *r = &s->header->roster;
    uint64_t who = 0, epoch = 0, member[SEG_SLOTS_MAX][MEMBER_WORDS];
    memset(out, 0, sizeof *out);
    if (!seg_usable(s)) {
        return SEG_UNAVAILABLE;
    }
    for (uint32_t tries = 0; tries < ROSTER_TRIES_MAX; tries++) {
        uint64_t seq = get(&r->seq);
        uint64_t check = peek(&r->check);
        uint64_t sum = roster_copy(s, seq, &who, &epoch, member);
        atomic_thread_fence(memory_order_acquire);
        if ((seq & 1) != 0 || peek(&r->seq) != seq || (seq != 0 && sum != check)) {
            seg_pause(tries);
            continue;
        }
        uint64_t standing = get(&s->header->standing);
        out->clustered = (standing & CLUSTERED) != 0;
        out->serving = standing == (CLUSTERED | SERVING);
        out->self = (uint8_t)who;
        out->leader = (uint8_t)(who >> 8);
        out->present = (uint16_t)(who >> 16);
        out->epoch = epoch;
        out->lease_ns = get(&s->header->lease_ns);
        out->applied = get(&s->header->applied);
        for (uint32_t slot = 0; slot < SEG_SLOTS_MAX; slot++) {
            member_of(member[slot], &out->member[slot]);
        }
        return SEG_OK;
    }
    return SEG_UNAVAILABLE;
}

size_t seg_samples(seg *s, uint32_t *items, size_t cap)
{
    size_t n = 0;
    if (!seg_usable(s)) {
        return 0;
    }
    bool first = s->samples_seen == NULL;
    if (first && (s->samples_seen = calloc(SEG_CLIENTS_MAX, sizeof(uint64_t))) == NULL) {
        return 0;
    }
    for (uint32_t i = 0; i < SEG_CLIENTS_MAX; i++) {
        /* Another client first every time, or the last ones would never have a turn. */
        uint32_t slot = (i + s->samples_from) % SEG_CLIENTS_MAX;
        const struct client *c = &s->clients[slot];
        uint64_t *seen = &s->samples_seen[slot];
        uint64_t taken = get(&c->sampled);
        if (first || c == s->client || taken < *seen) {
            *seen = taken;
            continue;
        }
        if (taken - *seen > CLIENT_SAMPLES) {
            *seen = taken - CLIENT_SAMPLES;
        }
        for (; *seen < taken && n < cap; ++*seen) {
            items[n++] = atomic_load_explicit(&c->sample[*seen % CLIENT_SAMPLES],
                                              memory_order_relaxed);
        }
    }
    s->samples_from++;
    return n;
}
