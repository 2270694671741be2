/* The segment's layout and the words it is made of. Included by the segment's own files only.
 *
 * Control word of an item:  version 42 | length 17 | AWAY | FENCE | TTL | LIVE | active cell.
 * Monotonic over the slot's life, through deletion and reuse, so a stale compare-and-swap fails.
 *
 * An item is narrow: six words, then its key; or WIDE, as all of a cluster's and fences are: then two
 * words come before the key, its home and `acked`, or the epoch of a fence with its top bit turned
 * over, so that a late seg_ack never takes a fence for the item that was there before. The form
 * (WIDE, KEYED, key length) stands in `next`. Whoever makes an item writes key and form before it
 * has an auth, when nobody else touches it while he lives; from then on neither changes.
 *
 * An item slot is free while it has neither auth nor lock: whoever locks it then has claimed it.
 *
 * Home word:  learners 16 | replicas 16 | want 4 | hint 4 | master 8 | 0 8.
 *
 * A cell:  bias word, of a WIDE item | deadline, under a control word with TTL | value.
 *
 * Bias word:  ABSOLUTE 1 | 63. Without ABSOLUTE the logical version is the control version plus
 * this; with it, this itself. A narrow item's is the control version. Whoever takes an item over,
 * or raises a fence, bumps its control version: on a copy, which must claim exactly the version of
 * the value it has, that may not show. So what is AWAY is absolute, and a local write makes it
 * relative again.
 *
 * A stub is AWAY and has no active cell.
 *
 * Lock word:  victim 32 | holder 32 (client ids). A victim is a client that was robbed while it
 * lived: it may still write into the item's blocks, so these are replaced before anything else.
 *
 * Reference word:  tag 31 | 0 | offset/8 32. The tag changes with every store.
 * `next`:  tag 21 | WIDE | KEYED | key length 8 | MARK | offset/8 32. MARK says that the item is on
 * its way out of its chain.
 *
 * Cell label:  item 32 | client 32, 0 = free. A labelled block that its item does not reference
 * belongs to the labelled client; once that client is dead it is garbage. That one rule covers a
 * claim, a crash and a quarantine.
 */
#ifndef STATESTORE_SEG_INTERNAL_H
#define STATESTORE_SEG_INTERNAL_H

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "segment.h"

#ifdef SEGMENT_CRASH_POINTS
void seg_crash_point(const char *where);
#define POINT(where) seg_crash_point(where)
#else
#define POINT(where) ((void)0)
#endif

typedef _Atomic uint64_t word;

#define MAGIC 0x314c41444653474full
#define HEADER_BYTES 4096u
#define SLAB_SHIFT 18u
#define SLAB_BYTES (1u << SLAB_SHIFT)
#define CHAIN_STEPS_MAX 100000u
#define CELL_HEADER_BYTES_MAX 16u /* bias, deadline */
#define MEMBER_WORDS 12u     /* slot and port, address 2, incarnation, node 8 */
#define CLIENT_SAMPLES 16u   /* kept per client until the server takes them */

/* Who is in the view: written by the server, under `seq` (odd while it writes). */
struct roster {
    word seq;
    word check; /* of the words below and seq: two writers' mixture is never believed */
    word who;   /* present 16 | leader 8 | self 8 */
    word epoch;
    word member[SEG_SLOTS_MAX][MEMBER_WORDS];
};

struct header {
    uint64_t magic;
    uint32_t layout;
    uint32_t header_bytes;
    uint64_t total;
    uint64_t seed[2];
    uint64_t check; /* of everything above */
    word generation; /* 0 while all items are being deleted */
    word standing;   /* CLUSTERED, SERVING: asked by every access, beside the seed */
    _Alignas(64) struct roster roster;
    word lease_ns;
    word bequest; /* see seg_bequest.c */
    _Alignas(64) word applied;
    _Alignas(64) word feed_tail;
    _Alignas(64) word slab_top; /* slabs that were ever assigned */
    word sweeps_wanted;
    word sweeps_done;
    word robberies;
};
#define CLUSTERED 1u
#define SERVING 2u

enum counter {
    N_WRITES,
    N_CREATES,
    N_DELETES,
    N_RETRIES,
    N_AUTH_MISSES,
    N_TAKEOVERS,
    N_STEALS,
    N_FENCED,
    N_COUNTERS
};

/* One per open segment. Its OS lock is the byte at this struct's offset in the file. */
struct client {
    _Alignas(64) word id; /* slot 8 | generation 24 */
    word active;          /* 1 from open to an orderly close */
    word op;              /* odd while an operation is in flight; different every time */
    word item;            /* the item it works on */
    word fence;           /* its grant */
    word epoch;
    word sampled; /* samples ever taken */
    word spare;
    _Alignas(64) word counters[N_COUNTERS];
    _Atomic uint32_t sample[CLIENT_SAMPLES];
};

