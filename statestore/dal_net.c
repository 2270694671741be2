/* The network of libdal: one UDP socket, the clock, waiting. Decides nothing: the core does.
 *
 * Knows: sockets, CLOCK_BOOTTIME, addresses as text. Must not know: operations.
 *
 * Only system calls run between leave and enter: what another thread of a Python process does
 * meanwhile with the same store, it does with the core at rest.
 */
#include "dal_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

uint64_t dal_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static socklen_t to_socket(const dal *d, const link_addr *a, union address *out)
{
    memset(out, 0, sizeof *out);
    if (d->v4) {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons(a->port);
        memcpy(&out->v4.sin_addr, a->ip + 12, 4);
        return sizeof out->v4;
    }
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons(a->port);
    memcpy(&out->v6.sin6_addr, a->ip, 16);
    return sizeof out->v6;
}

static void from_socket(const union address *a, link_addr *out)
{
    memset(out, 0, sizeof *out);
    if (a->any.sa_family == AF_INET) {
        memcpy(out->ip, mapped, sizeof mapped);
        memcpy(out->ip + 12, &a->v4.sin_addr, 4);
        out->port = ntohs(a->v4.sin_port);
    } else {
        memcpy(out->ip, &a->v6.sin6_addr, 16);
        out->port = ntohs(a->v6.sin6_port);
    }
}

/* ---- addresses ---- */

static int resolve(const char *host, const char *port, client_options *o, char *why, size_t why_len)
{
    struct addrinfo want = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM};
    struct addrinfo *found = NULL;
    char *end;
    unsigned long number = strtoul(port, &end, 10);
    if (*port < '0' || *port > '9' || *end != '\0' || number == 0 || number > 65535) {
        snprintf(why, why_len, "state address: port %s of host %s is no port", port, host);
        return -1;
    }
    int failed = getaddrinfo(host, port, &want, &found);
    if (failed != 0) {
        snprintf(why, why_len, "state address: host %s: %s", host, gai_strerror(failed));
        return -2;
    }
    union address a;
    memset(&a, 0, sizeof a);
    memcpy(&a, found->ai_addr, found->ai_addrlen <= sizeof a ? found->ai_addrlen : sizeof a);
    freeaddrinfo(found);
    from_socket(&a, &o->contact[o->contacts++]);
    return 0;
}

/* HOST:PORT[,HOST:PORT...], [IPv6]:PORT. -1: malformed, -2: unknown host. */
int dal_parse_contacts(const char *text, client_options *o, char *why, size_t why_len)
{
    while (*text != '\0') {
        char host[256], port[8];
        const char *end = text[0] == '[' ? strchr(text, ']') : NULL;
        const char *begin = end == NULL ? text : text + 1;
        const char *colon = end == NULL ? strchr(text, ':') : end + 1;
        size_t stop = strcspn(text, ",");
        if (end == NULL) {
            end = colon;
        }
        if (colon == NULL || *colon != ':' || colon > text + stop || end == begin ||
            (size_t)(end - begin) >= sizeof host ||
            (size_t)(text + stop - colon) > sizeof port || text + stop == colon + 1) {
            snprintf(why, why_len,
                     "state address: %.*s is not HOST:PORT; give dal:///DIRECTORY or "
                     "dal://HOST:PORT[,HOST:PORT...]",
                     (int)(stop < 200 ? stop : 200), text);
            return -1;
        }
        if (o->contacts == CLIENT_CONTACTS_MAX) {
            snprintf(why, why_len, "state address: more than %u servers", CLIENT_CONTACTS_MAX);
            return -1;
        }
        memcpy(host, begin, (size_t)(end - begin));
        host[end - begin] = '\0';
        memcpy(port, colon + 1, (size_t)(text + stop - colon - 1));
        port[text + stop - colon - 1] = '\0';
        int failed = resolve(host, port, o, why, why_len);
        if (failed != 0) {
            return failed;
        }
        text += stop;
        text += *text == ',';
    }
    if (o->contacts == 0) {
        snprintf(why, why_len, "state address: names no server; give dal:///DIRECTORY or "
                               "dal://HOST:PORT[,HOST:PORT...]");
        return -1;
    }
    return 0;
}

/* ---- socket ---- */

/* A cluster speaks one family: its members have one socket each. IPv4 in an IPv6 socket would cost a
 * tenth of a microsecond each way. */
