/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bpf(2) for Python: maps.
 *
 * Every buffer's length is checked against what the kernel says of the map, since the kernel would
 * write past a short one. Values of per-CPU maps are all possible CPUs' values side by side.
 */
#include "_xdp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_FIRST 4096u    /* entries asked for in the first batch of a dump */
#define BATCH_MAX (1u << 22) /* entries in one batch, at most */

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
		xdp_fail(errno, "reading what a BPF map is", "");
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
	return fd < 0 ? xdp_fail(errno, "creating a BPF map", name) : PyLong_FromLong(fd);
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
		value = err == ENOENT ? Py_NewRef(Py_None) : xdp_fail(err, "BPF map lookup", shape.info.name);
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
		values = xdp_fail(err, "BPF map lookup", shape.info.name);
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
		xdp_fail(errno, "BPF map update", shape.info.name);
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
		xdp_fail(errno, "BPF map delete", shape.info.name);
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
		next = err == ENOENT ? Py_NewRef(Py_None) : xdp_fail(err, "BPF map walk", shape.info.name);
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
		xdp_fail(err, "BPF map batch update", shape.info.name);
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
		xdp_fail(err, "BPF map batch delete", shape.info.name);
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
		return xdp_fail(E2BIG, "BPF map dump", shape.info.name);
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
		xdp_fail(err, "BPF map dump", shape.info.name);
	else
		result = Py_BuildValue("y#y#", keys, (Py_ssize_t)(have * shape.key), values,
				       (Py_ssize_t)(have * shape.value));
	free(keys);
	free(values);
	return result;
}

PyMethodDef xdp_map_methods[] = {
	{"possible_cpus", py_possible_cpus, METH_NOARGS, NULL},
	{"map_create", XDP_WITH_KEYWORDS(py_map_create), XDP_KEYWORDS, NULL},
	{"map_info", py_map_info, METH_VARARGS, NULL},
	{"map_lookup", XDP_WITH_KEYWORDS(py_map_lookup), XDP_KEYWORDS, NULL},
	{"map_lookup_each", py_map_lookup_each, METH_VARARGS, NULL},
	{"map_update", XDP_WITH_KEYWORDS(py_map_update), XDP_KEYWORDS, NULL},
	{"map_delete", py_map_delete, METH_VARARGS, NULL},
	{"map_next_key", py_map_next_key, METH_VARARGS, NULL},
	{"map_update_batch", XDP_WITH_KEYWORDS(py_map_update_batch), XDP_KEYWORDS, NULL},
	{"map_lookup_batch", py_map_lookup_batch, METH_VARARGS, NULL},
	{"map_delete_batch", py_map_delete_batch, METH_VARARGS, NULL},
	{NULL, NULL, 0, NULL},
};
