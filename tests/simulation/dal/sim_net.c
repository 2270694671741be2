/* The network: loss, repetition, delay, reordering, partitions of one way or both.
 *
 * Knows: places and datagrams. Must not know: what they say.
 */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define LOOP_NS (5 * US)
#define SPIKE_NS (40 * MS)

link_addr net_address(uint32_t endpoint, uint32_t place, uint32_t life)
{
    link_addr a;
    memset(&a, 0, sizeof a);
    a.ip[10] = a.ip[11] = 0xff;
    a.ip[12] = 10;
    a.ip[15] = (uint8_t)(place + 1);
    /* A server keeps its port; a client's process gets another one every time. */
    a.port = (uint16_t)(endpoint < HOSTS_MAX ? 7000 : 20000 + endpoint * 1000 + life % 1000);
    return a;
}

static int endpoint_at(const world *w, const link_addr *to)
{
    for (uint32_t i = 0; i < ENDPOINTS_MAX; i++) {
        const endpoint *e = &w->endpoint[i];
        if (e->up && e->addr.port == to->port && memcmp(e->addr.ip, to->ip, sizeof to->ip) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static void deliver(world *w, uint32_t to, const packet *p, bool near)
{
    packet *copy = malloc(sizeof *copy);
    if (copy == NULL) {
        abort();
    }
    copy->from = p->from;
    copy->from_place = p->from_place;
    copy->len = p->len;
    memcpy(copy->bytes, p->bytes, p->len);
    uint64_t delay = near ? LOOP_NS : w->net.delay_ns + chance(w, w->net.jitter_ns + 1);
    if (!near && chance_of(w, w->net.spike)) {
        delay += chance(w, SPIKE_NS);
    }
    event_at(w, w->now + delay, EV_DATAGRAM, to, w->endpoint[to].life, copy);
}

void net_send(world *w, uint32_t from, const link_addr *to, const void *bytes, size_t len)
{
    w->net.sent++;
    int target = endpoint_at(w, to);
    uint32_t here = w->endpoint[from].place;
    if (target < 0 || len > LINK_DATAGRAM_BYTES_MAX) {
        w->net.refused++;
        return;
    }
    uint32_t there = w->endpoint[target].place;
    bool near = here == there;
    if (!near && (w->net.cut[here][there] || chance_of(w, w->net.loss))) {
        w->net.lost++;
        return;
    }
    packet p = {.from = w->endpoint[from].addr, .from_place = here, .len = (uint32_t)len};
    memcpy(p.bytes, bytes, len);
    deliver(w, (uint32_t)target, &p, near);
    if (!near && chance_of(w, w->net.twice)) {
        w->net.repeated++;
        deliver(w, (uint32_t)target, &p, near);
    }
}
