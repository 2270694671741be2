/* What the files of the engine share. Included by node*.c only. */
#ifndef STATESTORE_NODE_INTERNAL_H
#define STATESTORE_NODE_INTERNAL_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "node.h"
#include "node_pace.h"

#define NOBODY 255u
#ifdef NODE_TIGHT
#define NODE_WINDOW_OPS 4u
#define NODE_WINDOW_OPS_MIN 1u
#define NODE_REFUSALS_MAX 4u
#define NODE_FEED_MAX 2u
#define NODE_WALK_MAX 2u
#define NODE_SNAP_BYTES 513u /* one entry */
#define NODE_LOOK_MAX 2u
#define NODE_STRAYS_MAX 4u
#define NODE_HEIRLOOMS_MAX 5u
#define NODE_SAME_ITEMS_MAX 2u
#define NODE_SAME_BATCHES_MAX 1u
#define NODE_THAW_ITEMS_MAX 1u
#define NODE_LEGACY_ITEMS_MAX 1u
#else
#define NODE_WINDOW_OPS 2048u          /* sent to a member and not acknowledged */
#define NODE_WINDOW_OPS_MIN 64u         /* after losses */
#define NODE_REFUSALS_MAX 4096u        /* refusals that can be repeated */
#define NODE_FEED_MAX 1024u            /* changes taken in per round */
#define NODE_WALK_MAX 4096u            /* items looked at per round by a background walk */
#define NODE_SNAP_BYTES 32768u         /* of one piece of a snapshot */
#define NODE_LOOK_MAX 256u             /* of what waits for room to a member, per round */
#define NODE_STRAYS_MAX 4096u           /* copies that are asked about at one time */
#define NODE_HEIRLOOMS_MAX (4u * NODE_MANY) /* items of a dead master's whose copies are asked by number */
#define NODE_SAME_ITEMS_MAX 64u         /* in one message: the answer has a bit for each */
#define NODE_SAME_BATCHES_MAX 8u        /* messages to a member that it has not answered */
#define NODE_LEGACY_ITEMS_MAX 2048u     /* homes rewritten per round after a death */
#define NODE_THAW_ITEMS_MAX 1024u       /* inherited items begun per round, unless they are asked for */
#endif
#define NODE_WINDOW_BYTES (1u << 20)
#define NODE_BURST_BYTES (256u << 10)   /* sent to a member in one go */
#define NODE_SEEN_BITS 131072u         /* proposals of one member that are told apart */
#define NODE_NOTE_BYTES 1200u
#define NODE_NOTE_NS 2000000ull        /* notes are gathered for so long */
#define NODE_GRACE_NS 1000000ull       /* a client that syncs gets so long to do it itself */
#define NODE_RETRY_NS 2000000ull       /* after LATER, doubled up to NODE_RETRIES_MAX times */
#define NODE_RETRIES_MAX 5u
#define NODE_SPREAD_NS 5000000ull       /* between two windows of what is repeated at once */
#define NODE_EXPIRE_NS 50000000ull     /* between two looks for what is overdue */
#define NODE_PUSH_TRIES_MAX 50u        /* of one message to a client that does not answer */
#define NODE_ERRAND_TRIES_MAX 100u
#define NODE_ERRANDS_MAX 4096u
#define NODE_ERRANDS_TO_MAX 200u       /* to one member; less than NODE_REPLIES_MAX */
#define NODE_INTEREST_NS 5000000000ull /* a watcher that does not poll is forgotten */
#define NODE_SENDERS_MAX 16u            /* per inbox, whose order is kept */
#define NODE_LEAVE_NS 500000000ull     /* who leaves says so again */
#define NODE_BOXES_NS 1000000000ull    /* after a restart clients have told us of their inboxes again */
#define NODE_RENEWED_NS 5000000000ull  /* an inbox that is not renewed is closed */
#define NODE_REQUEST_NS 10000000000ull /* who waits longer for copies, or for a move, is told so */
#define NODE_EPOCH_SHIFT 36            /* logical versions of a new master begin at epoch << this */
#define NODE_STRAY_NS 1000000000ull     /* after the last sign of one */
#define NODE_SAME_TRIES_MAX 6u          /* of one such message; a member of another version knows none */
#define NODE_URGENT_NS 100000000ull     /* after a death, inherited items begin only when asked for */
#define NODE_GENTLY 8u                  /* so much slower are copies made again at first, */
#define NODE_GENTLY_NS 4000000000ull    /* for so long after a death: who takes over has more urgent needs */
#define NODE_REST_NS 500000000ull       /* and not at all for so long: to look for them takes a walk over all items */
#define NODE_INBOX_QUEUE_MAX 1024u
#define NODE_CREATED_VERSION 2u        /* the logical version of a new item, on all copies */
#define NODE_STUCK_NS 5000000000ull    /* a member that is heard may take nothing of what it lacks for so long */
#define NODE_STUCK_SILENT_NS 3000000000ull  /* who is silent for so long, or we ourselves, has the time anew */
#define NODE_STUCK_AGAIN_NS 600000000000ull /* who has to go for that again within this, */
#define NODE_STUCK_REST_NS 60000000000ull   /* rests; so does who has no room for a snapshot, before the next one */

