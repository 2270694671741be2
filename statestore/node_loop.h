/* A member with its socket and clock: the only I/O of a server.
 *
 * Knows: UDP, CLOCK_BOOTTIME, one lock between the loop and those who steer it. Must not know: what is
 * in a datagram, views, Python.
 */
#ifndef STATESTORE_NODE_LOOP_H
#define STATESTORE_NODE_LOOP_H

#include "node.h"

#define LOOP_BATCH_MAX 64u            /* datagrams per system call */
#define LOOP_BATCHES_MAX 8u           /* read before answers go and timers are looked at */
#define LOOP_SPIN_NS 20000u           /* after the last datagram, before it sleeps */
#define LOOP_IDLE_ROUNDS 16u          /* of a busy loop between two looks at the clock */
#define LOOP_SLEEP_NS_MAX 1000000u    /* local writes are looked for at least this often */
#define LOOP_RECEIVE_BYTES (8 << 20)  /* of the socket's buffers */
#define LOOP_BUCKETS 32u              /* powers of two of nanoseconds */

typedef struct {
    const char *segment, *name, *host, *key_file;
    uint16_t port; /* 0: any */
    uint8_t history;
    uint64_t promote_delay_ns, resend_ns;
    uint32_t repair_per_s;
    bool busy; /* never sleep */
} loop_options;

typedef struct loop loop;

seg_status loop_open(const loop_options *o, loop **out, char *why, size_t why_len);
void loop_close(loop *l);
/* Until loop_stop. */
void loop_run(loop *l);
void loop_stop(loop *l);
uint16_t loop_port(const loop *l);
uint64_t loop_incarnation(const loop *l);
void loop_set_view(loop *l, const node_view *v);
void loop_set_lease(loop *l, uint64_t deadline_ns);
/* The new incarnation, 0: the segment does not let go (why). */
uint64_t loop_begin_anew(loop *l, char *why, size_t why_len);
seg_status loop_move(loop *l, const void *key, size_t len, uint8_t to);
void loop_leave(loop *l);
uint16_t loop_unwanted(loop *l);
int loop_reload_keys(loop *l, char *why, size_t why_len);
void loop_stats(loop *l, bool walk, node_stats *stats, link_stats *links,
                uint64_t handled[LOOP_BUCKETS]);
/* "10.0.0.1" or "fd00::1"; false: neither. */
bool loop_address(const char *host, uint8_t ip[16]);

#endif
