/* The loop of a member; see node_loop.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "node_loop.h"

struct loop {
    loop_options o;
    char name[SEG_NODE_BYTES_MAX + 1], *key_file, *segment_path;
    seg *segment;
    link_keys keys;
    struct link *link;
    node *node;
    int fd, family;
    uint16_t port;
    pthread_mutex_t lock;
    atomic_uint waiting; /* who steers goes first */
    atomic_bool stop;
    uint64_t handled[LOOP_BUCKETS];
    uint64_t promote_ns;
    bool backlog; /* the last datagram did not come alone */
    struct mmsghdr in[LOOP_BATCH_MAX], out[LOOP_BATCH_MAX];
    struct iovec in_vec[LOOP_BATCH_MAX], out_vec[LOOP_BATCH_MAX];
    struct sockaddr_storage in_addr[LOOP_BATCH_MAX], out_addr[LOOP_BATCH_MAX];
    uint8_t in_bytes[LOOP_BATCH_MAX][2048], out_bytes[LOOP_BATCH_MAX][LINK_DATAGRAM_BYTES_MAX];
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t dice(void)
{
    uint64_t r = 0;
    while (r == 0 && getrandom(&r, sizeof r, 0) != (ssize_t)sizeof r) {
    }
    return r;
}

bool loop_address(const char *host, uint8_t ip[16])
{
    memset(ip, 0, 16);
    if (inet_pton(AF_INET, host, ip + 12) == 1) {
        ip[10] = ip[11] = 0xff;
        return true;
    }
    return inet_pton(AF_INET6, host, ip) == 1;
}

static bool mapped(const uint8_t ip[16])
{
    static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(ip, prefix, sizeof prefix) == 0;
}

static socklen_t to_sockaddr(int family, const link_addr *a, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    if (family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)out;
        in->sin_family = AF_INET;
        in->sin_port = htons(a->port);
        memcpy(&in->sin_addr, a->ip + 12, 4);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(a->port);
    memcpy(&in6->sin6_addr, a->ip, 16);
    return sizeof *in6;
}

static void from_sockaddr(const struct sockaddr_storage *from, link_addr *a)
{
    memset(a, 0, sizeof *a);
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)from;
        a->ip[10] = a->ip[11] = 0xff;
        memcpy(a->ip + 12, &in->sin_addr, 4);
        a->port = ntohs(in->sin_port);
    } else {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;
        memcpy(a->ip, &in6->sin6_addr, 16);
        a->port = ntohs(in6->sin6_port);
    }
}

static void widen(int fd, int force, int plain)
{
    int bytes = LOOP_RECEIVE_BYTES;
    if (setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof bytes) != 0) {
        (void)setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof bytes);
    }
}

static bool bind_socket(loop *l, char *why, size_t why_len)
{
    link_addr a = {.port = l->o.port};
    struct sockaddr_storage where;
    socklen_t len = sizeof where;
    if (!loop_address(l->o.host, a.ip)) {
        snprintf(why, why_len, "listen address %s: not an IPv4 or IPv6 address", l->o.host);
        return false;
    }
    l->family = mapped(a.ip) ? AF_INET : AF_INET6;
    l->fd = socket(l->family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0 ||
        bind(l->fd, (struct sockaddr *)&where, to_sockaddr(l->family, &a, &where)) != 0 ||
        getsockname(l->fd, (struct sockaddr *)&where, &len) != 0) {
        snprintf(why, why_len, "listen address %s port %u: %s", l->o.host, l->o.port, strerror(errno));
        return false;
    }
    widen(l->fd, SO_RCVBUFFORCE, SO_RCVBUF);
    widen(l->fd, SO_SNDBUFFORCE, SO_SNDBUF);
    from_sockaddr(&where, &a);
    l->port = a.port;
    return true;
}

