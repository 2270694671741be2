/* Homes that name the dead, read as what they have become before anybody has rewritten them.
 *
 * Knows: home words, one word in the header: who died. Must not know: when each home is rewritten, what
 * else its heir has to do.
 *
 * A death changes the homes of most items in one instant, and everybody draws the same heir for each. So
 * the instant is one word, and the homes follow while nobody waits for them.
 */
#include "seg_internal.h"

/* dead 16 | self 8 | epoch 40; 0: none */
#define DEAD_SHIFT 48u
#define SELF_SHIFT 40u

uint8_t seg_pick(uint16_t slots, uint64_t by)
{
    uint64_t skip = slots == 0 ? 0 : by % (uint64_t)__builtin_popcount(slots);
    for (; skip > 0; skip--) {
        slots &= (uint16_t)(slots - 1);
    }
    return slots == 0 ? SEG_NO_SLOT : (uint8_t)__builtin_ctz(slots);
}

void seg_bequest(seg *s, uint16_t dead, uint8_t self, uint64_t epoch)
{
    if (seg_usable(s) && !s->readonly) {
        uint64_t mask = (1ull << SELF_SHIFT) - 1;
        put(&s->header->bequest, dead == 0 ? 0
                                           : (uint64_t)dead << DEAD_SHIFT | (uint64_t)self << SELF_SHIFT |
                                                 (epoch & mask));
        POINT("bequest");
    }
}

uint16_t seg_bequest_of(const seg *s) { return (uint16_t)(get(&s->header->bequest) >> DEAD_SHIFT); }

seg_legacy seg_inherited(uint64_t bequest, uint64_t auth, seg_home *home)
{
    uint16_t dead = (uint16_t)(bequest >> DEAD_SHIFT);
    uint8_t self = (uint8_t)(bequest >> SELF_SHIFT);
    bool orphan = home->master < SEG_SLOTS_MAX && (dead >> home->master & 1) != 0;
    if (!orphan && (dead & (home->replicas | home->learners)) == 0) {
        return SEG_AS_IT_WAS;
    }
    home->replicas &= (uint16_t)~dead;
    home->learners &= (uint16_t)~dead;
    if (!orphan) {
        return SEG_FEWER_COPIES;
    }
    uint8_t heir = seg_pick(home->replicas, auth);
    if (heir == SEG_NO_SLOT) {
        return SEG_LOST;
    }
    home->master = heir;
    home->replicas &= (uint16_t)~(1u << heir);
    /* Our own bit among the learners: not begun, not even to be read. */
    home->learners = heir == self ? (uint16_t)(1u << heir) : 0;
    return SEG_PASSED_ON;
}
