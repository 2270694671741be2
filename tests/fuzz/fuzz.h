/* What a fuzz target gives: one function that takes bytes, one that makes its first inputs.
 *
 * Knows: libFuzzer's entry point. Must not know: what is fuzzed.
 *
 * A target links with libFuzzer (scripts/fuzz.sh), or with fuzz_main.c, which writes the first inputs
 * to a directory, or runs files.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_INPUT_BYTES_MAX 8192u

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);
/* First input of that number; 0: there are no more. */
size_t fuzz_seed(unsigned number, uint8_t out[FUZZ_INPUT_BYTES_MAX]);

/* What must hold: a crash that the fuzzer sees. */
#define MUST(condition)      \
    do {                     \
        if (!(condition)) {  \
            abort();         \
        }                    \
    } while (0)

/* The input as a program: taken from its front, zero when it is used up. */
struct tape {
    const uint8_t *at, *end;
};

static inline uint8_t tape_byte(struct tape *t)
{
    return t->at < t->end ? *t->at++ : 0;
}

static inline uint32_t tape_number(struct tape *t, unsigned bytes)
{
    uint32_t x = 0;
    for (unsigned i = 0; i < bytes; i++) {
        x |= (uint32_t)tape_byte(t) << 8 * i;
    }
    return x;
}

/* At most `want` bytes, in place. */
static inline const uint8_t *tape_bytes(struct tape *t, size_t want, size_t *len)
{
    const uint8_t *from = t->at;
    size_t left = (size_t)(t->end - t->at);
    *len = want < left ? want : left;
    t->at += *len;
    return from;
}

#endif
