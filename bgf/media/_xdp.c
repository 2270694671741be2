/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bpf(2) for Python: maps, links, pins, test runs, and loading the packet program.
 *
 * Knows: the system call and the light skeleton. Decides nothing, keeps nothing; descriptors are
 * plain integers that the caller closes. Every buffer's length is checked against what the kernel
 * says of the map, since the kernel would write past a short one. Errors are OSError with the
 * kernel's errno and a text that names the operation.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bpf/bgf.h"
#include "bpf/bgf.lskel.h"

#define BATCH_FIRST 4096u	       /* entries asked for in the first batch of a dump */
#define BATCH_MAX (1u << 22)	       /* entries in one batch, at most */
#define LOG_BYTES (4u << 20)	       /* verifier log, read only after a failure */
#define LOG_TAIL 1500		       /* of it, bytes that stand in the error text */
#define DATA_OUT_MAX (64u << 10)       /* bytes of a frame that a test run gives back */
#define CTX_OUT_MAX 256u	       /* bytes of a context that a test run gives back */
#define BPFFS_MAGIC 0xcafe4a11u	       /* statfs(2) of a BPF file system, linux/magic.h */
#define LIVE_FRAMES (1u << 1)	       /* BPF_F_TEST_XDP_LIVE_FRAMES, missing in older headers */

static int sys_bpf(int cmd, void *attr, unsigned int size)
{
	return (int)syscall(__NR_bpf, cmd, attr, size);
}

static PyObject *fail(int err, const char *what, const char *detail)
{
	PyObject *exc;

	if (detail && *detail)
		exc = PyObject_CallFunction(PyExc_OSError, "iN", err,
					    PyUnicode_FromFormat("%s: %s: %s", what, strerror(err), detail));
	else
		exc = PyObject_CallFunction(PyExc_OSError, "iN", err,
					    PyUnicode_FromFormat("%s: %s", what, strerror(err)));
	if (exc) {
		PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
		Py_DECREF(exc);
	}
	return NULL;
}

static long possible_cpus(void)
{
	static long known;
	char text[256];
	long count = 0;
	FILE *file;
	char *at;

	if (known)
		return known;
	file = fopen("/sys/devices/system/cpu/possible", "re");
	if (!file)
		return -1;
	at = fgets(text, sizeof(text), file);
	fclose(file);
	while (at && *at) {
		char *next;
		long first = strtol(at, &next, 10), last = first;

		if (next == at)
			break;
		if (*next == '-')
			last = strtol(next + 1, &next, 10);
		count += last - first + 1;
		at = *next == ',' ? next + 1 : NULL;
	}
	if (count > 0)
		known = count;
	return count > 0 ? count : -1;
}

struct shape {
	struct bpf_map_info info;
	size_t key;
	size_t value; /* as user space sees it: all CPUs' values for per-CPU maps */
};

static int shape_of(int fd, struct shape *shape)
{
	union bpf_attr attr;

	memset(shape, 0, sizeof(*shape));
	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = (__u32)fd;
	attr.info.info_len = sizeof(shape->info);
	attr.info.info = (uintptr_t)&shape->info;
	if (sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) < 0) {
		fail(errno, "reading what a BPF map is", "");
		return -1;
	}
	shape->key = shape->info.key_size;
	shape->value = shape->info.value_size;
	switch (shape->info.type) {
	case BPF_MAP_TYPE_PERCPU_HASH:
	case BPF_MAP_TYPE_PERCPU_ARRAY:
	case BPF_MAP_TYPE_LRU_PERCPU_HASH: {
		long cpus = possible_cpus();

		if (cpus < 0) {
			PyErr_SetString(PyExc_RuntimeError,
					"/sys/devices/system/cpu/possible cannot be read: mount sysfs");
			return -1;
		}
		shape->value = (shape->value + 7) / 8 * 8 * (size_t)cpus;
		break;
	}
	default:
		break;
	}
	return 0;
}

static int expect(const char *what, size_t have, size_t need)
{
	if (have == need)
		return 0;
	PyErr_Format(PyExc_ValueError, "%s: %zu bytes given, the map needs %zu", what, have, need);
	return -1;
}

