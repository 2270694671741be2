/* The clients: what they do by chance, and the records of what they saw.
 *
 * Knows: client.h, the keys' kinds. Must not know: what is right (check_*.c).
 *
 * Every value and every entry of a log carries a number of its own, so that a read says which writes it
 * has seen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define THINK_NS (8 * MS)
#define LAST_NS (3000 * MS) /* one of the last reads may take */
#define ENTRY_MAX 40u

static bool chance_percent(world *w, uint32_t percent) { return chance(w, 100) < percent; }

/* ---- values ---- */

static size_t fill(uint8_t *at, size_t len, uint32_t unique)
{
    uint64_t x = unique * 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < len; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        at[i] = (uint8_t)(x >> 56);
    }
    memcpy(at, &unique, sizeof unique);
    return len;
}

/* A new value of the key; *value stands for it. */
static size_t new_value(world *w, const key_info *k, uint8_t *at, uint32_t unique, uint64_t *value)
{
    if (k->kind == COUNTER) {
        memset(at, 0, 8);
        *value = 0;
        return 8;
    }
    if (k->kind == LOG) {
        uint32_t len = (uint32_t)fill(at + 4, 4 + chance(w, ENTRY_MAX), unique);
        memcpy(at, &len, 4);
        *value = wgl_fold(0, hash_bytes(at + 4, len));
        return len + 4;
    }
    size_t len = fill(at, k->big ? 3000 + chance(w, 15000) : 4 + chance(w, 200), unique);
    *value = hash_bytes(at, len);
    return len;
}

static uint32_t writer_of(world *w, const uint8_t *at, size_t len)
{
    uint32_t unique = 0;
    if (len >= sizeof unique) {
        memcpy(&unique, at, sizeof unique);
    }
    return unique > 0 && unique <= w->uniques ? unique : 0;
}

/* What a read has seen, as one number; marks the writes it shows. */
static uint64_t look_at(world *w, uint32_t key, const uint8_t *at, size_t len, bool last)
{
    const key_info *k = &w->key[key];
    uint64_t value = 0;
    if (k->kind == COUNTER) {
        if (len != 8) {
            broken(w, "value", "the counter %s has %zu bytes", k->name, len);
        } else {
            memcpy(&value, at, 8);
        }
        return value;
    }
    if (k->kind == REGISTER) {
        uint32_t unique = writer_of(w, at, len);
        value = hash_bytes(at, len);
        if (unique == 0 || w->record[w->written[unique]].value != value ||
            w->record[w->written[unique]].key != key) {
            broken(w, "value", "%s reads %zu bytes that nobody wrote there", k->name, len);
            return 0;
        }
        w->seen[unique] = true;
        return value;
    }
    bool found[OPS_MAX + 1] = {false};
    while (len > 0) {
        uint32_t entry = 0;
        memcpy(&entry, at, len < 4 ? len : 4);
        uint32_t unique = len < 4 || entry > len - 4 ? 0 : writer_of(w, at + 4, entry);
        if (unique == 0 || w->record[w->written[unique]].key != key) {
            broken(w, "value", "%s reads an entry that nobody wrote there", k->name);
            return 0;
        }
        if (found[unique]) {
            broken(w, "value", "%s shows one entry twice", k->name);
        }
        found[unique] = w->seen[unique] = true;
        w->last_seen[unique] |= last;
        value = wgl_fold(value, hash_bytes(at + 4, entry));
        at += 4 + entry;
        len -= 4 + entry;
    }
    return value;
}

/* ---- starting an operation ---- */

static record *new_record(world *w, uint32_t c, task *t, const client_request *r)
{
    if (w->records == OPS_MAX) {
        return NULL;
    }
    t->record = w->records;
    record *e = &w->record[w->records++];
    *e = (record){.verb = r->verb, .client = c, .key = t->key, .invoked = w->now, .fence = -1,
                  .grant_epoch = r->grant_epoch, .ttl_ns = r->ttl_ns, .sync = r->sync, .set_ttl = r->set_ttl};
    return e;
}

