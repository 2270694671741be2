/* What an operation of the map log does to this member's segment.
 *
 * Knows: items, homes, fences, inboxes. Must not know: who sequences, how operations travel.
 *
 * What stops happens when the operation arrives, what starts happens when it is committed: so nobody
 * is served by a new master while an old one might be (docs/dal.md). All of it may be applied again
 * over a newer state (snapshot, restart).
 */
#include "node_internal.h"

static void start_later(node *n, uint64_t seq, uint32_t item, uint64_t auth, enum start_kind kind)
{
    if (n->start_count == n->start_room) {
        uint32_t room = n->start_room == 0 ? 1024 : n->start_room * 2;
        struct start *more = malloc(room * sizeof *more);
        if (more == NULL) {
            n->stats.moves_failed++;
            return;
        }
        for (uint32_t i = 0; i < n->start_count; i++) {
            more[i] = n->starts[(n->start_head + i) % n->start_room];
        }
        free(n->starts);
        n->starts = more;
        n->start_head = 0;
        n->start_room = room;
    }
    n->starts[(n->start_head + n->start_count++) % n->start_room] =
        (struct start){seq, auth, item, (uint8_t)kind};
}

bool apply_starting(const node *n, uint32_t item)
{
    for (uint32_t i = 0; i < n->start_count; i++) {
        if (n->starts[(n->start_head + i) % n->start_room].item == item) {
            return true;
        }
    }
    return false;
}

void apply_keep(node *n, uint32_t item)
{
    for (uint32_t i = 0; i < n->start_count; i++) {
        struct start *s = &n->starts[(n->start_head + i) % n->start_room];
        if (s->item == item && s->kind == START_STRIP) {
            s->auth = 0;
        }
    }
}

static void begin_create(node *n, const struct start *s)
{
    const struct op_bytes *op = &n->log[s->seq % NODE_LOG_OPS_MAX];
    seg_handle h = {s->auth, 0, s->item};
    seg_facts f;
    wire_msg m;
    if (seg_facts_read(n->seg, &h, &f) != SEG_OK || f.home.master != n->self || !f.stub) {
        return;
    }
    if (op->seq != s->seq || op->bytes == NULL || !wire_decode(op->bytes, op->len, &m)) {
        inherit_drop(n, &h); /* the log had no room for so much that is not committed: the answer is full */
        n->stats.refused++;
        return;
    }
    seg_copy c = {.auth = s->auth, .version = NODE_CREATED_VERSION - 1, .home = f.home,
                  .deadline_ns = m.ttl_ns == 0 ? 0 : n->now + m.ttl_ns, .value = m.value,
                  .len = m.value_len, .capacity = m.number};
    if (seg_overwrite(n->seg, &h, &c) != SEG_OK) {
        inherit_drop(n, &h); /* no room: the proposal's answer says so */
        n->stats.refused++;
        return;
    }
    (void)seg_thaw(n->seg, &h, NODE_CREATED_VERSION);
    move_check(n, &f);
    if (f.home.replicas != 0 && seg_facts_read(n->seg, &h, &f) == SEG_OK) {
        if (f.version == NODE_CREATED_VERSION) {
            seg_ack(n->seg, &h, f.control);
        } else {
            copy_dirty(n, h.item, h.auth, n->now);
        }
    }
}

void apply_committed(node *n)
{
    while (n->start_count > 0) {
        struct start s = n->starts[n->start_head];
        seg_handle h = {s.auth, 0, s.item};
        seg_facts f;
        if (s.seq > n->committed) {
            return;
        }
        n->start_head = (n->start_head + 1) % n->start_room;
        n->start_count--;
        switch (s.kind) {
        case START_CREATE:
            begin_create(n, &s);
            break;
        case START_THAW:
            if (seg_facts_read(n->seg, &h, &f) == SEG_OK && f.home.master == n->self && f.away &&
                !f.stub) {
                move_check(n, &f);
                inherit_thaw(n, &h, 0);
            }
            break;
        default:
            if (seg_facts_read(n->seg, &h, &f) == SEG_OK && f.home.master != n->self &&
                (f.home.replicas & BIT(n->self)) == 0 && !f.stub) {
                (void)seg_strip(n->seg, &h);
            }
        }
    }
}

/* ---- operations ---- */

static seg_status find(node *n, const wire_msg *m, seg_handle *h, seg_facts *f)
{
    seg_status status = seg_lookup(n->seg, m->key, m->key_len, h);
    status = status == SEG_OK ? seg_facts_read(n->seg, h, f) : status;
    if (status == SEG_OK && f->legacy == SEG_LOST) {
        inherit_lost(n, h);
        return SEG_NOT_FOUND;
    }
    return status;
}