static PyObject *py_possible_cpus(PyObject *self, PyObject *unused)
{
	long cpus = possible_cpus();

	(void)self;
	(void)unused;
	if (cpus < 0) {
		PyErr_SetString(PyExc_RuntimeError,
				"/sys/devices/system/cpu/possible cannot be read: mount sysfs");
		return NULL;
	}
	return PyLong_FromLong(cpus);
}

static PyObject *py_is_bpffs(PyObject *self, PyObject *args)
{
	PyObject *path;
	struct statfs fs;
	int err;

	(void)self;
	if (!PyArg_ParseTuple(args, "O&", PyUnicode_FSConverter, &path))
		return NULL;
	err = statfs(PyBytes_AsString(path), &fs) < 0 ? errno : 0;
	Py_DECREF(path);
	if (err)
		return fail(err, "statfs", "");
	return PyBool_FromLong((unsigned long)fs.f_type == BPFFS_MAGIC);
}

/* ---- maps ------------------------------------------------------------------------------------ */

static PyObject *py_map_create(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"type",	 "key_size", "value_size", "max_entries",
				"flags", "name",     NULL};
	unsigned int type, key_size, value_size, max_entries, flags = 0;
	const char *name = "";
	union bpf_attr attr;
	int fd;

	(void)self;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IIII|Is", names, &type, &key_size,
					 &value_size, &max_entries, &flags, &name))
		return NULL;
	memset(&attr, 0, sizeof(attr));
	attr.map_type = type;
	attr.key_size = key_size;
	attr.value_size = value_size;
	attr.max_entries = max_entries;
	attr.map_flags = flags;
	snprintf(attr.map_name, sizeof(attr.map_name), "%s", name);
	fd = sys_bpf(BPF_MAP_CREATE, &attr, sizeof(attr));
	return fd < 0 ? fail(errno, "creating a BPF map", name) : PyLong_FromLong(fd);
}

static PyObject *py_map_info(PyObject *self, PyObject *args)
{
	struct shape shape;
	int fd;

	(void)self;
	if (!PyArg_ParseTuple(args, "i", &fd) || shape_of(fd, &shape) < 0)
		return NULL;
	return Py_BuildValue("{sIsIsIsIsIsIss#}", "type", shape.info.type, "id", shape.info.id,
			     "key_size", shape.info.key_size, "value_size", shape.info.value_size,
			     "max_entries", shape.info.max_entries, "flags", shape.info.map_flags,
			     "name", shape.info.name,
			     (Py_ssize_t)strnlen(shape.info.name, sizeof(shape.info.name)));
}

static PyObject *py_map_lookup(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"fd", "key", "value_size", NULL};
	PyObject *value = NULL;
	union bpf_attr attr;
	Py_ssize_t size = 0;
	struct shape shape;
	Py_buffer key;
	int fd, rc;

	(void)self;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iy*|n", names, &fd, &key, &size))
		return NULL;
	if (shape_of(fd, &shape) < 0 || expect("key", (size_t)key.len, shape.key) < 0 ||
	    (size && expect("value_size", (size_t)size, shape.value) < 0))
		goto out;
	value = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)shape.value);
	if (!value)
		goto out;
	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (__u32)fd;
	attr.key = (uintptr_t)key.buf;
	attr.value = (uintptr_t)PyBytes_AsString(value);
	rc = sys_bpf(BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr));
	if (rc < 0) {
		int err = errno;

		Py_DECREF(value);
		value = err == ENOENT ? Py_NewRef(Py_None) : fail(err, "BPF map lookup", shape.info.name);
	}
out:
	PyBuffer_Release(&key);
	return value;
}

static PyObject *py_map_lookup_each(PyObject *self, PyObject *args)
{
	PyObject *values = NULL;
	union bpf_attr attr;
	struct shape shape;
	size_t count, i;
	Py_buffer keys;
	int fd, err = 0;
	char *at;

	(void)self;
	if (!PyArg_ParseTuple(args, "iy*", &fd, &keys))
		return NULL;
	if (shape_of(fd, &shape) < 0)
		goto out;
	count = (size_t)keys.len / shape.key;
	if (expect("keys", (size_t)keys.len, count * shape.key) < 0)
		goto out;
	values = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * shape.value));
	if (!values)
		goto out;
	at = PyBytes_AsString(values);
	Py_BEGIN_ALLOW_THREADS
	for (i = 0; i < count && !err; i++, at += shape.value) {
		memset(&attr, 0, sizeof(attr));
		attr.map_fd = (__u32)fd;
		attr.key = (uintptr_t)((char *)keys.buf + i * shape.key);
		attr.value = (uintptr_t)at;
		if (sys_bpf(BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr)) < 0) {
			memset(at, 0, shape.value);
			if (errno != ENOENT)
				err = errno;
		}
	}
	Py_END_ALLOW_THREADS
	if (err) {
		Py_DECREF(values);
		values = fail(err, "BPF map lookup", shape.info.name);
	}
