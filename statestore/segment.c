/* A segment's file, mapping and clients: format, open, close, who is alive, waiting.
 *
 * Knows: the header, the client slots and their OS locks. Must not know: items, keys, values.
 *
 * A client is alive while somebody holds the OS lock of its slot (one byte of the segment file,
 * by open file description): the kernel drops it with the process. A pid would recur.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "seg_internal.h"

#define SPINS_MAX 200u
#define YIELDS_MAX 210u
#define NAP_NS 50000L
#define GENERATION_MASK 0xffffffu

__attribute__((format(printf, 3, 4))) static void say(char *why, size_t len, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, len, format, args);
    va_end(args);
}

uint64_t seg_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Wait a little, longer with every round: first in place, then yielding, then asleep. */
void seg_pause(uint32_t round)
{
    if (round < SPINS_MAX) {
        relax();
    } else if (round < YIELDS_MAX) {
        sched_yield();
    } else {
        struct timespec nap = {0, NAP_NS};
        nanosleep(&nap, NULL);
    }
}

static uint64_t power_of_two(uint64_t at_least)
{
    uint64_t n = 1;
    while (n < at_least) {
        n <<= 1;
    }
    return n;
}

/* Everything's place follows from the size alone, so a header cannot lie about it. */
static void lay_out(uint64_t total, struct places *p)
{
#ifdef SEGMENT_CRASH_POINTS
    p->buckets = 4; /* tests want long chains */
#else
    p->buckets = power_of_two(total / 512);
#endif
    p->entries = power_of_two(total / 4096);
    if (p->entries > 65536) {
        p->entries = 65536;
    }
    p->clients = HEADER_BYTES;
    p->index = p->clients + SEG_CLIENTS_MAX * sizeof(struct client);
    p->feed = p->index + p->buckets * sizeof(word);
    p->slabs = p->feed + p->entries * sizeof(struct entry);
    uint64_t room = total - p->slabs;
    p->slab_count = room / (SLAB_BYTES + sizeof(struct slab));
    p->heap = (p->slabs + p->slab_count * sizeof(struct slab) + HEADER_BYTES - 1) &
              ~(uint64_t)(HEADER_BYTES - 1);
    while (p->heap + p->slab_count * SLAB_BYTES > total) {
        p->slab_count--;
    }
}

static uint64_t header_check(const struct header *h)
{
    const uint8_t *bytes = (const uint8_t *)h;
    uint64_t sum = 0xcbf29ce484222325ull; /* FNV-1a, 64 bits */
    for (size_t i = 0; i < offsetof(struct header, check); i++) {
        sum = (sum ^ bytes[i]) * 0x100000001b3ull;
    }
    return sum;
}

static bool directory_of(const char *path, char *dir, size_t len)
{
    const char *slash = strrchr(path, '/');
    int n = slash == NULL ? snprintf(dir, len, ".")
                          : snprintf(dir, len, "%.*s", (int)(slash - path) + (slash == path), path);
    return n > 0 && (size_t)n < len;
}

/* A nameless file where the directory can have one, else a named one that is removed. */
static int scratch_file(const char *dir, char *name, size_t len)
{
    name[0] = '\0';
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) {
        return fd;
    }
    int n = snprintf(name, len, "%s/.segment.XXXXXX", dir);
    if (n <= 0 || (size_t)n >= len) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return mkostemp(name, O_CLOEXEC);
}

seg_status seg_format(const char *path, uint64_t size, char *why, size_t why_len)
{
    char dir[4096], name[4200], self[64];
    if (size < SEG_SIZE_BYTES_MIN || size > SEG_SIZE_BYTES_MAX) {
        say(why, why_len, "segment %s: size of %llu bytes is outside %llu MiB to %llu GiB", path,
            (unsigned long long)size, SEG_SIZE_BYTES_MIN >> 20, SEG_SIZE_BYTES_MAX >> 30);
        return SEG_INVALID;
    }
    if (!directory_of(path, dir, sizeof dir)) {
        say(why, why_len, "segment %s: the path is too long", path);
        return SEG_UNAVAILABLE;
    }
    int fd = scratch_file(dir, name, sizeof name);
    if (fd < 0) {
        say(why, why_len, "segment %s: cannot make a file in %s: %s", path, dir, strerror(errno));
        return SEG_UNAVAILABLE;
    }
    seg_status status = SEG_UNAVAILABLE;
    /* All of it now: a hole in a full file system would be a SIGBUS in the middle of a write. */
    int problem = posix_fallocate(fd, 0, (off_t)size);
    if (problem != 0) {
        struct statvfs room;
        unsigned long long free_mib = 0;
        if (statvfs(dir, &room) == 0) {
            free_mib = (unsigned long long)room.f_bavail * room.f_frsize >> 20;
        }
        say(why, why_len,
            "segment %s: %s has %llu MiB free of the %llu MiB asked for (%s); "
            "ask for less or enlarge that file system",
            path, dir, free_mib, (unsigned long long)size >> 20, strerror(problem));
        status = SEG_FULL;
        goto out;
    }
    struct header h;
    memset(&h, 0, sizeof h);
    h.magic = MAGIC;
    h.layout = SEG_LAYOUT;
    h.header_bytes = HEADER_BYTES;
    h.total = size;
    uint64_t dice[3];
    if (getrandom(dice, sizeof dice, 0) != (ssize_t)sizeof dice) {
        say(why, why_len, "segment %s: no randomness: %s", path, strerror(errno));
        goto out;
    }
    h.generation = dice[0] | 1;
    h.seed[0] = dice[1];
    h.seed[1] = dice[2];
    h.check = header_check(&h);
    if (pwrite(fd, &h, sizeof h, 0) != (ssize_t)sizeof h) {
        say(why, why_len, "segment %s: cannot write its header: %s", path, strerror(errno));
        goto out;
    }
    /* The name appears last, so nobody ever opens half a segment. */
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    int linked = name[0] != '\0' ? link(name, path)
                                 : linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
    if (linked == 0) {
        status = SEG_OK;
    } else if (errno == EEXIST) {
        status = SEG_EXISTS;
        say(why, why_len, "segment %s is there already", path);
    } else {
        say(why, why_len, "segment %s: cannot be named: %s", path, strerror(errno));
    }
out:
    if (name[0] != '\0') {
        unlink(name);
    }
    close(fd);
    return status;
}