static void launch(world *w, uint32_t c, task *t, client_request *r)
{
    caller *me = &w->caller[c];
    t->verb = r->verb;
    if (r->timeout_ns == 0) {
        r->timeout_ns = chance_between(w, 50, 400) * MS;
    }
    clock_of(w, w->endpoint[c + HOSTS_MAX].place);
    trace(w, "client starts", c, r->verb, t->record == NO_RECORD ? -1 : (int64_t)t->record);
    t->op = client_start(me->client, r, host_now(w, w->endpoint[c + HOSTS_MAX].place));
    t->busy = t->op >= 0;
    if (!t->busy) {
        broken(w, "client", "client %u has no room for an operation", c);
    }
}

static void start_read(world *w, uint32_t c, task *t, uint32_t key, bool sync, bool last)
{
    const key_info *k = &w->key[key];
    t->key = key;
    t->last = last;
    client_request r = {.verb = CLIENT_READ, .sync = sync, .key = k->name, .key_len = strlen(k->name),
                        .place = w->caller[c].memory[key].place, .out = t->out, .cap = VALUE_MAX,
                        .timeout_ns = last ? LAST_NS : 0};
    if (new_record(w, c, t, &r) != NULL) {
        launch(w, c, t, &r);
    }
}

static client_verb choose(world *w, const key_info *k, const memory *m)
{
    uint64_t dice = chance(w, 100);
    if (!m->known || !m->there) {
        return dice < 60 ? CLIENT_CREATE : CLIENT_READ;
    }
    if (dice < 35) {
        return CLIENT_READ;
    }
    if (dice < 38) {
        return k->deletable ? CLIENT_DELETE : CLIENT_READ;
    }
    if (dice < 42) {
        return CLIENT_MOVE;
    }
    if (dice < 44) {
        return CLIENT_ENSURE;
    }
    if (dice < 46) {
        return CLIENT_LOOKUP;
    }
    if (k->kind == COUNTER) {
        return CLIENT_ADD;
    }
    if (k->kind == LOG && (k->pure || dice < 92)) {
        return CLIENT_APPEND;
    }
    return dice < 75 || m->version == 0 ? CLIENT_WRITE : CLIENT_SWAP;
}

static void start_on_key(world *w, uint32_t c, task *t)
{
    caller *me = &w->caller[c];
    t->key = (uint32_t)chance(w, w->keys);
    t->last = false;
    key_info *k = &w->key[t->key];
    const memory *m = &me->memory[t->key];
    if (k->operations >= OPS_PER_KEY || k->doubts >= DOUBTS_PER_KEY || w->uniques >= OPS_MAX) {
        return;
    }
    bool sync = k->sync || chance_percent(w, 40);
    client_verb verb = choose(w, k, m);
    if (verb == CLIENT_READ) {
        start_read(w, c, t, t->key, sync, false);
        k->operations++;
        return;
    }
    client_request r = {.verb = verb, .sync = sync, .key = k->name, .key_len = strlen(k->name),
                        .place = m->place, .value = t->value, .version = m->version, .want = k->want,
                        .hint = k->hint, .capacity = k->kind == LOG ? chance(w, 600) : 0};
    if (verb == CLIENT_MOVE) {
        r.slot = (uint8_t)chance(w, w->hosts);
    }
    if (k->mortal && (verb == CLIENT_CREATE || (verb == CLIENT_WRITE && chance_percent(w, 50)))) {
        r.set_ttl = true;
        r.ttl_ns = chance_between(w, 20, 200) * MS;
    }
    bool writes = verb != CLIENT_MOVE && verb != CLIENT_ENSURE && verb != CLIENT_LOOKUP;
    if (writes && k->fence >= 0) {
        snprintf(t->name, sizeof t->name, "f%d", k->fence);
        r.fence = t->name;
        r.fence_len = strlen(t->name);
        r.grant_epoch = me->fence_epoch[k->fence];
    }
    record *e = new_record(w, c, t, &r);
    if (e == NULL) {
        return;
    }
    k->operations++;
    if (r.fence != NULL) {
        e->fence = k->fence;
    }
    if (verb == CLIENT_CREATE || verb == CLIENT_WRITE || verb == CLIENT_SWAP || verb == CLIENT_APPEND) {
        uint32_t unique = ++w->uniques;
        w->written[unique] = t->record;
        e->unique = unique;
        if (verb == CLIENT_APPEND) {
            r.len = fill(t->value, 4 + chance(w, ENTRY_MAX), unique);
            e->value = hash_bytes(t->value, r.len);
        } else {
            r.len = new_value(w, k, t->value, unique, &e->value);
        }
        e->expect = m->value; /* SWAP: what stood at that version */
    } else if (verb == CLIENT_ADD) {
        uint32_t n = k->adds++;
        r.delta = n < BIT_ADDS ? (int64_t)1 << n : (int64_t)(1 + chance(w, 1u << 20)) << (BIT_ADDS + 1);
        e->value = (uint64_t)r.delta;
    }
    launch(w, c, t, &r);
}