static bool apply_create(node *n, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    bool master = m->home.master == n->self;
    bool holds = (m->home.replicas & BIT(n->self)) != 0;
    if (find(n, m, &h, &f) == SEG_OK) {
        if (f.auth == m->auth) {
            if (master && f.stub) {
                start_later(n, m->seq, h.item, f.auth, START_CREATE);
            }
            return true;
        }
        move_forget_item(n, h.item);
        (void)seg_uproot(n->seg, &h);
    }
    seg_copy c = {.auth = m->auth, .version = NODE_CREATED_VERSION, .home = m->home, .away = true,
                  .deadline_ns = m->ttl_ns == 0 ? 0 : n->now + m->ttl_ns, .stub = !holds};
    if (holds) {
        c.value = m->value;
        c.len = m->value_len;
        c.capacity = m->number < SEG_VALUE_BYTES_MAX ? m->number : SEG_VALUE_BYTES_MAX;
    }
    if (seg_plant(n->seg, m->key, m->key_len, &c, &h) != SEG_OK) {
        return false;
    }
    if (master) {
        start_later(n, m->seq, h.item, m->auth, START_CREATE);
    }
    return true;
}

static void apply_delete(node *n, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    n->last_delete = m->seq;
    if (find(n, m, &h, &f) == SEG_OK && f.auth == m->auth) {
        move_forget_item(n, h.item);
        (void)seg_uproot(n->seg, &h);
    }
}

static void apply_place(node *n, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    if (find(n, m, &h, &f) != SEG_OK || f.auth != m->auth) {
        return;
    }
    bool mine = m->home.master == n->self;
    if (f.home.master != m->number) {
        if (mine && f.home.master == n->self && f.away && !move_busy(n, h.item)) {
            start_later(n, m->seq, h.item, f.auth, START_THAW); /* applied before a restart */
        }
        return;
    }
    seg_home home = m->home;
    (void)seg_home_write(n->seg, &h, &home);
    if (mine && m->number != n->self) {
        seg_ack(n->seg, &h, 0);
#ifdef DAL_MUTANT_THAW_EARLY
        inherit_thaw(n, &h, 0);
#endif
        start_later(n, m->seq, h.item, f.auth, START_THAW);
    } else if (!mine && (home.replicas & BIT(n->self)) == 0 && !f.stub) {
        start_later(n, m->seq, h.item, f.auth, START_STRIP);
    }
}

/* Fences outlive a new beginning and a restart: one that was raised here and was never committed is raised
 * everywhere. */
static void tell_fences(node *n)
{
    uint8_t name[SEG_KEY_BYTES_MAX];
    size_t len;
    uint64_t cursor = 0, epoch;
    while (seg_fence_walk(n->seg, &cursor, name, &len, &epoch) == SEG_OK) {
        wire_msg m = {.sub = WIRE_OP_FENCE, .mask = WIRE_FENCE_NAME | WIRE_GRANT_EPOCH, .fence = name,
                      .fence_len = len, .grant_epoch = epoch};
        if (epoch != 0) {
            (void)map_propose(n, &m, FOR_FENCE, 0);
        }
    }
}

void apply_rejoin(node *n)
{
    n->rejoined = true;
    if (n->restarted) {
        tell_fences(n);
    }
}

static void apply_view(node *n, const wire_msg *m)
{
    uint16_t dead = (uint16_t)m->number;
    bool current = m->auth == n->view.epoch;
    n->viewed = m->auth;
    n->completes = (uint16_t)m->grant_epoch;
    n->thaw_at = n->commit_hold;
    n->thaw_seq = m->seq; /* whom an item moved away from may not know it before */
    inherit_begin(n, dead, m->auth);
    for (uint32_t i = 0; i < n->inboxes; i++) {
        if (n->inbox[i].live && (dead & BIT(n->inbox[i].slot)) != 0) {
            inbox_put(n, n->inbox[i].name, n->inbox[i].name_len, n->inbox[i].slot, true);
        }
    }
    n->wants &= (uint16_t)~dead;
    n->leavers = 0;
    n->leave_asked = n->leave_known = n->left = n->closed = false;
    if (current && n->complete) {
        n->phase = NODE_ACTIVE;
        n->restarted = n->restarted && !n->rejoined;
        apply_rejoin(n);
    }
    move_view(n);
    stray_soon(n);
    if ((dead & (uint16_t)~m->version) != 0) {
        n->urgent_until = n->now + NODE_URGENT_NS;
        n->repair_rest = n->now + NODE_REST_NS;
        n->repair_gently = n->now + NODE_GENTLY_NS;
    }
    n->walk_repair = true;
    n->repair_cursor = 0;
    n->repair_again = true;
    n->i_want = false;
    node_publish(n);
}

static void apply_member(node *n, const wire_msg *m)
{
    inherit_all(n);
    n->completes |= BIT(m->number & 15);
    if (m->number == n->self) {
        n->completes = (uint16_t)m->version;
        n->complete = true;
        n->viewed = n->view.epoch;
        n->phase = NODE_ACTIVE;
        n->thaw_at = n->thaw_at == UINT64_MAX ? n->now : n->thaw_at;
        tell_fences(n);
        node_publish(n);
    }
    n->walk_repair = true;
    n->repair_cursor = 0;
    n->repair_again = true;
}

