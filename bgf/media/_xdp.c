/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bpf(2) for Python: links, pins, test runs, and loading the packet program; maps in _xdp_maps.c,
 * rings in _xdp_rings.c, flows in _xdp_pack.c, slots in _xdp_book.c.
 *
 * Knows: the system call and the light skeleton. Decides nothing, keeps nothing; descriptors are
 * plain integers that the caller closes. Errors are OSError with the kernel's errno and a text that
 * names the operation.
 */
#include "_xdp.h"

#include <errno.h>
#include <string.h>
#include <sys/statfs.h>

#include "bpf/bgf.h"
#include "bpf/bgf.lskel.h"

#define LOG_BYTES (4u << 20)	 /* verifier log, read only after a failure */
#define LOG_TAIL 1500		 /* of it, bytes that stand in the error text */
#define DATA_OUT_MAX (64u << 10) /* bytes of a frame that a test run gives back */
#define CTX_OUT_MAX 256u	 /* bytes of a context that a test run gives back */
#define BPFFS_MAGIC 0xcafe4a11u	 /* statfs(2) of a BPF file system, linux/magic.h */
#define LIVE_FRAMES (1u << 1)	 /* BPF_F_TEST_XDP_LIVE_FRAMES, missing in older headers */

PyObject *xdp_fail(int err, const char *what, const char *detail)
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
		return xdp_fail(err, "statfs", "");
	return PyBool_FromLong((unsigned long)fs.f_type == BPFFS_MAGIC);
}

/* Where a search for an address begins: BGF_ADDRESS_HASH of its 16 bytes. */
static PyObject *py_address_hash(PyObject *self, PyObject *args)
{
	struct bgf_address address;
	Py_buffer raw;
	int whole;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*", &raw))
		return NULL;
	whole = raw.len == sizeof(address);
	if (whole)
		memcpy(&address, raw.buf, sizeof(address));
	PyBuffer_Release(&raw);
	if (!whole) {
		PyErr_SetString(PyExc_ValueError, "an address is 16 bytes");
		return NULL;
	}
	return PyLong_FromUnsignedLongLong(BGF_ADDRESS_HASH(&address));
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
		xdp_fail(errno, "pinning at", PyBytes_AsString(path));
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
		result = xdp_fail(errno, "opening the pin", PyBytes_AsString(path));
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
	return fd < 0 ? xdp_fail(errno, "attaching an XDP program", "") : PyLong_FromLong(fd);
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
		return xdp_fail(errno, "switching a link's program", "");
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
		return xdp_fail(errno, "detaching a link", "");
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
		return xdp_fail(errno, "reading what a BPF link is", "");
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
		return xdp_fail(errno, "reading what a BPF program is", "");
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
		xdp_fail(err, "running a BPF program", "");
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
	xdp_fail(err, "loading the packet program", strstr(log, "\nprocessed ") ? log + from : "");
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

static PyMethodDef methods[] = {
	{"is_bpffs", py_is_bpffs, METH_VARARGS, NULL},
	{"address_hash", py_address_hash, METH_VARARGS, NULL},
	{"obj_pin", py_obj_pin, METH_VARARGS, NULL},
	{"obj_get", XDP_WITH_KEYWORDS(py_obj_get), XDP_KEYWORDS, NULL},
	{"link_create_xdp", XDP_WITH_KEYWORDS(py_link_create_xdp), XDP_KEYWORDS, NULL},
	{"link_update", XDP_WITH_KEYWORDS(py_link_update), XDP_KEYWORDS, NULL},
	{"link_detach", py_link_detach, METH_VARARGS, NULL},
	{"link_info", py_link_info, METH_VARARGS, NULL},
	{"prog_info", py_prog_info, METH_VARARGS, NULL},
	{"prog_test_run", XDP_WITH_KEYWORDS(py_prog_test_run), XDP_KEYWORDS, NULL},
	{"load_bgf", XDP_WITH_KEYWORDS(py_load_bgf), XDP_KEYWORDS, NULL},
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
		{"POLICE", BGF_POLICE},
		{"RTP", BGF_RTP},
		{"RTCP", BGF_RTCP},
		{"MUXED", BGF_MUXED},
		{"RTP_CHECK", BGF_RTP_CHECK},
		{"RTP_TYPES", BGF_RTP_TYPES},
		{"LATCH", BGF_LATCH},
		{"FOLLOW", BGF_FOLLOW},
		{"NO_REMOTE", BGF_NO_REMOTE},
		{"HAIRPIN", BGF_HAIRPIN},
		{"CAPTURED", BGF_CAPTURED},
		{"SOURCE_PREFIX", BGF_SOURCE_PREFIX},
		{"CHECKS", BGF_CHECKS},
		{"DEMUX", BGF_DEMUX},
		{"ADDRESS_PLACES", BGF_ADDRESS_PLACES},
		{"ADDRESS_PROBES", BGF_ADDRESS_PROBES},
		{"COST_SHIFT", BGF_COST_SHIFT},
		{"TIME_SHIFT", BGF_TIME_SHIFT},
		{"LATCH_OPEN", BGF_LATCH_OPEN},
		{"LATCH_BUSY", BGF_LATCH_BUSY},
		{"LATCH_SET", BGF_LATCH_SET},
		{"LATCH_REPLACE", BGF_LATCH_REPLACE},
		{"TRACE_MAGIC", BGF_TRACE_MAGIC},
		{"INTERFACE_PLACES", BGF_INTERFACE_PLACES},
		{"PROBES", BGF_PROBES},
		{"ROW", BGF_ROW},
		{"SIZEOF_CONFIG", sizeof(struct bgf_config)},
		{"COUNTS_AT", offsetof(struct bgf_cpu, packets_of)},
		{"STATS_FIRST_AT", offsetof(struct bgf_cpu, stats_first)},
		{"SIZEOF_CPU", sizeof(struct bgf_cpu)},
		{"SIZEOF_INTERFACE", sizeof(struct bgf_interface)},
		{"SIZEOF_PLACE", sizeof(struct bgf_place)},
		{"SIZEOF_KEY", sizeof(struct bgf_key)},
		{"SIZEOF_PINHOLE", sizeof(struct bgf_pinhole)},
		{"SIZEOF_STATS", sizeof(struct bgf_stats)},
		{"SIZEOF_STREAM", sizeof(struct bgf_stream)},
		{"SIZEOF_LATCH", sizeof(struct bgf_latch)},
		{"SIZEOF_NEXTHOP", sizeof(struct bgf_nexthop)},
		{"SIZEOF_REPORT", sizeof(struct bgf_report)},
		{"SIZEOF_CAPTURED", sizeof(struct bgf_captured)},
		{"SIZEOF_TRACE", sizeof(struct bgf_trace)},
	};
	PyObject *names;
	size_t i;

	if (PyModule_AddFunctions(module, xdp_map_methods) < 0 ||
	    PyModule_AddFunctions(module, xdp_ring_methods) < 0 ||
	    PyModule_AddFunctions(module, xdp_pack_methods) < 0 ||
	    PyModule_AddFunctions(module, xdp_book_methods) < 0)
		return -1;
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