static struct flock slot_range(uint32_t slot, short type)
{
    struct flock range;
    memset(&range, 0, sizeof range);
    range.l_type = type;
    range.l_whence = SEEK_SET;
    range.l_start = (off_t)(HEADER_BYTES + (uint64_t)slot * sizeof(struct client));
    range.l_len = 1;
    return range;
}

bool seg_slot_lock(const seg *s, uint32_t slot)
{
    struct flock range = slot_range(slot, F_WRLCK);
    return fcntl(s->fd, F_OFD_SETLK, &range) == 0;
}

void seg_slot_unlock(const seg *s, uint32_t slot)
{
    struct flock range = slot_range(slot, F_UNLCK);
    (void)fcntl(s->fd, F_OFD_SETLK, &range);
}

bool seg_client_alive(const seg *s, uint32_t id)
{
    uint32_t slot = id >> 24;
    if (id == s->me) {
        return true;
    }
    if (id == 0 || get(&s->clients[slot].id) != id) {
        return false;
    }
    struct flock range = slot_range(slot, F_WRLCK);
    /* When in doubt it lives: robbing the living is slower but as safe. */
    return fcntl(s->fd, F_OFD_GETLK, &range) != 0 || range.l_type != F_UNLCK;
}

static bool sign_in(seg *s)
{
    for (uint32_t slot = 0; slot < SEG_CLIENTS_MAX; slot++) {
        if (!seg_slot_lock(s, slot)) {
            continue;
        }
        struct client *c = &s->clients[slot];
        bool crashed = get(&c->active) != 0;
        struct item *unfinished = seg_item(s, (uint32_t)get(&c->item));
        uint32_t generation = (uint32_t)((get(&c->id) + 1) & GENERATION_MASK);
        s->client = c;
        s->me = slot << 24 | (generation == 0 ? 1 : generation);
        put(&c->id, s->me); /* from here on the last client of this slot is known dead */
        if (crashed) {
            atomic_fetch_add(&s->header->sweeps_wanted, 1);
            if (unfinished != NULL) {
                seg_settle(s, unfinished);
            }
        }
        put(&c->op, (get(&c->op) | 1) + 1);
        put(&c->item, 0);
        put(&c->fence, 0);
        put(&c->active, 1);
        s->ops = get(&c->op);
        s->robberies = get(&s->header->robberies);
        return true;
    }
    return false;
}

/* Shared by open and attach: `fd` is ours from here on. */
static seg_status enter(seg *s, const char *path, char *why, size_t why_len)
{
    s->alive_page = mmap(NULL, HEADER_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->alive_page == MAP_FAILED || madvise(s->alive_page, HEADER_BYTES, MADV_WIPEONFORK) != 0) {
        say(why, why_len, "segment %s: no memory for a fork guard: %s", path, strerror(errno));
        return SEG_UNAVAILABLE;
    }
    *s->alive_page = 1;
    seg_geometry(s->geometry);
    s->header = (struct header *)s->base;
    s->clients = (struct client *)(s->base + s->at.clients);
    s->index = (word *)(s->base + s->at.index);
    s->feed = (struct entry *)(s->base + s->at.feed);
    s->slabs = (struct slab *)(s->base + s->at.slabs);
    s->client = &s->scratch;
    s->until_sample = SEG_SAMPLE;
    if (!s->readonly && !sign_in(s)) {
        say(why, why_len, "segment %s: all %u client slots are taken; close some process", path,
            SEG_CLIENTS_MAX);
        return SEG_UNAVAILABLE;
    }
    return SEG_OK;
}

