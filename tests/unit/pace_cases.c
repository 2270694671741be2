/* A sender with node_pace.h and a receiver that is slow, deaf for a while, or far away; virtual time.
 *
 * Every case prints what it saw when it fails. The receiver does one message at a time, in order of
 * arrival, and knows repetitions only after it has done the work: as a member does.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node_pace.h"

#define MS 1000000ull
#define FLOOR (20 * MS)
#define MANY 20000u
#define QUEUE_MAX 65536u

struct message {
    uint64_t sent_at, next_at;
    uint32_t tries;
    bool done;
};

struct world {
    uint64_t service_ns, flight_ns;  /* work per message; there and back */
    uint64_t deaf_from, deaf_until;  /* the receiver does nothing */
    uint32_t loss_percent, room;     /* on the way there; of its queue */
    bool fixed;                      /* the comparison: a fixed timer and the largest window */
    /* seen */
    uint64_t sends, took_ns, sends_deaf, wait_most_ns;
    uint32_t window_end, window_most, done;
};

static uint32_t dice = 12345;

static uint32_t rolled(void)
{
    dice = dice * 1103515245u + 12345u;
    return dice >> 16 & 0x7fff;
}

static struct message all[MANY];
static uint32_t queue[QUEUE_MAX], back[QUEUE_MAX];
static uint64_t arrives[QUEUE_MAX], returns[QUEUE_MAX];

static void play(struct world *w, uint32_t count)
{
    pace p;
    uint64_t now = 1, free_at = 0;
    uint32_t first = 0, waiting = 0, back_first = 0, back_count = 0, begun = 0, low = 0, done = 0, under_way = 0;
    memset(all, 0, sizeof all);
    pace_begin(&p);
    for (; done < count; now += MS / 10) {
        bool deaf = now >= w->deaf_from && now < w->deaf_until;
        while (!deaf && waiting > 0 && free_at <= now && arrives[first] <= now) {
            uint64_t begins = free_at > arrives[first] ? free_at : arrives[first];
            uint64_t waited = begins - arrives[first];
            free_at = (begins > now - MS / 10 ? begins : now - MS / 10) + w->service_ns;
            w->wait_most_ns = waited > w->wait_most_ns ? waited : w->wait_most_ns;
            back[(back_first + back_count) % QUEUE_MAX] = queue[first];
            returns[(back_first + back_count++) % QUEUE_MAX] = free_at + w->flight_ns / 2;
            first = (first + 1) % QUEUE_MAX;
            waiting--;
        }
        while (back_count > 0 && returns[back_first] <= now) {
            struct message *m = &all[back[back_first]];
            back_first = (back_first + 1) % QUEUE_MAX;
            back_count--;
            if (!m->done) {
                m->done = true;
                done++;
                under_way--;
                pace_answered(&p, m->tries == 1 ? now - m->sent_at : 0, now);
            }
        }
        while (low < begun && all[low].done) {
            low++;
        }
        for (uint32_t i = low; i < begun + 1 && i < count; i++) {
            struct message *m = &all[i];
            bool fresh = i == begun;
            if (m->done || (!fresh && now < m->next_at)) {
                continue;
            }
            if (fresh && !(w->fixed ? under_way < PACE_WINDOW_MAX : pace_room(&p))) {
                break;
            }
            if (fresh) {
                begun++;
                under_way++;
                pace_sent(&p);
            } else {
                pace_late(&p, now);
            }
            m->tries++;
            m->sent_at = now;
            m->next_at = now + (w->fixed ? FLOOR : pace_timer_ns(&p, FLOOR, m->tries));
            w->sends++;
            w->sends_deaf += deaf;
            if (rolled() % 100 >= w->loss_percent && waiting < w->room) {
                queue[(first + waiting) % QUEUE_MAX] = i;
                arrives[(first + waiting++) % QUEUE_MAX] = now + w->flight_ns / 2;
            }
        }
        w->window_most = p.window > w->window_most ? p.window : w->window_most;
        assert(p.flying <= PACE_WINDOW_MAX && p.window >= PACE_WINDOW_MIN);
        if (now > 20000 * MS) {
            break;
        }
    }
    w->done = done;
    w->took_ns = now;
    w->window_end = p.window;
}

