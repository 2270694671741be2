/* Who may write an item: lock, take over, rob, make whole, reap.
 *
 * Knows: lock words, liveness, how to free an item. Must not know: what is written and why.
 *
 * We may be stopped between any two instructions, for longer than SEG_STEAL_AFTER_NS, and find
 * our item robbed, rewritten, deleted and made again under another key when we go on. So every
 * store here is a compare-and-swap whose expected value was loaded *before* we checked that we
 * still hold the lock, on a word that never returns to an earlier value.
 */
#include "seg_internal.h"

#define SPINS_BEFORE_PROBE 100u

uint64_t seg_bump(struct item *it)
{
    for (;;) {
        uint64_t control = get(&it->control);
        if (cas(&it->control, control, bumped(control))) {
            POINT("bumped");
            return bumped(control);
        }
    }
}

void seg_unlock(seg *s, struct item *it)
{
    cas(&it->lock, lock_word(s->me, 0), 0);
    POINT("unlocked");
}

static bool references(const struct item *it, uint32_t ref)
{
    return ref_of(get(&it->cell[0])) == ref || ref_of(get(&it->cell[1])) == ref;
}

void seg_reclaim(seg *s, const struct item *it, uint32_t ref)
{
    if (ref != 0 && !references(it, ref)) {
        seg_release(s, ref, label_word(ref_to(s, it), s->me));
    }
}

/* Store `new` in place of the reference in `where`. The old block is first labelled `owner`, so
 * that it is never lost, and freed at once if that is us. */
static bool detach(seg *s, struct item *it, word *where, uint32_t owner, uint32_t new)
{
    uint64_t old = get(where);
    uint32_t ref = ref_of(old);
    uint32_t self = ref_to(s, it);
    uint64_t wanted = label_word(self, owner);
    struct place p;
    bool known = ref != 0 && seg_place(s, ref, &p) && p.label != NULL;
    uint64_t label = known ? get(p.label) : 0;
    known = known && (uint32_t)(label >> 32) == self;
    if (!seg_held(s, it)) {
        return false;
    }
    if (known && label != wanted && !cas(p.label, label, wanted)) {
        return false;
    }
    POINT("relabelled");
    if (!cas(where, old, ref_word(old, new))) {
        return false;
    }
    POINT("detached");
    if (known && owner == s->me) {
        seg_release(s, ref, wanted);
    }
    return true;
}

/* Give a block of ours back, whoever disturbs; false when the item is not ours any more. */
static bool give_back(seg *s, struct item *it, word *where)
{
    while (!detach(s, it, where, s->me, 0)) {
        if (!seg_held(s, it)) {
            return false;
        }
    }
    return true;
}

bool seg_replace(seg *s, struct item *it, word *where, uint32_t new)
{
    return detach(s, it, where, s->me, new);
}

void seg_reap(seg *s, struct item *it)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len;
    uint64_t next;
    seg_bump(it);
    do {
        next = get(&it->next);
        if (!seg_held(s, it)) {
            return;
        }
    } while ((next & MARK) == 0 && !cas(&it->next, next, next_word(next, next, ref_of(next)) | MARK));
    POINT("marked");
    if (seg_item_key(s, it, key, &len) && !seg_chain_clean(s, seg_hash(s, key, len))) {
        seg_unlock(s, it); /* its chain is damaged: leave it rather than reuse it */
        return;
    }
    if (!give_back(s, it, &it->cell[0]) || !give_back(s, it, &it->cell[1])) {
        return;
    }
    uint64_t auth = get(&it->auth);
    if (!seg_held(s, it)) {
        return;
    }
    cas(&it->auth, auth, 0);
    POINT("auth");
    if (!seg_held(s, it)) {
        return;
    }
    seg_release_item(s, it);
    seg_unlock(s, it);
}

/* Take from a robbed, living `victim` every block that it may still write to. */
static seg_status disarm(seg *s, struct item *it, uint32_t victim)
{
    uint64_t before = get(&it->control);
    struct cell cell;
    uint64_t bias = seg_cell(s, it, before, &cell) && cell.bias != NULL ? peek(cell.bias) : 0;
    uint64_t control = seg_bump(it); /* from here on, what the victim prepared cannot publish */
    if (control != bumped(before)) {
        return SEG_CHANGED;
    }
    if ((control & LIVE) != 0) {
        uint64_t active = control & ACTIVE;
        word *other = &it->cell[active ^ 1];
        uint64_t len = length_of(control);
        if (!detach(s, it, other, victim, 0)) {
            return SEG_CHANGED;
        }
        if (seg_is_stub(it, control)) {
            goto disarmed;
        }
        uint64_t from = offset_of(ref_of(get(&it->cell[active])));
        uint64_t form = peek(&it->next);
        uint64_t bytes = seg_cell_bytes(form, control, len);
        uint64_t words = (bytes + 7) / 8;
        if (from < s->at.heap || from + words * 8 > s->total) {
            return SEG_CORRUPT;
        }
        uint32_t fresh = seg_claim(s, bytes, ref_to(s, it));
        if (fresh == 0) {
            /* No room to move it: nobody's, but still to be disarmed by the next who comes. */
            cas(&it->lock, lock_word(s->me, victim), lock_word(0, victim));
            return SEG_FULL;
        }
        word *to = at_ref(s, fresh);
        for (uint64_t i = 0; i < words; i++) {
            poke(to + i, peek((const word *)(s->base + from) + i));
        }
        if ((form & WIDE) != 0 && (control & AWAY) == 0) {
            /* The victim may be writing this very word; a version that was seen does not return. */
            poke(to, relative(before, bias));
        }
        POINT("moved");
        uint64_t empty = get(other);
        if (!seg_held(s, it) || !cas(other, empty, ref_word(empty, fresh))) {
            seg_release(s, fresh, label_word(ref_to(s, it), s->me));
            return SEG_CHANGED;
        }
        POINT("moved in");
        uint64_t flags = (control & (LIVE | TTL | FENCE | AWAY)) | (active ^ 1);
        if (!cas(&it->control, control, next_control(control, len, flags))) {
            return SEG_CHANGED;
        }
        POINT("moved out");
        if (!detach(s, it, &it->cell[active], victim, 0)) {
            return SEG_CHANGED;
        }
    }
disarmed:
    if (!cas(&it->lock, lock_word(s->me, victim), lock_word(s->me, 0))) {
        return SEG_CHANGED;
    }
    POINT("disarmed");
    return SEG_OK;
}

