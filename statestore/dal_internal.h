/* What the files of libdal share, and what the Python binding needs of it. Included by dal*.c and
 * _segment*.c only.
 */
#ifndef STATESTORE_DAL_INTERNAL_H
#define STATESTORE_DAL_INTERNAL_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "client.h"
#include "dal.h"
#include "segment.h"
#include "wire.h"

#define DAL_WHY_BYTES 512u
#define DAL_ADDRESS_BYTES_MAX 1024u
#define DAL_BATCHES_MAX 8u    /* scans and watches over the network that go on side by side */
#define DAL_PUT_TRIES_MAX 100u /* an item that appears and disappears this often is in trouble */
#define DAL_SOCKET_BYTES (4 << 20)
#define DAL_BATCH_DATAGRAMS 16u
#define DAL_FLUSH_MAX 4096u   /* datagrams sent in one go, before we look for answers */
#define DAL_LOOKS 16u         /* at an empty socket, spinning, before the clock and other threads */

/* One answer to SCAN or POLL that is handed out key by key. */
struct batch {
    const uint64_t *owner; /* the caller's cursor */
    uint64_t cursor, next; /* what that holds meanwhile; what it will hold */
    uint64_t used;         /* for replacement */
    size_t len, at;
    uint8_t *bytes; /* SEG_VALUE_BYTES_MAX */
};

struct dal {
    seg *s; /* NULL: remote-only */
    client *c;
    struct link *link;
    int fd;
    bool v4;        /* the host knows no IPv6 */
    bool clustered; /* has been; never embedded again */
    bool busy, readonly;
    pid_t pid;
    uint64_t timeout_ns;
    uint64_t hole_at, hole_since; /* of the feed */
    uint64_t used;
    struct batch batch[DAL_BATCHES_MAX];
    uint32_t fence; /* the last grant's */
    size_t fence_len;
    char fence_name[SEG_FENCE_NAME_BYTES_MAX];
    /* Around waiting: the Python binding lets other threads run meanwhile. */
    void *(*leave)(void);
    void (*enter)(void *);
    dal_status status; /* of the last failure, and its line */
    char why[DAL_WHY_BYTES];
    char address[DAL_ADDRESS_BYTES_MAX];
    char key_file[DAL_ADDRESS_BYTES_MAX];
};

uint64_t dal_now_ns(void);
/* Remember a failure; returns the status. format "" leaves the status's own line. */
dal_status dal_fail(dal *d, dal_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- dal_net.c ---- */
/* The core, and with a key file the socket. */
dal_status dal_net_open(dal *d, const client_options *o);
void dal_net_close(dal *d, bool goodbye);
/* One operation to its end. */
dal_status dal_run(dal *d, const client_request *r, client_result *out);
/* Send what is to be sent, take what has come; wait for the core's next deadline, or not at all. */
void dal_drive(dal *d, bool wait);
/* 0, or one line in `why`. */
int dal_parse_contacts(const char *text, client_options *o, char *why, size_t why_len);

/* ---- dal_many.c ---- */
/* `ask` says what operation i is, `told` what came of it; all of them to their ends, in any order.
 * Not DAL_OK: the dal was closed meanwhile, and not all were told. */
typedef client_request (*dal_ask)(void *context, size_t i);
typedef void (*dal_told)(void *context, size_t i, const client_result *t);
dal_status dal_together(dal *d, size_t count, dal_ask ask, dal_told told, void *context);

/* ---- dal.c ---- */
/* Is this a cluster's segment (or is there none)? Then the core is there. */
bool dal_in_cluster(dal *d);
/* As dal_close in the child of a fork: nothing is sent. */
void dal_forget(dal *d);
client_request dal_request(client_verb verb, const dal_handle *h, const dal_write *w);
/* The core does it; h learns where the item is. */
dal_status dal_operate(dal *d, const client_request *r, dal_handle *h, dal_write *w,
                       client_result *t);
/* What the segment answered is the answer. */
dal_status dal_settled(dal *d, seg_status status);
/* The caller's cursor is no more. */
void dal_release_cursor(dal *d, const uint64_t *cursor);
/* Our server shall send us word of changes elsewhere. */
void dal_interest(dal *d);
dal_status dal_grant_of(dal *d, const dal_grant *given, seg_grant *out);

/* What a read-only dal does not do. */
static inline bool dal_changes(client_verb verb)
{
    return (verb >= CLIENT_WRITE && verb <= CLIENT_CREATE) || verb == CLIENT_MOVE ||
           verb == CLIENT_RAISE;
}

/* Is it a member's segment, or was it? In the child of a fork the mapping is gone. */
static inline bool dal_joined(const dal *d)
{
    return d->clustered || (d->s != NULL && seg_usable(d->s) && seg_clustered(d->s));
}

static inline client_place dal_place(const dal_handle *h)
{
    return (client_place){.auth = h->auth,
                          .hash = h->hash,
                          .item = h->item,
                          .remote_item = h->remote_item,
                          .remote_slot = h->auth == 0 ? DAL_NO_SLOT : h->remote_slot};
}
static inline void dal_keep_place(dal_handle *h, const client_place *p)
{
    h->auth = p->auth;
    h->hash = p->hash;
    h->item = p->item;
    h->remote_item = p->remote_item;
    h->remote_slot = p->remote_slot;
}

static inline void dal_keep_local(dal_handle *h, const seg_handle *s)
{
    if (h->auth != s->auth) {
        h->remote_item = 0;
        h->remote_slot = DAL_NO_SLOT;
        h->auth = s->auth;
    }
    h->hash = s->hash;
    h->item = s->item;
}

#endif
