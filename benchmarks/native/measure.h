/* What the native benchmark programs share: a clock, latencies, one line per figure on stdout.
 *
 * Knows: nothing of what is measured.
 */
#ifndef BENCHMARKS_MEASURE_H
#define BENCHMARKS_MEASURE_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CALLS_MAX 100000000u

static inline uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(3);
}

static inline uint32_t number(const char *text, uint32_t least, uint32_t most)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || n < least || n > most) {
        die(text, "not a number in range");
    }
    return (uint32_t)n;
}

static inline void figure(const char *name, double value)
{
    printf("%s %.3f\n", name, value);
}

static inline int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Sorts them. */
static inline void latencies(const char *name, uint32_t *ns, uint32_t count)
{
    char line[64];
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += ns[i];
    }
    qsort(ns, count, sizeof *ns, by_size);
    snprintf(line, sizeof line, "%s_p50", name);
    figure(line, ns[count / 2]);
    snprintf(line, sizeof line, "%s_p99", name);
    figure(line, ns[(uint64_t)count * 99 / 100]);
    snprintf(line, sizeof line, "%s_mean", name);
    figure(line, sum / count);
}

static inline uint32_t *latency_array(uint32_t count)
{
    uint32_t *ns = malloc((size_t)count * sizeof *ns);
    if (ns == NULL) {
        die("latencies", "no memory");
    }
    return ns;
}

#endif
