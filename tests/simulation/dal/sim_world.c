/* One world: built from its seed, run, healed, judged.
 *
 * Knows: the order of events. Must not know: what is right (check_*.c), what goes wrong (sim_faults.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define FORM_NS (3000 * MS)    /* the cluster has come up within this */
#define STEPS_MAX 4000000ull   /* a world that does not end is a failure */

static void hold(endpoint *e, packet *p)
{
    if (e->held_count < HELD_MAX) {
        e->held[e->held_count++] = p;
    } else {
        free(p); /* the socket's buffer is full */
    }
}

static void datagram(world *w, uint32_t e, uint64_t life, packet *p)
{
    endpoint *to = &w->endpoint[e];
    if (!to->up || (e >= HOSTS_MAX && to->life != life)) {
        free(p);
        return;
    }
    if (to->stopped) {
        hold(to, p);
        return;
    }
    trace(w, "datagram", e, p->from_place, p->len);
    if (e < HOSTS_MAX) {
        host_receive(w, e, p);
        host_after(w, e);
    } else {
        caller_receive(w, e - HOSTS_MAX, p);
        caller_after(w, e - HOSTS_MAX);
    }
    free(p);
}

static void tick(world *w, uint32_t e, uint64_t generation)
{
    endpoint *to = &w->endpoint[e];
    if (!to->up || generation != to->tick_generation) {
        return;
    }
    to->tick_at = 0;
    if (to->stopped) {
        to->tick_missed = true;
        return;
    }
    trace(w, "tick", e, 0, 0);
    if (e < HOSTS_MAX) {
        host_tick(w, e);
        host_after(w, e);
    } else {
        caller_tick(w, e - HOSTS_MAX);
        caller_after(w, e - HOSTS_MAX);
    }
}

static void step(world *w, event *e)
{
    w->now = e->at;
    w->steps++;
    switch (e->kind) {
    case EV_DATAGRAM: datagram(w, e->a, e->b, e->payload); break;
    case EV_TICK: tick(w, e->a, e->b); break;
    case EV_CONFIRM: registry_ask(w, e->a); break;
    case EV_ASKED: registry_asked(w, e->a, e->payload); break;
    case EV_ANSWERED: registry_answered(w, e->a, e->payload); break;
    case EV_REGISTRY: registry_decide(w); break;
    case EV_FAULT: fault_next(w); break;
    case EV_MEND: fault_mend(w, e->a, e->b); break;
    case EV_OPERATE: caller_operate(w, e->a, e->b); break;
    case EV_HOUSEKEEP: host_housekeep(w, e->a); break;
    }
    check_one_master(w);
    if (w->steps > STEPS_MAX) {
        broken(w, "simulation", "more than %llu steps", STEPS_MAX);
    }
}

void world_run_until(world *w, uint64_t until, bool (*done)(world *))
{
    event e;
    while (!w->failed && w->queued > 0 && w->queue[0].at <= until && (done == NULL || !done(w))) {
        (void)event_take(w, &e);
        step(w, &e);
    }
    if (done == NULL && w->now < until) {
        w->now = until;
    }
}

static void draw_keys(world *w)
{
    w->keys = (uint32_t)chance_between(w, 3, KEYS_MAX);
    w->fences = (uint32_t)chance(w, FENCES_MAX + 1);
    for (uint32_t i = 0; i < w->keys; i++) {
        key_info *k = &w->key[i];
        snprintf(k->name, sizeof k->name, "k%u", i);
        k->want = (uint8_t)chance(w, 3);
        k->hint = (uint8_t)(chance_of(w, 0.5) ? SEG_HINT_NONE : chance(w, 4));
        k->kind = (key_kind)chance(w, 3);
        k->sync = i + 1 < w->keys || chance_of(w, 0.5);
        k->pure = k->kind != REGISTER && chance_of(w, 0.5);
        k->mortal = !k->pure && chance_of(w, 0.2);
        k->big = chance_of(w, 0.1);
        k->deletable = !k->pure && chance_of(w, 0.6);
        k->fence = !k->pure && w->fences > 0 && chance_of(w, 0.4) ? (int)chance(w, w->fences) : -1;
        k->lost_at = NEVER;
    }
}

