/* Snapshots of the key map for those who join.
 *
 * Knows: entries of the map, fences, inboxes, the order of pieces. Must not know: operations.
 *
 * Pieces are numbered through an epoch, one is under way at a time. What changes meanwhile is in the log from
 * the point where the snapshot began, and operations do no harm to a newer state. A piece that is sent again is
 * made again, of what there is by then: it may have been taken as it was before, so it keeps its kind, and the
 * next one begins where the shortest of its versions ended.
 */
#include "node_internal.h"

#define QUICK_MAX 200u /* repetitions of a piece; then one a second: who has no room for it does not take it */

void snap_send(node *n, uint8_t to)
{
    static const uint8_t kinds = 3;
    struct peer *p = &n->peer[to];
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len = 0;
    p->snap_at = n->now + (p->repeats < QUICK_MAX ? n->c.resend_ns : PACE_TIMER_NS_MAX);
    uint8_t *out = n->scratch;
    uint64_t cursor = p->snap_cursor;
    if (p->snap_kind == kinds) {
        wire_msg end = {.type = WIRE_SNAPEND, .flags = p->snap_chunk == p->snap_first ? WIRE_FIRST : 0,
                        .mask = WIRE_SEQ | WIRE_NUMBER, .seq = p->snap_base,
                        .number = p->snap_chunk};
        node_say(n, to, &end, 0);
        return;
    }
    bool again = p->snap_said;
    if (p->snap_kind == 2 && n->unasked != 0) {
        return; /* we were restarted and are asking for them ourselves: later */
    }
    while (len + 512 < NODE_SNAP_BYTES) {
        seg_handle h;
        seg_facts f;
        size_t key_len = 0;
        uint64_t was = cursor;
        if (p->snap_kind == 0) {
            if (seg_walk(n->seg, &cursor, &h, &f) != SEG_OK) {
                break;
            }
            if (f.legacy == SEG_LOST || seg_key(n->seg, &h, key, &key_len) != SEG_OK) {
                continue;
            }
            f.home.learners = 0;
            len += wire_put_entry(out + len, NODE_SNAP_BYTES - len, f.auth, &f.home, key, key_len);
        } else if (p->snap_kind == 1) {
            uint64_t epoch;
            if (seg_fence_walk(n->seg, &cursor, key, &key_len, &epoch) != SEG_OK) {
                break;
            }
            seg_home none = {0};
            len += wire_put_entry(out + len, NODE_SNAP_BYTES - len, epoch, &none, key, key_len);
        } else {
            if (cursor >= n->inboxes) {
                break;
            }
            const struct inbox *b = &n->inbox[cursor++];
            seg_home home = {.master = b->slot};
            if (b->live) {
                len += wire_put_entry(out + len, NODE_SNAP_BYTES - len, 0, &home, b->name, b->name_len);
            }
        }
        if (cursor - was > NODE_WALK_MAX) {
            break;
        }
    }
    if (again && p->snap_next_cursor < cursor) {
        cursor = p->snap_next_cursor;
    }
    p->snap_next_cursor = cursor;
    wire_msg m = {.type = WIRE_SNAP, .sub = p->snap_kind, .flags = p->snap_chunk == p->snap_first ? WIRE_FIRST : 0,
                  .mask = WIRE_NUMBER | WIRE_SUB | WIRE_VALUE,
                  .number = p->snap_chunk, .value = out, .value_len = len};
    if (len == 0 && !again) { /* the end of this kind */
        p->snap_kind++;
        p->snap_cursor = 0;
        snap_send(n, to);
        return;
    }
    p->snap_said = true;
    node_say(n, to, &m, p->snap_chunk << 3 | 7);
}

void snap_begin(node *n, uint8_t to)
{
    struct peer *p = &n->peer[to];
    p->snapping = true;
    p->snap_done = false;
    p->repeats = 0;
    p->snap_kind = 0;
    p->snap_cursor = 0;
    p->snap_chunk++; /* never the number of an earlier piece of this epoch */
    p->snap_said = false;
    p->snap_first = p->snap_chunk;
    p->snap_base = n->applied;
    snap_send(n, to);
}

void snap_acked(node *n, const wire_msg *m)
{
    struct peer *p = &n->peer[m->slot];
    if (!p->snapping || m->number != p->snap_chunk) {
        return;
    }
    p->repeats = 0;
    if (p->snap_kind == 3) {
        p->snapping = false;
        p->snap_done = true;
        p->acked = p->sent = p->snap_base;
        p->ack_at = n->now;
        n->owe_pump = true;
        return;
    }
    p->snap_chunk++;
    p->snap_said = false;
    p->snap_cursor = p->snap_next_cursor;
    snap_send(n, m->slot);
}

/* A joiner takes pieces in order; the first one of a snapshot ends what was there before. */
void snap_take(node *n, const wire_msg *m)
{
    if (m->slot != n->view.leader || n->complete) {
        return;
    }
    bool first = (m->flags & WIRE_FIRST) != 0 && m->number >= n->snap_next;
    if (n->stuck && !n->snapped && !(first && m->number > n->snap_next)) {
        return; /* a piece that there was no room for, again: another snapshot may have less */
    }
    if (first) {
        apply_wipe(n);
        n->snap_next = m->number;
        n->snapped = false;
    }
    if (m->number == n->snap_next) {
        seg_status status = m->type == WIRE_SNAP ? apply_snap(n, m) : SEG_OK;
        if (status != SEG_OK) { /* not acknowledged: who lacks a part of the map is not complete */
            if (status == SEG_FULL) {
                map_stuck(n);
            }
            return;
        }
        n->snap_next++;
        if (m->type != WIRE_SNAP) {
            n->snapped = true;
            map_log_clear(n);
            n->applied = m->seq;
            n->log_first = m->seq + 1;
            seg_applied(n->seg, m->seq);
        }
    }
    if (m->number < n->snap_next) {
        wire_msg ack = {.type = WIRE_SNAPACK, .mask = WIRE_NUMBER, .number = m->number};
        node_say(n, m->slot, &ack, 0);
    }
}
