/* The key file: lines `ID HEX64`, the first one seals, all of them open.
 *
 * Knows: the file's format, and whom it may belong to. Must not know: what the keys are for.
 *
 * Empty lines and lines that begin with # are left out. Whoever can read the file can speak for any
 * member, so a file that others can read is refused, not repaired.
 */
#include "keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX 4096u

static int refuse(char *why, size_t why_len, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int refuse(char *why, size_t why_len, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, why_len, format, arguments);
    va_end(arguments);
    return -1;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* One line without its end. NULL: a key, or nothing; else what is wrong with it. */
static const char *parse_line(const char *at, const char *end, link_keys *out)
{
    while (at < end && blank(end[-1])) {
        end--;
    }
    while (at < end && blank(*at)) {
        at++;
    }
    if (at == end || *at == '#') {
        return NULL;
    }
    unsigned id = 0;
    const char *digits = at;
    while (at < end && *at >= '0' && *at <= '9' && id <= 255) {
        id = id * 10 + (unsigned)(*at++ - '0');
    }
    if (at == digits || id > 255 || at == end || !blank(*at)) {
        return "begin it with the key's number, 0 to 255, and a space";
    }
    while (at < end && blank(*at)) {
        at++;
    }
    if (end - at != 2 * LINK_KEY_BYTES) {
        return "write the key as 64 hexadecimal digits";
    }
    if (out->count == LINK_KEYS_MAX) {
        return "that is one key too many; remove those no longer in use";
    }
    for (uint32_t i = 0; i < out->count; i++) {
        if (out->key[i].id == id) {
            return "this number is taken by a line above; use another one";
        }
    }
    uint8_t *bytes = out->key[out->count].bytes;
    for (unsigned i = 0; i < LINK_KEY_BYTES; i++) {
        int high = hex(at[2 * i]), low = hex(at[2 * i + 1]);
        if (high < 0 || low < 0) {
            return "write the key as 64 hexadecimal digits";
        }
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    out->key[out->count++].id = (uint8_t)id;
    return NULL;
}

int link_keys_parse(const char *text, size_t len, const char *path, link_keys *out, char *why,
                    size_t why_len)
{
    memset(out, 0, sizeof *out);
    unsigned number = 0;
    for (const char *at = text, *end = text + len; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop == NULL ? end : stop;
        number++;
        const char *wrong = parse_line(at, stop, out);
        if (wrong != NULL) {
            explicit_bzero(out, sizeof *out);
            return refuse(why, why_len, "%s: line %u: %s", path, number, wrong);
        }
        at = stop == end ? end : stop + 1;
    }
    if (out->count == 0) {
        return refuse(why, why_len,
                      "%s: no key in it; add a line: 1, a space, 64 hexadecimal digits from "
                      "`openssl rand -hex 32`",
                      path);
    }
    return 0;
}

/* Open, and fit to hold secrets; -1 with *why. */
static int open_checked(const char *path, char *why, size_t why_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return errno == ELOOP
                   ? refuse(why, why_len, "%s: a symbolic link; give the path of the file itself",
                            path)
                   : refuse(why, why_len, "%s: %s; make it, or set the path of the key file", path,
                            strerror(errno));
    }
    struct stat s;
    int failed = 0;
    if (fstat(fd, &s) != 0) {
        failed = refuse(why, why_len, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(s.st_mode)) {
        failed = refuse(why, why_len, "%s: not a regular file; keep the keys in one", path);
    } else if (s.st_uid != geteuid() && s.st_uid != 0) {
        failed = refuse(why, why_len, "%s: belongs to user %u; chown it to root or to user %u",
                        path, (unsigned)s.st_uid, (unsigned)geteuid());
    } else if ((s.st_mode & 07777) != 0600 && (s.st_mode & 07777) != 0400) {
        failed = refuse(why, why_len,
                        "%s: its mode is %04o, others could use the keys; chmod it to 0600", path,
                        (unsigned)s.st_mode & 07777);
    } else if (s.st_size > (off_t)FILE_BYTES_MAX) {
        failed = refuse(why, why_len, "%s: larger than %u bytes, this is no key file", path,
                        FILE_BYTES_MAX);
    }
    if (failed != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

int link_keys_load(const char *path, link_keys *out, char *why, size_t why_len)
{
    int fd = open_checked(path, why, why_len);
    if (fd < 0) {
        return -1;
    }
    char text[FILE_BYTES_MAX];
    size_t len = 0;
    ssize_t n = 1;
    while (len < sizeof text && n != 0) {
        n = read(fd, text + len, sizeof text - len);
        if (n < 0 && errno != EINTR) {
            break;
        }
        len += n > 0 ? (size_t)n : 0;
    }
    int failed = n < 0 ? refuse(why, why_len, "%s: %s", path, strerror(errno))
                       : link_keys_parse(text, len, path, out, why, why_len);
    close(fd);
    explicit_bzero(text, sizeof text);
    return failed;
}