static void start_on_fence(world *w, uint32_t c, task *t)
{
    caller *me = &w->caller[c];
    uint32_t f = (uint32_t)chance(w, w->fences);
    t->key = f;
    snprintf(t->name, sizeof t->name, "f%u", f);
    client_request r = {.verb = chance_percent(w, 60) ? CLIENT_RAISE : CLIENT_FENCE, .fence = t->name,
                        .fence_len = strlen(t->name), .grant_epoch = me->fence_epoch[f] + 1};
    record *e = new_record(w, c, t, &r);
    if (e != NULL) {
        e->fence = (int)f;
        launch(w, c, t, &r);
    }
}

static void start_message(world *w, uint32_t c, task *t)
{
    caller *me = &w->caller[c];
    t->record = NO_RECORD;
    t->to = chance_percent(w, 75) ? (uint32_t)chance(w, w->clients) : EVERYBODY;
    letter l = {c, t->to, ++me->numbers};
    memcpy(t->value, &l, sizeof l);
    t->told = l.number;
    snprintf(t->name, sizeof t->name, "in%u", t->to);
    client_request r = {.verb = t->to == EVERYBODY ? CLIENT_ANNOUNCE : CLIENT_TELL, .value = t->value,
                        .len = sizeof l};
    if (t->to != EVERYBODY) {
        r.key = t->name;
        r.key_len = strlen(t->name);
    }
    me->telling = true;
    w->count.told++;
    launch(w, c, t, &r);
}

static void start_other(world *w, uint32_t c, task *t)
{
    static const client_verb verbs[] = {CLIENT_SCAN, CLIENT_POLL, CLIENT_MEMBERS, CLIENT_INBOX};
    t->record = NO_RECORD;
    client_request r = {.verb = verbs[chance(w, 4)], .out = t->out, .cap = VALUE_MAX, .key = "k", .key_len = 1};
    if (r.verb == CLIENT_INBOX) {
        snprintf(t->name, sizeof t->name, "in%u", c);
        r.key = t->name;
        r.key_len = strlen(t->name);
    }
    launch(w, c, t, &r);
}

static void start_inbox(world *w, uint32_t c)
{
    task *t = &w->caller[c].task[0];
    t->record = NO_RECORD;
    snprintf(t->name, sizeof t->name, "in%u", c);
    client_request r = {.verb = CLIENT_INBOX, .key = t->name, .key_len = strlen(t->name)};
    launch(w, c, t, &r);
}

/* ---- results ---- */

static void learn(world *w, uint32_t c, task *t, const client_result *out)
{
    memory *m = &w->caller[c].memory[t->key];
    record *e = &w->record[t->record];
    if (out->place.auth != m->place.auth) {
        m->version = 0; /* versions belong to an incarnation */
    }
    m->place = out->place;
    if (out->status == DAL_NOT_FOUND) {
        m->known = true;
        m->there = false;
        m->version = 0;
        return;
    }
    if (out->status == DAL_EXISTS) {
        m->known = m->there = true;
        m->version = 0;
        return;
    }
    if (out->status != DAL_OK) {
        return;
    }
    m->known = m->there = true;
    switch (e->verb) {
    case CLIENT_READ:
        e->value = look_at(w, t->key, t->out, out->len, t->last);
        m->version = out->version;
        m->value = e->value;
        break;
    case CLIENT_ADD: e->expect = (uint64_t)out->number; break;
    case CLIENT_DELETE: m->there = false; break;
    default: break;
    }
}

