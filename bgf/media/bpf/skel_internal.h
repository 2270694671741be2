/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a light skeleton (`bpftool gen skeleton -L`) includes, for user space alone.
 *
 * Knows: the few bpf(2) calls that run a loader program, and nothing of any program loaded by it.
 * Stands here so that an installation needs gcc and the kernel's own headers, not libbpf. The
 * structures are the calling convention between the generated text and the loader program inside
 * it: their order and sizes may not change.
 */
#ifndef BGF_SKEL_INTERNAL_H
#define BGF_SKEL_INTERNAL_H

#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Read and written by the loader program: one per map, in the order of the object file. */
struct bpf_map_desc {
	int map_fd;			/* out */
	__u32 max_entries;		/* in: 0 keeps what the object file says */
	__aligned_u64 initial_value;	/* in: user address of a global variable's initial bytes */
};

struct bpf_prog_desc {
	int prog_fd; /* out */
};

/* The loader program's context begins so; the maps and programs follow. */
struct bpf_loader_ctx {
	__u32 sz;
	__u32 flags;
	__u32 log_level;
	__u32 log_size;
	__u64 log_buf;
};

struct bpf_load_and_run_opts {
	struct bpf_loader_ctx *ctx;
	const void *data;
	const void *insns;
	__u32 data_sz;
	__u32 insns_sz;
	const char *errstr; /* out: the step that failed */
};

_Static_assert(sizeof(struct bpf_map_desc) == 16, "loader convention");
_Static_assert(sizeof(struct bpf_prog_desc) == 4, "loader convention");
_Static_assert(sizeof(struct bpf_loader_ctx) == 24, "loader convention");

static inline int skel_sys_bpf(int cmd, union bpf_attr *attr, unsigned int size)
{
	return (int)syscall(__NR_bpf, cmd, attr, size);
}

static inline void *skel_alloc(size_t size)
{
	return calloc(1, size);
}

static inline void skel_free(void *skel)
{
	free(skel);
}

/* Descriptor 0 in a skeleton means "none": the structure starts zeroed. */
static inline int skel_closenz(int fd)
{
	return fd > 0 ? close(fd) : -EINVAL;
}

/* The generated text calls it only for programs that attach by themselves; ours never do. */
static inline int skel_link_create(int prog_fd, int target_fd, int attach_type)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = (__u32)prog_fd;
	attr.link_create.target_fd = (__u32)target_fd;
	attr.link_create.attach_type = (__u32)attach_type;
	return skel_sys_bpf(BPF_LINK_CREATE, &attr, sizeof(attr));
}

/*
 * Puts `opts->data` into a one-element array, loads the loader program over it and runs it once:
 * it creates the maps and programs and leaves their descriptors in `opts->ctx`.
 * Returns 0, or a negative errno with `opts->errstr` naming the step.
 */
static inline int bpf_load_and_run(struct bpf_load_and_run_opts *opts)
{
	static const char name[] = "bgf_loader";
	static const char license[] = "Dual BSD/GPL";
	union bpf_attr attr;
	__u32 zero = 0;
	int map_fd, prog_fd = -1, err = 0;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_ARRAY;
	attr.key_size = sizeof(zero);
	attr.value_size = opts->data_sz;
	attr.max_entries = 1;
	memcpy(attr.map_name, name, sizeof(name));
	opts->errstr = "creating the loader's map";
	map_fd = skel_sys_bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
	if (map_fd < 0)
		return -errno;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (__u32)map_fd;
	attr.key = (uintptr_t)&zero;
	attr.value = (uintptr_t)opts->data;
	opts->errstr = "filling the loader's map";
	if (skel_sys_bpf(BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)) < 0) {
		err = -errno;
		goto out;
	}

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_SYSCALL;
	attr.insns = (uintptr_t)opts->insns;
	attr.insn_cnt = opts->insns_sz / (__u32)sizeof(struct bpf_insn);
	attr.license = (uintptr_t)license;
	attr.prog_flags = BPF_F_SLEEPABLE;
	attr.fd_array = (uintptr_t)&map_fd;
	memcpy(attr.prog_name, name, sizeof(name));
	opts->errstr = "loading the loader program";
	prog_fd = skel_sys_bpf(BPF_PROG_LOAD, &attr, sizeof(attr));
	if (prog_fd < 0) {
		err = -errno;
		goto out;
	}

	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = (__u32)prog_fd;
	attr.test.ctx_in = (uintptr_t)opts->ctx;
	attr.test.ctx_size_in = opts->ctx->sz;
	opts->errstr = "creating its maps and programs";
	if (skel_sys_bpf(BPF_PROG_TEST_RUN, &attr, sizeof(attr)) < 0)
		err = -errno;
	else if ((int)attr.test.retval < 0)
		err = (int)attr.test.retval;
out:
	if (prog_fd >= 0)
		close(prog_fd);
	close(map_fd);
	if (!err)
		opts->errstr = NULL;
	return err;
}

#endif
