/* Runs a program on a slow disk: `slowdisk FILE PROGRAM ARGUMENT...` is PROGRAM, but each fsync and
 * fdatasync of its waits as many milliseconds as stand in FILE (a number of 64 bits that may change
 * at any time) before the kernel does it. PROGRAM keeps this process's pid; a child of it waits for
 * the calls, by seccomp's notifications: nothing is preloaded, so a Go program's calls are seen too.
 * Knows two system calls. Must not know whose they are. Ends with the last process of PROGRAM.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#define WAITING_MAX 64 /* calls at one time; more of them wait to be seen */

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_BOOTTIME, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void let_go(int listener, uint64_t id)
{
	struct seccomp_notif_resp go_on = {.id = id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
	(void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &go_on); /* ENOENT: it was killed */
}

/* Until nobody is left who could call. */
static int hold_up(int listener, const volatile int64_t *delay_ms)
{
	struct {
		uint64_t id;
		int64_t due_ms;
	} waiting[WAITING_MAX];
	int count = 0;
	for (;;) {
		int64_t now = now_ms(), next = 1000;
		for (int i = 0; i < count;) {
			if (waiting[i].due_ms <= now) {
				let_go(listener, waiting[i].id);
				waiting[i] = waiting[--count];
				continue;
			}
			if (waiting[i].due_ms - now < next)
				next = waiting[i].due_ms - now;
			i++;
		}
		struct pollfd p = {.fd = listener, .events = count < WAITING_MAX ? POLLIN : 0};
		if (poll(&p, 1, (int)next) <= 0)
			continue;
		if ((p.revents & POLLIN) == 0) {
			if (p.revents != 0)
				return 0;
			continue;
		}
		struct seccomp_notif call;
		memset(&call, 0, sizeof call);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0)
			continue;
		int64_t delay = *delay_ms;
		if (delay > 0) {
			waiting[count].id = call.id;
			waiting[count++].due_ms = now_ms() + delay;
		} else {
			let_go(listener, call.id);
		}
	}
}

/* One descriptor over a pair of sockets. */
static int hand_over(int to, int descriptor)
{
	char room[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room,
			   .msg_controllen = sizeof room};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &descriptor, sizeof descriptor);
	return sendmsg(to, &m, 0) == 1 ? 0 : -1;
}

static int take_over(int from)
{
	char room[CMSG_SPACE(sizeof(int))], byte;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room,
			   .msg_controllen = sizeof room};
	int descriptor = -1;
	if (recvmsg(from, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m) != NULL)
		memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof descriptor);
	return descriptor;
}

static int listen_for_flushes(void)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -1;
	/* Before Linux 5.19 a signal may make a call wait anew. */
	long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (listener < 0 && errno == EINVAL)
		listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				   SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	return (int)listener;
}

/* The child's part: what it waits for comes over descriptor 0. */
static int hold_up_for(const char *delay_file)
{
	int file = open(delay_file, O_RDONLY | O_CLOEXEC);
	const volatile int64_t *delay_ms =
		mmap(NULL, sizeof *delay_ms, PROT_READ, MAP_SHARED, file, 0);
	int listener = take_over(STDIN_FILENO);
	if (delay_ms == MAP_FAILED || listener < 0)
		return 1;
	(void)setsid(); /* who kills PROGRAM's group does not want us first */
	return hold_up(listener, delay_ms);
}

int main(int count, char **argument)
{
	int pair[2];
	if (count == 2)
		return hold_up_for(argument[1]);
	if (count < 3) {
		fprintf(stderr, "slowdisk FILE PROGRAM ARGUMENT...\n");
		return 2;
	}
	if (access(argument[1], R_OK) != 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
		fprintf(stderr, "slowdisk: %s: %s\n", argument[1], strerror(errno));
		return 1;
	}
	char *child[] = {argument[0], argument[1], NULL};
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pair[1], STDIN_FILENO);
	int failure = posix_spawn(NULL, "/proc/self/exe", &actions, NULL, child, environ);
	int listener = failure != 0 ? -1 : listen_for_flushes();
	if (listener < 0 || hand_over(pair[0], listener) != 0) {
		fprintf(stderr, "slowdisk: %s\n", strerror(failure != 0 ? failure : errno));
		return 1;
	}
	execvp(argument[2], argument + 2);
	fprintf(stderr, "slowdisk: %s: %s\n", argument[2], strerror(errno));
	return 1;
}
