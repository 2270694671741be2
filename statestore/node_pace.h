/* How much may be under way to one member, and when what it has not acknowledged is repeated.
 *
 * Knows: round trips, losses. Must not know: what travels, who waits for it.
 *
 * A fixed interval repeats everything to a member that is merely slow, which makes it slower: the
 * repetitions fill its socket, and in the end it does nothing else (congestion collapse). So:
 * - the timer follows the measured round trip (RFC 6298), doubles with each repetition, and is measured
 *   on what was sent once; until that succeeds, new messages begin with the doubled timer (Karn);
 * - copies that nobody waits for stay within a window that grows while round trips stay near the least
 *   one seen, and shrinks with what queues on the way (in the manner of RFC 6817) and with losses
 *   (RFC 5681): whoever does wait finds a short queue.
 */
#ifndef STATESTORE_NODE_PACE_H
#define STATESTORE_NODE_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define PACE_WINDOW_MIN 16u             /* messages; a busy machine answers every 20 ms or so */
#define PACE_WINDOW_FIRST 32u
#define PACE_WINDOW_MAX 512u
#define PACE_QUEUE_NS 10000000ull       /* a round trip may be so much above the least one */
#define PACE_TIMER_NS_MAX 1000000000ull
#define PACE_DOUBLINGS_MAX 4u           /* of the timer, by repetitions */
#define PACE_BASE_NS 10000000000ull     /* the least round trip is of the last two spans of this */

typedef struct {
    uint64_t smooth_ns, varies_ns;              /* round trip; 0: none was measured */
    uint64_t least_ns, least_next_ns, least_at; /* of the last span, of this one, and its end */
    uint64_t cut_at;                            /* the window is not cut again before */
    uint32_t window, grown, threshold, flying;  /* messages; `grown`: acknowledged since it last grew */
    uint32_t doublings; /* of the timer of everything, until a round trip is measured again */
} pace;

void pace_begin(pace *p);
/* Repeat what was sent `tries` times (1: once) after this long; at least `floor_ns`. */
uint64_t pace_timer_ns(const pace *p, uint64_t floor_ns, uint32_t tries);
/* May one more go that nobody waits for? */
bool pace_room(const pace *p);
void pace_sent(pace *p);
/* One is acknowledged; `trip_ns` 0: it was sent more than once. */
void pace_answered(pace *p, uint64_t trip_ns, uint64_t now_ns);
/* Its timer has run out; it is still under way. */
void pace_late(pace *p, uint64_t now_ns);
/* Nobody waits for its acknowledgement any more. */
void pace_dropped(pace *p);

#endif