static void finished(world *w, uint32_t c, task *t, const client_result *out)
{
    caller *me = &w->caller[c];
    t->busy = false;
    trace(w, "client has", c, out->status, t->record == NO_RECORD ? -1 : (int64_t)t->record);
    if (t->verb == CLIENT_TELL || t->verb == CLIENT_ANNOUNCE) {
        me->telling = false;
        if (out->status == DAL_OK) {
            check_messages_told(w, &(letter){c, t->to, t->told});
        }
    }
    if (t->record == NO_RECORD) {
        return;
    }
    record *e = &w->record[t->record];
    e->returned = w->now;
    e->status = out->status;
    e->epoch_seen = out->epoch_seen;
    e->version = out->version;
    if (t->verb == CLIENT_RAISE || t->verb == CLIENT_FENCE) {
        uint64_t seen = t->verb == CLIENT_RAISE && out->status == DAL_OK ? e->grant_epoch : out->epoch_seen;
        if ((out->status == DAL_OK || out->status == DAL_FENCED) && seen > me->fence_epoch[t->key]) {
            me->fence_epoch[t->key] = seen;
        }
        return;
    }
    w->key[t->key].doubts += out->status == DAL_IN_DOUBT;
    learn(w, c, t, out);
    if (t->last && out->status != DAL_OK && out->status != DAL_NOT_FOUND) {
        broken(w, "healing", "client %u cannot read %s: status %d %s", c, w->key[t->key].name, (int)out->status,
               out->why);
    }
    if (t->last) {
        w->key[t->key].last_there = out->status == DAL_OK;
        w->key[t->key].last_value = e->value;
    }
    t->last = false;
}

void caller_after(world *w, uint32_t c)
{
    caller *me = &w->caller[c];
    endpoint *e = &w->endpoint[c + HOSTS_MAX];
    uint8_t bytes[LINK_DATAGRAM_BYTES_MAX];
    link_addr to;
    size_t len;
    if (!e->up || w->failed) {
        return;
    }
    clock_of(w, e->place);
    while (client_next(me->client, &to, bytes, &len)) {
        net_send(w, c + HOSTS_MAX, &to, bytes, len);
    }
    char inbox[CLIENT_INBOX_NAME_BYTES_MAX + 1];
    while (client_take(me->client, bytes, sizeof bytes, &len, inbox) == DAL_OK) {
        trace(w, "client takes", c, 0, 0);
        check_messages_taken(w, c, bytes, len);
    }
    client_result out;
    for (uint32_t i = 0; i < SLOTS_PER_CLIENT; i++) {
        if (me->task[i].busy && client_done(me->client, me->task[i].op, &out)) {
            finished(w, c, &me->task[i], &out);
        }
    }
    uint64_t deadline = client_deadline(me->client);
    if (deadline != NEVER) {
        uint64_t offset = host_now(w, e->place) - w->now;
        uint64_t at = deadline > offset ? deadline - offset : 0;
        at = (at < w->now ? w->now : at) + 1 + chance(w, 20 * US);
        if (e->tick_at == 0 || at < e->tick_at) {
            e->tick_at = at;
            event_at(w, at, EV_TICK, c + HOSTS_MAX, ++e->tick_generation, NULL);
        }
    }
}

void caller_operate(world *w, uint32_t c, uint64_t generation)
{
    caller *me = &w->caller[c];
    endpoint *e = &w->endpoint[c + HOSTS_MAX];
    if (generation != me->generation || !e->up || w->now >= w->operations_until) {
        return;
    }
    event_at(w, w->now + chance(w, THINK_NS), EV_OPERATE, c, generation, NULL);
    for (uint32_t i = 0; i < SLOTS_PER_CLIENT && !e->stopped; i++) {
        task *t = &me->task[i];
        if (t->busy || (i > 0 && chance_percent(w, 70))) {
            continue;
        }
        uint64_t dice = chance(w, 100);
        if (dice < 4 && w->fences > 0) {
            start_on_fence(w, c, t);
        } else if (dice < 8 && !me->telling) {
            start_message(w, c, t);
        } else if (dice < 10) {
            start_other(w, c, t);
        } else {
            start_on_key(w, c, t);
        }
        break;
    }
    caller_after(w, c);
}

void caller_receive(world *w, uint32_t c, const packet *p)
{
    clock_of(w, w->endpoint[c + HOSTS_MAX].place);
    client_receive(w->caller[c].client, &p->from, p->bytes, p->len,
                   host_now(w, w->endpoint[c + HOSTS_MAX].place));
}

