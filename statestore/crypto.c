/* AES-256-GCM and HKDF-SHA256 by nettle.
 *
 * Knows: nettle's functions. Must not know: what is sealed.
 */
#include "crypto.h"

#include <nettle/gcm.h>
#include <nettle/hkdf.h>
#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 64u

struct crypto_gcm {
    _Alignas(LINE_BYTES) struct gcm_aes256_ctx of;
};

static crypto_gcm *keyed(const uint8_t key[CRYPTO_KEY_BYTES])
{
    crypto_gcm *g = aligned_alloc(LINE_BYTES, sizeof *g);
    if (g != NULL) {
        gcm_aes256_set_key(&g->of, key);
    }
    return g;
}

crypto_gcm *crypto_sealer(const uint8_t key[CRYPTO_KEY_BYTES])
{
    return keyed(key);
}

crypto_gcm *crypto_opener(const uint8_t key[CRYPTO_KEY_BYTES])
{
    return keyed(key);
}

void crypto_free(crypto_gcm *g)
{
    if (g != NULL) {
        crypto_wipe(g, sizeof *g);
        free(g);
    }
}

void crypto_seal(crypto_gcm *g, const uint8_t nonce[CRYPTO_NONCE_BYTES], const void *clear,
                 size_t clear_len, const void *in, size_t len, uint8_t *out)
{
    gcm_aes256_set_iv(&g->of, CRYPTO_NONCE_BYTES, nonce);
    gcm_aes256_update(&g->of, clear_len, clear);
    gcm_aes256_encrypt(&g->of, len, out, in);
    gcm_aes256_digest(&g->of, CRYPTO_TAG_BYTES, out + len);
}

bool crypto_open(crypto_gcm *g, const uint8_t nonce[CRYPTO_NONCE_BYTES], const void *clear,
                 size_t clear_len, const uint8_t *in, size_t len, void *out)
{
    uint8_t tag[CRYPTO_TAG_BYTES];
    gcm_aes256_set_iv(&g->of, CRYPTO_NONCE_BYTES, nonce);
    gcm_aes256_update(&g->of, clear_len, clear);
    gcm_aes256_decrypt(&g->of, len, out, in);
    gcm_aes256_digest(&g->of, CRYPTO_TAG_BYTES, tag);
    return memeql_sec(tag, in + len, CRYPTO_TAG_BYTES) != 0;
}

void crypto_extract(const void *salt, size_t salt_len, const uint8_t key[CRYPTO_KEY_BYTES],
                    uint8_t out[CRYPTO_KEY_BYTES])
{
    struct hmac_sha256_ctx h;
    hmac_sha256_set_key(&h, salt_len, salt);
    hkdf_extract(&h, (nettle_hash_update_func *)hmac_sha256_update,
                 (nettle_hash_digest_func *)hmac_sha256_digest, CRYPTO_KEY_BYTES, CRYPTO_KEY_BYTES,
                 key, out);
    crypto_wipe(&h, sizeof h);
}

void crypto_expand(const uint8_t extracted[CRYPTO_KEY_BYTES], const void *info, size_t info_len,
                   uint8_t out[CRYPTO_KEY_BYTES])
{
    struct hmac_sha256_ctx h;
    hmac_sha256_set_key(&h, CRYPTO_KEY_BYTES, extracted);
    hkdf_expand(&h, (nettle_hash_update_func *)hmac_sha256_update,
                (nettle_hash_digest_func *)hmac_sha256_digest, CRYPTO_KEY_BYTES, info_len, info,
                CRYPTO_KEY_BYTES, out);
    crypto_wipe(&h, sizeof h);
}

void crypto_wipe(void *at, size_t len)
{
    explicit_bzero(at, len);
}
