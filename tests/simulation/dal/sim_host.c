/* A host: its segment and its state server, as server processes run them (statestore/_node.c).
 *
 * Knows: when a server starts, dies, begins anew. Must not know: what it says.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim.h"

#define WHY_BYTES 256u

uint64_t host_now(const world *w, uint32_t place)
{
    return w->now + (place < HOSTS_MAX ? w->host[place].offset_ns : (place + 1) * 1000000007ull);
}

void bury(world *w, seg *s)
{
    if (s == NULL) {
        return;
    }
    seg_forget(s);
    if (w->graves_count == GRAVES_MAX) {
        broken(w, "simulation", "too many processes died: raise GRAVES_MAX");
        return;
    }
    w->graves[w->graves_count++] = s;
}

static void new_node(world *w, uint32_t h)
{
    host *me = &w->host[h];
    char name[8];
    snprintf(name, sizeof name, "h%u", h);
    node_config c = {
        .segment = me->seg,
        .link = me->link,
        .name = name,
        .history = w->history,
        .promote_delay_ns = w->at_once ? 0 : LEASE_NS,
        .resend_ns = 5 * MS,
        .repair_per_s = 1000,
        .random = chance_next(w),
    };
    me->node = node_new(&c, host_now(w, h));
    if (me->node == NULL) {
        broken(w, "no memory", "node_new of host %u", h);
    }
}

void host_start_server(world *w, uint32_t h)
{
    host *me = &w->host[h];
    endpoint *e = &w->endpoint[h];
    char why[WHY_BYTES];
    clock_of(w, h);
    if (seg_open(me->path, false, &me->seg, why, sizeof why) != SEG_OK) {
        broken(w, "segment", "%s", why);
        return;
    }
    me->link = link_new(&w->keys_used, chance_next(w) | 1, why, sizeof why);
    if (me->link == NULL) {
        broken(w, "link", "%s", why);
        return;
    }
    me->generation = seg_generation(me->seg);
    me->joined = seg_clustered(me->seg);
    me->leaving = me->gone = false;
    me->epoch_told = 0;
    e->place = h;
    e->life++;
    e->addr = net_address(h, h, e->life);
    e->up = true;
    e->stopped = e->tick_missed = false;
    e->tick_at = 0;
    new_node(w, h);
    trace(w, "server starts", h, (int64_t)(me->generation & 0xffff), e->life);
    if (!w->failed) {
        host_after(w, h);
    }
}

void host_boot(world *w, uint32_t h)
{
    host *me = &w->host[h];
    char why[WHY_BYTES];
    me->offset_ns = chance_between(w, 1, 1u << 30) * 1000;
    clock_of(w, h);
    snprintf(me->path, sizeof me->path, "%s/h%u-%u", w->directory, h, me->reboots++);
    unlink(me->path);
    if (seg_format(me->path, SEGMENT_BYTES, why, sizeof why) != SEG_OK ||
        seg_open(me->path, true, &me->watcher, why, sizeof why) != SEG_OK) {
        broken(w, "segment", "%s", why);
        return;
    }
    me->exists = true;
    host_start_server(w, h);
}

static void drop_held(endpoint *e)
{
    for (uint32_t i = 0; i < e->held_count; i++) {
        free(e->held[i]);
    }
    e->held_count = 0;
}

void host_kill_server(world *w, uint32_t h)
{
    host *me = &w->host[h];
    if (!w->endpoint[h].up) {
        return;
    }
    trace(w, "server dies", h, 0, 0);
    clock_of(w, h);
    w->endpoint[h].up = false;
    drop_held(&w->endpoint[h]);
    node_free(me->node);
    link_free(me->link);
    bury(w, me->seg);
    me->node = NULL;
    me->link = NULL;
    me->seg = NULL;
}

void host_lose(world *w, uint32_t h)
{
    host *me = &w->host[h];
    trace(w, "host lost", h, 0, 0);
    int slot = registry_slot_of(w, h);
    if (slot >= 0) {
        w->registry.lost[slot] = true;
        registry_lose(w);
    }
    host_kill_server(w, h);
    for (uint32_t c = 0; c < w->clients; c++) {
        if (w->caller[c].local && w->caller[c].host == h) {
            caller_crash(w, c);
        }
    }
    if (me->watcher != NULL) {
        seg_close(me->watcher);
    }
    me->watcher = NULL;
    me->exists = false;
    me->generation = 0;
    unlink(me->path);
}

/* Evicted: the same process goes on as another incarnation, with nothing. */
static void begin_anew(world *w, uint32_t h)
{
    host *me = &w->host[h];
    char why[WHY_BYTES];
    node_free(me->node);
    me->node = NULL;
    me->generation = chance_next(w) | 1;
    if (seg_begin_anew(me->seg, me->generation) != SEG_OK) {
        broken(w, "segment", "host %u cannot begin anew", h);
        return;
    }
    me->generation = seg_generation(me->seg);
    link_free(me->link);
    me->link = link_new(&w->keys_used, chance_next(w) | 1, why, sizeof why);
    me->joined = me->leaving = me->gone = false;
    trace(w, "server begins anew", h, (int64_t)(me->generation & 0xffff), 0);
    new_node(w, h);
}

