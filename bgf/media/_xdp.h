/* SPDX-License-Identifier: Apache-2.0 */
/* What the two files of the bpf(2) extension share: the call itself, and how it fails. */
#ifndef BGF_XDP_H
#define BGF_XDP_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#define XDP_KEYWORDS (METH_VARARGS | METH_KEYWORDS)
#define XDP_WITH_KEYWORDS(f) (PyCFunction)(void (*)(void))(f)

/* The functions about maps, of _xdp_maps.c, and about what the program sends up, of _xdp_rings.c. */
extern PyMethodDef xdp_map_methods[];
extern PyMethodDef xdp_ring_methods[];

static inline int sys_bpf(int cmd, void *attr, unsigned int size)
{
	return (int)syscall(__NR_bpf, cmd, attr, size);
}

/* Raises OSError: `what`, the text of `err`, and `detail` if there is any. Returns NULL. */
PyObject *xdp_fail(int err, const char *what, const char *detail);

#endif