/* A new engine over the segment as it stands. */
static bool make_node(loop *l, char *why, size_t why_len)
{
    l->link = link_new(&l->keys, dice(), why, why_len);
    if (l->link == NULL) {
        return false;
    }
    node_config c = {.segment = l->segment, .link = l->link, .name = l->name,
                     .history = l->o.history, .promote_delay_ns = l->o.promote_delay_ns,
                     .resend_ns = l->o.resend_ns, .repair_per_s = l->o.repair_per_s,
                     .random = dice()};
    l->node = node_new(&c, now_ns());
    if (l->node == NULL) {
        snprintf(why, why_len, "member %s: no memory", l->name);
    }
    return l->node != NULL;
}

seg_status loop_open(const loop_options *o, loop **out, char *why, size_t why_len)
{
    *out = NULL;
    loop *l = calloc(1, sizeof *l);
    if (l == NULL) {
        snprintf(why, why_len, "member %s: no memory", o->name);
        return SEG_UNAVAILABLE;
    }
    l->o = *o;
    l->fd = -1;
    l->key_file = strdup(o->key_file);
    l->segment_path = strdup(o->segment); /* the options' strings are the caller's, for this call only */
    l->o.segment = l->segment_path;
    l->o.key_file = l->key_file;
    strncpy(l->name, o->name, SEG_NODE_BYTES_MAX);
    pthread_mutex_init(&l->lock, NULL);
    seg_status status = SEG_UNAVAILABLE;
    if (l->key_file == NULL || l->segment_path == NULL || o->name[0] == '\0' ||
        strlen(o->name) > SEG_NODE_BYTES_MAX) {
        snprintf(why, why_len, "member name '%.64s': 1 to %u bytes are needed", o->name,
                 SEG_NODE_BYTES_MAX);
        status = SEG_INVALID;
    } else if (link_keys_load(l->key_file, &l->keys, why, why_len) == 0 &&
               bind_socket(l, why, why_len)) {
        status = seg_open(o->segment, false, &l->segment, why, why_len);
        if (status == SEG_OK) {
            status = node_prepare(l->segment, dice(), why, why_len);
        }
        if (status == SEG_OK && !make_node(l, why, why_len)) {
            status = SEG_UNAVAILABLE;
        }
    }
    if (status != SEG_OK) {
        loop_close(l);
        return status;
    }
    l->o.name = l->name;
    l->o.host = NULL;
    for (uint32_t i = 0; i < LOOP_BATCH_MAX; i++) {
        l->in_vec[i] = (struct iovec){l->in_bytes[i], sizeof l->in_bytes[i]};
        l->in[i].msg_hdr = (struct msghdr){.msg_iov = &l->in_vec[i], .msg_iovlen = 1,
                                           .msg_name = &l->in_addr[i]};
        l->out_vec[i].iov_base = l->out_bytes[i];
        l->out[i].msg_hdr = (struct msghdr){.msg_iov = &l->out_vec[i], .msg_iovlen = 1,
                                            .msg_name = &l->out_addr[i]};
    }
    *out = l;
    return SEG_OK;
}

void loop_close(loop *l)
{
    if (l == NULL) {
        return;
    }
    node_free(l->node);
    if (l->link != NULL) {
        link_free(l->link);
    }
    if (l->segment != NULL) {
        if (seg_clustered(l->segment)) {
            seg_serve(l->segment, false);
        }
        seg_close(l->segment);
    }
    if (l->fd >= 0) {
        close(l->fd);
    }
    pthread_mutex_destroy(&l->lock);
    free(l->key_file);
    free(l->segment_path);
    free(l);
}

/* ---- the loop ---- */

static void count_handled(loop *l, uint64_t ns)
{
    uint32_t bucket = ns == 0 ? 0 : 63u - (uint32_t)__builtin_clzll(ns);
    l->handled[bucket < LOOP_BUCKETS ? bucket : LOOP_BUCKETS - 1]++;
}

static void send_all(loop *l);