/* Open addressing, linear probing, 64-bit keys (not 0) to 32-bit values. */
typedef struct {
    uint64_t *key;
    uint32_t *value;
    uint32_t mask, used;
} table;
bool table_init(table *t, uint32_t most);
void table_free(table *t);
bool table_get(const table *t, uint64_t key, uint32_t *value);
bool table_put(table *t, uint64_t key, uint32_t value);
void table_remove(table *t, uint64_t key);
void table_clear(table *t);

/* A pool of numbered entries with a free list; 0 is none. */
typedef struct {
    uint32_t *next;
    uint32_t free, size, used;
} pool;
bool pool_init(pool *p, uint32_t size);
void pool_free(pool *p);
uint32_t pool_take(pool *p);
void pool_give(pool *p, uint32_t i);

struct op_bytes {
    uint64_t seq;
    uint32_t len;
    uint8_t *bytes; /* an encoded WIRE_OP; epoch and committed are patched when sent */
};

enum proposal_kind { FOR_REQUEST = 1, FOR_MOVE, FOR_EXPIRY, FOR_INBOX_CLOSE, FOR_LEAVE, FOR_FENCE };

struct proposal {
    uint64_t id, seq; /* seq: where it was applied, 0 not yet */
    uint64_t next_send;
    uint32_t tries;
    uint32_t len, ref; /* request or move */
    uint8_t *bytes;    /* an encoded WIRE_PROPOSE */
    uint8_t kind;
    bool live;
};

enum wait { WAITS_NOTHING, WAITS_PROPOSAL, WAITS_FLIGHT, WAITS_MOVE, WAITS_ERRAND };

struct request {
    bool live;
    uint8_t wait, type, flags;
    uint64_t session, id;
    link_addr from;
    uint64_t control; /* WAITS_FLIGHT: to be acknowledged */
    uint64_t began;
    uint32_t item;
    uint32_t next; /* in the list of its flight or move */
    uint32_t left; /* errands not answered yet */
    uint8_t status;
    uint8_t *key;  /* DELETE, CREATE, INBOX: to find it again */
    size_t key_len;
    wire_msg reply; /* fields gathered so far; no strings but value */
    uint8_t *value;
};

struct flight {
    bool live, urgent;
    uint32_t item;
    uint64_t auth, control, version, id;
    uint16_t got, asked; /* slots */
    uint16_t out;        /* slots that have not answered what was sent to them */
    bool again;          /* sent more than once: says nothing about the round trip */
    uint64_t sent_at, next_send;
    uint32_t tries, refused;
    uint32_t waiters; /* requests */
    uint32_t move;
};

enum move_state { M_FILL = 1, M_FROZEN, M_PROPOSED };

struct move {
    bool live, repair;
    uint8_t state, to;
    uint32_t item;
    uint64_t auth;
    uint32_t waiters; /* requests */
    uint32_t proposal;
};

struct errand {
    bool live;
    uint8_t to;
    uint64_t id, next_send;
    uint32_t tries, request, len;
    uint64_t incarnation; /* of whom it is for */
    uint8_t *bytes;
};

struct answer {
    uint64_t id;
    uint8_t status, done;
    uint32_t mask, item;
    uint64_t version, number, auth, grant_epoch;
    seg_home home;
};

struct session {
    bool live;
    uint64_t key, used;
    uint64_t first;  /* the id of the first request that began with this process */
    uint64_t mailed; /* that of its last message */
    struct answer *answer; /* NODE_REPLIES_MAX */
};