void caller_tick(world *w, uint32_t c)
{
    clock_of(w, w->endpoint[c + HOSTS_MAX].place);
    client_tick(w->caller[c].client, host_now(w, w->endpoint[c + HOSTS_MAX].place));
}

/* ---- processes ---- */

void caller_start(world *w, uint32_t c)
{
    caller *me = &w->caller[c];
    endpoint *e = &w->endpoint[c + HOSTS_MAX];
    char why[256];
    if (e->up || (me->local && !w->host[me->host].exists)) {
        return;
    }
    e->place = me->local ? me->host : HOSTS_MAX + c;
    e->life++;
    e->addr = net_address(c + HOSTS_MAX, e->place, e->life);
    e->up = true;
    e->stopped = e->tick_missed = false;
    e->tick_at = 0;
    clock_of(w, e->place);
    me->generation++;
    me->telling = false;
    memset(me->memory, 0, sizeof me->memory);
    if (me->local && seg_open(w->host[me->host].path, false, &me->seg, why, sizeof why) != SEG_OK) {
        broken(w, "segment", "%s", why);
        return;
    }
    client_options o = {.timeout_ns = 200 * MS};
    for (uint32_t i = 0; !me->local && i < 3; i++) {
        uint32_t h = (uint32_t)chance(w, w->hosts);
        o.contact[o.contacts++] = net_address(h, h, 0);
    }
    me->link = link_new(&w->keys_used, chance_next(w) | 1, why, sizeof why);
    me->client = me->link == NULL ? NULL : client_new(me->seg, me->link, &o, host_now(w, e->place));
    if (me->client == NULL) {
        broken(w, "client", "client_new of %u", c);
        return;
    }
    trace(w, "client process starts", c, me->local, me->host);
    start_inbox(w, c);
    caller_after(w, c);
    event_at(w, w->now + chance(w, THINK_NS), EV_OPERATE, c, me->generation, NULL);
}

void caller_crash(world *w, uint32_t c)
{
    caller *me = &w->caller[c];
    endpoint *e = &w->endpoint[c + HOSTS_MAX];
    if (!e->up) {
        return;
    }
    trace(w, "client process dies", c, 0, 0);
    e->up = false;
    for (uint32_t i = 0; i < e->held_count; i++) {
        free(e->held[i]);
    }
    e->held_count = 0;
    clock_of(w, e->place);
    client_free(me->client);
    link_free(me->link);
    bury(w, me->seg);
    me->client = NULL;
    me->link = NULL;
    me->seg = NULL;
    for (uint32_t i = 0; i < SLOTS_PER_CLIENT; i++) {
        task *t = &me->task[i];
        if (t->busy && t->record != NO_RECORD) {
            w->record[t->record].crashed = true;
            w->record[t->record].returned = NEVER;
        }
        t->busy = false;
    }
}

bool callers_idle(const world *w)
{
    for (uint32_t c = 0; c < w->clients; c++) {
        for (uint32_t i = 0; i < SLOTS_PER_CLIENT; i++) {
            if (w->caller[c].task[i].busy) {
                return false;
            }
        }
    }
    return true;
}

static bool idle(world *w) { return callers_idle(w); }

void callers_last_reads(world *w)
{
    for (uint32_t k = 0; k < w->keys; k++) {
        for (uint32_t c = 0; c < w->clients && !w->failed; c++) {
            if (w->endpoint[c + HOSTS_MAX].up) {
                start_read(w, c, &w->caller[c].task[0], k, true, true);
                caller_after(w, c);
            }
        }
        world_run_until(w, w->now + 2 * LAST_NS, idle);
    }
    if (!w->failed && !callers_idle(w)) {
        broken(w, "healing", "an operation outlives its timeout");
    }
}

void callers_begin(world *w)
{
    for (uint32_t c = 0; c < w->clients; c++) {
        w->caller[c].local = chance_percent(w, 60);
        w->caller[c].host = (uint32_t)chance(w, w->hosts);
        caller_start(w, c);
    }
}

void callers_end(world *w)
{
    for (uint32_t c = 0; c < w->clients; c++) {
        caller_crash(w, c);
    }
}