static seg_status inspect(int fd, const char *path, uint64_t *total, char *why, size_t why_len)
{
    struct header h;
    struct stat st;
    if (fstat(fd, &st) != 0 || pread(fd, &h, sizeof h, 0) != (ssize_t)sizeof h) {
        say(why, why_len, "segment %s: too short to be one; remove it and start again", path);
        return SEG_CORRUPT;
    }
    if (h.magic != MAGIC) {
        say(why, why_len, "segment %s: not a segment (it begins with %016llx); remove it", path,
            (unsigned long long)h.magic);
        return SEG_CORRUPT;
    }
    if (h.layout != SEG_LAYOUT) {
        say(why, why_len,
            "segment %s: layout %u, this build speaks %u; stop every process that uses it, "
            "remove it and start again",
            path, h.layout, SEG_LAYOUT);
        return SEG_WRONG_VERSION;
    }
    if (h.check != header_check(&h) || h.header_bytes != HEADER_BYTES ||
        h.total < SEG_SIZE_BYTES_MIN || h.total > SEG_SIZE_BYTES_MAX) {
        say(why, why_len, "segment %s: its header is damaged; remove it and start again", path);
        return SEG_CORRUPT;
    }
    if ((uint64_t)st.st_size != h.total) {
        say(why, why_len, "segment %s: %llu bytes long, its header says %llu; remove it", path,
            (unsigned long long)st.st_size, (unsigned long long)h.total);
        return SEG_CORRUPT;
    }
    *total = h.total;
    return SEG_OK;
}

seg_status seg_open(const char *path, bool readonly, seg **out, char *why, size_t why_len)
{
    *out = NULL;
    int fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (fd < 0) {
        bool missing = errno == ENOENT;
        say(why, why_len, "segment %s: cannot be opened: %s", path, strerror(errno));
        return missing ? SEG_NOT_FOUND : SEG_UNAVAILABLE;
    }
    uint64_t total = 0;
    seg_status status = inspect(fd, path, &total, why, why_len);
    seg *s = status == SEG_OK ? calloc(1, sizeof *s) : NULL;
    if (s == NULL) {
        if (status == SEG_OK) {
            say(why, why_len, "segment %s: no memory", path);
            status = SEG_UNAVAILABLE;
        }
        close(fd);
        return status;
    }
    s->fd = fd;
    s->readonly = readonly;
    s->owns_mapping = true;
    s->total = total;
    s->alive_page = MAP_FAILED;
    lay_out(total, &s->at);
    s->base = mmap(NULL, total, readonly ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (s->base == MAP_FAILED) {
        say(why, why_len, "segment %s: cannot be mapped: %s", path, strerror(errno));
        status = SEG_UNAVAILABLE;
    } else {
        (void)madvise(s->base, total, MADV_DONTFORK);
        status = enter(s, path, why, why_len);
    }
    if (status != SEG_OK) {
        s->me = 0;
        seg_close(s);
        return status;
    }
    *out = s;
    return SEG_OK;
}

seg_status seg_attach(const seg *parent, seg **out, char *why, size_t why_len)
{
    *out = NULL;
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", parent->fd);
    seg *s = calloc(1, sizeof *s);
    if (s == NULL) {
        say(why, why_len, "segment: no memory for another client");
        return SEG_UNAVAILABLE;
    }
    s->alive_page = MAP_FAILED;
    s->base = parent->base;
    s->total = parent->total;
    s->at = parent->at;
    s->readonly = parent->readonly;
    s->fd = open(self, (s->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    seg_status status = SEG_UNAVAILABLE;
    if (s->fd < 0) {
        say(why, why_len, "segment: cannot be opened again: %s", strerror(errno));
    } else {
        status = enter(s, "(attached)", why, why_len);
    }
    if (status != SEG_OK) {
        s->me = 0;
        seg_close(s);
        return status;
    }
    *out = s;
    return SEG_OK;
}

void seg_close(seg *s)
{
    if (s == NULL) {
        return;
    }
    if (s->me != 0 && seg_usable(s)) {
        if (get(&s->header->robberies) != s->robberies) {
            /* Blocks may be kept for as long as we live. */
            atomic_fetch_add(&s->header->sweeps_wanted, 1);
        }
        put(&s->client->active, 0);
    }
    if (s->owns_mapping && s->base != MAP_FAILED && (s->alive_page == MAP_FAILED || seg_usable(s))) {
        munmap(s->base, s->total);
    }
    if (s->alive_page != MAP_FAILED) {
        munmap(s->alive_page, HEADER_BYTES);
    }
    free(s->samples_seen);
    if (s->fd >= 0) {
        close(s->fd); /* drops the slot's lock */
    }
    free(s);
}

void seg_forget(seg *s)
{
    if (s->fd >= 0) {
        close(s->fd);
        s->fd = -1;
    }
}

bool seg_usable(const seg *s) { return *s->alive_page == 1; }
