/* The registry and the members' agents, simplified: one view at a time, leases, evictions, joins.
 *
 * Knows: who asked when. Must not know: the map, except to answer whether a member can be spared: the
 * promise is that one loss at a time loses nothing, so the next one is held back until there are
 * copies again (registry_can_lose).
 */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define DELAY_NS (500 * US)
#define SLOW_NS (150 * MS)

typedef struct {
    uint64_t asked_at, incarnation, epoch;
    uint32_t life;
    uint16_t unwanted;
    bool complete, gone, joins; /* joins: this incarnation was in no view yet */
} question;

typedef struct {
    uint64_t asked_at, incarnation;
    uint32_t life;
    bool confirmed;
    node_view view;
} answer;

static uint64_t travel(world *w)
{
    return DELAY_NS + chance(w, DELAY_NS) + (w->registry.slow ? chance(w, SLOW_NS) : 0);
}

int registry_slot_of(const world *w, uint32_t h)
{
    for (uint32_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if (w->registry.slot[s].in_use && w->registry.slot[s].host == h &&
            w->registry.slot[s].incarnation == w->host[h].generation) {
            return (int)s;
        }
    }
    return -1;
}

/* ---- members' agents ---- */

void registry_ask(world *w, uint32_t h)
{
    host *me = &w->host[h];
    endpoint *e = &w->endpoint[h];
    if (e->up && !e->stopped) {
        question *q = calloc(1, sizeof *q);
        node_stats stats;
        clock_of(w, h);
        node_stats_read(me->node, false, &stats);
        *q = (question){w->now, me->generation, me->epoch_told, e->life, node_unwanted(me->node), stats.complete,
                        me->leaving && stats.left, !me->joined};
        event_at(w, w->now + travel(w), EV_ASKED, h, 0, q);
    }
    event_at(w, w->now + CONFIRM_NS - CONFIRM_NS / 8 + chance(w, CONFIRM_NS / 4), EV_CONFIRM, h, 0, NULL);
}

void registry_answered(world *w, uint32_t h, void *payload)
{
    answer *a = payload;
    const endpoint *e = &w->endpoint[h];
    if (e->up && e->stopped) {
        event_at(w, w->now + MS, EV_ANSWERED, h, 0, payload);
        return;
    }
    if (e->up && !w->registry.cut[h] && (a->life == e->life || a->asked_at == 0)) {
        host_view(w, h, &a->view);
        if (a->confirmed && a->incarnation == w->host[h].generation) {
            host_lease(w, h, a->asked_at);
        }
        host_after(w, h);
    }
    free(payload);
}

/* ---- the registry itself ---- */

void registry_asked(world *w, uint32_t h, void *payload)
{
    question *q = payload;
    registry *r = &w->registry;
    if (r->up && !r->cut[h]) {
        answer *a = calloc(1, sizeof *a);
        bool inside = false;
        for (uint32_t s = 0; s < SEG_SLOTS_MAX; s++) {
            slot_info *i = &r->slot[s];
            if (i->in_use && i->host == h && i->incarnation == q->incarnation) {
                i->confirmed_at = w->now;
                i->complete = i->complete || q->complete;
                i->leaving = q->gone && q->epoch == r->view.epoch; /* said of this very view */
                inside = true;
                if (r->view.leader == s && q->epoch == r->view.epoch) {
                    r->unwanted = q->unwanted;
                }
            }
        }
        if (!inside && q->joins && q->asked_at > r->asked_at[h] &&
            (q->incarnation != r->join_incarnation[h] || q->asked_at > r->gone_at[h])) {
            r->asked_at[h] = q->asked_at;
            r->wants_in[h] = true;
            r->join_incarnation[h] = q->incarnation;
        }
        *a = (answer){q->asked_at, q->incarnation, q->life, inside, r->view};
        event_at(w, w->now + travel(w), EV_ANSWERED, h, 0, a);
    }
    free(payload);
}