/* From here on nothing comes to it: what it has to hand over only becomes less. */
static void apply_leave(node *n, const wire_msg *m)
{
    if (m->version != 0) {
        n->leavers &= (uint16_t)~BIT(m->number & 15);
    } else {
        n->leavers |= BIT(m->number & 15);
    }
    if (m->number == n->self) {
        n->leave_known = m->version == 0;
        n->leave_found = false;
        n->leave_cursor = 0;
        if (m->version != 0) { /* should we be leaving: it overtook our word, which is said again */
            n->leave_asked = n->left = n->closed = false;
            node_refresh_serving(n);
        }
    }
    n->walk_repair = true;
    n->repair_cursor = 0;
    n->repair_again = true;
}

static void apply_inbox(node *n, const wire_msg *m)
{
    struct inbox *b = inbox_find(n, m->key, m->key_len);
    bool came = m->number == 0 && (b == NULL || b->slot != m->home.master);
    inbox_put(n, m->key, m->key_len, m->home.master, m->number != 0);
    b = came ? inbox_find(n, m->key, m->key_len) : NULL;
    if (b != NULL) {
        b->since = m->seq;
    }
}

bool apply_op(node *n, const wire_msg *m)
{
    uint32_t fence = 0;
    bool raised;
    switch (m->sub) {
    case WIRE_OP_CREATE:
        return apply_create(n, m);
    case WIRE_OP_DELETE:
        apply_delete(n, m);
        return true;
    case WIRE_OP_PLACE:
        apply_place(n, m);
        return true;
    case WIRE_OP_FENCE:
        return seg_fence(n->seg, m->fence, m->fence_len, true, &fence) == SEG_OK &&
               seg_fence_raise(n->seg, fence, m->grant_epoch, &raised) == SEG_OK;
    case WIRE_OP_VIEW:
        apply_view(n, m);
        return true;
    case WIRE_OP_MEMBER:
        apply_member(n, m);
        return true;
    case WIRE_OP_LEAVE:
        apply_leave(n, m);
        return true;
    case WIRE_OP_INBOX:
        apply_inbox(n, m);
        return true;
    default:
        n->stats.refused++;
        return true;
    }
}

/* ---- snapshots ---- */

void apply_wipe(node *n)
{
    (void)seg_begin_anew(n->seg, seg_generation(n->seg));
    for (uint32_t i = 0; i < n->inboxes; i++) {
        if (n->inbox[i].live) {
            inbox_put(n, n->inbox[i].name, n->inbox[i].name_len, n->inbox[i].slot, true);
        }
    }
    n->start_count = n->thaw_count = n->thaw_next = 0;
    n->bequest = 0;
    n->leavers = 0;
    n->stuck = false;
    map_log_clear(n);
    n->applied = 0;
    n->log_first = 1;
    node_publish(n);
}

seg_status apply_snap(node *n, const wire_msg *m)
{
    wire_reader r = {m->value, (const uint8_t *)m->value + m->value_len};
    seg_status worst = SEG_OK;
    uint64_t auth;
    seg_home home;
    const void *key;
    size_t len;
    while (wire_take_entry(&r, &auth, &home, &key, &len)) {
        if (m->sub == 0) {
            seg_handle h;
            seg_copy c = {.auth = auth, .home = home, .stub = true, .away = true};
            seg_status status = seg_plant(n->seg, key, len, &c, &h);
            worst = status == SEG_OK || status == SEG_EXISTS || status == SEG_INVALID ? worst : status;
        } else if (m->sub == 1) {
            uint32_t fence = 0;
            bool raised;
            seg_status status = seg_fence(n->seg, key, len, true, &fence);
            if (status == SEG_OK) {
                (void)seg_fence_raise(n->seg, fence, auth, &raised);
            } else if (status != SEG_TOO_BIG) {
                worst = status;
            }
        } else {
            inbox_put(n, key, len, home.master, false);
        }
    }
    n->stats.refused += worst != SEG_OK;
    return worst;
}

/* ---- inboxes ---- */

struct inbox *inbox_find(node *n, const void *name, size_t len)
{
    for (uint32_t i = 0; i < n->inboxes; i++) {
        if (n->inbox[i].live && n->inbox[i].name_len == len &&
            memcmp(n->inbox[i].name, name, len) == 0) {
            return &n->inbox[i];
        }
    }
    return NULL;
}

void inbox_put(node *n, const void *name, size_t len, uint8_t slot, bool closed)
{
    struct inbox *b = inbox_find(n, name, len);
    if (closed) {
        if (b != NULL && b->slot == slot) {
            for (struct message *m = b->first, *next; m != NULL; m = next) {
                next = m->next;
                if (m->request != 0) {
                    serve_reply(n, m->request, WIRE_IN_DOUBT);
                }
                free(m);
            }
            memset(b, 0, sizeof *b);
        }
        return;
    }
    for (uint32_t i = 0; b == NULL && i < n->inboxes; i++) {
        b = n->inbox[i].live ? NULL : &n->inbox[i];
    }
    if (b == NULL && n->inboxes < NODE_INBOXES_MAX) {
        b = &n->inbox[n->inboxes++];
    }
    if (b == NULL || len > sizeof b->name) {
        return;
    }
    if (!b->live) {
        *b = (struct inbox){.live = true, .name_len = (uint8_t)len};
        memcpy(b->name, name, len);
    }
    b->slot = slot;
}
