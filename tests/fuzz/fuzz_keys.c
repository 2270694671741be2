/* The key file's parser: takes or refuses, with one line that tells no secret.
 *
 * Knows: keys.h. Must not know: files.
 */
#include "fuzz.h"
#include "keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    link_keys keys;
    char why[200] = "";
    int result = link_keys_parse((const char *)in, len, "PATH", &keys, why, sizeof why);
    MUST(result == 0 || result == -1);
    if (result == 0) {
        MUST(keys.count >= 1 && keys.count <= LINK_KEYS_MAX && why[0] == '\0');
        for (uint32_t i = 0; i < keys.count; i++) {
            for (uint32_t k = 0; k < i; k++) {
                MUST(keys.key[i].id != keys.key[k].id);
            }
        }
    } else {
        MUST(strncmp(why, "PATH: ", 6) == 0 && strchr(why, '\n') == NULL);
        MUST(strlen(why) < sizeof why - 1 && keys.count == 0);
    }
    return 0;
}

size_t fuzz_seed(unsigned number, uint8_t out[FUZZ_INPUT_BYTES_MAX])
{
#define HEX "00112233445566778899aAbBcCdDeEfF00112233445566778899aabbccddeeff"
    static const char *const TEXTS[] = {
        "1 " HEX "\n", "# two\n1 " HEX "\n\n255\t" HEX "\r\n", "1 " HEX "\n1 " HEX "\n",
        "0 " HEX "\n1 " HEX "\n2 " HEX "\n3 " HEX "\n4 " HEX "\n", "256 " HEX "\n", "1 00\n", "#\n",
    };
    if (number >= sizeof TEXTS / sizeof TEXTS[0]) {
        return 0;
    }
    size_t n = strlen(TEXTS[number]);
    memcpy(out, TEXTS[number], n);
    return n;
}
