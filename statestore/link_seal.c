/* Sealing: keys per session, the bytes around what is sealed, the replay window.
 *
 * Knows: the layout of a datagram. Must not know: who the peers are, what a payload says.
 *
 * Everything an endpoint seals is under the key of its own session (HKDF of the cluster key), with
 * one counter as nonce over all its peers: a nonce comes twice only if a session number does.
 */
#include "link_internal.h"

#include <string.h>

static const char SALT[] = "bgf dal link 1";
static const char INFO_SEAL[8] = "session";
static const char INFO_INDEX[8] = "index";

static void derive(const struct key_slot *k, const char info[8], uint64_t session,
                   uint8_t out[CRYPTO_KEY_BYTES])
{
    uint8_t text[16];
    memcpy(text, info, 8);
    link_put(text + 8, session, 8);
    crypto_expand(k->extracted, text, sizeof text, out);
}

/* All or nothing: on failure the old keys stay. */
bool link_keys_set(struct link *l, const link_keys *keys)
{
    struct key_slot slot[LINK_KEYS_MAX] = {0};
    uint8_t secret[CRYPTO_KEY_BYTES];
    if (keys->count == 0 || keys->count > LINK_KEYS_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < keys->count; i++) {
        slot[i].id = keys->key[i].id;
        crypto_extract(SALT, sizeof SALT - 1, keys->key[i].bytes, slot[i].extracted);
    }
    derive(&slot[0], INFO_SEAL, l->session, secret);
    crypto_gcm *seal = crypto_sealer(secret);
    if (seal != NULL) {
        if (l->seal == NULL) {
            derive(&slot[0], INFO_INDEX, l->session, l->index_secret);
        }
        crypto_free(l->seal);
        l->seal = seal;
        l->keys = keys->count;
        memcpy(l->key, slot, sizeof slot);
    }
    crypto_wipe(secret, sizeof secret);
    crypto_wipe(slot, sizeof slot);
    return seal != NULL;
}

uint32_t link_key_slot(const struct link *l, uint8_t id)
{
    uint32_t i = 0;
    while (i < l->keys && l->key[i].id != id) {
        i++;
    }
    return i < l->keys ? i : LINK_KEYS_MAX;
}

crypto_gcm *link_opener(const struct link *l, uint64_t session, uint32_t slot)
{
    uint8_t secret[CRYPTO_KEY_BYTES];
    derive(&l->key[slot], INFO_SEAL, session, secret);
    crypto_gcm *g = crypto_opener(secret);
    crypto_wipe(secret, sizeof secret);
    return g;
}

static size_t seal(struct link *l, uint8_t kind, size_t header, const void *in, size_t len,
                   uint8_t *out)
{
    uint8_t nonce[CRYPTO_NONCE_BYTES] = {0};
    out[0] = LINK_VERSION;
    out[1] = l->key[0].id;
    out[2] = kind;
    out[3] = 0;
    link_put(out + header - 8, ++l->counter, 8);
    memcpy(nonce + 4, out + header - 8, 8);
    crypto_seal(l->seal, nonce, out, header, in, len, out + header);
    return header + len + CRYPTO_TAG_BYTES;
}

size_t link_seal_data(struct link *l, uint32_t index, const void *in, size_t len, uint8_t *out)
{
    link_put(out + 4, index, 4);
    return seal(l, LINK_DATA, LINK_HEADER_BYTES, in, len, out);
}

size_t link_seal_greeting(struct link *l, uint8_t kind, uint32_t index, uint64_t echo_session,
                          uint64_t echo_counter, uint8_t *out)
{
    uint8_t body[LINK_GREETING_BYTES];
    link_put(body, index, 4);
    link_put(body + 4, echo_session, 8);
    link_put(body + 12, echo_counter, 8);
    link_put(out + 4, l->session, 8);
    return seal(l, kind, LINK_GREETING_HEADER_BYTES, body, sizeof body, out);
}

bool link_unseal(crypto_gcm *g, const uint8_t *datagram, size_t header, size_t len, void *out)
{
    uint8_t nonce[CRYPTO_NONCE_BYTES] = {0};
    memcpy(nonce + 4, datagram + header - 8, 8);
    return crypto_open(g, nonce, datagram, header, datagram + header,
                       len - header - CRYPTO_TAG_BYTES, out);
}

static inline uint64_t *word_of(uint64_t *seen, uint64_t counter)
{
    return &seen[counter / 64 % WINDOW_WORDS];
}

bool window_fresh(const struct window *w, uint64_t counter)
{
    if (counter <= w->floor) {
        return false;
    }
    if (counter > w->highest) {
        return true;
    }
    return w->highest - counter < LINK_REPLAY_WINDOW &&
           (w->seen[counter / 64 % WINDOW_WORDS] >> counter % 64 & 1) == 0;
}

void window_mark(struct window *w, uint64_t counter)
{
    if (counter > w->highest) {
        uint64_t from = w->highest / 64, steps = counter / 64 - from;
        if (steps > WINDOW_WORDS) {
            steps = WINDOW_WORDS;
        }
        for (uint64_t i = 0; i < steps; i++) {
            w->seen[(counter / 64 - i) % WINDOW_WORDS] = 0;
        }
        w->highest = counter;
    }
    *word_of(w->seen, counter) |= 1ull << counter % 64;
}
