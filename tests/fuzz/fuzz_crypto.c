/* crypto.h without cryptography: fast, and open to the fuzzer. For the targets that seal themselves.
 *
 * Knows: crypto.h. Must not know: datagrams. Never part of the product.
 */
#include "crypto.h"
#include "fuzz.h"

struct crypto_gcm {
    uint64_t key;
};

static uint64_t hash(uint64_t h, const void *at, size_t len)
{
    const uint8_t *p = at;
    for (size_t i = 0; i < len; i++) {
        h = (h ^ p[i]) * 0x100000001b3ull;
    }
    return h;
}

crypto_gcm *crypto_sealer(const uint8_t key[CRYPTO_KEY_BYTES])
{
    crypto_gcm *g = malloc(sizeof *g);
    MUST(g != NULL);
    g->key = hash(1, key, CRYPTO_KEY_BYTES);
    return g;
}

crypto_gcm *crypto_opener(const uint8_t key[CRYPTO_KEY_BYTES])
{
    return crypto_sealer(key);
}

void crypto_free(crypto_gcm *g)
{
    free(g);
}

/* Of the clear part alone: what is sealed is copied as it is. */
static void tag_of(const crypto_gcm *g, const uint8_t *nonce, const void *clear, size_t clear_len,
                   uint8_t tag[CRYPTO_TAG_BYTES])
{
    uint64_t h = hash(hash(g->key, nonce, CRYPTO_NONCE_BYTES), clear, clear_len);
    memset(tag, 0, CRYPTO_TAG_BYTES);
    memcpy(tag, &h, sizeof h);
}

void crypto_seal(crypto_gcm *g, const uint8_t nonce[CRYPTO_NONCE_BYTES], const void *clear,
                 size_t clear_len, const void *in, size_t len, uint8_t *out)
{
    memcpy(out, in, len);
    tag_of(g, nonce, clear, clear_len, out + len);
}

bool crypto_open(crypto_gcm *g, const uint8_t nonce[CRYPTO_NONCE_BYTES], const void *clear,
                 size_t clear_len, const uint8_t *in, size_t len, void *out)
{
    uint8_t tag[CRYPTO_TAG_BYTES];
    tag_of(g, nonce, clear, clear_len, tag);
    if (memcmp(tag, in + len, sizeof tag) != 0) {
        return false;
    }
    memcpy(out, in, len);
    return true;
}

void crypto_extract(const void *salt, size_t salt_len, const uint8_t key[CRYPTO_KEY_BYTES],
                    uint8_t out[CRYPTO_KEY_BYTES])
{
    (void)salt, (void)salt_len;
    memcpy(out, key, CRYPTO_KEY_BYTES);
}

void crypto_expand(const uint8_t extracted[CRYPTO_KEY_BYTES], const void *info, size_t info_len,
                   uint8_t out[CRYPTO_KEY_BYTES])
{
    uint64_t h = hash(hash(2, extracted, CRYPTO_KEY_BYTES), info, info_len);
    for (unsigned i = 0; i < CRYPTO_KEY_BYTES / 8; i++) {
        h = (h ^ h >> 31) * 0x9e3779b97f4a7c15ull;
        memcpy(out + 8 * i, &h, 8);
    }
}

void crypto_wipe(void *at, size_t len)
{
    memset(at, 0, len);
}