struct slab {
    _Atomic uint32_t kind; /* class + 1; 0 = not assigned yet. Never changes back. */
    _Atomic uint32_t used; /* hints, repaired by the sweep */
    _Atomic uint32_t hint;
    _Atomic uint32_t spare;
};

/* What every access reads comes first. */
struct item {
    word control;
    word auth; /* which incarnation; 0 = none */
    word cell[2];
    word next;
    word lock;
    word rest[]; /* WIDE: HOME, ACKED; then the key */
};
enum { HOME, ACKED, WIDE_WORDS };

#define FEED_KEY_WORDS (SEG_KEY_BYTES_MAX / 8)
struct entry {
    word seq;   /* position + 1 once complete */
    word check; /* of seq, key length and the key's hash */
    word key_len;
    word key[FEED_KEY_WORDS];
};

_Static_assert(sizeof(struct header) <= HEADER_BYTES, "the header is one page");
_Static_assert(offsetof(struct header, standing) / 64 == offsetof(struct header, seed) / 64,
               "what every access reads is one line");
_Static_assert(sizeof(struct client) == 192, "layout");
_Static_assert(sizeof(struct slab) == 16, "layout");
_Static_assert(sizeof(struct item) == 48, "layout");
_Static_assert(sizeof(struct entry) == 256, "layout");

#define ITEM_CLASSES 7u /* the first of them */
#define CLASSES 34u
extern const uint32_t class_bytes[CLASSES];
static inline bool is_item(uint32_t kind) { return kind < ITEM_CLASSES; }

struct geometry {
    uint32_t bytes, count, first; /* of a block; blocks per slab; offset of the first in its slab */
    uint32_t inverse;             /* 2^32 / bytes, rounded up */
    uint32_t span;                /* the last one begins below this, from the first on */
};

struct places {
    uint64_t clients, index, feed, slabs, heap;
    uint64_t buckets, entries, slab_count;
};

struct seg {
    uint8_t *base;
    uint64_t total;
    struct places at;
    struct header *header;
    struct client *clients;
    struct client *client; /* ours */
    word *index;
    struct entry *feed;
    struct slab *slabs;
    uint32_t me; /* our client id; 0 when readonly */
    uint32_t auths;
    uint64_t ops;
    uint64_t robberies; /* as they stood when we opened */
    int fd;
    bool readonly;
    bool owns_mapping;
    uint64_t expire_cursor;
    uint64_t damaged; /* seg_damaged */
    uint32_t until_sample; /* accesses to go */
    uint32_t dice;
    uint64_t *samples_seen; /* per client; made when first asked for */
    uint32_t samples_from;
    uint64_t *alive_page; /* wiped by fork */
    uint32_t current[CLASSES]; /* the slab we last allocated from, + 1 */
    struct geometry geometry[CLASSES];
    struct client scratch; /* a readonly client's counters */
};

/* ---- words ---- */
static inline uint64_t get(const word *p) { return atomic_load_explicit(p, memory_order_acquire); }
static inline uint64_t peek(const word *p) { return atomic_load_explicit(p, memory_order_relaxed); }
static inline void put(word *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_release); }
static inline void poke(word *p, uint64_t v) { atomic_store_explicit(p, v, memory_order_relaxed); }
static inline bool cas(word *p, uint64_t old, uint64_t new)
{
    return atomic_compare_exchange_strong_explicit(p, &old, new, memory_order_acq_rel,
                                                   memory_order_acquire);
}

#define ACTIVE 1ull
#define LIVE 2ull
#define TTL 4ull
#define FENCE 8ull
#define AWAY 16ull
#define LENGTH_SHIFT 5
#define VERSION_SHIFT 22
static inline uint64_t length_of(uint64_t control) { return (control >> LENGTH_SHIFT) & 0x1ffff; }
static inline uint64_t version_of(uint64_t control) { return control >> VERSION_SHIFT; }
static inline uint64_t bumped(uint64_t control) { return control + (1ull << VERSION_SHIFT); }
/* The next control word: one version on, everything else given. */
static inline uint64_t next_control(uint64_t control, uint64_t length, uint64_t flags)
{
    return ((version_of(control) + 1) << VERSION_SHIFT) | (length << LENGTH_SHIFT) | flags;
}

