/* A client on the host of each member: synchronous writes and reads in its segment.
 *
 * Knows: the order of client_local.c: publish, load the home, copies, load it again, look at the lease.
 * Must not know: views, the log.
 */
byte writes = WRITES_MAX, reads = READS_MAX;
byte writing[N] = 0;  /* 3: may write; 1: published; 2: home loaded again, all it names have it */
byte version[N] = 0;
byte reading[N] = 0;
byte read_version[N] = 0;
byte read_bound[N] = 0;
byte promised = 1;    /* highest version that a client was told of: it survives, and is never undone */
int used = 0;         /* versions that somebody has published: a bit each */

/* No logical version has two values, and nobody else may write. */
inline written(p)
{
    assert(!SERVES(p) || !OTHERS_WRITE(p));
    assert(cur[p] < 31 && !HAS(used, cur[p]));
    used = used | B(cur[p])
}

inline client_gone(p)
{
    writing[p] = 0; version[p] = 0; reading[p] = 0; read_version[p] = 0; read_bound[p] = 0
}

/* The writer may be stopped for any time between its look at the lease and its publication. */
#define WRITE(p) \
    d_step { writes > 0 && writing[p] == 0 && WRITES(p) && MAY_WRITE(p) -> writes--; writing[p] = 3 }
#define PUBLISH(p) \
    d_step { writing[p] == 3 && HAS(alive, p) && MASTER(p) && !HAS(away, p) && MAY_WRITE(p) -> \
        cur[p]++; writing[p] = 1; version[p] = cur[p]; \
        written(p) }
#define WRITE_FAILS(p) \
    d_step { writing[p] == 3 && (!MASTER(p) || HAS(away, p) || !MAY_WRITE(p)) -> writing[p] = 0 }
#ifdef MUTANT_ACK_BEFORE_REPLICAS
#define REPLICATED(p, v) true
#else
#define REPLICATED(p, v) ALL_COPIED(p, v)
#endif
#define COPIES_ACKED(p) \
    d_step { writing[p] == 1 && HAS(alive, p) && MASTER(p) && REPLICATED(p, version[p]) -> \
        writing[p] = 2 }
/* OK, or in doubt. */
#define WRITE_ENDS(p) \
    d_step { writing[p] == 2 -> \
        if \
        :: SERVES(p) -> promised = (promised > version[p] -> promised : version[p]) \
        :: else \
        fi; \
        writing[p] = 0; version[p] = 0 }
#define WRITE_IN_DOUBT(p) \
    d_step { writing[p] == 1 && (!SERVES(p) || !MASTER(p)) -> writing[p] = 0; version[p] = 0 }

/* A frozen item can be read: its value is constant. */
#define READ(p) \
    d_step { reads > 0 && reading[p] == 0 && SERVES(p) && MASTER(p) && has_value(p) -> \
        reads--; reading[p] = 3; read_bound[p] = promised }
#define COPY_OUT(p) \
    d_step { reading[p] == 3 && HAS(alive, p) && MASTER(p) && has_value(p) -> \
        reading[p] = 1; read_version[p] = cur[p] }
#define READ_REPLICATED(p) \
    d_step { reading[p] == 1 && HAS(alive, p) && MASTER(p) && ALL_COPIED(p, read_version[p]) -> \
        reading[p] = 2 }
#define READ_ENDS(p) \
    d_step { reading[p] == 2 -> \
        if \
        :: SERVES(p) -> \
            assert(lost || read_version[p] >= read_bound[p]); \
            promised = (promised > read_version[p] -> promised : read_version[p]) \
        :: else \
        fi; \
        reading[p] = 0; read_version[p] = 0; read_bound[p] = 0 }
#define READ_FAILS(p) \
    d_step { (reading[p] & 1) == 1 && (!SERVES(p) || !MASTER(p)) -> \
        reading[p] = 0; read_version[p] = 0; read_bound[p] = 0 }

#define CLIENT(p) \
    :: WRITE(p) \
    :: PUBLISH(p) \
    :: WRITE_FAILS(p) \
    :: COPIES_ACKED(p) \
    :: WRITE_ENDS(p) \
    :: WRITE_IN_DOUBT(p) \
    :: READ(p) \
    :: COPY_OUT(p) \
    :: READ_REPLICATED(p) \
    :: READ_ENDS(p) \
    :: READ_FAILS(p)

#define IDLE(p) (writing[p] == 0 && reading[p] == 0)
/* In the end somebody writes the item, and what was promised is there. */
#define SERVED(p) (HAS(present[epoch], p) && WRITES(p) && cur[p] >= promised)
