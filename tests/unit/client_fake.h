/* A client core between scripted servers: no sockets, a clock that the test moves.
 *
 * Every server is a link with an address; what a client sends is opened, recorded, and answered by
 * the test. Nothing is lost unless a server is deaf.
 */
#ifndef TESTS_UNIT_CLIENT_FAKE_H
#define TESTS_UNIT_CLIENT_FAKE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "wire.h"

#define MS 1000000ull
#define START_NS 1000000000000ull
#define SERVERS 3u
#define HEARD_MAX 4096u
#define INCARNATION(slot) (0x1000u + (slot))

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #what);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* One message that a server has got, with its own copy of the strings. */
struct heard {
    uint32_t server;
    uint64_t session;
    wire_msg m;
    uint8_t *bytes;
    bool answered;
};

struct fake {
    uint64_t now;
    client *c;
    struct link *link; /* the client's */
    link_addr client_address;
    struct link *server[SERVERS];
    link_addr address[SERVERS];
    bool deaf[SERVERS];
    struct heard heard[HEARD_MAX];
    uint32_t heard_count;
    seg_cluster view; /* what MEMBERS is answered with */
    bool members;     /* answer it by itself */
    char path[128];   /* of a local segment, "" without */
    seg *local;
};

/* remote-only without `local`; else a segment that is member 0 of the view. */
void fake_begin(struct fake *f, bool local);
void fake_end(struct fake *f);
/* Carry datagrams to and fro until none is left. */
void fake_pump(struct fake *f);
/* Let time pass in steps, carrying what is sent. */
void fake_pass(struct fake *f, uint64_t ns);
/* The newest unanswered message of that type at that server, or NULL. */
struct heard *fake_heard(struct fake *f, uint32_t server, wire_type type);
uint32_t fake_count(const struct fake *f, uint32_t server, wire_type type);
/* Answer it; `reply` has status, mask and fields. */
void fake_answer(struct fake *f, struct heard *h, wire_msg reply);
void fake_status(struct fake *f, struct heard *h, uint8_t status);
int fake_start(struct fake *f, client_request r);
client_result fake_result(struct fake *f, int op);
bool fake_running(const struct fake *f, int op);
/* The server restarts: another session at the same address. */
void fake_restart(struct fake *f, uint32_t server);
/* The members a local client sees. */
void fake_set_view(struct fake *f);

void test_remote(void);
void test_local(void);
void test_messages(void);

#endif
