/* AES-256-GCM and HKDF-SHA256 (RFC 5869).
 *
 * Knows: who implements them (nettle). Must not know: datagrams, sessions, where keys come from.
 *
 * A context holds its key; a call sets only the nonce.
 */
#ifndef STATESTORE_CRYPTO_H
#define STATESTORE_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRYPTO_KEY_BYTES 32u
#define CRYPTO_NONCE_BYTES 12u
#define CRYPTO_TAG_BYTES 16u

typedef struct crypto_gcm crypto_gcm;

/* A context for one direction; NULL: no memory. */
crypto_gcm *crypto_sealer(const uint8_t key[CRYPTO_KEY_BYTES]);
crypto_gcm *crypto_opener(const uint8_t key[CRYPTO_KEY_BYTES]);
void crypto_free(crypto_gcm *g);

/* out: len bytes, then the tag. */
void crypto_seal(crypto_gcm *g, const uint8_t nonce[CRYPTO_NONCE_BYTES], const void *clear,
                 size_t clear_len, const void *in, size_t len, uint8_t *out);
/* in: len bytes, then the tag. False: not authentic, `out` is then garbage. */
bool crypto_open(crypto_gcm *g, const uint8_t nonce[CRYPTO_NONCE_BYTES], const void *clear,
                 size_t clear_len, const uint8_t *in, size_t len, void *out);

/* Expand gives one block. */
void crypto_extract(const void *salt, size_t salt_len, const uint8_t key[CRYPTO_KEY_BYTES],
                    uint8_t out[CRYPTO_KEY_BYTES]);
void crypto_expand(const uint8_t extracted[CRYPTO_KEY_BYTES], const void *info, size_t info_len,
                   uint8_t out[CRYPTO_KEY_BYTES]);

/* Overwrite what must not stay in memory. */
void crypto_wipe(void *at, size_t len);

#endif
