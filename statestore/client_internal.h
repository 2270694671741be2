/* What the files of the client core share. Included by client*.c only.
 *
 * An operation is stepped until it waits for something: for answers (ASKED, COPYING), for time (STEP
 * with at_ns in the future), or for nobody (DONE). A step decides anew from what stands now: the local
 * segment, what the leader said, the view. Nothing is remembered that could be wrong later but the
 * hint in the place.
 */
#ifndef STATESTORE_CLIENT_INTERNAL_H
#define STATESTORE_CLIENT_INTERNAL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "wire.h"

#define NEVER UINT64_MAX
#define PUSHERS_MAX 4u /* servers whose last message is remembered, per inbox */

enum state {
    FREE,
    STEP,    /* decide again at at_ns */
    ASKED,   /* a request is with a member; repeat it at at_ns */
    COPYING, /* our own copies of a synchronous operation are under way */
    DONE,
};

/* What is asked of a member on behalf of an operation. */
enum question { QUESTION_ITSELF, QUESTION_LOOKUP, QUESTION_ENSURE };

struct operation {
    enum state state;
    client_request r;
    client_result result;
    uint64_t deadline_ns; /* give up */
    uint64_t at_ns;       /* next step or repetition */
    uint64_t again_ns;    /* wait after the next refusal */
    /* the request that is out */
    enum question question;
    uint64_t asked_ns, resend_ns;
    uint64_t sent_epoch, sent_ttl_ns, incarnation;
    link_addr address;
    uint32_t sends;
    uint8_t to;
    /* what the answers so far have taught */
    bool told; /* the leader, or a contact, named auth and home; used once */
    bool told_by_leader;
    uint64_t told_auth;
    seg_home told_home;
    uint32_t told_item;
    uint8_t told_slot;    /* whose item told_item is */
    bool refused;         /* refused_slot did not have refused_auth */
    uint8_t refused_slot;
    uint64_t refused_auth;
    bool unserved;        /* the last refusal was NOT_SERVING */
    bool overrun;         /* POLL: the cursor was another member's */
    /* a synchronous operation in memory */
    bool published;       /* it has taken effect here: failure is doubt */
    uint64_t begun_epoch, begun_generation;
    uint64_t control, auth, copy_version, copy_deadline_ns, copy_ttl_ns;
    seg_home copy_home;
    uint16_t waiting; /* slots that have not acknowledged */
    const void *copy;
    size_t copy_len;
    uint8_t *scratch;
    size_t scratch_bytes;
};

struct message {
    struct message *next;
    size_t len;
    char inbox[CLIENT_INBOX_NAME_BYTES_MAX + 1];
    uint8_t bytes[];
};

struct inbox {
    char name[CLIENT_INBOX_NAME_BYTES_MAX + 1];
    size_t len;
    struct {
        uint64_t session, last;
    } pusher[PUSHERS_MAX];
    uint32_t pushers;
};

struct client {
    seg *local;
    struct link *link;
    client_options options;
    struct operation *op[CLIENT_IN_FLIGHT_MAX]; /* made when first needed */
    uint64_t id[CLIENT_IN_FLIGHT_MAX];          /* of the request that is out, 0: none */
    uint16_t free[CLIENT_IN_FLIGHT_MAX];
    uint32_t frees, top; /* ops were made below top */
    uint64_t next_id;
    uint64_t answer_ns; /* how long answers take, smoothed */
    seg_cluster view;
    uint8_t contact;     /* remote-only: the member we turn to */
    uint32_t candidate;  /* remote-only: whom to ask for members next */
    /* remote-only: MEMBERS under way */
    bool members_wanted;
    uint64_t members_id, members_at_ns, members_resend_ns;
    link_addr members_address;
    struct inbox inbox[CLIENT_INBOXES_MAX];
    uint32_t inboxes;
    uint64_t renew_at_ns, watching_at_ns;
    struct message *oldest, **newest;
    uint32_t held;
    size_t held_bytes;
    client_stats stats;
    uint64_t now_ns; /* of the call that is running */
    uint8_t out[WIRE_MESSAGE_BYTES_MAX];
};

static inline bool changes(client_verb verb) /* a second execution would not be the same */
{
    return (verb >= CLIENT_WRITE && verb <= CLIENT_CREATE) || verb == CLIENT_TELL ||
           verb == CLIENT_ANNOUNCE;
}
/* Is it about one item, at that item's master? */
static inline bool at_master(client_verb verb)
{
    return (verb >= CLIENT_LOOKUP && verb <= CLIENT_ADD) || verb == CLIENT_ENSURE ||
           verb == CLIENT_MOVE;
}
static inline bool same_home(const seg_home *a, const seg_home *b)
{
    return a->master == b->master && a->replicas == b->replicas && a->learners == b->learners;
}

/* ---- client.c ---- */
void client_step(client *c, uint32_t n);
void client_finish(client *c, uint32_t n, dal_status status, const char *why);
/* Decide again after a while that doubles. */
void client_again(client *c, struct operation *o);
/* The end of an operation that was not answered in time. */
void client_expire(client *c, uint32_t n);

/* ---- client_route.c ---- */
/* The view as it stands now. */
const seg_cluster *client_members(client *c);
void client_want_members(client *c, bool now);
void client_members_tick(client *c);
void client_take_members(client *c, const wire_msg *m);
void client_address(const seg_cluster *v, uint8_t slot, link_addr *out);
bool client_present(const seg_cluster *v, uint8_t slot, uint64_t incarnation);
/* The member whose clients we are; CLIENT_NO_SLOT: not known yet. */
uint8_t client_server(client *c);
/* Where the item is: true with auth and home, else the operation has asked, waits or is done. */
bool client_find(client *c, uint32_t n, uint64_t *auth, uint8_t *master);

/* ---- client_local.c ---- */
/* True when the operation is finished, waits or copies; false when it has to go to a member. */
bool client_in_memory(client *c, uint32_t n);
void client_copy(client *c, uint32_t n);
void client_copy_again(client *c, uint32_t n);
void client_copied(client *c, uint32_t n, const link_addr *from, const wire_msg *m);

/* ---- client_remote.c ---- */
void client_ask(client *c, uint32_t n, enum question question, uint8_t slot);
uint64_t client_patience(const client *c);
void client_repeat(client *c, uint32_t n);
void client_answered(client *c, uint32_t n, const wire_msg *m);
/* One message that nobody waits for. */
void client_tell_server(client *c, wire_msg *m);
uint64_t client_next_id(client *c);
bool client_send(client *c, const link_addr *to, const wire_msg *m);

/* ---- client_inbox.c ---- */
void client_pushed(client *c, const link_addr *from, uint64_t session, const wire_msg *m);
void client_inbox_add(client *c, const void *name, size_t len);
void client_renew(client *c);

#endif
