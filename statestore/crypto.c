/* The few functions of OpenSSL 3 that the sealed datagrams need.
 *
 * Knows: their prototypes (no header of OpenSSL is included). Must not know: what is sealed.
 */
#include "crypto.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define LIBCRYPTO "libcrypto.so.3"
#define CTRL_GET_TAG 0x10 /* EVP_CTRL_AEAD_GET_TAG */
#define CTRL_SET_TAG 0x11 /* EVP_CTRL_AEAD_SET_TAG */
#define INFO_BYTES_MAX 64u

typedef struct evp_cipher evp_cipher;
typedef struct evp_md evp_md;

static struct {
    crypto_gcm *(*ctx_new)(void);
    void (*ctx_free)(crypto_gcm *);
    int (*ctrl)(crypto_gcm *, int type, int arg, void *at);
    const evp_cipher *(*aes_256_gcm)(void);
    int (*seal_init)(crypto_gcm *, const evp_cipher *, void *engine, const uint8_t *key,
                     const uint8_t *nonce);
    int (*seal_update)(crypto_gcm *, uint8_t *out, int *out_len, const uint8_t *in, int len);
    int (*seal_final)(crypto_gcm *, uint8_t *out, int *out_len);
    int (*open_init)(crypto_gcm *, const evp_cipher *, void *engine, const uint8_t *key,
                     const uint8_t *nonce);
    int (*open_update)(crypto_gcm *, uint8_t *out, int *out_len, const uint8_t *in, int len);
    int (*open_final)(crypto_gcm *, uint8_t *out, int *out_len);
    const evp_md *(*sha256)(void);
    uint8_t *(*hmac)(const evp_md *, const void *key, int key_len, const uint8_t *in, size_t len,
                     uint8_t *out, unsigned *out_len);
} lib;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char problem[200]; /* empty: loaded */

static bool find(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    if (found == NULL) {
        snprintf(problem, sizeof problem, "%s has no %s: OpenSSL 3 is needed", LIBCRYPTO, name);
        return false;
    }
    memcpy(function, &found, sizeof found); /* ISO C knows no cast from data to functions */
    return true;
}

static void load(void)
{
    void *l = dlopen(LIBCRYPTO, RTLD_NOW | RTLD_LOCAL);
    if (l == NULL) {
        const char *error = dlerror();
        snprintf(problem, sizeof problem, "%s cannot be loaded (package libssl3): %s", LIBCRYPTO,
                 error == NULL ? "no reason given" : error);
        return;
    }
    if (find(l, "EVP_CIPHER_CTX_new", &lib.ctx_new) &&
        find(l, "EVP_CIPHER_CTX_free", &lib.ctx_free) &&
        find(l, "EVP_CIPHER_CTX_ctrl", &lib.ctrl) &&
        find(l, "EVP_aes_256_gcm", &lib.aes_256_gcm) &&
        find(l, "EVP_EncryptInit_ex", &lib.seal_init) &&
        find(l, "EVP_EncryptUpdate", &lib.seal_update) &&
        find(l, "EVP_EncryptFinal_ex", &lib.seal_final) &&
        find(l, "EVP_DecryptInit_ex", &lib.open_init) &&
        find(l, "EVP_DecryptUpdate", &lib.open_update) &&
        find(l, "EVP_DecryptFinal_ex", &lib.open_final) && find(l, "EVP_sha256", &lib.sha256) &&
        find(l, "HMAC", &lib.hmac)) {
        problem[0] = '\0';
    }
}

bool crypto_load(char *why, size_t why_len)
{
    pthread_once(&once, load);
    if (problem[0] != '\0') {
        snprintf(why, why_len, "%s", problem);
        return false;
    }
    return true;
}

crypto_gcm *crypto_sealer(const uint8_t key[CRYPTO_KEY_BYTES])
{
    crypto_gcm *g = lib.ctx_new();
    if (g != NULL && lib.seal_init(g, lib.aes_256_gcm(), NULL, key, NULL) != 1) {
        lib.ctx_free(g);
        g = NULL;
    }
    return g;
}

crypto_gcm *crypto_opener(const uint8_t key[CRYPTO_KEY_BYTES])
{
    crypto_gcm *g = lib.ctx_new();
    if (g != NULL && lib.open_init(g, lib.aes_256_gcm(), NULL, key, NULL) != 1) {
        lib.ctx_free(g);
        g = NULL;
    }
    return g;
}

void crypto_free(crypto_gcm *g)
{
    if (g != NULL) {
        lib.ctx_free(g);
    }
}

bool crypto_seal(crypto_gcm *g, const uint8_t nonce[CRYPTO_NONCE_BYTES], const void *clear,
                 size_t clear_len, const void *in, size_t len, uint8_t *out)
{
    int n = 0;
    return lib.seal_init(g, NULL, NULL, NULL, nonce) == 1 &&
           lib.seal_update(g, NULL, &n, clear, (int)clear_len) == 1 &&
           lib.seal_update(g, out, &n, in, (int)len) == 1 && (size_t)n == len &&
           lib.seal_final(g, out + len, &n) == 1 &&
           lib.ctrl(g, CTRL_GET_TAG, CRYPTO_TAG_BYTES, out + len) == 1;
}

bool crypto_open(crypto_gcm *g, const uint8_t nonce[CRYPTO_NONCE_BYTES], const void *clear,
                 size_t clear_len, const uint8_t *in, size_t len, void *out)
{
    int n = 0;
    uint8_t tag[CRYPTO_TAG_BYTES], rest[CRYPTO_TAG_BYTES];
    memcpy(tag, in + len, sizeof tag);
    return lib.open_init(g, NULL, NULL, NULL, nonce) == 1 &&
           lib.ctrl(g, CTRL_SET_TAG, CRYPTO_TAG_BYTES, tag) == 1 &&
           lib.open_update(g, NULL, &n, clear, (int)clear_len) == 1 &&
           lib.open_update(g, out, &n, in, (int)len) == 1 && (size_t)n == len &&
           lib.open_final(g, rest, &n) == 1;
}

static bool hmac(const void *key, size_t key_len, const void *in, size_t len,
                 uint8_t out[CRYPTO_KEY_BYTES])
{
    unsigned n = 0;
    return lib.hmac(lib.sha256(), key, (int)key_len, in, len, out, &n) != NULL &&
           n == CRYPTO_KEY_BYTES;
}

bool crypto_extract(const void *salt, size_t salt_len, const uint8_t key[CRYPTO_KEY_BYTES],
                    uint8_t out[CRYPTO_KEY_BYTES])
{
    return hmac(salt, salt_len, key, CRYPTO_KEY_BYTES, out);
}

bool crypto_expand(const uint8_t extracted[CRYPTO_KEY_BYTES], const void *info, size_t info_len,
                   uint8_t out[CRYPTO_KEY_BYTES])
{
    uint8_t block[INFO_BYTES_MAX + 1];
    if (info_len > INFO_BYTES_MAX) {
        return false;
    }
    memcpy(block, info, info_len);
    block[info_len] = 1; /* the number of the block */
    return hmac(extracted, CRYPTO_KEY_BYTES, block, info_len + 1, out);
}

void crypto_wipe(void *at, size_t len)
{
    explicit_bzero(at, len);
}