static void mark_lost(world *w, uint32_t h, const seg_handle *handle)
{
    char key[SEG_KEY_BYTES_MAX];
    size_t len;
    if (seg_key(w->host[h].watcher, handle, key, &len) != SEG_OK) {
        return;
    }
    for (uint32_t k = 0; k < w->keys; k++) {
        if (strlen(w->key[k].name) == len && memcmp(w->key[k].name, key, len) == 0 &&
            w->key[k].lost_at == NEVER) {
            w->key[k].lost_at = w->now;
            w->registry.forsaken++;
        }
    }
}

/* Does every item that must have copies have one that stays? As every complete member's map says. An item
 * on its way counts as where it goes as well: the map may say so before the view is known. */
static bool copies_remain(world *w, uint32_t h, uint16_t staying, bool mark)
{
    bool all = true;
    uint64_t cursor = 0;
    seg_handle handle;
    seg_facts facts;
    while (seg_walk(w->host[h].watcher, &cursor, &handle, &facts) == SEG_OK) {
        uint16_t holders = (uint16_t)(facts.home.replicas | 1u << facts.home.master);
        uint16_t then = facts.home.learners != 0 ? facts.home.replicas | facts.home.learners : holders;
        if (facts.home.want > 0 && ((holders & staying) == 0 || (then & staying) == 0)) {
            all = false;
            if (mark) {
                mark_lost(w, h, &handle);
            }
        }
    }
    return all;
}

static uint16_t stay_without(const world *w, uint32_t slot)
{
    const registry *r = &w->registry;
    uint16_t staying = 0;
    for (uint32_t s = 0; s < SEG_SLOTS_MAX; s++) {
        /* A member that is not complete holds nothing; a map may still mean the last one of its slot. */
        if (r->slot[s].in_use && s != slot && r->slot[s].complete && !r->lost[s] &&
            !w->host[r->slot[s].host].leaving) {
            staying |= (uint16_t)(1u << s);
        }
    }
    return staying;
}

static bool spare(world *w, uint32_t slot, bool mark)
{
    const registry *r = &w->registry;
    uint16_t staying = stay_without(w, slot);
    bool spared = staying != 0;
    for (uint32_t s = 0; s < SEG_SLOTS_MAX && (spared || mark); s++) {
        const slot_info *i = &r->slot[s];
        if (i->in_use && i->complete && !r->lost[s] && w->host[i->host].generation == i->incarnation) {
            spared &= copies_remain(w, i->host, staying, mark);
        }
    }
    return spared;
}

bool registry_can_lose(world *w, uint32_t slot) { return spare(w, slot, false); }

bool registry_may_lose(world *w, uint32_t slot)
{
    if (!w->reckless || stay_without(w, slot) == 0) {
        return registry_can_lose(w, slot);
    }
    (void)spare(w, slot, true);
    return true;
}

void registry_lose(world *w)
{
    for (uint32_t k = 0; k < w->keys; k++) {
        if (w->key[k].want == 0 && w->key[k].lost_at == NEVER) {
            w->key[k].lost_at = w->now;
        }
    }
}

static bool has_to_go(const world *w, uint32_t s)
{
    const registry *r = &w->registry;
    const slot_info *i = &r->slot[s];
    return i->confirmed_at + SUSPECT_NS < w->now || r->suspected[i->host] ||
           (r->unwanted & 1u << s) != 0 ||
           (r->wants_in[i->host] && r->join_incarnation[i->host] != i->incarnation);
}

static void publish(world *w, uint16_t left)
{
    registry *r = &w->registry;
    node_view *v = &r->view;
    memset(v->member, 0, sizeof v->member);
    v->epoch++;
    v->present = 0;
    v->left = left;
    v->leader = SEG_SLOTS_MAX;
    for (uint32_t s = 0; s < SEG_SLOTS_MAX; s++) {
        slot_info *i = &r->slot[s];
        if (!i->in_use) {
            continue;
        }
        i->leaving = false; /* it was ready in the last view */
        seg_member *m = &v->member[s];
        link_addr address = net_address(i->host, i->host, 0);
        v->present |= (uint16_t)(1u << s);
        m->slot = (uint8_t)s;
        m->incarnation = i->incarnation;
        m->port = address.port;
        memcpy(m->ip, address.ip, sizeof m->ip);
        m->node[0] = 'h';
        m->node[1] = (char)('0' + i->host);
        if (v->leader == SEG_SLOTS_MAX && i->complete) {
            v->leader = (uint8_t)s;
        }
    }
    r->views++;
    r->unwanted = 0;
    trace(w, "view", (int64_t)v->epoch, v->present, v->leader);
    for (uint32_t h = 0; h < w->hosts; h++) {
        if (!r->cut[h] && chance_of(w, 0.9)) { /* a watch may break */
            answer *a = calloc(1, sizeof *a);
            a->view = *v;
            event_at(w, w->now + travel(w), EV_ANSWERED, h, 0, a);
        }
    }
}

