/* link_receive against somebody who sees and sends everything, without the key.
 *
 * Knows: link.h. Must not know: the link's inside.
 *
 * A client and a server talk; the input says what the attacker does with what he has recorded:
 * operation 1, then
 * 0: a recorded datagram, to whom, from whom, and up to 4 changes of bytes; 1: raw bytes; 2: the two
 * talk on, honestly; 3: time passes; 4: one of them is suspected; 5: one of them begins anew.
 * Whatever he does: only what was sent is delivered, and nothing twice.
 */
#include "fuzz.h"
#include "link.h"

#define RECORDED_MAX 64u
#define MESSAGES_MAX 256u
#define STEPS_MAX 64u

struct side {
    struct link *link;
    link_addr addr;
    uint32_t got[MESSAGES_MAX];
};

static struct side side[2];
static struct {
    size_t len;
    uint8_t bytes[LINK_DATAGRAM_BYTES_MAX];
} recorded[RECORDED_MAX];
static uint32_t records, messages, sessions;
static uint64_t now_ns;

static struct link *begin(void)
{
    char why[200];
    link_keys keys = {.count = 1, .key = {{.id = 1, .bytes = {7}}}};
    struct link *l = link_new(&keys, ++sessions, why, sizeof why);
    MUST(l != NULL);
    return l;
}

static void deliver(void *context, const link_addr *from, uint64_t session, const void *message,
                    size_t len)
{
    struct side *s = context;
    const struct side *other = &side[s == &side[0]];
    const uint8_t *m = message;
    uint32_t number = len < 5 ? 0 : (uint32_t)m[0] | (uint32_t)m[1] << 8;
    MUST(number > 0 && number <= messages && m[2] == (s == &side[0] ? 1 : 0));
    MUST(len == (number % 3 == 0 ? 3000u : 40u));
    for (size_t i = 3; i < len; i++) {
        MUST(m[i] == (uint8_t)(number + i));
    }
    MUST(++s->got[number] == 1);
    MUST(memcmp(from, &other->addr, sizeof *from) == 0 && session > 0 && session <= sessions);
}

static void receive(uint32_t to, const link_addr *from, const uint8_t *bytes, size_t len)
{
    uint8_t *exact = malloc(len == 0 ? 1 : len);
    MUST(exact != NULL);
    memcpy(exact, bytes, len);
    link_receive(side[to].link, from, exact, len, now_ns, deliver, &side[to]);
    free(exact);
}

/* Honest traffic; `lost`: nobody but the attacker gets it. */
static void talk(bool lost)
{
    link_addr to;
    for (uint32_t round = 0; round < 6; round++) {
        for (uint32_t k = 0; k < 2; k++) {
            uint8_t d[LINK_DATAGRAM_BYTES_MAX];
            size_t len;
            while (link_next(side[k].link, &to, d, &len)) {
                recorded[records % RECORDED_MAX].len = len;
                memcpy(recorded[records % RECORDED_MAX].bytes, d, len);
                records++;
                if (!lost && memcmp(&to, &side[1 - k].addr, sizeof to) == 0) {
                    receive(1 - k, &side[k].addr, d, len);
                }
            }
        }
    }
}

static void say(uint32_t from)
{
    uint8_t m[3000];
    if (messages + 1 >= MESSAGES_MAX) {
        return;
    }
    uint32_t number = ++messages;
    size_t len = number % 3 == 0 ? 3000 : 40;
    m[0] = (uint8_t)number;
    m[1] = (uint8_t)(number >> 8);
    m[2] = (uint8_t)from;
    for (size_t i = 3; i < len; i++) {
        m[i] = (uint8_t)(number + i);
    }
    link_send(side[from].link, &side[1 - from].addr, m, len, number, now_ns);
}

static void attack(struct tape *t)
{
    uint8_t d[LINK_DATAGRAM_BYTES_MAX + 64];
    uint32_t which = tape_byte(t) % RECORDED_MAX, ways = tape_byte(t), changes = tape_byte(t) % 5;
    size_t len = recorded[which].len;
    link_addr from = side[ways & 1].addr;
    from.port = (uint16_t)(from.port + (ways >> 4 & 3));
    memcpy(d, recorded[which].bytes, len);
    for (uint32_t i = 0; i < changes && len > 0; i++) {
        uint32_t at = tape_number(t, 2) % len;
        d[at] = (uint8_t)(d[at] ^ tape_byte(t));
    }
    len = ways & 0x80 ? len / 2 : len;
    receive(ways >> 1 & 1, &from, d, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    struct tape t = {in, in + len};
    memset(side, 0, sizeof side);
    records = messages = sessions = 0;
    for (uint32_t i = 0; i < RECORDED_MAX; i++) {
        recorded[i].len = 0;
    }
    now_ns = 1;
    for (uint32_t k = 0; k < 2; k++) {
        side[k].link = begin();
        side[k].addr.ip[15] = (uint8_t)(k + 1);
        side[k].addr.port = 1000;
    }
    for (uint32_t step = 0; step < STEPS_MAX && t.at < t.end; step++) {
        uint8_t op = tape_byte(&t);
        size_t n;
        const uint8_t *raw;
        switch (op % 6) {
        case 0: attack(&t); break;
        case 1:
            n = tape_number(&t, 2) % 2048;
            raw = tape_bytes(&t, n, &n);
            receive(op >> 7, &side[op >> 6 & 1].addr, raw, n);
            break;
        case 2:
            say(op >> 7);
            talk((op & 0x40) != 0);
            break;
        case 3:
            now_ns += (uint64_t)tape_byte(&t) * 20000000;
            link_tick(side[0].link, now_ns);
            link_tick(side[1].link, now_ns);
            break;
        case 4: link_suspect(side[op >> 7].link, &side[1 - (op >> 7)].addr); break;
        default:
            link_free(side[op >> 7].link);
            side[op >> 7].link = begin();
        }
    }
    link_free(side[0].link);
    link_free(side[1].link);
    return 0;
}

size_t fuzz_seed(unsigned number, uint8_t out[FUZZ_INPUT_BYTES_MAX])
{
    static const uint8_t PROGRAMS[][24] = {
        {2, 2 + 0x80 + 4, 2, 2, 0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 1, 1, 9, 0, 1},
        {2, 128, 5, 0, 0, 2, 0, 0, 1, 2, 0, 0, 3, 2, 0, 2},
        {2, 4, 3, 3, 2, 131, 2, 0, 0, 3, 0, 0, 4, 0x12, 0},
        {2, 0x44 + 4, 3, 3, 2, 5, 0, 0, 1, 0, 0, 1, 3, 0},
        {1, 40, 0, 1, 1, 2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    };
    if (number >= sizeof PROGRAMS / sizeof PROGRAMS[0]) {
        return 0;
    }
    memcpy(out, PROGRAMS[number], sizeof PROGRAMS[number]);
    return sizeof PROGRAMS[number];
}
