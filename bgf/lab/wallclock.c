/* A wall clock of its own for the process that this is preloaded into: CLOCK_REALTIME plus the
 * seconds that stand in the file BGF_LAB_CLOCK, a little number of 64 bits that may change at any
 * time. No other clock is touched. Knows libc's names; must not know who asks for the time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef int (*gettime_fn)(clockid_t, struct timespec *);

static gettime_fn real_gettime;
static volatile int64_t *jumped_s;

static void find(void)
{
	const char *path = getenv("BGF_LAB_CLOCK");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		void *at = mmap(NULL, sizeof(*jumped_s), PROT_READ, MAP_SHARED, fd, 0);
		if (at != MAP_FAILED)
			jumped_s = at;
		close(fd);
	}
	*(void **)&real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
}

__attribute__((constructor)) static void begin(void)
{
	if (!real_gettime)
		find();
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
	begin();
	int result = real_gettime(clock, at);
	if (!result && jumped_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		at->tv_sec += *jumped_s;
	return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
	struct timespec now;
	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &now))
		return -1;
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *at)
{
	struct timespec now;
	if (clock_gettime(CLOCK_REALTIME, &now))
		return -1;
	if (at)
		*at = now.tv_sec;
	return now.tv_sec;
}
