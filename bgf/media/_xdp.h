/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the bpf(2) extension share: the call itself, and how it fails. */
#ifndef BGF_XDP_H
#define BGF_XDP_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#define XDP_KEYWORDS (METH_VARARGS | METH_KEYWORDS)
#define XDP_WITH_KEYWORDS(f) (PyCFunction)(void (*)(void))(f)

/* The functions of the other files: _xdp_maps.c, _xdp_rings.c, _xdp_pack.c, _xdp_book.c. */
extern PyMethodDef xdp_map_methods[];
extern PyMethodDef xdp_ring_methods[];
extern PyMethodDef xdp_pack_methods[];
extern PyMethodDef xdp_book_methods[];

static inline int sys_bpf(int cmd, void *attr, unsigned int size)
{
	return (int)syscall(__NR_bpf, cmd, attr, size);
}

/* Raises OSError: `what`, the text of `err`, and `detail` if there is any. Returns NULL. */
PyObject *xdp_fail(int err, const char *what, const char *detail);

#endif