struct message {
    struct message *next;
    uint32_t request; /* to answer when it was taken; 0 none */
    uint32_t len;
    uint8_t bytes[];
};

struct inbox {
    bool live;
    uint8_t slot; /* its server */
    uint8_t name_len;
    uint8_t name[64];
    /* at its server */
    uint64_t session;
    link_addr addr;
    uint64_t number, push_id, next_send, renewed_at;
    uint32_t tries, queued;
    bool closing;
    uint64_t since; /* the operation that put it here */
    struct message *first, *last;
    struct {
        uint64_t session, id;
    } heard[NODE_SENDERS_MAX]; /* the last message of each sender */
    uint8_t heard_hand;
};

struct track {
    uint64_t auth, history; /* 4 bits per access, newest lowest */
    uint8_t count;
};

/* What begins when an operation is committed. */
enum start_kind { START_CREATE = 1, START_THAW, START_STRIP };
struct start {
    uint64_t seq, auth;
    uint32_t item;
    uint8_t kind;
};

struct frozen { /* to be thawed when nobody else can serve it any more */
    uint64_t auth;
    uint32_t item;
};

struct heirloom { /* an item of a dead master's that is ours now, and whose copies may have it already */
    uint64_t auth;    /* 0: done */
    uint64_t from;    /* the version that stood here before */
    uint64_t control; /* and the publication that it became */
    uint32_t item;
    uint16_t got; /* slots */
};

struct same_batch {
    uint64_t id, next_send;
    uint32_t tries, count;
    uint32_t at[NODE_SAME_ITEMS_MAX]; /* among the heirlooms */
};

struct same { /* with one member */
    uint32_t cursor; /* the first heirloom that it was not asked about */
    struct same_batch batch[NODE_SAME_BATCHES_MAX];
};

struct refusal {
    uint64_t id;
    uint8_t slot, status;
    uint64_t grant_epoch;
};

struct peer { /* as the leader sees a member */
    uint64_t acked, sent, resend_at;
    uint64_t ack_at; /* it took the last one, or began to lag, or spoke again */
    uint32_t window, repeats; /* operations under way; repeated since the last progress */
    uint64_t state_applied;
    bool stated, state_complete;
    uint64_t boxes_cursor;
    uint64_t relay_at;
    uint32_t relays; /* in vain */
    uint64_t floor; /* its proposals below are an earlier process's */
    /* snapshot to it */
    bool snapping, snap_done, snap_said;
    uint8_t snap_kind;
    uint64_t snap_cursor, snap_next_cursor, snap_chunk, snap_first, snap_base, snap_at;
    /* proposals of its that were taken in this epoch */
    uint64_t *seen; /* bits */
    uint64_t seen_high;
    /* as any member sees it */
    uint64_t heard_at, suspect_at;
};

/* Evicted because it took no operation. By its name, for it may get another slot. */
struct rest {
    char node[SEG_NODE_BYTES_MAX + 1];
    uint64_t since, until; /* complete again not before */
};

/* The STATE of a member that knew the next view before us, who may lead it. */
struct early_state {
    uint64_t epoch, seq, id;
    bool complete;
};

struct node {
    node_config c;
    char name[SEG_NODE_BYTES_MAX + 1];
    seg *seg;
    struct link *link;
    uint64_t now;
    uint64_t random;

    node_view view;
    bool in_view, complete, leading, opened /* VIEW of this epoch sequenced */, restarted, unfit;
    bool leaving, left;
    node_phase phase;
    uint8_t self;
    uint64_t lease_ns, viewed; /* epoch of the last VIEW applied */
    uint16_t completes;                 /* members that are complete, by the log */
    uint16_t leavers;                   /* and of these about to leave; forgotten with each view */
    uint64_t state_at, fetch_at;
    uint16_t unwanted, wants;
    bool i_want;
    uint64_t wants_at;

