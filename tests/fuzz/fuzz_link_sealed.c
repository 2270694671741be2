/* The link's inner parser: everything the input says is properly sealed, by somebody with the key.
 *
 * Knows: link_internal.h. Must not know: what a message says.
 *
 * Operation 1, then: 0: a payload, sealed to the victim's index; 1: a HELLO, 2: a WELCOME, with any
 * body; 3: the victim sends; 4: time passes; 5: it suspects; 6: new keys; 7: an echo of its greeting.
 */
#include "fuzz.h"
#include "link_internal.h"

#define STEPS_MAX 64u
#define FORGERS 4u

static struct link *victim, *forger[FORGERS];
static link_addr addr[FORGERS];
static uint64_t now_ns;
static bool talkative;

static void deliver(void *context, const link_addr *from, uint64_t session, const void *message,
                    size_t len)
{
    static volatile uint8_t sum;
    (void)context;
    MUST(len > 0 && len <= LINK_MESSAGE_BYTES_MAX && session != 0);
    for (size_t i = 0; i < len; i++) { /* every byte is there */
        sum = (uint8_t)(sum + ((const uint8_t *)message)[i]);
    }
    if (talkative) { /* whoever is told may answer at once */
        link_send(victim, from, message, len, 5, now_ns);
        link_suspect(victim, from);
    }
}

static void receive(uint32_t who, const uint8_t *bytes, size_t len)
{
    uint8_t *exact = malloc(len);
    MUST(exact != NULL);
    memcpy(exact, bytes, len);
    link_receive(victim, &addr[who], exact, len, now_ns, deliver, NULL);
    free(exact);
}

/* The victim's greetings are answered as an honest peer would; the rest is dropped. */
static void drain(bool answer)
{
    link_addr to;
    uint8_t d[LINK_DATAGRAM_BYTES_MAX];
    size_t len;
    while (link_next(victim, &to, d, &len)) {
        uint32_t who = to.port % FORGERS;
        if (answer) {
            link_receive(forger[who], &(link_addr){.port = 99}, d, len, now_ns, deliver, NULL);
            while (link_next(forger[who], &to, d, &len)) {
                receive(who, d, len);
            }
        }
    }
    MUST(victim->queued_bytes == 0 || victim->asking.first != NULL);
}

static void sealed(struct tape *t, uint32_t who)
{
    uint8_t payload[LINK_PAYLOAD_BYTES_MAX] = {0}, out[LINK_DATAGRAM_BYTES_MAX];
    size_t len;
    const uint8_t *from = tape_bytes(t, tape_number(t, 2) % (sizeof payload + 1), &len);
    memcpy(payload, from, len);
    uint32_t stretch = tape_byte(t); /* full fragments without full inputs */
    len = stretch == 1 && len > 0 ? sizeof payload : stretch == 2 && len < 1413 ? 1413 : len;
    const struct peer *p = link_main(forger[who], &(link_addr){.port = 99});
    receive(who, out, link_seal_data(forger[who], p == NULL ? 1 : p->theirs, payload, len, out));
}

static void greeting(struct tape *t, uint32_t who, uint8_t kind)
{
    uint8_t out[LINK_DATAGRAM_BYTES_MAX];
    uint32_t index = tape_byte(t);
    uint64_t session = tape_byte(t) % 2 ? victim->session : tape_byte(t), echo = tape_byte(t);
    receive(who, out, link_seal_greeting(forger[who], kind, index, session, echo, out));
}

static void rekey(struct link *l, uint8_t order)
{
    link_keys keys = {.count = 2, .key = {{.id = 1, .bytes = {7}}, {.id = 2, .bytes = {8}}}};
    if (order % 2) {
        keys.key[0].id = 2;
        keys.key[0].bytes[0] = 8;
        keys.key[1].id = 1;
        keys.key[1].bytes[0] = 7;
    }
    link_rekey(l, &keys);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    static const uint8_t MESSAGE[5000];
    struct tape t = {in, in + len};
    char why[200];
    link_keys keys = {.count = 1, .key = {{.id = 1, .bytes = {7}}}};
    now_ns = 1;
    victim = link_new(&keys, 1, why, sizeof why);
    MUST(victim != NULL);
    for (uint32_t i = 0; i < FORGERS; i++) {
        /* Two sessions behind one address: the last two. */
        addr[i] = (link_addr){.port = (uint16_t)(4 + (i == 3 ? 2 : i))};
        forger[i] = link_new(&keys, 10 + i, why, sizeof why);
        MUST(forger[i] != NULL);
    }
    talkative = tape_byte(&t) % 2 == 1;
    for (uint32_t step = 0; step < STEPS_MAX && t.at < t.end; step++) {
        uint8_t op = tape_byte(&t);
        uint32_t who = op >> 6;
        switch (op % 8) {
        case 0: sealed(&t, who); break;
        case 1: greeting(&t, who, LINK_HELLO); break;
        case 2: greeting(&t, who, LINK_WELCOME); break;
        case 3:
            link_send(victim, &addr[who], MESSAGE, tape_number(&t, 2) % sizeof MESSAGE,
                      tape_byte(&t), now_ns);
            break;
        case 4:
            now_ns += (uint64_t)tape_byte(&t) * 20000000;
            link_tick(victim, now_ns);
            break;
        case 5: link_suspect(victim, &addr[who]); break;
        case 6:
            rekey(victim, tape_byte(&t));
            rekey(forger[who], tape_byte(&t));
            break;
        default: drain(tape_byte(&t) % 4 != 0);
        }
        MUST(victim->partials <= LINK_PARTIAL_MAX && victim->peers <= 16);
    }
    link_free(victim);
    for (uint32_t i = 0; i < FORGERS; i++) {
        link_free(forger[i]);
    }
    return 0;
}

/* The victim sends to the first forger, so that there is a session; then a payload. */
size_t fuzz_seed(unsigned number, uint8_t out[FUZZ_INPUT_BYTES_MAX])
{
    static const uint8_t FIRST[] = {0, 3, 40, 0, 0, 7, 1, 7, 1, 1, 5, 0, 0, 0, 7, 1};
    if (number >= 12) {
        return 0;
    }
    size_t n = sizeof FIRST;
    memcpy(out, FIRST, n);
    out[0] = (uint8_t)(number % 2);
    for (unsigned i = 0; i <= number / 2; i++) {
        uint8_t *payload = out + n + 3;
        size_t len;
        if (number % 4 < 2) {
            payload[0] = PART_WHOLE;
            link_put(payload + 1, 8, 2);
            memset(payload + 3, 'm', 8);
            len = 11;
        } else { /* the fragments of 2,800 bytes, the last one short */
            payload[0] = PART_FRAGMENT;
            len = i % 3 == 2 ? 21 + 16 : 21;
            link_put(payload + 1, i % 3 == 2 ? 18 + 16 : 18 + LINK_FRAGMENT_BYTES, 2);
            link_put(payload + 3, 99, 8);
            link_put(payload + 11, 1, 4);
            link_put(payload + 15, 2 * LINK_FRAGMENT_BYTES + 16, 4);
            link_put(payload + 19, i % 3, 2);
            memset(payload + 21, 'f', 16);
        }
        out[n] = 0;
        link_put(out + n + 1, len, 2);
        out[n + 3 + len] = len == 21 ? 2 : 0;
        n += 3 + len + 1;
    }
    out[n] = 4;
    out[n + 1] = 200;
    return n + 2;
}
