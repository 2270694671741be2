/* Lists for clients over the network: keys, changes, members.
 *
 * Knows: cursors, packing. Must not know: who may ask.
 */
#include "node_internal.h"

#define LIST_BYTES_MAX 32768u

void serve_scan(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len, used = 0;
    seg_handle h;
    uint64_t cursor = m->number;
    wire_msg r = {.id = m->id, .mask = WIRE_NUMBER | WIRE_VALUE};
    seg_status status = SEG_OK;
    while (used + SEG_KEY_BYTES_MAX + 1 < LIST_BYTES_MAX) {
        status = seg_scan(n->seg, &cursor, m->key, m->key_len, key, &len, &h);
        if (status != SEG_OK) {
            break;
        }
        used += wire_put_key(n->scratch + used, LIST_BYTES_MAX - used, key, len);
    }
    r.number = cursor;
    r.value = n->scratch;
    r.value_len = used;
    r.status = used > 0 ? WIRE_OK : (uint8_t)status;
    serve_answer(n, from, session, m->type, &r);
}

void serve_poll(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len, used = 0;
    bool deleted;
    seg_cursor c = {0};
    wire_msg r = {.id = m->id, .mask = WIRE_NUMBER | WIRE_VALUE, .value = n->scratch};
    seg_status status = SEG_OK;
    n->polled_at = n->now;
    n->i_want = true;
    if (m->number == 0) {
        status = seg_watch(n->seg, &c);
    } else {
        c.next = m->number - 1; /* one more on the wire: the first change of all is not "from now on" */
        if (n->poll_hole.hole_at == c.next) {
            c = n->poll_hole;
        }
        while (used + SEG_KEY_BYTES_MAX + 2 < LIST_BYTES_MAX) {
            status = seg_poll(n->seg, &c, m->key, m->key_len, key, &len, &deleted);
            if (status != SEG_OK) {
                break;
            }
            used += wire_put_change(n->scratch + used, LIST_BYTES_MAX - used, deleted, key, len);
        }
        if (status == SEG_NOT_FOUND && c.hole_at == c.next) {
            n->poll_hole = c;
        }
        if (status == SEG_OVERRUN) {
            (void)seg_watch(n->seg, &c);
        }
    }
    r.number = c.next + 1;
    r.value_len = used;
    r.status = used > 0 && status != SEG_OVERRUN ? WIRE_OK : (uint8_t)status;
    serve_answer(n, from, session, m->type, &r);
}

void serve_members(node *n, const link_addr *from, uint64_t session, const wire_msg *m)
{
    size_t used = 0;
    wire_msg r = {.id = m->id, .mask = WIRE_VALUE | WIRE_NUMBER, .number = n->view.leader,
                  .value = n->scratch};
    for (uint8_t s = 0; s < SEG_SLOTS_MAX; s++) {
        if ((n->view.present & BIT(s)) != 0) {
            used += wire_put_member(n->scratch + used, LIST_BYTES_MAX - used, &n->view.member[s]);
        }
    }
    r.value_len = used;
    r.status = node_serves(n) ? WIRE_OK : SEG_NOT_SERVING;
    serve_answer(n, from, session, m->type, &r);
}
