/* wire_decode: what it takes is canonical, and its strings lie inside the input.
 *
 * Knows: wire.h. Must not know: what messages are for.
 */
#include "fuzz.h"
#include "wire.h"

static bool inside(const void *at, size_t n, const uint8_t *in, size_t len)
{
    const uint8_t *p = at;
    return p >= in && p <= in + len && n <= (size_t)(in + len - p);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    static uint8_t again[WIRE_MESSAGE_BYTES_MAX];
    wire_msg m;
    if (!wire_decode(in, len, &m)) {
        return 0;
    }
    MUST((m.mask & WIRE_KEY) == 0 || inside(m.key, m.key_len, in, len));
    MUST((m.mask & WIRE_FENCE_NAME) == 0 || inside(m.fence, m.fence_len, in, len));
    MUST((m.mask & WIRE_VALUE) == 0 || inside(m.value, m.value_len, in, len));
    MUST(wire_size(&m) == len);
    MUST(wire_encode(&m, again, sizeof again) == len && memcmp(again, in, len) == 0);
    MUST(len == 0 || wire_encode(&m, again, len - 1) == 0);
    return 0;
}

size_t fuzz_seed(unsigned number, uint8_t out[FUZZ_INPUT_BYTES_MAX])
{
    static const char TEXT[] = "some/key";
    wire_msg m = {.key = TEXT, .key_len = 8, .fence = TEXT, .fence_len = 4, .value = TEXT,
                  .value_len = 5, .epoch = 3, .id = 77, .auth = 1u << 20, .item = 9};
    if (number < 64) { /* every type, with fields that differ */
        m.type = (uint8_t)number;
        m.mask = (number * 0x9e3779b1u >> 8) & WIRE_ALL;
    } else if (number < 64 + 15) { /* every field alone */
        m.type = WIRE_REPLY;
        m.mask = 1u << (number - 64);
    } else {
        return 0;
    }
    size_t n = wire_encode(&m, out, FUZZ_INPUT_BYTES_MAX);
    return n > 0 ? n : fuzz_seed(number + 15, out); /* an unknown type: any other */
}