out:
	PyBuffer_Release(&keys);
	return values;
}

static PyObject *py_map_update(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"fd", "key", "value", "flags", NULL};
	unsigned long long flags = 0;
	PyObject *result = NULL;
	Py_buffer key, value;
	union bpf_attr attr;
	struct shape shape;
	int fd;

	(void)self;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iy*y*|K", names, &fd, &key, &value, &flags))
		return NULL;
	if (shape_of(fd, &shape) < 0 || expect("key", (size_t)key.len, shape.key) < 0 ||
	    expect("value", (size_t)value.len, shape.value) < 0)
		goto out;
	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (__u32)fd;
	attr.key = (uintptr_t)key.buf;
	attr.value = (uintptr_t)value.buf;
	attr.flags = flags;
	if (sys_bpf(BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)) < 0)
		fail(errno, "BPF map update", shape.info.name);
	else
		result = Py_NewRef(Py_None);
out:
	PyBuffer_Release(&key);
	PyBuffer_Release(&value);
	return result;
}

static PyObject *py_map_delete(PyObject *self, PyObject *args)
{
	PyObject *result = NULL;
	union bpf_attr attr;
	struct shape shape;
	Py_buffer key;
	int fd;

	(void)self;
	if (!PyArg_ParseTuple(args, "iy*", &fd, &key))
		return NULL;
	if (shape_of(fd, &shape) < 0 || expect("key", (size_t)key.len, shape.key) < 0)
		goto out;
	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (__u32)fd;
	attr.key = (uintptr_t)key.buf;
	if (sys_bpf(BPF_MAP_DELETE_ELEM, &attr, sizeof(attr)) == 0)
		result = Py_NewRef(Py_True);
	else if (errno == ENOENT)
		result = Py_NewRef(Py_False);
	else
		fail(errno, "BPF map delete", shape.info.name);
out:
	PyBuffer_Release(&key);
	return result;
}

static PyObject *py_map_next_key(PyObject *self, PyObject *args)
{
	Py_buffer key = {.buf = NULL};
	PyObject *next = NULL;
	union bpf_attr attr;
	struct shape shape;
	int fd;

	(void)self;
	if (!PyArg_ParseTuple(args, "iz*", &fd, &key))
		return NULL;
	if (shape_of(fd, &shape) < 0 || (key.buf && expect("key", (size_t)key.len, shape.key) < 0))
		goto out;
	next = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)shape.key);
	if (!next)
		goto out;
	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (__u32)fd;
	attr.key = (uintptr_t)key.buf;
	attr.next_key = (uintptr_t)PyBytes_AsString(next);
	if (sys_bpf(BPF_MAP_GET_NEXT_KEY, &attr, sizeof(attr)) < 0) {
		int err = errno;

		Py_DECREF(next);
		next = err == ENOENT ? Py_NewRef(Py_None) : fail(err, "BPF map walk", shape.info.name);
	}
out:
	PyBuffer_Release(&key);
	return next;
}

