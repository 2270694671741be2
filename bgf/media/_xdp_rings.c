/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bpf(2) for Python: what the packet program sends up. Reports come by a BPF ring buffer, captured
 * frames by one perf event ring for each CPU.
 *
 * Knows: both memory layouts (linux/bpf.h, linux/perf_event.h). Knows nothing of what is in them but
 * their lengths. Decides nothing; never waits. A reader is a capsule that frees what it holds.
 */
#include "_xdp.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define REPORT_RING "bgf.report_ring"
#define CAPTURE_RINGS "bgf.capture_rings"
#define DRAIN_MAX 4096u /* records that one call returns, at most */
#define RINGS_MAX 1024u /* CPUs */

/* ---- reports --------------------------------------------------------------------------------- */

struct report_ring {
	unsigned long *consumer; /* a page */
	unsigned long *producer; /* a page, then the data twice, so that no record is broken */
	char *data;
	size_t page;
	size_t size;
};

static void report_ring_free(PyObject *capsule)
{
	struct report_ring *ring = PyCapsule_GetPointer(capsule, REPORT_RING);

	if (!ring)
		return;
	if (ring->consumer)
		munmap(ring->consumer, ring->page);
	if (ring->producer)
		munmap(ring->producer, ring->page + 2 * ring->size);
	free(ring);
}

static PyObject *py_report_ring(PyObject *self, PyObject *args)
{
	struct report_ring *ring;
	struct bpf_map_info info;
	union bpf_attr attr;
	PyObject *capsule;
	void *at;
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
		return xdp_fail(errno, "reading what a BPF map is", "");
	if (info.type != BPF_MAP_TYPE_RINGBUF) {
		PyErr_Format(PyExc_ValueError, "map type %u is no ring buffer", info.type);
		return NULL;
	}
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return PyErr_NoMemory();
	ring->page = (size_t)sysconf(_SC_PAGESIZE);
	ring->size = info.max_entries;
	capsule = PyCapsule_New(ring, REPORT_RING, report_ring_free);
	if (!capsule) {
		free(ring);
		return NULL;
	}
	at = mmap(NULL, ring->page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at != MAP_FAILED) {
		ring->consumer = at;
		at = mmap(NULL, ring->page + 2 * ring->size, PROT_READ, MAP_SHARED, fd,
			  (off_t)ring->page);
	}
	if (at == MAP_FAILED) {
		xdp_fail(errno, "mapping a BPF ring buffer", "");
		Py_DECREF(capsule);
		return NULL;
	}
	ring->producer = at;
	ring->data = (char *)at + ring->page;
	return capsule;
}

static PyObject *py_report_drain(PyObject *self, PyObject *args)
{
	struct report_ring *ring;
	unsigned long at, head;
	PyObject *capsule, *found;
	unsigned int count;

	(void)self;
	if (!PyArg_ParseTuple(args, "O", &capsule))
		return NULL;
	ring = PyCapsule_GetPointer(capsule, REPORT_RING);
	if (!ring)
		return NULL;
	found = PyList_New(0);
	at = *ring->consumer;
	head = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
	for (count = 0; found && at < head && count < DRAIN_MAX; count++) {
		uint32_t *header = (uint32_t *)(ring->data + (at & (ring->size - 1)));
		uint32_t length = __atomic_load_n(header, __ATOMIC_ACQUIRE);

		if (length & BPF_RINGBUF_BUSY_BIT)
			break;
		if (!(length & BPF_RINGBUF_DISCARD_BIT)) {
			PyObject *record = PyBytes_FromStringAndSize((char *)(header + 2),
								     (Py_ssize_t)length);

			if (!record || PyList_Append(found, record) < 0)
				Py_CLEAR(found);
			Py_XDECREF(record);
		}
		length &= ~(BPF_RINGBUF_DISCARD_BIT | BPF_RINGBUF_BUSY_BIT);
		at += (length + BPF_RINGBUF_HDR_SZ + 7) / 8 * 8;
		__atomic_store_n(ring->consumer, at, __ATOMIC_RELEASE);
	}
	return found;
}

/* ---- captured frames ------------------------------------------------------------------------- */

struct capture_rings {
	size_t page;
	size_t size; /* of the data of one */
	unsigned int count;
	struct capture_ring {
		struct perf_event_mmap_page *head;
		int fd;
	} rings[];
};

static void capture_rings_free(PyObject *capsule)
{
	struct capture_rings *all = PyCapsule_GetPointer(capsule, CAPTURE_RINGS);
	unsigned int i;

	if (!all)
		return;
	for (i = 0; i < all->count; i++) {
		if (all->rings[i].head)
			munmap(all->rings[i].head, all->page + all->size);
		if (all->rings[i].fd >= 0)
			close(all->rings[i].fd);
	}
	free(all);
}

/* Returns an errno, 0 when `ring` is open or its CPU is offline (its fd is -1 then). */
static int capture_open(int map_fd, unsigned int cpu, struct capture_rings *all,
			struct capture_ring *ring)
{
	struct perf_event_attr event;
	union bpf_attr attr;
	void *at;

