/* What goes wrong, when, and for how long.
 *
 * Knows: processes, hosts, the network, the registry. Must not know: the protocol.
 *
 * Faults overlap. What would take the last copy of an item waits (registry_may_lose): one loss at a time is
 * what replicas promise to bear. But for reckless worlds.
 */
#include "sim.h"

const char *const fault_names[FAULTS] = {
    [FAULT_CUT_ONE_WAY] = "cut-one-way", [FAULT_CUT_PAIR] = "cut-pair", [FAULT_ISOLATE] = "isolate",
    [FAULT_STORM] = "storm", [FAULT_STOP_SERVER] = "stop-server", [FAULT_STOP_CLIENT] = "stop-client",
    [FAULT_STOP_HOST] = "stop-host", [FAULT_KILL_SERVER] = "kill-server", [FAULT_LOSE_HOST] = "lose-host",
    [FAULT_KILL_CLIENT] = "kill-client", [FAULT_LEAVE] = "leave", [FAULT_REGISTRY_DOWN] = "registry-down",
    [FAULT_REGISTRY_SLOW] = "registry-slow", [FAULT_REGISTRY_CUT] = "registry-cut", [FAULT_SUSPECT] = "suspect",
};

static const double storm_loss = 0.4;

static void set_cut(world *w, uint32_t a, uint32_t b, bool both, bool cut)
{
    w->net.cut[a][b] = cut;
    if (both) {
        w->net.cut[b][a] = cut;
    }
}

static void isolate(world *w, uint32_t place, bool cut)
{
    for (uint32_t p = 0; p < PLACES_MAX; p++) {
        if (p != place) {
            set_cut(w, place, p, true, cut);
        }
    }
}

static void stop(world *w, uint32_t e, bool stopped)
{
    endpoint *p = &w->endpoint[e];
    if (!p->up || p->stopped == stopped) {
        return;
    }
    p->stopped = stopped;
    if (stopped) {
        return;
    }
    for (uint32_t i = 0; i < p->held_count; i++) {
        event_at(w, w->now + i * US, EV_DATAGRAM, e, p->life, p->held[i]);
    }
    p->held_count = 0;
    if (p->tick_missed) {
        p->tick_missed = false;
        p->tick_at = w->now;
        event_at(w, w->now, EV_TICK, e, ++p->tick_generation, NULL);
    }
}

static void stop_host(world *w, uint32_t h, bool stopped)
{
    stop(w, h, stopped);
    for (uint32_t c = 0; c < w->clients; c++) {
        if (w->caller[c].local && w->caller[c].host == h) {
            stop(w, c + HOSTS_MAX, stopped);
        }
    }
}

static uint32_t members(const world *w)
{
    uint32_t count = 0;
    for (uint32_t s = 0; s < SEG_SLOTS_MAX; s++) {
        const slot_info *i = &w->registry.slot[s];
        count += i->in_use && i->complete && !w->host[i->host].leaving; /* somebody stays */
    }
    return count;
}

typedef enum { NOT_NOW, BEGUN, ENDS_ITSELF } beginning;

static beginning begin(world *w, fault_kind kind, uint64_t *subject)
{
    uint32_t h = (uint32_t)chance(w, w->hosts), c = (uint32_t)chance(w, w->clients);
    uint32_t places = w->hosts;
    uint32_t other = (uint32_t)chance(w, places);
    int slot = registry_slot_of(w, h);
    *subject = h;
    switch (kind) {
    case FAULT_CUT_ONE_WAY:
    case FAULT_CUT_PAIR:
        if (chance_of(w, 0.3)) {
            other = HOSTS_MAX + c; /* a remote-only client's */
        }
        set_cut(w, h, other, kind == FAULT_CUT_PAIR, h != other);
        *subject = h | other << 8;
        return BEGUN;
    case FAULT_ISOLATE: isolate(w, h, true); return BEGUN;
    case FAULT_STORM: w->net.loss += storm_loss; return BEGUN;
    case FAULT_STOP_SERVER: stop(w, h, true); return BEGUN;
    case FAULT_STOP_CLIENT:
        *subject = c;
        stop(w, c + HOSTS_MAX, true);
        return BEGUN;
    case FAULT_STOP_HOST: stop_host(w, h, true); return BEGUN;
    case FAULT_KILL_SERVER:
        if (!w->endpoint[h].up) {
            return NOT_NOW;
        }
        host_kill_server(w, h);
        return BEGUN;
    case FAULT_LOSE_HOST:
        if (slot < 0 || members(w) < 2 || w->host[h].leaving || !registry_may_lose(w, (uint32_t)slot)) {
            return NOT_NOW;
        }
        host_lose(w, h);
        return BEGUN;
    case FAULT_KILL_CLIENT:
        *subject = c;
        if (!w->endpoint[c + HOSTS_MAX].up) {
            return NOT_NOW;
        }
        caller_crash(w, c);
        return BEGUN;
    case FAULT_LEAVE:
        if (slot < 0 || members(w) < 2 || !w->endpoint[h].up || w->endpoint[h].stopped || w->host[h].leaving ||
            !w->registry.slot[slot].complete) {
            return NOT_NOW;
        }
        host_leave(w, h);
        return ENDS_ITSELF; /* when the member has left */
    case FAULT_REGISTRY_DOWN: w->registry.up = false; return BEGUN;
    case FAULT_REGISTRY_SLOW: w->registry.slow = true; return BEGUN;
    case FAULT_REGISTRY_CUT: w->registry.cut[h] = true; return BEGUN;
    case FAULT_SUSPECT:
        if (slot < 0) {
            return NOT_NOW;
        }
        w->registry.suspected[h] = true;
        return ENDS_ITSELF;
    default: return NOT_NOW;
    }
}