/* Returns how many entries the kernel took; fewer than `count` only together with an error. */
static PyObject *py_map_update_batch(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"fd", "keys", "values", "count", "flags", NULL};
	unsigned long long flags = 0;
	PyObject *result = NULL;
	Py_buffer keys, values;
	union bpf_attr attr;
	struct shape shape;
	unsigned int count;
	int fd, err = 0;

	(void)self;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iy*y*I|K", names, &fd, &keys, &values, &count,
					 &flags))
		return NULL;
	if (shape_of(fd, &shape) < 0 || expect("keys", (size_t)keys.len, count * shape.key) < 0 ||
	    expect("values", (size_t)values.len, count * shape.value) < 0)
		goto out;
	memset(&attr, 0, sizeof(attr));
	attr.batch.map_fd = (__u32)fd;
	attr.batch.keys = (uintptr_t)keys.buf;
	attr.batch.values = (uintptr_t)values.buf;
	attr.batch.count = count;
	attr.batch.elem_flags = flags;
	if (count) {
		Py_BEGIN_ALLOW_THREADS
		if (sys_bpf(BPF_MAP_UPDATE_BATCH, &attr, sizeof(attr)) < 0)
			err = errno;
		Py_END_ALLOW_THREADS
	}
	if (err)
		fail(err, "BPF map batch update", shape.info.name);
	else
		result = PyLong_FromUnsignedLong(attr.batch.count);
out:
	PyBuffer_Release(&keys);
	PyBuffer_Release(&values);
	return result;
}

/* Keys that are not there are no error: returns how many were removed. */
static PyObject *py_map_delete_batch(PyObject *self, PyObject *args)
{
	PyObject *result = NULL;
	unsigned int count, i;
	unsigned long removed = 0;
	union bpf_attr attr;
	struct shape shape;
	Py_buffer keys;
	int fd, err = 0;

	(void)self;
	if (!PyArg_ParseTuple(args, "iy*I", &fd, &keys, &count))
		return NULL;
	if (shape_of(fd, &shape) < 0 || expect("keys", (size_t)keys.len, count * shape.key) < 0)
		goto out;
	Py_BEGIN_ALLOW_THREADS
	for (i = 0; i < count && !err;) {
		memset(&attr, 0, sizeof(attr));
		attr.batch.map_fd = (__u32)fd;
		attr.batch.keys = (uintptr_t)((char *)keys.buf + i * shape.key);
		attr.batch.count = count - i;
		if (sys_bpf(BPF_MAP_DELETE_BATCH, &attr, sizeof(attr)) == 0) {
			removed += attr.batch.count;
			break;
		}
		/* The kernel stops at the first key that is not there: go on behind it. */
		if (errno != ENOENT || attr.batch.count > count - i) {
			err = errno;
		} else {
			removed += attr.batch.count;
			i += attr.batch.count + 1;
		}
	}
	Py_END_ALLOW_THREADS
	if (err)
		fail(err, "BPF map batch delete", shape.info.name);
	else
		result = PyLong_FromUnsignedLong(removed);
out:
	PyBuffer_Release(&keys);
	return result;
}

/* The whole map as (keys, values), packed without gaps. */
static PyObject *py_map_lookup_batch(PyObject *self, PyObject *args)
{
	unsigned int room = BATCH_FIRST, have = 0;
	char *keys = NULL, *values = NULL;
	char cursor[2][256];
	union bpf_attr attr;
	struct shape shape;
	PyObject *result = NULL;
	int fd, first = 1, err = 0, done = 0;

	(void)self;
	if (!PyArg_ParseTuple(args, "i", &fd) || shape_of(fd, &shape) < 0)
		return NULL;
	if (shape.key > sizeof(cursor[0]))
		return fail(E2BIG, "BPF map dump", shape.info.name);
	memset(cursor, 0, sizeof(cursor));
	Py_BEGIN_ALLOW_THREADS
	while (!done && !err) {
		/* `room` entries are free behind the `have` that are there. */
		char *more_keys = realloc(keys, ((size_t)have + room) * shape.key);
		char *more_values;

		if (more_keys)
			keys = more_keys;
		more_values = realloc(values, ((size_t)have + room) * shape.value);
		if (more_values)
			values = more_values;
		if (!more_keys || !more_values) {
			err = ENOMEM;
			break;
		}
		memset(&attr, 0, sizeof(attr));
		attr.batch.map_fd = (__u32)fd;
		attr.batch.in_batch = first ? 0 : (uintptr_t)cursor[0];
		attr.batch.out_batch = (uintptr_t)cursor[1];
		attr.batch.keys = (uintptr_t)(keys + have * shape.key);
		attr.batch.values = (uintptr_t)(values + have * shape.value);
		attr.batch.count = room;
		if (sys_bpf(BPF_MAP_LOOKUP_BATCH, &attr, sizeof(attr)) < 0) {
			if (errno == ENOENT) {
				done = 1;
			} else if (errno == ENOSPC && room < BATCH_MAX) {
				room *= 2; /* one bucket is fuller than that */
				continue;
			} else if (errno != EINTR) {
				err = errno;
				break;
			} else {
				continue;
			}
		}
		have += attr.batch.count;
		memcpy(cursor[0], cursor[1], sizeof(cursor[0]));
		first = 0;
	}
	Py_END_ALLOW_THREADS
	if (err)
		fail(err, "BPF map dump", shape.info.name);
	else
		result = Py_BuildValue("y#y#", keys, (Py_ssize_t)(have * shape.key), values,
				       (Py_ssize_t)(have * shape.value));
	free(keys);
	free(values);
	return result;
}

