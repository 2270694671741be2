/* Invariant: a message that was told arrives at most once, and in order per sender and inbox; one that
 * was acknowledged has arrived. An announcement arrives at most once at each inbox.
 */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define NUMBERS_MAX 4096u

struct messages {
    bool taken[CLIENTS_MAX][CLIENTS_MAX][NUMBERS_MAX]; /* inbox, sender */
    uint64_t newest[CLIENTS_MAX][CLIENTS_MAX];
};

void check_messages_begin(world *w)
{
    w->messages = calloc(1, sizeof *w->messages);
    if (w->messages == NULL) {
        abort();
    }
}

void check_messages_end(world *w)
{
    free(w->messages);
    w->messages = NULL;
}

void check_messages_told(world *w, const letter *l)
{
    if (l->inbox != EVERYBODY && l->number < NUMBERS_MAX && !w->messages->taken[l->inbox][l->sender][l->number]) {
        broken(w, "messages", "message %llu of client %u to in%u is acknowledged and was never taken",
               (unsigned long long)l->number, l->sender, l->inbox);
    }
}

void check_messages_taken(world *w, uint32_t inbox, const void *message, size_t len)
{
    letter l;
    if (len != sizeof l) {
        broken(w, "messages", "in%u gets %zu bytes", inbox, len);
        return;
    }
    memcpy(&l, message, sizeof l);
    if (l.sender >= w->clients || (l.inbox != inbox && l.inbox != EVERYBODY) || l.number >= NUMBERS_MAX) {
        broken(w, "messages", "in%u gets what is for another", inbox);
        return;
    }
    w->count.taken++;
    bool *taken = &w->messages->taken[inbox][l.sender][l.number];
    if (*taken) {
        broken(w, "messages", "in%u gets message %llu of client %u twice", inbox, (unsigned long long)l.number,
               l.sender);
    }
    *taken = true;
    if (l.inbox == EVERYBODY) {
        return;
    }
    uint64_t *newest = &w->messages->newest[inbox][l.sender];
    if (l.number < *newest) {
        broken(w, "messages", "in%u gets message %llu of client %u after %llu", inbox,
               (unsigned long long)l.number, l.sender, (unsigned long long)*newest);
    }
    *newest = l.number;
}