    uint64_t applied, committed;
    struct op_bytes *log; /* NODE_LOG_OPS_MAX */
    uint64_t log_first, log_bytes;
    struct peer peer[SEG_SLOTS_MAX];
    struct early_state early[SEG_SLOTS_MAX];
    pace pace[SEG_SLOTS_MAX]; /* outlive the view, as the members do */
    uint64_t view_seq;   /* leader: where this epoch's VIEW stands */
    uint64_t floor;      /* proposals below were made by an earlier process of ours */
    bool snapped, rejoined;
    uint64_t snap_next;  /* piece wanted */
    uint32_t *outbox, outbox_head, outbox_count; /* proposals to be sent */
    uint32_t *ready, ready_head, ready_count;    /* applied, in order, not yet committed */
    uint64_t propose_at;
    uint32_t fetches;
    bool owe_ack, owe_pump;
    uint16_t unasked;       /* members whose inboxes a restart has made us forget */
    uint64_t boxes_at, boxes_grace;
    uint64_t lag_at; /* the leader is told that we lag not before */
    uint16_t owe_beat;
    bool stuck; /* an operation, or a piece of a snapshot, cannot be applied here (no room) */
    uint64_t stuck_at;
    uint64_t led_at; /* last looked at who takes its operations */
    struct rest rest[SEG_SLOTS_MAX]; /* by the slot that it had */

    pool proposals, requests, flights, moves, errands;
    struct proposal *proposal;
    struct request *request;
    struct flight *flight;
    struct move *move;
    struct errand *errand;
    table proposal_by_id, flight_by_item, flight_by_id, move_by_item, errand_by_id, tracks;
    table dirty_set; /* place of an item -> the low half of its auth, while an entry of `dirty` waits */
    uint64_t next_id;
    struct refusal *refusal;
    uint32_t refusal_at;
    uint32_t live_proposals; /* highest index that was ever used + 1, for walks */

    table session_by_key;
    struct session *session;
    uint32_t sessions, session_hand;
    bool forgets; /* some answers that were given are in no table */

    struct dirty { uint32_t item; uint64_t auth, due; } *dirty;
    uint32_t dirty_head, dirty_count;
    bool walk_dirty, walk_repair;
    uint64_t dirty_cursor, repair_cursor;
    struct frozen *thaw;
    uint32_t thaw_count, thaw_next, thaw_room;
    struct heirloom *heirloom;
    uint32_t heirlooms, heirloom_room, heirlooms_left;
    struct same same[SEG_SLOTS_MAX];
    uint64_t thaw_at, thaw_seq;
    uint16_t bequest; /* as seg_bequest_of: homes that name them are still to be written */
    uint64_t bequest_cursor;
    uint64_t urgent_until; /* a death is so fresh that only what is asked for is done */
    struct start *starts; /* a ring, in the order of seq */
    uint32_t start_head, start_count, start_room;
    table strays;
    uint64_t stray_at, stray_cursor;
    uint32_t stray_asked;
    bool stray_found;
    uint64_t commit_hold, last_delete;
    uint64_t errand_count[SEG_SLOTS_MAX]; /* ids given out, per target */
    uint32_t errands_to[SEG_SLOTS_MAX];
    seg_cursor poll_hole;                 /* of pollers over the network */
    uint64_t polled_at;
    uint64_t repair_credit_at, repair_credit, repair_rest, repair_gently;
    bool repair_again;
    uint64_t expire_at, expire_cursor, leave_cursor;
    bool leave_asked, leave_known, leave_found;
    uint64_t leave_again;
    bool closed; /* leaving, nothing is left to hand over: we serve no more */
    seg_cursor feed;
    uint64_t note_at;
    uint8_t note[NODE_NOTE_BYTES];
    size_t note_len;

    struct track *track;
    uint32_t track_count;
    struct inbox *inbox;
    uint32_t inboxes;
    
    uint64_t tick_at;
    node_stats stats;
    uint8_t *buffer;  /* one message, encoded */
    uint8_t *scratch; /* one value */
};

/* What every encoded operation carries, so that some of it can be stamped in place. */
#define NODE_OP_MASK (WIRE_EPOCH | WIRE_ID | WIRE_SEQ | WIRE_COMMITTED | WIRE_ITEM | WIRE_SUB)
#define BIT(slot) ((uint16_t)(1u << (slot)))

/* ---- node.c ---- */
bool node_serves(const node *n);
/* One of the slots, spread evenly by `by`. */
/* Encode and queue; the sender's epoch and slot are filled in. */
void node_say(node *n, uint8_t to, wire_msg *m, uint64_t tag);
void node_say_bytes(node *n, uint8_t to, void *bytes, size_t len, uint64_t tag);
void node_answer(node *n, const link_addr *to, uint64_t session, wire_msg *m);
link_addr node_addr(const node *n, uint8_t slot);
void node_silence(node *n, uint8_t slot); /* we repeat ourselves to it */
/* Until what was sent to it `tries` times is repeated. */
uint64_t node_patience(const node *n, uint8_t slot, uint32_t tries);
void node_publish(node *n);               /* the cluster block of the segment */
void node_refresh_serving(node *n);

