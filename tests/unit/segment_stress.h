/* What the parts of the stress program share: the crash point, opening, short forms of calls. */
#ifndef SEGMENT_STRESS_H
#define SEGMENT_STRESS_H

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "segment.h"

#define VALUE 72
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fail(__VA_ARGS__);                                                                     \
        }                                                                                          \
    } while (0)

extern int rounds;
extern _Thread_local long countdown; /* stores until signal_at_point; 0: not armed */
extern int signal_at_point;
extern int always; /* then again at the next one */
extern bool planted;  /* items are made as a cluster's server makes them: wide ones */

void seg_crash_point(const char *where);
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *format, ...);
seg *enter(void);
void fresh(void);
/* A value that shows any mixture: every byte is the same. */
void fill(uint8_t *value, size_t len, uint8_t c);
seg_status make(seg *s, const char *key, const void *value, size_t len, size_t room, const seg_grant *g);
seg_status create(seg *s, const char *key, uint8_t c, size_t len, size_t room, const seg_grant *g);
seg_status update(seg *s, const char *key, seg_op *op);
seg_status get_value(seg *s, const char *key, uint8_t *value, size_t *len, uint64_t *version);
/* Nothing contradicts; at rest: nothing is locked or left over either. */
void sound(seg *s, const char *when, bool at_rest);
void keep(seg *s);

/* segment_moves.c */
enum { FREEZE, THAW, OVERWRITE, FILL, PLANT, STRIP, RENUMBER, UPROOT, MOVES };
extern const char *const move_names[MOVES];
void move_before(seg *s, int move, const char *key);
seg_status move_perform(seg *s, int move, const char *key);
char move_state(seg *s, int move, const char *key);
char move_done(int move);
/* A local client's write, or a copy that is newer. */
void move_rival(seg *s, int move, const char *key);
seg_status move_remake(seg *s, const char *key);
seg_status uproot(seg *s, const char *key);
seg_status freeze(seg *s, const char *key, seg_facts *facts);
seg_status thaw(seg *s, const char *key);

/* segment_interrupted.c */
void interrupted_modes(const char *mode);
/* segment_concurrent.c */
bool concurrent_modes(const char *mode);
/* segment_roster.c */
seg_cluster some_cluster(void);
void same_cluster(const seg_cluster *a, const seg_cluster *b, const char *when);
void roster(void);
void roster_promises(seg *s, const char *segment_path);

/* segment_cluster.c */
bool cluster_modes(const char *mode, const char *segment_path);

#endif
