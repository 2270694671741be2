/* Redis through its own C client, one request at a time: the peer.
 *
 *   redis_client unix PATH CALLS
 *   redis_client tcp HOST:PORT CALLS
 */
#include "measure.h"

#include <hiredis/hiredis.h>

#define VALUE_BYTES 64

static void expect(redisContext *c, redisReply *r, int type)
{
    if (r == NULL || r->type != type) {
        die("redis", r == NULL ? c->errstr : "an unexpected reply");
    }
    freeReplyObject(r);
}

int main(int argc, char **argv)
{
    char value[VALUE_BYTES];
    redisContext *c = NULL;
    if (argc != 4) {
        die("redis_client", "unix PATH CALLS | tcp HOST:PORT CALLS");
    }
    uint32_t calls = number(argv[3], 1, CALLS_MAX);
    uint32_t *ns = latency_array(calls);
    memset(value, 'v', sizeof value);
    if (strcmp(argv[1], "unix") == 0) {
        c = redisConnectUnix(argv[2]);
    } else {
        char *port = strrchr(argv[2], ':');
        if (port == NULL) {
            die(argv[2], "no port");
        }
        *port = '\0';
        c = redisConnect(argv[2], (int)number(port + 1, 1, 65535));
    }
    if (c == NULL || c->err != 0) {
        die(argv[2], c == NULL ? "no memory" : c->errstr);
    }
    for (uint32_t i = 0; i < calls; i++) {
        uint64_t began = clock_ns();
        redisReply *r = redisCommand(c, "SET %s %b", "one", value, sizeof value);
        ns[i] = (uint32_t)(clock_ns() - began);
        expect(c, r, REDIS_REPLY_STATUS);
    }
    latencies("redis_write", ns, calls);
    for (uint32_t i = 0; i < calls; i++) {
        uint64_t began = clock_ns();
        redisReply *r = redisCommand(c, "GET %s", "one");
        ns[i] = (uint32_t)(clock_ns() - began);
        expect(c, r, REDIS_REPLY_STRING);
    }
    latencies("redis_read", ns, calls);
    redisFree(c);
    free(ns);
    return 0;
}