/* ---- node_lead.c ---- */
void lead_proposal(node *n, const wire_msg *m);
/* Sequence an operation of a member, or refuse it. */
void lead_consider(node *n, wire_msg *m, uint8_t origin, uint64_t id);
void lead_ack(node *n, const wire_msg *m);
void lead_state(node *n, const wire_msg *m);
void lead_tick(node *n);
void lead_flush(node *n);

/* ---- node_snap.c ---- */
void snap_begin(node *n, uint8_t to);
void snap_send(node *n, uint8_t to);
void snap_acked(node *n, const wire_msg *m);
void snap_take(node *n, const wire_msg *m);

/* ---- node_map.c ---- */
/* The operation that was just applied; bytes become the log's. */
void map_log(node *n, uint64_t seq, uint8_t *bytes, size_t len);
void map_log_clear(node *n);
size_t map_send_op(node *n, uint8_t to, uint64_t seq);
void map_stuck(node *n);
void map_proposal_end(node *n, uint32_t i, uint8_t status, uint64_t number);
void map_proposal_applied(node *n, uint64_t id, uint64_t seq);
void map_propose_again(node *n, uint32_t i);
void map_receive(node *n, const wire_msg *m);
void map_tick(node *n);
void map_flush(node *n);
void map_view(node *n);
void map_again(node *n, uint8_t slot);
/* Propose an operation; 0: no room. `m` holds its fields; type, id, epoch are filled in. */
uint32_t map_propose(node *n, wire_msg *m, enum proposal_kind kind, uint32_t ref);
bool map_active(const node *n);
/* Forget a proposal, if it is not in the log; to be asked when the log is known to be whole. */
bool map_withdraw(node *n, uint32_t proposal);
/* The auth that the CREATE at this place gave; 0: it is not in the log any more. */
uint64_t map_auth(const node *n, uint64_t seq);

/* ---- node_apply.c ---- */
/* False: it cannot be applied now (no room): stay before it. */
bool apply_op(node *n, const wire_msg *m);
void apply_rejoin(node *n);
/* Not SEG_OK: some of it is missing here. */
seg_status apply_snap(node *n, const wire_msg *m);
void apply_wipe(node *n);
/* Begin what was committed. */
void apply_committed(node *n);
/* The item's value is wanted here again: do not drop it. */
void apply_keep(node *n, uint32_t item);
bool apply_starting(const node *n, uint32_t item);
struct inbox *inbox_find(node *n, const void *name, size_t len);
void inbox_put(node *n, const void *name, size_t len, uint8_t slot, bool closed);

/* ---- node_inherit.c ---- */
/* From here on no home names one of these slots. */
void inherit_begin(node *n, uint16_t dead, uint64_t epoch);
/* Before one of them may be named again: write every home that still does. */
void inherit_all(node *n);
/* There is no copy of it. */
void inherit_lost(node *n, seg_handle *h);
/* Its home is written, if it was not, and `f` is as it stands then; false: the item is gone. */
bool inherit_settled(node *n, seg_handle *h, seg_facts *f);
/* Thaw it when nobody else can serve it: after `thaw_at`. */
void inherit_later(node *n, uint32_t item, uint64_t auth);
/* A slice of what is left to be written and begun, that what comes meanwhile is heard in between; true: there is more. */
bool inherit_due(node *n);
/* This one now, if it may be: somebody asks for it. */
void inherit_asked(node *n, seg_handle *h, seg_facts *f);
/* It may be written here. */
void inherit_thaw(node *n, const seg_handle *h, uint64_t at_least);
/* An item that was planted and never committed goes: nobody was told of it. */
void inherit_drop(node *n, const seg_handle *h);