void fault_mend(world *w, uint32_t kind, uint64_t subject)
{
    uint32_t s = (uint32_t)subject;
    trace(w, "mended", kind, (int64_t)subject, 0);
    switch ((fault_kind)kind) {
    case FAULT_CUT_ONE_WAY:
    case FAULT_CUT_PAIR: set_cut(w, s & 0xff, s >> 8, kind == FAULT_CUT_PAIR, false); break;
    case FAULT_ISOLATE: isolate(w, s, false); break;
    case FAULT_STORM: w->net.loss = w->usual_loss; break;
    case FAULT_STOP_SERVER: stop(w, s, false); break;
    case FAULT_STOP_CLIENT: stop(w, s + HOSTS_MAX, false); break;
    case FAULT_STOP_HOST: stop_host(w, s, false); break;
    case FAULT_KILL_SERVER:
    case FAULT_LEAVE:
        if (w->host[s].exists && !w->endpoint[s].up) {
            host_start_server(w, s);
        }
        break;
    case FAULT_LOSE_HOST:
        if (!w->host[s].exists) {
            host_boot(w, s);
        }
        for (uint32_t c = 0; c < w->clients; c++) {
            if (w->caller[c].local && w->caller[c].host == s) {
                caller_start(w, c);
            }
        }
        break;
    case FAULT_KILL_CLIENT: caller_start(w, s); break;
    case FAULT_REGISTRY_DOWN:
        w->registry.up = true;
        for (uint32_t i = 0; i < SEG_SLOTS_MAX; i++) {
            w->registry.slot[i].confirmed_at = w->now; /* nobody could say a word */
        }
        break;
    case FAULT_REGISTRY_SLOW: w->registry.slow = false; break;
    case FAULT_REGISTRY_CUT: w->registry.cut[s] = false; break;
    default: break;
    }
}

void fault_next(world *w)
{
    if (w->now >= w->faults_until) {
        return;
    }
    event_at(w, w->now + 1 + chance(w, 2 * w->fault_every_ns), EV_FAULT, 0, 0, NULL);
    fault_kind kind = (fault_kind)chance(w, FAULTS);
    /* Short ones that nobody notices, some at the edge of the lease, some beyond suspicion. */
    uint64_t lengths[] = {20 * MS, LEASE_NS + 20 * MS, 2 * SUSPECT_NS, 600 * MS};
    uint64_t length = 1 + chance(w, lengths[chance(w, 4)]);
    uint64_t subject;
    beginning how = (w->without & 1u << kind) != 0 ? NOT_NOW : begin(w, kind, &subject);
    if (how == NOT_NOW) {
        return;
    }
    w->fault_count[kind]++;
    trace(w, fault_names[kind], (int64_t)subject, (int64_t)(length / US), 0);
    uint64_t until = w->now + length;
    if (how == ENDS_ITSELF) {
        return;
    }
    event_at(w, until < w->faults_until ? until : w->faults_until, EV_MEND, kind, subject, NULL);
}

void faults_begin(world *w)
{
    if (w->fault_every_ns != NEVER) {
        event_at(w, w->now + chance(w, w->fault_every_ns), EV_FAULT, 0, 0, NULL);
    }
}

void faults_end(world *w)
{
    w->net.loss = 0;
    w->net.twice = 0;
    w->net.spike = 0;
    w->registry.slow = false;
    for (uint32_t a = 0; a < PLACES_MAX; a++) {
        for (uint32_t b = 0; b < PLACES_MAX; b++) {
            w->net.cut[a][b] = false;
        }
    }
    for (uint32_t h = 0; h < w->hosts; h++) {
        w->registry.suspected[h] = w->registry.cut[h] = false;
        stop_host(w, h, false);
    }
    for (uint32_t c = 0; c < w->clients; c++) {
        stop(w, c + HOSTS_MAX, false);
        fault_mend(w, FAULT_KILL_CLIENT, c);
    }
    if (!w->registry.up) {
        fault_mend(w, FAULT_REGISTRY_DOWN, 0);
    }
}