/* We hold it by takeover: whoever held it before may have been anywhere. */
static seg_status make_whole(seg *s, struct item *it, uint32_t victim)
{
    uint8_t key[SEG_KEY_BYTES_MAX];
    size_t len;
    if (victim != 0) {
        seg_status status;
        do {
            status = disarm(s, it, victim);
        } while (status == SEG_CHANGED && seg_held(s, it));
        if (status != SEG_OK) {
            return status;
        }
    }
    uint64_t control = get(&it->control);
    /* It may have published and not told the feed. */
    if ((control & FENCE) == 0 && seg_item_key(s, it, key, &len)) {
        seg_feed_push(s, key, len, seg_hash(s, key, len));
    }
    if ((control & LIVE) == 0) {
        seg_reap(s, it);
        return SEG_NOT_FOUND;
    }
    return SEG_OK;
}

/* Take the lock word `lock` over; false when it has changed. */
static bool take(seg *s, struct item *it, uint64_t lock, bool robbing, uint32_t *victim)
{
    *victim = victim_of(lock);
    if (*victim != 0 && !seg_client_alive(s, *victim)) {
        *victim = 0;
    }
    if (*victim == 0 && robbing) {
        *victim = holder_of(lock);
    }
    if (!cas(&it->lock, lock, lock_word(s->me, *victim))) {
        return false;
    }
    POINT("taken");
    if (robbing) {
        atomic_fetch_add(&s->header->robberies, 1);
    }
    count(s, robbing ? N_STEALS : N_TAKEOVERS);
    return true;
}

void seg_rob(seg *s, struct item *it, uint32_t holder)
{
    uint64_t lock = get(&it->lock);
    uint32_t victim;
    /* What is not live yet may be in the making, where nobody but its maker can find it. */
    if (holder_of(lock) == holder && (get(&it->control) & LIVE) != 0 &&
        take(s, it, lock, seg_client_alive(s, holder), &victim) &&
        make_whole(s, it, victim) == SEG_OK) {
        seg_unlock(s, it);
    }
}

bool seg_settle(seg *s, struct item *it)
{
    uint64_t lock = get(&it->lock);
    uint32_t victim = 0;
    if (lock == 0) {
        uint64_t auth = get(&it->auth);
        if (auth == 0 || (get(&it->control) & LIVE) != 0 || !cas(&it->lock, 0, lock_word(s->me, 0))) {
            return false;
        }
        if (get(&it->auth) != auth || (get(&it->control) & LIVE) != 0) {
            seg_unlock(s, it);
            return false;
        }
    } else {
        uint32_t holder = holder_of(lock);
        if (holder != 0 && seg_client_alive(s, holder)) {
            return false;
        }
        if (!take(s, it, lock, false, &victim)) {
            return false;
        }
    }
    if (make_whole(s, it, victim) == SEG_OK) {
        seg_unlock(s, it);
    }
    return true;
}

seg_status seg_lock(seg *s, struct item *it, uint64_t auth)
{
    uint64_t last = 0, progress = 0, since = 0;
    for (uint32_t round = 0;; round++) {
        if (get(&it->auth) != auth) {
            return SEG_NOT_FOUND;
        }
        uint64_t lock = get(&it->lock);
        uint32_t victim = 0;
        uint32_t holder = holder_of(lock);
        if (lock == 0) {
            if (!cas(&it->lock, 0, lock_word(s->me, 0))) {
                continue;
            }
            POINT("locked");
            if (get(&it->auth) == auth && (get(&it->control) & LIVE) != 0) {
                return SEG_OK;
            }
            if (get(&it->auth) == auth) {
                (void)make_whole(s, it, 0); /* dead, and nobody's: somebody gave up on it */
            } else {
                seg_unlock(s, it);
            }
            return SEG_NOT_FOUND;
        }
        bool robbing = false;
        if (holder != 0) {
            if (round < SPINS_BEFORE_PROBE) {
                relax();
                continue;
            }
            if (seg_client_alive(s, holder)) {
                uint64_t now = seg_now_ns();
                uint64_t op = get(&s->clients[holder >> 24].op);
                if (lock != last || op != progress) {
                    last = lock;
                    progress = op;
                    since = now;
                }
                if (now - since < SEG_STEAL_AFTER_NS) {
                    seg_pause(round);
                    continue;
                }
                robbing = true;
            }
        }
        if (!take(s, it, lock, robbing, &victim)) {
            continue;
        }
        seg_status status = make_whole(s, it, victim);
        if (status == SEG_OK && get(&it->auth) != auth) {
            seg_unlock(s, it);
            status = SEG_NOT_FOUND;
        }
        if (status != SEG_CHANGED) {
            return status;
        }
    }
}