#define ABSOLUTE (1ull << 63)
/* What everybody outside calls the version of the value in a cell with that bias word. */
static inline uint64_t logical_of(uint64_t control, uint64_t bias)
{
    return ((bias & ABSOLUTE) != 0 ? bias : version_of(control) + bias) & ~ABSOLUTE;
}
/* The bias of the next local write: it makes the logical version one more. */
static inline uint64_t relative(uint64_t control, uint64_t bias)
{
    return ((bias & ABSOLUTE) != 0 ? bias - version_of(control) : bias) & ~ABSOLUTE;
}

static inline uint64_t home_word(const seg_home *home)
{
    return (uint64_t)home->learners << 40 | (uint64_t)home->replicas << 24 |
           (uint64_t)(home->want & 15) << 20 | (uint64_t)(home->hint & 15) << 16 |
           (uint64_t)home->master << 8;
}
static inline seg_home home_of(uint64_t w)
{
    return (seg_home){.learners = (uint16_t)(w >> 40),
                      .replicas = (uint16_t)(w >> 24),
                      .want = (w >> 20) & 15,
                      .hint = (w >> 16) & 15,
                      .master = (uint8_t)(w >> 8)};
}

#define MARK (1ull << 32)
#define TAG_SHIFT 33
static inline uint32_t ref_of(uint64_t w) { return (uint32_t)w; }
static inline uint64_t ref_word(uint64_t old, uint32_t ref)
{
    return (((old >> TAG_SHIFT) + 1) << TAG_SHIFT) | ref;
}

#define KEY_LENGTH_SHIFT 33
#define KEYED (1ull << 41)
#define WIDE (1ull << 42)
#define FORM_MASK (WIDE | KEYED | 0xffull << KEY_LENGTH_SHIFT)
#define NEXT_TAG_SHIFT 43
/* The next `next` word, with that form, without MARK. */
static inline uint64_t next_word(uint64_t old, uint64_t form, uint32_t ref)
{
    return (((old >> NEXT_TAG_SHIFT) + 1) << NEXT_TAG_SHIFT) | (form & FORM_MASK) | ref;
}
static inline size_t key_length(uint64_t form) { return (form >> KEY_LENGTH_SHIFT) & 0xff; }
static inline size_t wide_words(uint64_t form) { return (form & WIDE) != 0 ? WIDE_WORDS : 0; }

static inline uint32_t holder_of(uint64_t lock) { return (uint32_t)lock; }
static inline uint32_t victim_of(uint64_t lock) { return (uint32_t)(lock >> 32); }
static inline uint64_t lock_word(uint32_t holder, uint32_t victim)
{
    return (uint64_t)victim << 32 | holder;
}
static inline uint64_t label_word(uint32_t item, uint32_t client)
{
    return (uint64_t)item << 32 | client;
}

#define REF_SHIFT 3
static inline uint64_t offset_of(uint32_t ref) { return (uint64_t)ref << REF_SHIFT; }
static inline void *at_ref(const seg *s, uint32_t ref) { return s->base + offset_of(ref); }
static inline uint32_t ref_to(const seg *s, const void *p)
{
    return (uint32_t)((uint64_t)((const uint8_t *)p - s->base) >> REF_SHIFT);
}
static inline void count(seg *s, enum counter which)
{
    poke(&s->client->counters[which], peek(&s->client->counters[which]) + 1);
}
static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* May this client access anything? Asked first by each access to an item. */
static inline bool seg_idle(const seg *s) { return peek(&s->header->standing) == CLUSTERED; }

/* Segment memory is copied by relaxed 8-byte words, so that a concurrent writer is a stale or a
 * mixed copy and not undefined behaviour. */
static inline void copy_out(void *to, const word *from, size_t len)
{
    uint8_t *out = to;
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t v = peek(from + i / 8);
        memcpy(out + i, &v, 8);
    }
    if (i < len) {
        uint64_t v = peek(from + i / 8);
        memcpy(out + i, &v, len - i);
    }
}
/* Writes len bytes at byte offset `at`, keeping the other bytes of the first and last word. */
static inline void copy_in(word *to, size_t at, const void *from, size_t len)
{
    const uint8_t *in = from;
    word *p = to + at / 8;
    size_t skew = at % 8;
    while (len > 0) {
        size_t n = 8 - skew < len ? 8 - skew : len;
        uint64_t v = n == 8 ? 0 : peek(p);
        memcpy((uint8_t *)&v + skew, in, n);
        poke(p, v);
        POINT("copy");
        in += n;
        len -= n;
        skew = 0;
        p++;
    }
}