static void draw(world *w)
{
    static const double losses[] = {0, 0.01, 0.05, 0.2}, twices[] = {0, 0.02, 0.1};
    static const uint64_t jitters[] = {50 * US, 500 * US, 5 * MS}, every[] = {NEVER, 200 * MS, 60 * MS, 25 * MS};
    w->hosts = (uint32_t)chance_between(w, 3, HOSTS_MAX);
    w->clients = (uint32_t)chance_between(w, 2, CLIENTS_MAX);
    w->history = (uint8_t)chance_between(w, 1, 8);
    w->usual_loss = losses[chance(w, 4)];
    w->net.twice = twices[chance(w, 3)];
    w->net.spike = chance_of(w, 0.5) ? 0 : 0.02;
    w->net.delay_ns = 30 * US;
    w->net.jitter_ns = jitters[chance(w, 3)];
    w->fault_every_ns = every[chance(w, 4)];
    w->keys_used.count = 1;
    w->keys_used.key[0].id = 1;
    for (uint32_t i = 0; i < LINK_KEY_BYTES; i++) {
        w->keys_used.key[0].bytes[i] = (uint8_t)chance_next(w);
    }
    draw_keys(w);
    w->reckless = chance_of(w, 0.15);
}

static bool formed(world *w)
{
    char why[256];
    return whole(w, why, sizeof why);
}

/* Only now and then: it looks at everything. */
static bool healed(world *w)
{
    return w->steps % 64 == 0 && formed(w);
}

/* Run on until the cluster is whole. */
static void heal(world *w, uint64_t within_ns)
{
    char why[256] = "";
    uint64_t until = w->now + within_ns;
    bool sound = false;
    while (!w->failed && w->now < until && !sound) {
        world_run_until(w, w->now + MS, NULL);
        sound = callers_idle(w) && whole(w, why, sizeof why);
    }
    if (!w->failed && !sound) {
        broken(w, "healing", "not whole within %llu ms: %s", (unsigned long long)(within_ns / MS),
               callers_idle(w) ? why : "an operation outlives its timeout");
    }
}

static void live(world *w)
{
    char why[256] = "";
    registry_begin(w);
    for (uint32_t h = 0; h < w->hosts && !w->failed; h++) {
        host_begin(w, h);
    }
    world_run_until(w, w->now + FORM_NS, healed);
    if (!w->failed && !whole(w, why, sizeof why)) {
        broken(w, "healing", "the cluster does not form: %s", why);
        return;
    }
    uint64_t duration = chance_between(w, 300, 1500) * MS;
    w->faults_until = w->now + duration;
    w->operations_until = w->faults_until + 50 * MS;
    w->net.loss = w->usual_loss;
    callers_begin(w);
    faults_begin(w);
    world_run_until(w, w->faults_until, NULL);
    faults_end(w);
    trace(w, "faults end", 0, 0, 0);
    world_run_until(w, w->operations_until, NULL);
    heal(w, HEAL_NS);
}

static void judge(world *w)
{
    callers_last_reads(w);
    check_fences(w);
    check_linear(w);
    check_lost(w);
    callers_end(w); /* as if killed: housekeeping has something to do */
    world_run_until(w, w->now + 3 * HOUSEKEEP_NS, NULL);
    heal(w, HEAL_NS); /* the last reads may have moved something */
    if (!w->failed) {
        check_sound(w);
    }
}

bool world_run(world *w, uint64_t seed)
{
    base_begin(w, seed);
    w->now = 1000 * MS;
    w->record = calloc(OPS_MAX, sizeof *w->record);
    if (w->record == NULL) {
        abort();
    }
    check_messages_begin(w);
    draw(w);
    live(w);
    if (!w->failed) {
        judge(w);
    }
    callers_end(w);
    for (uint32_t h = 0; h < w->hosts; h++) {
        host_end(w, h);
    }
    for (uint32_t i = 0; i < w->graves_count; i++) {
        seg_close(w->graves[i]);
    }
    check_messages_end(w);
    events_free(w);
    free(w->record);
    return !w->failed;
}