#define EXPECT(w, what)                                                                            \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("line %d: %s: sends %llu, took %llu ms, deaf %llu, wait %llu ms, window %u, "   \
                   "most %u, done %u\n", __LINE__, #what, (unsigned long long)(w).sends,                    \
                   (unsigned long long)((w).took_ns / MS), (unsigned long long)(w).sends_deaf,     \
                   (unsigned long long)((w).wait_most_ns / MS), (w).window_end, (w).window_most, (w).done); \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void timers(void)
{
    pace p;
    pace_begin(&p);
    assert(pace_timer_ns(&p, FLOOR, 0) == FLOOR && pace_timer_ns(&p, FLOOR, 1) == FLOOR);
    assert(pace_timer_ns(&p, FLOOR, 2) == 2 * FLOOR && pace_timer_ns(&p, FLOOR, 4) == 8 * FLOOR);
    assert(pace_timer_ns(&p, FLOOR, 400) == FLOOR << PACE_DOUBLINGS_MAX);
    assert(pace_timer_ns(&p, 5000 * MS, 9) == 5000 * MS); /* never less than asked for */
    for (uint32_t i = 0; i < 50; i++) {
        pace_sent(&p);
        pace_answered(&p, 100 * MS, i * MS);
    }
    assert(pace_timer_ns(&p, FLOOR, 1) >= 100 * MS && pace_timer_ns(&p, FLOOR, 1) < 110 * MS);
    assert(pace_timer_ns(&p, FLOOR, 9) <= PACE_TIMER_NS_MAX);
    assert(p.flying == 0);
    pace_dropped(&p);
    assert(p.flying == 0); /* never below none */
}

/* Karn: what was repeated says nothing. */
static void repeated(void)
{
    pace p;
    pace_begin(&p);
    pace_sent(&p);
    pace_answered(&p, 0, MS);
    assert(p.smooth_ns == 0 && p.flying == 0);
}

/* The member that does a message in 2 ms: what it is sent is what it can do, and a timer that is fixed
 * drowns it. */
static void slow(void)
{
    struct world fixed = {.service_ns = 2 * MS, .flight_ns = MS / 5, .room = 4000, .fixed = true};
    struct world paced = {.service_ns = 2 * MS, .flight_ns = MS / 5, .room = 4000};
    play(&fixed, 2000);
    play(&paced, 2000);
    EXPECT(fixed, fixed.done < 2000 && fixed.sends > 20 * fixed.done); /* else the case shows nothing */
    EXPECT(paced, paced.done == 2000 && paced.sends < 2000 * 11 / 10);
    EXPECT(paced, paced.took_ns < 2000 * 2 * MS * 11 / 10);
    EXPECT(paced, paced.wait_most_ns < 200 * MS); /* of the first window; then a short queue */
    EXPECT(paced, paced.window_end <= PACE_WINDOW_FIRST);
}

/* A quick member, a long way: the window opens as far as that needs. */
static void far(void)
{
    struct world w = {.service_ns = MS / 50, .flight_ns = 10 * MS, .room = 4000};
    play(&w, 20000);
    EXPECT(w, w.window_most > 4 * PACE_WINDOW_FIRST);
    EXPECT(w, w.done == 20000 && w.sends == 20000);
}

static void lossy(void)
{
    struct world w = {.service_ns = MS / 50, .flight_ns = MS, .room = 4000, .loss_percent = 30};
    play(&w, 3000);
    EXPECT(w, w.done == 3000 && w.sends < 3000 * 2);
}

/* Stopped for two seconds, as a frozen virtual machine is: few repetitions, and it goes on at once. */
static void deaf(void)
{
    struct world w = {.service_ns = MS / 50, .flight_ns = MS, .room = 4000, .deaf_from = 50 * MS,
                      .deaf_until = 2050 * MS};
    play(&w, 5000);
    EXPECT(w, w.sends_deaf < 20 * PACE_WINDOW_MAX);
    EXPECT(w, w.done == 5000 && w.took_ns < 4000 * MS);
}

/* A way that became longer for good is no queue for ever. */
static void longer(void)
{
    pace p;
    pace_begin(&p);
    uint64_t now = 1;
    for (uint32_t i = 0; i < 100; i++, now += MS) {
        pace_sent(&p);
        pace_answered(&p, MS, now);
    }
    for (uint32_t i = 0; i < 30000; i++, now += MS) {
        for (uint32_t k = p.flying; k < p.window; k++) {
            pace_sent(&p);
        }
        pace_answered(&p, 50 * MS, now);
    }
    assert(p.least_ns == 50 * MS && p.window > PACE_WINDOW_FIRST);
}

int main(void)
{
    timers();
    repeated();
    slow();
    far();
    lossy();
    deaf();
    longer();
    printf("ok\n");
    return 0;
}