void host_view(world *w, uint32_t h, const node_view *v)
{
    host *me = &w->host[h];
    if (v->epoch <= me->epoch_told) {
        return;
    }
    bool inside = false;
    for (uint32_t s = 0; s < SEG_SLOTS_MAX; s++) {
        inside |= (v->present & 1u << s) != 0 && v->member[s].incarnation == me->generation;
    }
    clock_of(w, h);
    if (!inside && !me->joined) {
        return;
    }
    me->epoch_told = v->epoch;
    node_set_view(me->node, v, host_now(w, h));
    if (inside) {
        me->joined = true;
    } else if (me->gone) {
        host_kill_server(w, h); /* it has left and goes home */
        event_at(w, w->now + chance_between(w, 10 * MS, 200 * MS), EV_MEND, FAULT_LEAVE, h, NULL);
    } else {
        begin_anew(w, h);
    }
}

void host_lease(world *w, uint32_t h, uint64_t asked_at)
{
    if (w->endpoint[h].up) {
        clock_of(w, h);
        uint64_t deadline = asked_at + LEASE_NS + w->host[h].offset_ns;
        node_set_lease(w->host[h].node, deadline, host_now(w, h));
    }
}

void host_leave(world *w, uint32_t h)
{
    clock_of(w, h);
    w->host[h].leaving = true;
    node_leave(w->host[h].node, host_now(w, h));
    host_after(w, h);
}

void host_housekeep(world *w, uint32_t h)
{
    event_at(w, w->now + HOUSEKEEP_NS, EV_HOUSEKEEP, h, 0, NULL);
    if (w->endpoint[h].up && !w->endpoint[h].stopped) {
        seg_kept kept;
        clock_of(w, h);
        if (seg_housekeep(w->host[h].seg, host_now(w, h), &kept) != SEG_OK) {
            broken(w, "segment", "housekeeping of host %u failed", h);
        }
    }
}

void host_receive(world *w, uint32_t h, const packet *p)
{
    clock_of(w, h);
    node_receive(w->host[h].node, &p->from, p->bytes, p->len, host_now(w, h));
}

void host_tick(world *w, uint32_t h)
{
    clock_of(w, h);
    node_tick(w->host[h].node, host_now(w, h));
}

void host_after(world *w, uint32_t h)
{
    host *me = &w->host[h];
    endpoint *e = &w->endpoint[h];
    uint8_t bytes[LINK_DATAGRAM_BYTES_MAX];
    link_addr to;
    size_t len;
    if (!e->up || w->failed) {
        return;
    }
    clock_of(w, h);
    while (node_next(me->node, &to, bytes, &len)) {
        net_send(w, h, &to, bytes, len);
    }
    uint64_t deadline = node_deadline(me->node);
    if (deadline != NEVER) {
        uint64_t at = deadline > me->offset_ns ? deadline - me->offset_ns : 0;
        at = (at < w->now ? w->now : at) + 1 + chance(w, 20 * US);
        if (e->tick_at == 0 || at < e->tick_at) {
            e->tick_at = at;
            event_at(w, at, EV_TICK, h, ++e->tick_generation, NULL);
        }
    }
}

void host_begin(world *w, uint32_t h)
{
    event_at(w, w->now + chance(w, HOUSEKEEP_NS), EV_HOUSEKEEP, h, 0, NULL);
    host_boot(w, h);
}

void host_end(world *w, uint32_t h)
{
    host *me = &w->host[h];
    drop_held(&w->endpoint[h]);
    if (me->node != NULL) {
        node_free(me->node);
    }
    if (me->link != NULL) {
        link_free(me->link);
    }
    if (me->seg != NULL) {
        seg_close(me->seg);
    }
    if (me->watcher != NULL) {
        seg_close(me->watcher);
    }
    if (me->path[0] != '\0') {
        unlink(me->path);
    }
}