/* ---- pins and links -------------------------------------------------------------------------- */

static PyObject *py_obj_pin(PyObject *self, PyObject *args)
{
	PyObject *path, *result = NULL;
	union bpf_attr attr;
	int fd;

	(void)self;
	if (!PyArg_ParseTuple(args, "iO&", &fd, PyUnicode_FSConverter, &path))
		return NULL;
	memset(&attr, 0, sizeof(attr));
	attr.pathname = (uintptr_t)PyBytes_AsString(path);
	attr.bpf_fd = (__u32)fd;
	if (sys_bpf(BPF_OBJ_PIN, &attr, sizeof(attr)) < 0)
		fail(errno, "pinning at", PyBytes_AsString(path));
	else
		result = Py_NewRef(Py_None);
	Py_DECREF(path);
	return result;
}

static PyObject *py_obj_get(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"path", "flags", NULL};
	PyObject *path, *result;
	unsigned int flags = 0;
	union bpf_attr attr;
	int fd;

	(void)self;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|I", names, PyUnicode_FSConverter, &path,
					 &flags))
		return NULL;
	memset(&attr, 0, sizeof(attr));
	attr.pathname = (uintptr_t)PyBytes_AsString(path);
	attr.file_flags = flags;
	fd = sys_bpf(BPF_OBJ_GET, &attr, sizeof(attr));
	if (fd < 0)
		result = fail(errno, "opening the pin", PyBytes_AsString(path));
	else
		result = PyLong_FromLong(fd);
	Py_DECREF(path);
	return result;
}

static PyObject *py_link_create_xdp(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"prog_fd", "ifindex", "flags", NULL};
	unsigned int ifindex, flags = 0;
	union bpf_attr attr;
	int prog_fd, fd;

	(void)self;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iI|I", names, &prog_fd, &ifindex, &flags))
		return NULL;
	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = (__u32)prog_fd;
	attr.link_create.target_ifindex = ifindex;
	attr.link_create.attach_type = BPF_XDP;
	attr.link_create.flags = flags;
	fd = sys_bpf(BPF_LINK_CREATE, &attr, sizeof(attr));
	return fd < 0 ? fail(errno, "attaching an XDP program", "") : PyLong_FromLong(fd);
}

static PyObject *py_link_update(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"link_fd", "new_prog_fd", "old_prog_fd", NULL};
	int link_fd, new_fd, old_fd = -1;
	union bpf_attr attr;

	(void)self;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ii|i", names, &link_fd, &new_fd, &old_fd))
		return NULL;
	memset(&attr, 0, sizeof(attr));
	attr.link_update.link_fd = (__u32)link_fd;
	attr.link_update.new_prog_fd = (__u32)new_fd;
	if (old_fd >= 0) {
		attr.link_update.flags = BPF_F_REPLACE;
		attr.link_update.old_prog_fd = (__u32)old_fd;
	}
	if (sys_bpf(BPF_LINK_UPDATE, &attr, sizeof(attr)) < 0)
		return fail(errno, "switching a link's program", "");
	Py_RETURN_NONE;
}

static PyObject *py_link_detach(PyObject *self, PyObject *args)
{
	union bpf_attr attr;
	int fd;

	(void)self;
	if (!PyArg_ParseTuple(args, "i", &fd))
		return NULL;
	memset(&attr, 0, sizeof(attr));
	attr.link_detach.link_fd = (__u32)fd;
	if (sys_bpf(BPF_LINK_DETACH, &attr, sizeof(attr)) < 0)
		return fail(errno, "detaching a link", "");
	Py_RETURN_NONE;
}