/* ---- segment.c ---- */
uint64_t seg_now_ns(void);
bool seg_client_alive(const seg *s, uint32_t id);
bool seg_slot_lock(const seg *s, uint32_t slot);
void seg_slot_unlock(const seg *s, uint32_t slot);
void seg_pause(uint32_t round);

/* ---- seg_alloc.c ---- */
struct place {
    struct slab *slab;
    word *label; /* NULL: an item */
    uint32_t kind; /* class */
    uint32_t index;
};
void seg_geometry(struct geometry *g);
/* Where a block is; false when `ref` is no block. */
bool seg_place(const seg *s, uint32_t ref, struct place *out);
/* The item at `ref`; NULL when there can be none. What a reference that was never one leads to has no auth that
 * anybody was given. */
struct item *seg_item(const seg *s, uint32_t ref);
/* A free cell of at least `bytes`, labelled. 0 when there is none. */
uint32_t seg_claim(seg *s, size_t bytes, uint32_t item);
/* A free item of at least `bytes`, locked, without a key. */
uint32_t seg_claim_item(seg *s, size_t bytes);
/* Free a cell whose label is exactly `label`. */
bool seg_release(const seg *s, uint32_t ref, uint64_t label);
/* Count an item that we hold, and that has no auth any more, as free. */
void seg_release_item(const seg *s, const struct item *it);
static inline bool seg_item_free(const struct item *it) { return get(&it->auth) == 0 && get(&it->lock) == 0; }
static inline word *seg_label_at(const seg *s, uint32_t slab, uint32_t index)
{
    return (word *)(s->base + s->at.heap + ((uint64_t)slab << SLAB_SHIFT)) + index;
}
static inline uint32_t seg_block_ref(const seg *s, uint32_t slab, uint32_t kind, uint32_t index)
{
    const struct geometry *g = &s->geometry[kind];
    uint64_t at = s->at.heap + ((uint64_t)slab << SLAB_SHIFT) + g->first;
    return (uint32_t)((at + (uint64_t)index * g->bytes) >> REF_SHIFT);
}

/* ---- seg_bequest.c ---- */
/* What the word `bequest` makes of the home of the item of that auth. */
seg_legacy seg_inherited(uint64_t bequest, uint64_t auth, seg_home *home);

/* ---- seg_index.c ---- */
enum found { ABSENT, PRESENT, UNSETTLED, BROKEN };
uint64_t seg_hash(const seg *s, const void *key, size_t len);
uint64_t seg_mix(const seg *s, uint64_t a, uint64_t b, uint64_t c);
/* The key of an item: false when it has none (yet) or it makes no sense. */
bool seg_item_key(const seg *s, const struct item *it, void *key, size_t *len);
/* As a writer: unlinks what is marked on the way. *head is the bucket as it was at the start. */
enum found seg_chain_find(seg *s, uint64_t hash, const void *key, size_t len, uint64_t *head,
                          seg_handle *h);
bool seg_chain_push(seg *s, uint64_t hash, uint64_t head, uint32_t item);
/* Take every marked item out of a chain, and let readers know; true when they are surely out. */
bool seg_chain_clean(seg *s, uint64_t hash);

/* ---- seg_lock.c ---- */
/* Lock the incarnation `auth` of an item and leave it whole: SEG_OK, SEG_NOT_FOUND when it is not
 * there any more, SEG_FULL when a robbed item could not be moved. */
seg_status seg_lock(seg *s, struct item *it, uint64_t auth);
void seg_unlock(seg *s, struct item *it);
/* Take over whatever a dead client left in this item; false when there was nothing to do. */
bool seg_settle(seg *s, struct item *it);
/* Take a live item from a holder that does not go on, make it whole and let it go. */
void seg_rob(seg *s, struct item *it, uint32_t holder);
/* Free a dead item, which we hold, and let it go. */
void seg_reap(seg *s, struct item *it);
/* Exchange the reference in `where` (an item's, which we hold) for `new`; the old block is freed.
 * False when we do not hold the item any more: then `new` was not stored. */
bool seg_replace(seg *s, struct item *it, word *where, uint32_t new);
/* Do we still hold it? */
static inline bool seg_held(const seg *s, const struct item *it)
{
    return holder_of(get(&it->lock)) == s->me;
}
/* Free a block we wrote to when we were robbed, now that we know. */
void seg_reclaim(seg *s, const struct item *it, uint32_t ref);
/* One version on: every publish that was prepared before fails. */
uint64_t seg_bump(struct item *it);


/* ---- seg_feed.c ---- */
void seg_feed_push(seg *s, const void *key, size_t len, uint64_t hash);