	memset(&event, 0, sizeof(event));
	event.type = PERF_TYPE_SOFTWARE;
	event.size = sizeof(event);
	event.config = PERF_COUNT_SW_BPF_OUTPUT;
	event.sample_period = 1;
	event.sample_type = PERF_SAMPLE_RAW;
	event.wakeup_events = 1;
	ring->fd = (int)syscall(__NR_perf_event_open, &event, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (ring->fd < 0)
		return errno == ENODEV ? 0 : errno;
	at = mmap(NULL, all->page + all->size, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
	if (at == MAP_FAILED)
		return errno;
	ring->head = at;
	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (__u32)map_fd;
	attr.key = (uintptr_t)&cpu;
	attr.value = (uintptr_t)&ring->fd;
	if (sys_bpf(BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)) < 0 ||
	    ioctl(ring->fd, PERF_EVENT_IOC_ENABLE, 0) < 0)
		return errno;
	return 0;
}

static PyObject *py_capture_rings(PyObject *self, PyObject *args)
{
	unsigned int cpus, pages, i;
	struct capture_rings *all;
	PyObject *capsule;
	int fd;

	(void)self;
	if (!PyArg_ParseTuple(args, "iII", &fd, &cpus, &pages))
		return NULL;
	if (!cpus || cpus > RINGS_MAX || !pages || pages & (pages - 1)) {
		PyErr_SetString(PyExc_ValueError, "cpus, or pages that are no power of two");
		return NULL;
	}
	all = calloc(1, sizeof(*all) + cpus * sizeof(all->rings[0]));
	if (!all)
		return PyErr_NoMemory();
	all->page = (size_t)sysconf(_SC_PAGESIZE);
	all->size = pages * all->page;
	all->count = cpus;
	for (i = 0; i < cpus; i++)
		all->rings[i].fd = -1;
	capsule = PyCapsule_New(all, CAPTURE_RINGS, capture_rings_free);
	if (!capsule) {
		free(all);
		return NULL;
	}
	for (i = 0; i < cpus; i++) {
		int err = capture_open(fd, i, all, &all->rings[i]);

		if (err) {
			Py_DECREF(capsule);
			return xdp_fail(err, "opening a perf event ring", "");
		}
	}
	return capsule;
}

static PyObject *py_capture_fds(PyObject *self, PyObject *args)
{
	struct capture_rings *all;
	PyObject *capsule, *fds;
	unsigned int i;

	(void)self;
	if (!PyArg_ParseTuple(args, "O", &capsule))
		return NULL;
	all = PyCapsule_GetPointer(capsule, CAPTURE_RINGS);
	if (!all)
		return NULL;
	fds = PyList_New(0);
	for (i = 0; fds && i < all->count; i++) {
		PyObject *fd;

		if (all->rings[i].fd < 0)
			continue;
		fd = PyLong_FromLong(all->rings[i].fd);
		if (!fd || PyList_Append(fds, fd) < 0)
			Py_CLEAR(fds);
		Py_XDECREF(fd);
	}
	return fds;
}

/* `length` bytes of a ring from `at`, which may go round its end. */
static void copy_out(void *into, const char *data, size_t size, uint64_t at, size_t length)
{
	size_t from = (size_t)(at & (size - 1)), first = size - from < length ? size - from : length;

	memcpy(into, data + from, first);
	memcpy((char *)into + first, data, length - first);
}

static int drain_one(struct capture_rings *all, struct capture_ring *ring, PyObject *found,
		     unsigned long long *lost)
{
	const char *data = (const char *)ring->head + all->page;
	uint64_t at = ring->head->data_tail;
	uint64_t head = __atomic_load_n(&ring->head->data_head, __ATOMIC_ACQUIRE);
	int err = 0;

	while (!err && head - at >= sizeof(struct perf_event_header) &&
	       PyList_Size(found) < (Py_ssize_t)DRAIN_MAX) {
		struct perf_event_header header;
		uint64_t body = at + sizeof(header);

		copy_out(&header, data, all->size, at, sizeof(header));
		if (header.size < sizeof(header))
			break;
		if (header.type == PERF_RECORD_LOST) {
			struct {
				uint64_t id, lost;
			} record;

			copy_out(&record, data, all->size, body, sizeof(record));
			*lost += record.lost;
		} else if (header.type == PERF_RECORD_SAMPLE) {
			uint32_t length;
			PyObject *raw;

			copy_out(&length, data, all->size, body, sizeof(length));
			if (length > header.size)
				length = 0;
			raw = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
			if (raw)
				copy_out(PyBytes_AsString(raw), data, all->size,
					 body + sizeof(length), length);
			if (!raw || PyList_Append(found, raw) < 0)
				err = -1;
			Py_XDECREF(raw);
		}
		at += header.size;
	}
	__atomic_store_n(&ring->head->data_tail, at, __ATOMIC_RELEASE);
	return err;
}

static PyObject *py_capture_drain(PyObject *self, PyObject *args)
{
	unsigned long long lost = 0;
	struct capture_rings *all;
	PyObject *capsule, *found;
	unsigned int i;

	(void)self;
	if (!PyArg_ParseTuple(args, "O", &capsule))
		return NULL;
	all = PyCapsule_GetPointer(capsule, CAPTURE_RINGS);
	if (!all)
		return NULL;
	found = PyList_New(0);
	for (i = 0; found && i < all->count; i++)
		if (all->rings[i].head && drain_one(all, &all->rings[i], found, &lost) < 0)
			Py_CLEAR(found);
	return found ? Py_BuildValue("NK", found, lost) : NULL;
}

PyMethodDef xdp_ring_methods[] = {
	{"report_ring", py_report_ring, METH_VARARGS, NULL},
	{"report_drain", py_report_drain, METH_VARARGS, NULL},
	{"capture_rings", py_capture_rings, METH_VARARGS, NULL},
	{"capture_fds", py_capture_fds, METH_VARARGS, NULL},
	{"capture_drain", py_capture_drain, METH_VARARGS, NULL},
	{NULL, NULL, 0, NULL},
};
