/* Runs worlds by their seeds: dal_sim [--seed N | --from N --count N] [--trace]; --help says more.
 *
 * Prints one line per failure and how to replay it, then a summary. Exit status: 0 when no rule was
 * broken, 1 when one was, 2 on bad usage.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim.h"

#define PROGRESS_EVERY 500u

typedef struct {
    uint64_t from, count;
    uint32_t without;
    bool trace, digest, progress, first, quiet, at_once;
    const char *directory;
} choice;

static int usage(const char *what)
{
    fprintf(stderr,
            "dal_sim: %s\nusage: dal_sim [--seed N | --from N --count N] [--trace] [--digest] [--progress] "
            "[--first] [--quiet] [--at-once]\n  [--directory PATH] [--without FAULT[,FAULT...]]\nfaults:",
            what);
    for (int i = 0; i < FAULTS; i++) {
        fprintf(stderr, " %s", fault_names[i]);
    }
    fprintf(stderr, "\n");
    return 2;
}

static bool parse_without(char *list, uint32_t *mask)
{
    for (char *word = strtok(list, ","); word != NULL; word = strtok(NULL, ",")) {
        int found = -1;
        for (int i = 0; i < FAULTS; i++) {
            found = strcmp(word, fault_names[i]) == 0 ? i : found;
        }
        if (found < 0) {
            return false;
        }
        *mask |= 1u << found;
    }
    return true;
}

static bool parse(int argc, char **argv, choice *c)
{
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--seed") == 0 && more) {
            c->from = strtoull(argv[++i], NULL, 10);
            c->count = 1;
        } else if (strcmp(argv[i], "--from") == 0 && more) {
            c->from = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--count") == 0 && more) {
            c->count = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--directory") == 0 && more) {
            c->directory = argv[++i]; /* for the segments; it has to be there */
        } else if (strcmp(argv[i], "--without") == 0 && more) {
            if (!parse_without(argv[++i], &c->without)) {
                return false;
            }
        } else if (strcmp(argv[i], "--trace") == 0) {
            c->trace = true;
        } else if (strcmp(argv[i], "--digest") == 0) {
            c->digest = true;
        } else if (strcmp(argv[i], "--progress") == 0) {
            c->progress = true;
        } else if (strcmp(argv[i], "--first") == 0) {
            c->first = true; /* stop at the first failure */
        } else if (strcmp(argv[i], "--at-once") == 0) {
            c->at_once = true; /* new masters do not wait for a lease */
        } else if (strcmp(argv[i], "--quiet") == 0) {
            c->quiet = true; /* without the last events before a failure */
        } else {
            return false;
        }
    }
    return true;
}

typedef struct {
    uint64_t worlds, failures, undecided, steps, operations, evictions, leaves, held_back, forsaken, told, taken, lost;
    uint64_t faults[FAULTS];
} totals;

static bool run(const choice *c, uint64_t seed, const char *directory, totals *t)
{
    world *w = calloc(1, sizeof *w);
    if (w == NULL) {
        abort();
    }
    w->directory = directory;
    w->tracing = c->trace;
    w->without = c->without;
    w->quiet = c->quiet;
    w->at_once = c->at_once;
    bool good = world_run(w, seed);
    if (!good) {
        printf("seed %llu broke a rule: %s\n  replay: dal_sim --seed %llu%s --trace\n", (unsigned long long)seed,
               w->verdict, (unsigned long long)seed, c->at_once ? " --at-once" : "");
    }
    if (c->digest) {
        printf("seed %llu digest %016llx steps %llu\n", (unsigned long long)seed, (unsigned long long)w->digest,
               (unsigned long long)w->steps);
    }
    t->worlds++;
    t->failures += !good;
    t->undecided += w->undecided;
    t->steps += w->steps;
    t->operations += w->records;
    t->evictions += w->registry.evictions;
    t->leaves += w->registry.leaves;
    t->held_back += w->registry.held_back;
    t->forsaken += w->registry.forsaken;
    t->told += w->count.told;
    t->taken += w->count.taken;
    t->lost += w->net.lost;
    for (int i = 0; i < FAULTS; i++) {
        t->faults[i] += w->fault_count[i];
    }
    fflush(stdout);
    free(w);
    return good;
}

int main(int argc, char **argv)
{
    choice c = {.from = 1, .count = 1};
    totals t = {0};
    if (!parse(argc, argv, &c)) {
        return usage("bad arguments");
    }
    char directory[] = "/dev/shm/dal-sim.XXXXXX", elsewhere[] = "/tmp/dal-sim.XXXXXX";
    const char *place = c.directory;
    if (place == NULL) {
        place = mkdtemp(directory);
        place = place == NULL ? mkdtemp(elsewhere) : place;
    }
    if (place == NULL) {
        return usage("cannot make a directory in /dev/shm or /tmp");
    }
    for (uint64_t i = 0; i < c.count; i++) {
        if (!run(&c, c.from + i, place, &t) && c.first) {
            break;
        }
        if (c.progress && (i + 1) % PROGRESS_EVERY == 0) {
            printf("%llu of %llu worlds, %llu failed\n", (unsigned long long)(i + 1), (unsigned long long)c.count,
                   (unsigned long long)t.failures);
            fflush(stdout);
        }
    }
    if (c.directory == NULL) {
        rmdir(place);
    }
    printf("%llu worlds, %llu failed, %llu undecided; %llu operations, %llu steps, %llu evictions, %llu leaves, "
           "%llu decisions held back, %llu items forsaken, %llu of %llu messages taken, %llu datagrams lost\n",
           (unsigned long long)t.worlds, (unsigned long long)t.failures, (unsigned long long)t.undecided,
           (unsigned long long)t.operations, (unsigned long long)t.steps, (unsigned long long)t.evictions,
           (unsigned long long)t.leaves, (unsigned long long)t.held_back,
           (unsigned long long)t.forsaken, (unsigned long long)t.taken,
           (unsigned long long)t.told, (unsigned long long)t.lost);
    printf("faults:");
    for (int i = 0; i < FAULTS; i++) {
        printf(" %s %llu", fault_names[i], (unsigned long long)t.faults[i]);
    }
    printf("\n");
    return t.failures > 0;
}