/* ---- node_copy.c ---- */
void copy_receive(node *n, const link_addr *from, uint64_t session, const wire_msg *m);
void copy_acknowledged(node *n, const wire_msg *m);
void copy_tick(node *n);
void copy_dirty(node *n, uint32_t item, uint64_t auth, uint64_t due);
/* A new view. Somebody else is in these slots: what the last one had, and how fast it was, is over. */
void copy_view(node *n, uint16_t others);
/* What the member in that slot has not acknowledged is sent to it anew, from now on. */
void copy_again(node *n, uint8_t slot);
/* May something go to all of these that nobody waits for? */
bool copy_room(const node *n, uint16_t slots);
/* Start or join a flight: the request waits until `control` is acknowledged. */
bool copy_wait(node *n, const seg_handle *h, uint32_t request, uint64_t control);
void copy_feed(node *n);
void copy_note(node *n, const wire_msg *m);
/* A flight for a move: tells move_flown when everybody has it. */
void copy_fill(node *n, uint32_t item, uint64_t auth, uint32_t move);
struct flight *copy_flight(node *n, uint32_t item, uint64_t auth);

/* ---- node_same.c ---- */
/* Ask the copies of an item that was just thawed, and stood at `from` before, whether they have it. False: no
 * room, or nothing to be asked: it is to be sent. */
bool same_add(node *n, const seg_handle *h, const seg_facts *f, uint64_t from);
void same_receive(node *n, const wire_msg *m);
void same_view(node *n);
void same_tick(node *n);

/* ---- node_stray.c ---- */
bool stray_here(const node *n, const seg_facts *f);
/* There may be one: look for it in a while. */
void stray_soon(node *n);
/* A COPY of this item has come. */
void stray_copied(node *n, uint32_t item);
void stray_receive(node *n, const wire_msg *m);
void stray_tick(node *n);

/* ---- node_move.c ---- */
seg_status move_start(node *n, const seg_handle *h, uint8_t to, bool repair, uint32_t request);
/* Its flight is over; `got`: slots that have what stood at `control`. */
void move_flown(node *n, uint32_t move, uint16_t got, uint64_t control);
void move_placed(node *n, uint32_t move, uint8_t status);
/* An item has just become ours: are copies missing? */
void move_check(node *n, const seg_facts *f);
void move_view(node *n);
void move_tick(node *n);
void move_accessed(node *n, const seg_handle *h, uint8_t slot);
void move_samples(node *n);
void move_forget_item(node *n, uint32_t item);
bool move_busy(node *n, uint32_t item);

/* ---- node_answer.c ---- */
bool serve_changes(uint8_t type);
void serve_answer(node *n, const link_addr *to, uint64_t session, uint8_t type, wire_msg *r);
/* True: it was here before, and all is done about it. */
bool serve_repeated(node *n, const link_addr *from, uint64_t session, const wire_msg *m);
bool serve_overtaken(node *n, uint64_t session, const wire_msg *m);
/* A request that has to wait. 0: no room. */
uint32_t serve_hold(node *n, const link_addr *from, uint64_t session, const wire_msg *m);
void serve_refuse(node *n, const link_addr *from, uint64_t session, const wire_msg *m, uint8_t status);
uint32_t serve_overdue(node *n, uint32_t waiters);

/* ---- node_list.c ---- */
void serve_scan(node *n, const link_addr *from, uint64_t session, const wire_msg *m);
void serve_poll(node *n, const link_addr *from, uint64_t session, const wire_msg *m);
void serve_members(node *n, const link_addr *from, uint64_t session, const wire_msg *m);

/* ---- node_serve.c ---- */
void serve_request(node *n, const link_addr *from, uint64_t session, const wire_msg *m);
void serve_reply(node *n, uint32_t request, uint8_t status);
void serve_proposed(node *n, uint32_t request, uint8_t status, uint64_t number);
void serve_flown(node *n, uint32_t waiters, uint64_t control, bool ok);
void serve_tick(node *n);
void serve_expiry_done(node *n, const struct proposal *p, uint8_t status);

/* ---- node_mail.c ---- */
void mail_request(node *n, uint32_t request, const wire_msg *m);
void mail_registered(node *n, const struct request *r);
/* Carry a request to the member that can do it; its answer becomes the request's. */
bool mail_errand(node *n, uint8_t to, const wire_msg *m, uint32_t request);
void mail_answered(node *n, const wire_msg *m);
void mail_tick(node *n);
void mail_boxes(node *n, const wire_msg *m);
/* The map's word on our proposal to close an inbox. */
void mail_closed(node *n, const struct proposal *p, uint8_t status);

#endif
