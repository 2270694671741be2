/* The key file's text, without the file: for keys.c itself, its tests and its fuzzer.
 *
 * Knows: lines `ID HEX64`. Must not know: where the text comes from.
 */
#ifndef STATESTORE_KEYS_H
#define STATESTORE_KEYS_H

#include "link.h"

/* As link_keys_load; `path` is only for the message. */
int link_keys_parse(const char *text, size_t len, const char *path, link_keys *out, char *why,
                    size_t why_len);

#endif