static void handle(loop *l, const struct sockaddr_storage *whence, const uint8_t *bytes, size_t len,
                   uint64_t at)
{
    link_addr from;
    node_stats before, after;
    if (len > LINK_DATAGRAM_BYTES_MAX) {
        return;
    }
    from_sockaddr(whence, &from);
    node_promotion_read(l->node, &before);
    node_receive(l->node, &from, bytes, len, at);
    node_promotion_read(l->node, &after);
    if (after.promoted != before.promoted) {
        l->promote_ns += now_ns() - at;
    }
}

/* The first one alone, which costs least when there is none or one, then what else is there. */
static bool receive(loop *l)
{
    socklen_t whence = sizeof l->in_addr[0];
    ssize_t len = recvfrom(l->fd, l->in_bytes[0], sizeof l->in_bytes[0], MSG_DONTWAIT,
                           (struct sockaddr *)&l->in_addr[0], &whence);
    if (len < 0) {
        return false;
    }
    uint64_t began = now_ns();
    handle(l, &l->in_addr[0], l->in_bytes[0], (size_t)len, began);
    if (!l->backlog) {
        send_all(l); /* probably the only one: answer at once */
    }
    for (uint32_t i = 0; i < LOOP_BATCH_MAX; i++) {
        l->in[i].msg_hdr.msg_namelen = sizeof l->in_addr[i];
    }
    uint64_t handled = 1;
    int count = 0;
    l->backlog = false;
    /* What has come is read before anything is taken for lost. */
    for (uint32_t batch = 0; batch < LOOP_BATCHES_MAX && (batch == 0 || count == LOOP_BATCH_MAX); batch++) {
        count = recvmmsg(l->fd, l->in, LOOP_BATCH_MAX, MSG_DONTWAIT, NULL);
        uint64_t at = now_ns();
        l->backlog |= count > 0;
        for (int i = 0; i < count; i++) {
            handle(l, &l->in_addr[i], l->in_bytes[i], l->in[i].msg_len, at);
            l->in[i].msg_hdr.msg_namelen = sizeof l->in_addr[i];
        }
        handled += count > 0 ? (uint64_t)count : 0;
    }
    count_handled(l, (now_ns() - began) / handled);
    return true;
}

static void send_all(loop *l)
{
    for (;;) {
        uint32_t count = 0;
        link_addr to;
        size_t len;
        while (count < LOOP_BATCH_MAX && node_next(l->node, &to, l->out_bytes[count], &len)) {
            if (l->family == AF_INET && !mapped(to.ip)) {
                continue; /* a member of another family: the view's mistake, seen as silence */
            }
            l->out_vec[count].iov_len = len;
            l->out[count].msg_hdr.msg_namelen = to_sockaddr(l->family, &to, &l->out_addr[count]);
            count++;
        }
        if (count == 1) {
            (void)sendto(l->fd, l->out_bytes[0], l->out_vec[0].iov_len, 0,
                         (struct sockaddr *)&l->out_addr[0], l->out[0].msg_hdr.msg_namelen);
        }
        for (uint32_t sent = 0; count > 1 && sent < count;) {
            int n = sendmmsg(l->fd, l->out + sent, count - sent, 0);
            /* An error names the first one left: it is lost, as any datagram may be. */
            sent += n > 0 ? (uint32_t)n : 1;
        }
        if (count < LOOP_BATCH_MAX) {
            return;
        }
    }
}

static void tick(loop *l, uint64_t now)
{
    node_stats before, after;
    node_promotion_read(l->node, &before);
    node_tick(l->node, now);
    node_promotion_read(l->node, &after);
    if (after.promoted != before.promoted || after.thawed != before.thawed) {
        l->promote_ns += now_ns() - now;
    }
}

