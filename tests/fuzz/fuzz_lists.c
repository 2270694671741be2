/* The readers of packed lists: they stay inside, go on or stop, and take what the writers give.
 *
 * Knows: wire.h. Must not know: what the lists are for.
 *
 * Input: which list 1 | the list.
 */
#include "fuzz.h"
#include "wire.h"

static bool take_and_put(uint8_t list, wire_reader *r, uint8_t *out, size_t cap, size_t *n)
{
    const void *key;
    size_t len;
    bool deleted;
    uint64_t auth, version;
    seg_home home;
    seg_member member;
    switch (list % 5) {
    case 0:
        if (!wire_take_key(r, &key, &len)) {
            return false;
        }
        *n = wire_put_key(out, cap, key, len);
        return true;
    case 1:
        if (!wire_take_change(r, &deleted, &key, &len)) {
            return false;
        }
        *n = wire_put_change(out, cap, deleted, key, len);
        return true;
    case 2:
        if (!wire_take_entry(r, &auth, &home, &key, &len)) {
            return false;
        }
        *n = wire_put_entry(out, cap, auth, &home, key, len);
        return true;
    case 3:
        if (!wire_take_numbered(r, &auth, &version, &key, &len)) {
            return false;
        }
        *n = wire_put_numbered(out, cap, auth, version, key, len);
        return true;
    default:
        if (!wire_take_member(r, &member)) {
            return false;
        }
        *n = wire_put_member(out, cap, &member);
        return true;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    if (len == 0) {
        return 0;
    }
    wire_reader r = {in + 1, in + len};
    for (;;) {
        uint8_t out[512];
        size_t n = 0;
        const uint8_t *was = r.at;
        if (!take_and_put(in[0], &r, out, sizeof out, &n)) {
            MUST(r.at == was);
            return 0;
        }
        MUST(r.at > was && r.at <= in + len);
        MUST(n == (size_t)(r.at - was) && memcmp(out, was, n) == 0);
    }
}

size_t fuzz_seed(unsigned number, uint8_t out[FUZZ_INPUT_BYTES_MAX])
{
    seg_home home = {.replicas = 6, .learners = 8, .master = 3, .want = 2, .hint = SEG_HINT_PIN};
    seg_member member = {.slot = 4, .port = 7000, .incarnation = 99, .node = "node-a"};
    size_t n = 1;
    if (number >= 8) {
        return 0;
    }
    out[0] = (uint8_t)(number % 4);
    for (unsigned i = 0; i <= number; i++) {
        uint8_t *at = out + n;
        size_t cap = FUZZ_INPUT_BYTES_MAX - n;
        n += number % 4 == 0   ? wire_put_key(at, cap, "flow/12345", 3 + i)
             : number % 4 == 1 ? wire_put_change(at, cap, i % 2 == 0, "flow/12345", 3 + i)
             : number % 4 == 2 ? wire_put_entry(at, cap, i + 1, &home, "flow/12345", 3 + i)
                               : wire_put_member(at, cap, &member);
    }
    return n;
}