static void put_in(world *w, uint32_t h)
{
    registry *r = &w->registry;
    for (uint32_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if (!r->slot[s].in_use) {
            r->slot[s] = (slot_info){true, r->view.epoch == 0, false, h, r->join_incarnation[h], w->now};
            r->lost[s] = false;
            r->wants_in[h] = false;
            r->joins++;
            trace(w, "registry joins", h, s, (int64_t)(r->join_incarnation[h] & 0xffff));
            return;
        }
    }
}

void registry_decide(world *w)
{
    registry *r = &w->registry;
    event_at(w, w->now + REGISTRY_NS, EV_REGISTRY, 0, 0, NULL);
    if (!r->up) {
        return;
    }
    uint16_t left = 0;
    /* A leader that was restarted cannot go on in its epoch: the same members in the next one. */
    uint16_t own = r->view.epoch > 0 ? (uint16_t)(1u << r->view.leader) : 0;
    bool changed = (r->unwanted & own) != 0;
    r->unwanted &= (uint16_t)~own;
    /* A view has one reason: who is evicted goes first, and who leaves looks at what is then left. */
    for (uint32_t turn = 0; turn < 2 * SEG_SLOTS_MAX; turn++) {
        uint32_t s = turn % SEG_SLOTS_MAX;
        slot_info *i = &r->slot[s];
        if (!i->in_use || i->leaving != (turn >= SEG_SLOTS_MAX) || (!i->leaving && !has_to_go(w, s))) {
            continue;
        }
        bool demanded = (r->unwanted & 1u << s) != 0;
        if (demanded) {
            (void)spare(w, s, true); /* the leader cannot go on with it: what only it has is lost */
        }
        bool held = i->leaving ? changed || !registry_can_lose(w, s)
                               : !r->lost[s] && !demanded && i->complete && !registry_may_lose(w, s);
        if (held) {
            r->held_back++;
            continue;
        }
        if (i->leaving) {
            w->host[i->host].gone = true;
            left |= (uint16_t)(1u << s);
            r->leaves++;
        } else {
            registry_lose(w);
            if (r->evictions == EVICTIONS_MAX) {
                broken(w, "simulation", "too many evictions: raise EVICTIONS_MAX");
                return;
            }
            r->evicted_at[r->evictions++] = w->now;
        }
        trace(w, i->leaving ? "registry lets go" : "registry evicts", i->host, s, 0);
        r->suspected[i->host] = false;
        r->gone_at[i->host] = w->now;
        i->in_use = false;
        changed = true;
    }
    for (uint32_t h = 0; h < w->hosts; h++) {
        bool inside = false;
        for (uint32_t s = 0; s < SEG_SLOTS_MAX; s++) {
            inside |= r->slot[s].in_use && r->slot[s].host == h;
        }
        /* The first view has one member: the others' maps come from it. */
        if (r->wants_in[h] && !inside && (r->view.epoch > 0 || !changed)) {
            put_in(w, h);
            changed = true;
        }
    }
    if (changed) {
        publish(w, left);
    }
}

void registry_begin(world *w)
{
    registry *r = &w->registry;
    memset(r, 0, sizeof *r);
    r->up = true;
    event_at(w, w->now + REGISTRY_NS, EV_REGISTRY, 0, 0, NULL);
    for (uint32_t h = 0; h < w->hosts; h++) {
        event_at(w, w->now + chance(w, CONFIRM_NS), EV_CONFIRM, h, 0, NULL);
    }
}
