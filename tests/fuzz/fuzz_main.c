/* Runs a fuzz target without libFuzzer.
 *
 * Knows: files. Must not know: what is fuzzed.
 *
 * PROGRAM FILE... runs each file; PROGRAM --seeds DIRECTORY writes the target's first inputs there.
 */
#include <stdio.h>

#include "fuzz.h"

static int write_seeds(const char *directory)
{
    static uint8_t bytes[FUZZ_INPUT_BYTES_MAX];
    size_t len;
    for (unsigned i = 0; (len = fuzz_seed(i, bytes)) > 0; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/seed-%03u", directory, i);
        FILE *f = fopen(path, "wb");
        if (f == NULL || fwrite(bytes, 1, len, f) != len || fclose(f) != 0) {
            perror(path);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    static uint8_t bytes[1u << 20];
    if (argc == 3 && strcmp(argv[1], "--seeds") == 0) {
        return write_seeds(argv[2]);
    }
    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");
        if (f == NULL) {
            perror(argv[i]);
            return 1;
        }
        size_t len = fread(bytes, 1, sizeof bytes, f);
        fclose(f);
        uint8_t *exact = malloc(len == 0 ? 1 : len); /* the sanitizer sees every byte too far */
        MUST(exact != NULL);
        memcpy(exact, bytes, len);
        LLVMFuzzerTestOneInput(exact, len);
        free(exact);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