/* ---- seg_item.c ---- */
/* A cell of at least `bytes`, its header and its value, at `cell[which]`; 0 with *status set otherwise. */
uint32_t seg_prepare_cell(seg *s, struct item *it, uint64_t which, size_t bytes,
                          seg_status *status);
/* One access out of SEG_SAMPLE is remembered. */
void seg_sample(seg *s, uint32_t item);
static inline void seg_accessed(seg *s, uint32_t item)
{
    if (--s->until_sample == 0) {
        seg_sample(s, item);
    }
}
/* Of an item of that form whose control word has these flags. */
static inline size_t seg_head_words(uint64_t form, uint64_t flags)
{
    return ((form & WIDE) != 0) + ((flags & TTL) != 0);
}
static inline size_t seg_cell_bytes(uint64_t form, uint64_t flags, size_t len)
{
    return seg_head_words(form, flags) * 8 + len;
}
static inline uint64_t seg_ttl(uint64_t deadline_ns) { return deadline_ns != 0 ? TTL : 0; }
/* To be published under a control word with seg_ttl of that deadline. */
static inline void seg_fill_cell(seg *s, uint32_t ref, uint64_t form, uint64_t deadline_ns,
                                 uint64_t bias, const void *data, size_t len)
{
    word *at = at_ref(s, ref);
    if ((form & WIDE) != 0) {
        poke(at++, bias);
        POINT("bias");
    }
    if (deadline_ns != 0) {
        poke(at++, deadline_ns);
        POINT("deadline");
    }
    copy_in(at, 0, data, len);
}
struct cell {
    word *bias;     /* NULL: none, a narrow item's */
    word *deadline; /* NULL: none */
    word *value;
};
/* The cell that counts under this control word; false: none (a stub), or it makes no sense. */
static inline bool seg_cell(const seg *s, const struct item *it, uint64_t control, struct cell *out)
{
    uint64_t form = peek(&it->next);
    uint64_t at = offset_of(ref_of(peek(&it->cell[control & ACTIVE])));
    uint64_t bytes = seg_cell_bytes(form, control, length_of(control));
    word *w = (word *)(s->base + at);
    if (at < s->at.heap || at + ((bytes + 7) & ~7ull) > s->total) {
        return false;
    }
    out->bias = (form & WIDE) != 0 ? w++ : NULL;
    out->deadline = (control & TTL) != 0 ? w++ : NULL;
    out->value = w;
    return true;
}
/* What its version is called outside. */
static inline uint64_t seg_version(uint64_t control, const struct cell *c)
{
    return c->bias == NULL ? version_of(control) : logical_of(control, peek(c->bias));
}
static inline uint64_t seg_deadline(const struct cell *c)
{
    return c->deadline == NULL ? 0 : peek(c->deadline);
}
static inline bool seg_is_stub(const struct item *it, uint64_t control)
{
    return (control & AWAY) != 0 && ref_of(peek(&it->cell[control & ACTIVE])) == 0;
}

/* ---- seg_make.c ---- */
/* `copy` NULL: a local item, or a fence. */
seg_status seg_make(seg *s, const void *key, size_t len, seg_new *n, uint64_t flags,
                    const seg_copy *copy, seg_handle *out);
/* Announce an operation and take it back: a raised fence finds the writes in flight. */
static inline void seg_begin(seg *s, uint32_t item, const seg_grant *g)
{
    struct client *c = s->client;
    poke(&c->item, item);
    poke(&c->fence, g == NULL ? 0 : g->fence);
    poke(&c->epoch, g == NULL ? 0 : g->epoch);
    s->ops += 2;
    put(&c->op, s->ops - 1);
    POINT("announced");
}
static inline seg_status seg_done(seg *s, seg_status status)
{
    put(&s->client->op, s->ops);
    POINT("withdrawn");
    return status;
}

/* ---- seg_fence.c ---- */
#define FENCE_EPOCH_FLIP (1ull << 63)
bool seg_stale(seg *s, const seg_grant *g, uint64_t *seen);
/* Is the grant older than its fence? To be asked after the control word was loaded. */
static inline bool seg_fenced(seg *s, const seg_grant *g, uint64_t *seen)
{
    return g != NULL && g->fence != 0 && seg_stale(s, g, seen);
}

/* ---- seg_keep.c ---- */
/* The next live item (kind 0) or fence (kind FENCE) from *cursor on; NULL at the end. */
struct item *seg_next_item(const seg *s, uint64_t kind_of_item, uint64_t *cursor, uint32_t *ref);
/* As seg_next_item: one that has a time to live and may be written here. */
struct item *seg_next_mortal(const seg *s, uint64_t *cursor, uint32_t *ref);

#endif