static PyObject *py_link_info(PyObject *self, PyObject *args)
{
	struct bpf_link_info info;
	union bpf_attr attr;
	int fd;

	(void)self;
	if (!PyArg_ParseTuple(args, "i", &fd))
		return NULL;
	memset(&info, 0, sizeof(info));
	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = (__u32)fd;
	attr.info.info_len = sizeof(info);
	attr.info.info = (uintptr_t)&info;
	if (sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) < 0)
		return fail(errno, "reading what a BPF link is", "");
	return Py_BuildValue("{sIsIsIsI}", "type", info.type, "id", info.id, "prog_id", info.prog_id,
			     "ifindex", info.type == BPF_LINK_TYPE_XDP ? info.xdp.ifindex : 0);
}

static PyObject *py_prog_info(PyObject *self, PyObject *args)
{
	struct bpf_prog_info info;
	union bpf_attr attr;
	int fd;

	(void)self;
	if (!PyArg_ParseTuple(args, "i", &fd))
		return NULL;
	memset(&info, 0, sizeof(info));
	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = (__u32)fd;
	attr.info.info_len = sizeof(info);
	attr.info.info = (uintptr_t)&info;
	if (sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) < 0)
		return fail(errno, "reading what a BPF program is", "");
	return Py_BuildValue("{sIsIsy#ss#sIsIsKsK}", "type", info.type, "id", info.id, "tag",
			     (char *)info.tag, (Py_ssize_t)sizeof(info.tag), "name", info.name,
			     (Py_ssize_t)strnlen(info.name, sizeof(info.name)), "xlated_bytes",
			     info.xlated_prog_len, "jited_bytes", info.jited_prog_len, "run_time_ns",
			     (unsigned long long)info.run_time_ns, "run_count",
			     (unsigned long long)info.run_cnt);
}

/* ---- running a program ----------------------------------------------------------------------- */

/* As in linux/bpf.h since 5.18; older headers lack batch_size. */
struct test_run_attr {
	__u32 prog_fd, retval, data_size_in, data_size_out;
	__aligned_u64 data_in, data_out;
	__u32 repeat, duration, ctx_size_in, ctx_size_out;
	__aligned_u64 ctx_in, ctx_out;
	__u32 flags, cpu, batch_size;
} __attribute__((aligned(8)));

static PyObject *py_prog_test_run(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"prog_fd", "data", "ctx", "repeat", "flags", "batch_size", "cpu", NULL};
	unsigned int repeat = 1, flags = 0, batch_size = 0, cpu = 0;
	Py_buffer data, ctx = {.buf = NULL};
	char ctx_out[CTX_OUT_MAX];
	struct test_run_attr attr;
	PyObject *result = NULL;
	char *data_out = NULL;
	int prog_fd, err = 0;

	(void)self;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iy*|z*IIII", names, &prog_fd, &data, &ctx,
					 &repeat, &flags, &batch_size, &cpu))
		return NULL;
	memset(&attr, 0, sizeof(attr));
	attr.prog_fd = (__u32)prog_fd;
	attr.data_in = (uintptr_t)data.buf;
	attr.data_size_in = (__u32)data.len;
	attr.ctx_in = (uintptr_t)ctx.buf;
	attr.ctx_size_in = (__u32)ctx.len;
	attr.repeat = repeat;
	attr.flags = flags;
	attr.batch_size = batch_size;
	attr.cpu = cpu;
	if (!(flags & LIVE_FRAMES)) {
		data_out = malloc(DATA_OUT_MAX);
		if (!data_out) {
			PyErr_NoMemory();
			goto out;
		}
		attr.data_out = (uintptr_t)data_out;
		attr.data_size_out = DATA_OUT_MAX;
		if (ctx.buf) {
			attr.ctx_out = (uintptr_t)ctx_out;
			attr.ctx_size_out = sizeof(ctx_out);
		}
	}
	Py_BEGIN_ALLOW_THREADS
	if (sys_bpf(BPF_PROG_TEST_RUN, &attr, sizeof(attr)) < 0)
		err = errno;
	Py_END_ALLOW_THREADS
	if (err)
		fail(err, "running a BPF program", "");
	else
		result = Py_BuildValue("Iy#Iy#", attr.retval, data_out ? data_out : "",
				       (Py_ssize_t)(data_out ? attr.data_size_out : 0), attr.duration,
				       ctx_out, (Py_ssize_t)(attr.ctx_out ? attr.ctx_size_out : 0));
