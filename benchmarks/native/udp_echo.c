/* A bare exchange of UDP datagrams, both ends spinning: what the network alone costs.
 *
 *   udp_echo server HOST PORT
 *   udp_echo client HOST PORT REQUEST_BYTES REPLY_BYTES CALLS
 *
 * The first two bytes of a request say how long the reply is. The server ends with its input.
 */
#include "measure.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define DATAGRAM_BYTES_MAX 2048u
#define LOST_NS 200000000u /* then the request is sent again */
#define LOST_MAX 100u
#define LOOKS 65536u       /* empty looks at the socket between two at the input */

static struct sockaddr_in address(const char *host, const char *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(port, 1, 65535))};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
        die(host, "not an IPv4 address");
    }
    return a;
}

static int endpoint(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        die("socket", strerror(errno));
    }
    return fd;
}

static void serve(const char *host, const char *port)
{
    uint8_t buffer[DATAGRAM_BYTES_MAX] = {0};
    struct sockaddr_in a = address(host, port), from;
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    int fd = endpoint();
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        die(host, strerror(errno));
    }
    printf("ready\n");
    fflush(stdout);
    for (uint32_t looks = 0;;) {
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &size);
        if (got >= 2) {
            size_t reply = (size_t)buffer[0] << 8 | buffer[1];
            reply = reply > sizeof buffer ? sizeof buffer : reply;
            (void)sendto(fd, buffer, reply, 0, (struct sockaddr *)&from, size);
        } else if (++looks % LOOKS == 0 && poll(&input, 1, 0) > 0) {
            return;
        }
    }
}

static void ask(char **v)
{
    uint8_t request[DATAGRAM_BYTES_MAX] = {0}, reply[DATAGRAM_BYTES_MAX];
    struct sockaddr_in a = address(v[2], v[3]);
    uint32_t out = number(v[4], 1, DATAGRAM_BYTES_MAX), in = number(v[5], 1, DATAGRAM_BYTES_MAX);
    uint32_t calls = number(v[6], 1, CALLS_MAX), lost = 0;
    uint32_t *ns = latency_array(calls);
    int fd = endpoint();
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        die(v[2], strerror(errno));
    }
    request[0] = (uint8_t)(in >> 8);
    request[1] = (uint8_t)in;
    for (uint32_t i = 0; i < calls; i++) {
        uint64_t began = clock_ns();
        (void)send(fd, request, out, 0);
        while (recv(fd, reply, sizeof reply, 0) != (ssize_t)in) {
            if (clock_ns() - began > LOST_NS) {
                if (++lost > LOST_MAX) {
                    die(v[2], "does not answer");
                }
                began = clock_ns();
                (void)send(fd, request, out, 0);
            }
        }
        ns[i] = (uint32_t)(clock_ns() - began);
    }
    latencies("echo", ns, calls);
    free(ns);
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "server") == 0) {
        serve(argv[2], argv[3]);
    } else if (argc == 7 && strcmp(argv[1], "client") == 0) {
        ask(argv);
    } else {
        die("udp_echo", "server HOST PORT | client HOST PORT REQUEST_BYTES REPLY_BYTES CALLS");
    }
    return 0;
}
