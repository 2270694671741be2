/* Invariant: when all faults have stopped, the cluster becomes whole within a bounded time.
 *
 * Whole: every host is a member, active and complete; all maps are equal (keys, auth, homes, fences); every
 * item has as many copies as it wants or there are members, each with its master's version and value;
 * nobody else holds a value; nothing is under way. At the very end the segments are sound.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define SAY(...) return snprintf(why, why_len, __VA_ARGS__), false

static bool members_whole(world *w, char *why, size_t why_len)
{
    node_stats first = {0};
    for (uint32_t h = 0; h < w->hosts; h++) {
        node_stats s;
        if (!w->endpoint[h].up || w->endpoint[h].stopped) {
            SAY("h%u is down", h);
        }
        clock_of(w, h);
        node_stats_read(w->host[h].node, false, &s);
        if (s.phase != NODE_ACTIVE || !s.complete || !s.serving) {
            SAY("h%u: phase %d, complete %d, serving %d", h, (int)s.phase, s.complete, s.serving);
        }
        if (s.proposals + s.requests + s.dirty + s.flight + s.moving + s.repairing > 0) {
            SAY("h%u: %llu proposals, %llu requests, %llu dirty, %llu in flight, %llu moving, %llu to repair", h,
                (unsigned long long)s.proposals, (unsigned long long)s.requests, (unsigned long long)s.dirty,
                (unsigned long long)s.flight, (unsigned long long)s.moving,
                (unsigned long long)s.repairing);
        }
        first = h == 0 ? s : first;
        if (s.epoch != first.epoch || s.leader != first.leader || s.applied != first.applied ||
            s.committed != s.applied || s.inboxes != first.inboxes || s.leading != (s.self == s.leader)) {
            SAY("h%u: epoch %llu, leader %u (%d), applied %llu, committed %llu, %llu inboxes; "
                "h0: %llu, %u, %llu, %llu", h,
                (unsigned long long)s.epoch, s.leader, s.leading, (unsigned long long)s.applied,
                (unsigned long long)s.committed, (unsigned long long)s.inboxes, (unsigned long long)first.epoch,
                first.leader, (unsigned long long)first.applied, (unsigned long long)first.inboxes);
        }
    }
    return true;
}

typedef struct {
    seg_facts facts;
    size_t len;
    uint8_t value[VALUE_MAX + 64];
} copy;

static bool read_copy(world *w, uint32_t h, const void *key, size_t key_len, copy *c)
{
    seg *s = w->host[h].watcher;
    seg_handle at;
    memset(&c->facts, 0, sizeof c->facts);
    c->len = 0;
    if (seg_lookup(s, key, key_len, &at) != SEG_OK || seg_facts_read(s, &at, &c->facts) != SEG_OK) {
        return false;
    }
    return c->facts.stub ||
           seg_peek(s, key, key_len, &at, c->value, sizeof c->value, &c->len, &c->facts) == SEG_OK;
}

static uint32_t host_of_slot(const world *w, uint32_t slot)
{
    const slot_info *i = &w->registry.slot[slot % SEG_SLOTS_MAX];
    return i->in_use ? i->host : HOSTS_MAX;
}

static bool same_home(const seg_home *a, const seg_home *b)
{
    return a->replicas == b->replicas && a->learners == b->learners && a->master == b->master &&
           a->want == b->want && a->hint == b->hint;
}

static bool key_whole(world *w, const void *key, size_t key_len, const seg_facts *f, char *why, size_t why_len)
{
    static copy master, other;
    int name = (int)key_len;
    uint32_t mh = host_of_slot(w, f->home.master);
    unsigned copies = (unsigned)__builtin_popcount(f->home.replicas), most = w->hosts - 1;
    if (mh == HOSTS_MAX || !read_copy(w, mh, key, key_len, &master) || master.facts.stub || master.facts.away) {
        SAY("%.*s: slot %u is no master", name, (const char *)key, f->home.master);
    }
    if (copies != (f->home.want < most ? f->home.want : most) || f->home.learners != 0) {
        SAY("%.*s: %u copies of %u, learners %x", name, (const char *)key, copies, f->home.want, f->home.learners);
    }
    for (uint32_t h = 0; h < w->hosts; h++) {
        int slot = registry_slot_of(w, h);
        if (slot < 0 || !read_copy(w, h, key, key_len, &other)) {
            SAY("%.*s: h%u does not know it", name, (const char *)key, h);
        }
        if (other.facts.auth != f->auth || !same_home(&other.facts.home, &f->home)) {
            SAY("%.*s: h%u has auth %llu, home %u/%x/%x; h0 %llu, %u/%x/%x", name, (const char *)key, h,
                (unsigned long long)other.facts.auth, other.facts.home.master, other.facts.home.replicas,
                other.facts.home.learners, (unsigned long long)f->auth, f->home.master, f->home.replicas,
                f->home.learners);
        }
        bool holds = slot == f->home.master || (f->home.replicas & 1u << slot) != 0;
        if (holds == other.facts.stub || (slot != f->home.master && !other.facts.away)) {
            SAY("%.*s: h%u is %s%s", name, (const char *)key, h, other.facts.stub ? "a stub" : "a copy",
                other.facts.away ? "" : " that may be written");
        }
        if (holds && (other.facts.version != master.facts.version || other.len != master.len ||
                      memcmp(other.value, master.value, master.len) != 0)) {
            SAY("%.*s: h%u has version %llx of %zu bytes, the master h%u %llx of %zu", name, (const char *)key, h,
                (unsigned long long)other.facts.version, other.len, mh, (unsigned long long)master.facts.version,
                master.len);
        }
    }
    return true;
}

static bool maps_whole(world *w, char *why, size_t why_len)
{
    uint64_t items[HOSTS_MAX] = {0};
    for (uint32_t h = 0; h < w->hosts; h++) {
        uint64_t cursor = 0;
        seg_handle at;
        seg_facts facts;
        while (seg_walk(w->host[h].watcher, &cursor, &at, &facts) == SEG_OK) {
            uint8_t key[SEG_KEY_BYTES_MAX];
            size_t key_len;
            items[h]++;
            if (seg_key(w->host[h].watcher, &at, key, &key_len) != SEG_OK) {
                SAY("h%u has an item without a key", h);
            }
            if (h == 0 && !key_whole(w, key, key_len, &facts, why, why_len)) {
                return false;
            }
        }
        if (items[h] != items[0]) {
            SAY("h%u knows %llu keys, h0 %llu", h, (unsigned long long)items[h], (unsigned long long)items[0]);
        }
    }
    return true;
}

static bool fences_whole(world *w, char *why, size_t why_len)
{
    for (uint32_t f = 0; f < w->fences; f++) {
        char name[16];
        uint64_t epochs[HOSTS_MAX] = {0};
        uint64_t least = 0;
        snprintf(name, sizeof name, "f%u", f);
        for (uint32_t i = 0; i < w->records; i++) {
            const record *e = &w->record[i];
            if (e->verb == CLIENT_RAISE && e->fence == (int)f && e->status == DAL_OK && !e->crashed &&
                e->returned != 0 && e->grant_epoch > least) {
                least = e->grant_epoch;
            }
        }
        for (uint32_t h = 0; h < w->hosts; h++) {
            uint32_t fence = 0;
            seg *s = w->host[h].watcher;
            if (seg_fence(s, name, strlen(name), false, &fence) == SEG_OK) {
                epochs[h] = seg_fence_epoch(s, fence);
            }
            if (epochs[h] != epochs[0] || epochs[h] < least) {
                SAY("fence %s: h%u has epoch %llu, h0 %llu, acknowledged %llu", name, h,
                    (unsigned long long)epochs[h], (unsigned long long)epochs[0], (unsigned long long)least);
            }
        }
    }
    return true;
}

bool whole(world *w, char *why, size_t why_len)
{
    for (uint32_t h = 0; h < w->hosts; h++) {
        if (registry_slot_of(w, h) < 0 || !w->host[h].exists) {
            SAY("h%u is no member", h);
        }
        if (w->host[h].leaving) {
            SAY("h%u is leaving", h);
        }
    }
    return members_whole(w, why, why_len) && maps_whole(w, why, why_len) && fences_whole(w, why, why_len);
}

void check_sound(world *w)
{
    for (uint32_t h = 0; h < w->hosts && !w->failed; h++) {
        seg_verdict v;
        seg_kept kept;
        clock_of(w, h);
        for (int i = 0; i < 3; i++) {
            (void)seg_housekeep(w->host[h].seg, host_now(w, h), &kept);
        }
        if (seg_verify(w->host[h].seg, &v) != SEG_OK ||
            v.unreachable + v.misplaced + v.unlocked_dead + v.torn_refs + v.shared_blocks + v.orphans + v.locked != 0) {
            broken(w, "segment",
                   "h%u: unreachable %llu, misplaced %llu, dead %llu, torn %llu, shared %llu, orphans %llu, "
                   "locked %llu", h,
                   (unsigned long long)v.unreachable, (unsigned long long)v.misplaced,
                   (unsigned long long)v.unlocked_dead, (unsigned long long)v.torn_refs,
                   (unsigned long long)v.shared_blocks, (unsigned long long)v.orphans,
                   (unsigned long long)v.locked);
        }
    }
}