void loop_run(loop *l)
{
    uint64_t busy_until = 0;
    uint32_t idle = 0;
    while (!atomic_load_explicit(&l->stop, memory_order_relaxed)) {
        while (atomic_load_explicit(&l->waiting, memory_order_relaxed) != 0) {
            sched_yield();
        }
        pthread_mutex_lock(&l->lock);
        bool worked = receive(l);
        if (!worked && l->o.busy && ++idle % LOOP_IDLE_ROUNDS != 0) {
            pthread_mutex_unlock(&l->lock);
            continue; /* nothing came: the clock is looked at now and then */
        }
        uint64_t now = now_ns();
        uint64_t deadline = node_deadline(l->node);
        if (now >= deadline) {
            tick(l, now);
            deadline = node_deadline(l->node);
        }
        if (worked || now + LOOP_SLEEP_NS_MAX >= deadline) {
            send_all(l);
        }
        pthread_mutex_unlock(&l->lock);
        if (worked) {
            busy_until = now + LOOP_SPIN_NS;
        }
        if (!l->o.busy && !worked && now >= busy_until) {
            uint64_t left = deadline > now ? deadline - now : 0;
            left = left > LOOP_SLEEP_NS_MAX ? LOOP_SLEEP_NS_MAX : left;
            struct pollfd p = {.fd = l->fd, .events = POLLIN};
            struct timespec t = {0, (long)left};
            (void)ppoll(&p, 1, &t, NULL);
        }
    }
}

void loop_stop(loop *l) { atomic_store(&l->stop, true); }

/* ---- from other threads ---- */

static void enter(loop *l)
{
    atomic_fetch_add(&l->waiting, 1);
    pthread_mutex_lock(&l->lock);
    atomic_fetch_sub(&l->waiting, 1);
}

static void leave(loop *l)
{
    send_all(l);
    pthread_mutex_unlock(&l->lock);
}

uint16_t loop_port(const loop *l) { return l->port; }
uint64_t loop_incarnation(const loop *l) { return seg_generation(l->segment); }

void loop_set_view(loop *l, const node_view *v)
{
    node_stats before, after;
    enter(l);
    uint64_t at = now_ns();
    node_promotion_read(l->node, &before);
    node_set_view(l->node, v, at);
    node_promotion_read(l->node, &after);
    if (after.promoted != before.promoted) {
        l->promote_ns += now_ns() - at;
    }
    leave(l);
}

void loop_set_lease(loop *l, uint64_t deadline_ns)
{
    enter(l);
    node_set_lease(l->node, deadline_ns, now_ns());
    leave(l);
}

uint64_t loop_begin_anew(loop *l, char *why, size_t why_len)
{
    uint64_t incarnation = dice();
    enter(l);
    node_free(l->node);
    link_free(l->link);
    l->node = NULL;
    l->link = NULL;
    bool ok = true;
    if (seg_begin_anew(l->segment, incarnation) != SEG_OK) {
        snprintf(why, why_len, "segment %s: some items could not be dropped; begin anew again",
                 l->o.segment);
        ok = false;
    }
    /* With a node in any case: the loop goes on. */
    char worse[256];
    if (!make_node(l, worse, sizeof worse)) {
        fprintf(stderr, "member %s: %s\n", l->name, worse);
        abort();
    }
    leave(l);
    return ok ? incarnation : 0;
}

seg_status loop_move(loop *l, const void *key, size_t len, uint8_t to)
{
    enter(l);
    seg_status status = node_move(l->node, key, len, to, now_ns());
    leave(l);
    return status;
}

void loop_leave(loop *l)
{
    enter(l);
    node_leave(l->node, now_ns());
    leave(l);
}

uint16_t loop_unwanted(loop *l)
{
    enter(l);
    uint16_t slots = node_unwanted(l->node);
    leave(l);
    return slots;
}

int loop_reload_keys(loop *l, char *why, size_t why_len)
{
    link_keys keys;
    int status = link_keys_load(l->key_file, &keys, why, why_len);
    if (status == 0) {
        enter(l);
        l->keys = keys;
        link_rekey(l->link, &keys);
        leave(l);
    }
    return status;
}

void loop_stats(loop *l, bool walk, node_stats *stats, link_stats *links, uint64_t handled[LOOP_BUCKETS])
{
    enter(l);
    node_stats_read(l->node, walk, stats);
    stats->promote_ns = l->promote_ns;
    link_stats_read(l->link, links);
    memcpy(handled, l->handled, sizeof l->handled);
    leave(l);
}
