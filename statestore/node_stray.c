/* Copies that nobody counts: left over from a move or a repair that came to nothing.
 *
 * Knows: what this member holds without being named in the item's home. Must not know: why.
 *
 * Only the master knows whether it is filling us. We ask, and drop the copy at its word, unless another
 * COPY has come meanwhile: that one may be of a new beginning.
 */
#include "node_internal.h"

bool stray_here(const node *n, const seg_facts *f)
{
    return !f->stub && f->home.master != n->self && (f->home.replicas & BIT(n->self)) == 0;
}

void stray_soon(node *n)
{
    if (n->stray_at == 0) {
        n->stray_at = n->now + NODE_STRAY_NS;
    }
}

void stray_copied(node *n, uint32_t item) { table_remove(&n->strays, item); }

static void ask(node *n, const seg_handle *h, const seg_facts *f)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len;
    if (seg_key(n->seg, h, key, &len) != SEG_OK || !table_put(&n->strays, h->item, ++n->stray_asked)) {
        return;
    }
    wire_msg m = {.type = WIRE_STRAY, .mask = WIRE_ID | WIRE_KEY | WIRE_AUTH, .id = n->stray_asked,
                  .key = key, .key_len = len, .auth = f->auth};
    node_say(n, f->home.master, &m, 0);
}

void stray_receive(node *n, const wire_msg *m)
{
    seg_handle h;
    seg_facts f;
    uint32_t asked;
    if (seg_lookup(n->seg, m->key, m->key_len, &h) != SEG_OK ||
        seg_facts_read(n->seg, &h, &f) != SEG_OK || f.auth != m->auth) {
        return;
    }
    if (m->number != 0) {
        if (f.home.master == m->slot && stray_here(n, &f) && table_get(&n->strays, h.item, &asked) &&
            asked == (uint32_t)m->id) {
            (void)seg_strip(n->seg, &h);
        }
        return;
    }
    if (f.home.master == n->self && !move_busy(n, h.item) &&
        ((f.home.replicas | f.home.learners) & BIT(m->slot)) == 0) {
        wire_msg r = {.type = WIRE_STRAY, .mask = WIRE_ID | WIRE_KEY | WIRE_AUTH | WIRE_NUMBER,
                      .id = m->id, .key = m->key, .key_len = m->key_len, .auth = m->auth, .number = 1};
        node_say(n, m->slot, &r, 0);
    }
}

void stray_tick(node *n)
{
    seg_handle h;
    seg_facts f;
    if (n->stray_at == 0 || n->now < n->stray_at || n->bequest != 0 || !map_active(n)) {
        return;
    }
    if (n->stray_cursor == 0 || n->strays.used >= NODE_STRAYS_MAX / 2) {
        table_clear(&n->strays); /* what was not answered is asked again */
    }
    for (uint32_t i = 0; i < NODE_WALK_MAX; i++) {
        if (seg_walk(n->seg, &n->stray_cursor, &h, &f) != SEG_OK) {
            n->stray_cursor = 0;
            n->stray_at = n->stray_found ? n->now + NODE_STRAY_NS : 0;
            n->stray_found = false;
            return;
        }
        if (stray_here(n, &f) && !apply_starting(n, h.item)) {
            n->stray_found = true;
            ask(n, &h, &f);
            if (n->strays.used >= NODE_STRAYS_MAX / 2) {
                n->stray_at = n->now + NODE_STRAY_NS; /* these first */
                return;
            }
        }
    }
}
