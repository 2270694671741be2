/* The arithmetic of node_pace.h. */
#include "node_pace.h"

void pace_begin(pace *p)
{
    *p = (pace){.window = PACE_WINDOW_FIRST, .threshold = PACE_WINDOW_MAX};
}

uint64_t pace_timer_ns(const pace *p, uint64_t floor_ns, uint32_t tries)
{
    uint32_t doublings = tries > p->doublings + 1 ? tries - 1 : p->doublings;
    uint64_t timer = p->smooth_ns + 4 * p->varies_ns;
    timer = timer < floor_ns ? floor_ns : timer;
    timer <<= doublings < PACE_DOUBLINGS_MAX ? doublings : PACE_DOUBLINGS_MAX;
    uint64_t most = PACE_TIMER_NS_MAX > floor_ns ? PACE_TIMER_NS_MAX : floor_ns;
    return timer < most ? timer : most;
}

bool pace_room(const pace *p) { return p->flying < p->window; }

void pace_sent(pace *p) { p->flying++; }

void pace_dropped(pace *p) { p->flying -= p->flying > 0; }

static void measure(pace *p, uint64_t trip_ns, uint64_t now_ns)
{
    if (p->smooth_ns == 0) {
        p->smooth_ns = trip_ns;
        p->varies_ns = trip_ns / 2;
    } else {
        uint64_t off = trip_ns > p->smooth_ns ? trip_ns - p->smooth_ns : p->smooth_ns - trip_ns;
        p->varies_ns = (3 * p->varies_ns + off) / 4;
        p->smooth_ns = (7 * p->smooth_ns + trip_ns) / 8;
    }
    p->doublings = 0;
    if (now_ns >= p->least_at) {
        p->least_ns = p->least_at == 0 ? trip_ns : p->least_next_ns;
        p->least_next_ns = trip_ns;
        p->least_at = now_ns + PACE_BASE_NS;
    }
    p->least_next_ns = trip_ns < p->least_next_ns ? trip_ns : p->least_next_ns;
    p->least_ns = p->least_next_ns < p->least_ns ? p->least_next_ns : p->least_ns;
}

/* At most once in the time that its effect takes to be seen. */
static bool cut(pace *p, uint32_t to, uint64_t again_ns, uint64_t now_ns)
{
    if (now_ns < p->cut_at) {
        return false;
    }
    p->cut_at = now_ns + again_ns;
    p->window = to > PACE_WINDOW_MIN ? to : PACE_WINDOW_MIN;
    p->threshold = p->window;
    p->grown = 0;
    return true;
}

void pace_answered(pace *p, uint64_t trip_ns, uint64_t now_ns)
{
    bool full = 2 * p->flying >= p->window; /* a window that is not used says nothing */
    pace_dropped(p);
    if (trip_ns == 0) {
        return;
    }
    measure(p, trip_ns, now_ns);
    if (trip_ns > p->least_ns + PACE_QUEUE_NS) {
        (void)cut(p, p->window - p->window / 8, p->smooth_ns, now_ns);
    } else if (full && p->window < PACE_WINDOW_MAX) {
        p->grown++;
        if (p->window < p->threshold || p->grown >= p->window) {
            p->window++;
            p->grown = 0;
        }
    }
}

void pace_late(pace *p, uint64_t now_ns)
{
    if (cut(p, p->window / 2, pace_timer_ns(p, PACE_QUEUE_NS, 1), now_ns) &&
        p->doublings < PACE_DOUBLINGS_MAX) {
        p->doublings++;
    }
}