static bool speaks_v4(const dal *d, const client_options *o)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    seg_cluster c;
    if (o->contacts > 0) {
        return memcmp(o->contact[0].ip, mapped, sizeof mapped) == 0;
    }
    return d->s != NULL && seg_cluster_read(d->s, &c) == SEG_OK && c.self < SEG_SLOTS_MAX &&
           memcmp(c.member[c.self].ip, mapped, sizeof mapped) == 0;
}

/* Beside a member, at its address, where the other members are: a datagram that comes in by another
 * of the host's networks finds no socket. Without a view yet, or where the kernel refuses: anywhere. */
static void bind_own(const dal *d)
{
    union address a;
    link_addr own = {.port = 0};
    seg_cluster c;
    if (d->s == NULL || seg_cluster_read(d->s, &c) != SEG_OK || c.self >= SEG_SLOTS_MAX) {
        return;
    }
    memcpy(own.ip, c.member[c.self].ip, sizeof own.ip);
    socklen_t size = to_socket(d, &own, &a);
    (void)bind(d->fd, &a.any, size);
}

static int open_socket(dal *d, bool v4)
{
    int off = 0, room = DAL_SOCKET_BYTES;
    d->fd = v4 ? -1 : socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (d->fd >= 0 && setsockopt(d->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0) {
        close(d->fd);
        d->fd = -1;
    }
    if (d->fd < 0) {
        d->v4 = true;
        d->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    }
    if (d->fd < 0) {
        return -1;
    }
    /* As much as the kernel grants: what does not fit is repeated. */
    (void)setsockopt(d->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    (void)setsockopt(d->fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    return 0;
}

dal_status dal_net_open(dal *d, const client_options *o)
{
    link_keys keys;
    uint64_t session = 0;
    if (d->key_file[0] != '\0') {
        if (link_keys_load(d->key_file, &keys, d->why, sizeof d->why) != 0) {
            d->status = DAL_INVALID;
            return DAL_INVALID;
        }
        if (getrandom(&session, sizeof session, 0) != (ssize_t)sizeof session) {
            return dal_fail(d, DAL_UNAVAILABLE, "no randomness: %s", strerror(errno));
        }
        d->link = link_new(&keys, session, d->why, sizeof d->why);
        memset(&keys, 0, sizeof keys);
        if (d->link == NULL) {
            return DAL_UNAVAILABLE;
        }
        if (open_socket(d, speaks_v4(d, o)) != 0) {
            return dal_fail(d, DAL_UNAVAILABLE, "socket: %s", strerror(errno));
        }
        bind_own(d);
    }
    d->c = client_new(d->s, d->link, o, dal_now_ns());
    return d->c != NULL ? DAL_OK : dal_fail(d, DAL_UNAVAILABLE, "no memory");
}

dal_status dal_reload_keys(dal *d)
{
    link_keys keys;
    if (d->link == NULL || d->pid != getpid()) {
        return dal_fail(d, DAL_UNAVAILABLE, "%s was opened without a key file", d->address);
    }
    if (link_keys_load(d->key_file, &keys, d->why, sizeof d->why) != 0) {
        d->status = DAL_INVALID;
        return DAL_INVALID;
    }
    link_rekey(d->link, &keys);
    memset(&keys, 0, sizeof keys);
    return DAL_OK;
}

static void flush(dal *d);

void dal_net_close(dal *d, bool goodbye)
{
    if (goodbye && d->c != NULL && d->fd >= 0) {
        client_goodbye(d->c, dal_now_ns());
        flush(d);
    }
    client_free(d->c);
    link_free(d->link);
    if (d->fd >= 0) {
        close(d->fd);
    }
    d->c = NULL;
    d->link = NULL;
    d->fd = -1;
}

/* ---- the loop ---- */

static void *leave(const dal *d)
{
    return d->leave != NULL ? d->leave() : NULL;
}

static void enter(const dal *d, void *token)
{
    if (d->enter != NULL) {
        d->enter(token);
    }
}

/* A datagram that the kernel does not take is lost, as any other. */
static void flush(dal *d)
{
    for (uint32_t sent = 0; sent < DAL_FLUSH_MAX && d->c != NULL;) {
        uint8_t bytes[DAL_BATCH_DATAGRAMS][LINK_DATAGRAM_BYTES_MAX];
        union address to[DAL_BATCH_DATAGRAMS];
        struct iovec part[DAL_BATCH_DATAGRAMS];
        struct mmsghdr m[DAL_BATCH_DATAGRAMS];
        uint32_t n = 0;
        link_addr a;
        size_t len;
        if (!client_next(d->c, &a, bytes[0], &len)) {
            return;
        }
        do {
            m[n].msg_hdr = (struct msghdr){.msg_name = &to[n],
                                           .msg_namelen = to_socket(d, &a, &to[n]),
                                           .msg_iov = &part[n],
                                           .msg_iovlen = 1};
            part[n] = (struct iovec){bytes[n], len};
            n++;
        } while (n < DAL_BATCH_DATAGRAMS && client_next(d->c, &a, bytes[n], &len));
        int fd = d->fd;
        if (n == 1) {
            (void)sendto(fd, bytes[0], part[0].iov_len, MSG_NOSIGNAL, &to[0].any,
                         m[0].msg_hdr.msg_namelen);
        } else {
            for (uint32_t at = 0; at < n;) {
                int done = sendmmsg(fd, m + at, n - at, MSG_NOSIGNAL);
                at += done > 0 ? (uint32_t)done : 1; /* the one that failed is skipped */
            }
        }
        sent += n;
    }
}

/* True when something came. */
static bool receive(dal *d)
{
    uint8_t bytes[LINK_DATAGRAM_BYTES_MAX + 1];
    union address a;
    socklen_t a_len = sizeof a;
    ssize_t len = recvfrom(d->fd, bytes, sizeof bytes, MSG_DONTWAIT, &a.any, &a_len);
    if (len < 0) {
        return false;
    }
    link_addr from;
    from_socket(&a, &from);
    if (d->c != NULL && (size_t)len <= LINK_DATAGRAM_BYTES_MAX) {
        client_receive(d->c, &from, bytes, (size_t)len, dal_now_ns());
    }
    return true;
}

void dal_drive(dal *d, bool wait)
{
    uint64_t now = dal_now_ns();
    uint64_t deadline = client_deadline(d->c);
    bool came = now >= deadline; /* it may have completed what we wait for */
    if (came) {
        client_tick(d->c, now);
    }
    if (d->fd >= 0) {
        flush(d);
    }
    if (wait && d->busy) {
        /* One, to look at once whether that was it; the clock is looked at now and then. */
        for (uint32_t looks = 0; d->fd >= 0 && !came && looks < DAL_LOOKS; looks++) {
            came = receive(d);
        }
    } else {
        for (uint32_t n = 0; d->fd >= 0 && n < DAL_FLUSH_MAX && receive(d); n++) {
            came = true;
        }
    }
    if (came || !wait || d->c == NULL) {
        if (d->fd >= 0 && !d->busy) {
            flush(d);
        }
        return;
    }
    if (d->busy && d->fd >= 0) {
        enter(d, leave(d)); /* others may run, should they wish to */
        return;
    }
    uint64_t wait_ns = deadline > now ? deadline - now : 0;
    wait_ns = wait_ns > 1000000000ull ? 1000000000ull : wait_ns;
    struct timespec limit = {(time_t)(wait_ns / 1000000000ull), (long)(wait_ns % 1000000000ull)};
    struct pollfd p = {.fd = d->fd, .events = POLLIN};
    void *token = leave(d);
    (void)ppoll(&p, d->fd >= 0 ? 1 : 0, &limit, NULL);
    enter(d, token);
}

dal_status dal_run(dal *d, const client_request *r, client_result *out)
{
    if (d->c == NULL || d->pid != getpid()) {
        return dal_fail(d, DAL_UNAVAILABLE, "%s was opened before a fork; open it again in the child",
                        d->address);
    }
    if (d->readonly && dal_changes(r->verb)) {
        return dal_fail(d, DAL_UNAVAILABLE, "opened read-only");
    }
    client_request with_timeout = *r;
    with_timeout.timeout_ns = d->timeout_ns;
    int op = client_start(d->c, &with_timeout, dal_now_ns());
    if (op < 0) {
        return dal_fail(d, DAL_UNAVAILABLE, "more than %u operations at once", CLIENT_IN_FLIGHT_MAX);
    }
    while (!client_done(d->c, op, out)) {
        dal_drive(d, true);
        if (d->c == NULL) {
            return dal_fail(d, DAL_UNAVAILABLE, "%s is closed", d->address);
        }
    }
    if (out->status != DAL_OK) {
        dal_fail(d, out->status, "%s", out->why);
    }
    return out->status;
}