out:
	free(data_out);
	PyBuffer_Release(&data);
	PyBuffer_Release(&ctx);
	return result;
}

/* ---- the packet program ---------------------------------------------------------------------- */

static int set_sizes(struct bgf *skel, PyObject *sizes)
{
	PyObject *key, *value;
	Py_ssize_t at = 0;

	while (sizes && PyDict_Next(sizes, &at, &key, &value)) {
		unsigned long entries = PyLong_AsUnsignedLong(value);

		if (PyErr_Occurred())
			return -1;
		if (!entries || entries > UINT32_MAX) {
			PyErr_Format(PyExc_ValueError, "map %U: %lu entries", key, entries);
			return -1;
		}
#define SET(map, unused)                                                                           \
	if (PyUnicode_CompareWithASCIIString(key, #map) == 0) {                                    \
		skel->maps.map.max_entries = (__u32)entries;                                       \
		continue;                                                                          \
	}
		BGF_MAPS(SET)
#undef SET
		PyErr_Format(PyExc_ValueError, "the program has no map '%U'", key);
		return -1;
	}
	return 0;
}

static PyObject *load_failed(int err, struct bgf *skel, PyObject *sizes)
{
	char *log = calloc(1, LOG_BYTES);
	size_t length, from;

	if (!log)
		return PyErr_NoMemory();
	/* Again, only to hear what the verifier says; the errno of the first time counts. */
	memset(skel, 0, sizeof(*skel));
	skel->ctx.sz = (__u32)((char *)&skel->links - (char *)skel);
	skel->ctx.log_level = 1;
	skel->ctx.log_size = LOG_BYTES;
	skel->ctx.log_buf = (uintptr_t)log;
	if (set_sizes(skel, sizes) == 0)
		(void)bgf__load(skel);
	log[LOG_BYTES - 1] = 0;
	length = strlen(log);
	from = length > LOG_TAIL ? length - LOG_TAIL : 0;
	/* Without the verifier's summary it is but a listing of types, and the trouble lies elsewhere. */
	fail(err, "loading the packet program", strstr(log, "\nprocessed ") ? log + from : "");
	free(log);
	return NULL;
}

static PyObject *py_load_bgf(PyObject *self, PyObject *args, PyObject *kwargs)
{
	struct bgf *skel;
	PyObject *fds = NULL;
	int err;

	(void)self;
	if (!PyArg_ParseTuple(args, ""))
		return NULL;
	skel = bgf__open();
	if (!skel)
		return PyErr_NoMemory();
	if (set_sizes(skel, kwargs) < 0)
		goto out;
	err = bgf__load(skel);
	if (err) {
		load_failed(-err, skel, kwargs);
		goto out;
	}
	{
		const struct {
			const char *name;
			int fd;
		} made[] = {
#define ROW(map, unused) {#map, skel->maps.map.map_fd},
			BGF_MAPS(ROW)
#undef ROW
			{"bgf_xdp", skel->progs.bgf_xdp.prog_fd},
		};
		size_t i;

		fds = PyDict_New();
		for (i = 0; fds && i < sizeof(made) / sizeof(made[0]); i++) {
			PyObject *fd = PyLong_FromLong(made[i].fd);

			if (!fd || PyDict_SetItemString(fds, made[i].name, fd) < 0)
				Py_CLEAR(fds);
			Py_XDECREF(fd);
		}
	}
	if (fds) /* the descriptors are the caller's now */
		memset(&skel->maps, 0, sizeof(*skel) - offsetof(struct bgf, maps));
out:
	bgf__destroy(skel);
	return fds;
}

/* ---- module ---------------------------------------------------------------------------------- */

#define KW (METH_VARARGS | METH_KEYWORDS)
#define WITH_KEYWORDS(f) (PyCFunction)(void (*)(void))(f)

static PyMethodDef methods[] = {
	{"possible_cpus", py_possible_cpus, METH_NOARGS, NULL},
	{"is_bpffs", py_is_bpffs, METH_VARARGS, NULL},
	{"map_create", WITH_KEYWORDS(py_map_create), KW, NULL},
	{"map_info", py_map_info, METH_VARARGS, NULL},
	{"map_lookup", WITH_KEYWORDS(py_map_lookup), KW, NULL},
	{"map_lookup_each", py_map_lookup_each, METH_VARARGS, NULL},
	{"map_update", WITH_KEYWORDS(py_map_update), KW, NULL},
	{"map_delete", py_map_delete, METH_VARARGS, NULL},
	{"map_next_key", py_map_next_key, METH_VARARGS, NULL},
	{"map_update_batch", WITH_KEYWORDS(py_map_update_batch), KW, NULL},
	{"map_lookup_batch", py_map_lookup_batch, METH_VARARGS, NULL},
	{"map_delete_batch", py_map_delete_batch, METH_VARARGS, NULL},
	{"obj_pin", py_obj_pin, METH_VARARGS, NULL},
	{"obj_get", WITH_KEYWORDS(py_obj_get), KW, NULL},
	{"link_create_xdp", WITH_KEYWORDS(py_link_create_xdp), KW, NULL},
	{"link_update", WITH_KEYWORDS(py_link_update), KW, NULL},
	{"link_detach", py_link_detach, METH_VARARGS, NULL},
	{"link_info", py_link_info, METH_VARARGS, NULL},
	{"prog_info", py_prog_info, METH_VARARGS, NULL},
	{"prog_test_run", WITH_KEYWORDS(py_prog_test_run), KW, NULL},
	{"load_bgf", WITH_KEYWORDS(py_load_bgf), KW, NULL},
	{NULL, NULL, 0, NULL},
};

static int fill(PyObject *module)
{
#define NAME(name, text) text,
	static const char *const outcomes[] = {BGF_OUTCOMES(NAME)};
#undef NAME
	static const struct {
		const char *name;
		long value;
	} numbers[] = {
		{"LAYOUT", BGF_LAYOUT},
		{"GROUP_ID_LEN", BGF_GROUP_ID_LEN},
		{"OPEN", BGF_OPEN},
		{"SOURCE_HOST", BGF_SOURCE_HOST},
		{"SOURCE_PORT", BGF_SOURCE_PORT},
		{"OUT_IP6", BGF_OUT_IP6},
		{"TRACE_MAGIC", BGF_TRACE_MAGIC},
		{"INTERFACE_PLACES", BGF_INTERFACE_PLACES},
		{"PROBES", BGF_PROBES},
		{"SIZEOF_CONFIG", sizeof(struct bgf_config)},
		{"SIZEOF_INTERFACE", sizeof(struct bgf_interface)},
		{"SIZEOF_KEY", sizeof(struct bgf_key)},
		{"SIZEOF_PINHOLE", sizeof(struct bgf_pinhole)},
		{"SIZEOF_STATS", sizeof(struct bgf_stats)},
		{"SIZEOF_NEXTHOP", sizeof(struct bgf_nexthop)},
		{"SIZEOF_TRACE", sizeof(struct bgf_trace)},
	};
	PyObject *names;
	size_t i;

	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (PyModule_AddIntConstant(module, numbers[i].name, numbers[i].value) < 0)
			return -1;
	names = PyTuple_New(BGF_OUTCOME_COUNT);
	for (i = 0; names && i < BGF_OUTCOME_COUNT; i++)
		if (PyTuple_SetItem(names, (Py_ssize_t)i, PyUnicode_FromString(outcomes[i])) < 0)
			Py_CLEAR(names);
	if (!names)
		return -1;
	i = (size_t)(PyModule_AddObjectRef(module, "OUTCOMES", names) < 0);
	Py_DECREF(names);
	return i ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
	{Py_mod_exec, fill},
	{0, NULL},
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "bgf.media._xdp",
	.m_doc = "bpf(2): maps, links, pins, test runs, and loading the packet program.",
	.m_methods = methods,
	.m_slots = slots,
};

PyMODINIT_FUNC PyInit__xdp(void);

PyMODINIT_FUNC PyInit__xdp(void)
{
	return PyModuleDef_Init(&module);
}
