/* Loads the lab's XDP programs from their light skeletons. Knows nothing of maps' contents,
 * namespaces or attachments: those are bpf(2) calls of bgf.media._xdp and decisions of rtpload.py
 * and rtpbench.py.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/bpf.h>

#include "rtpbench.h"
#include "rtpbench.lskel.h"
#include "rtpload.h"
#include "rtpload.lskel.h"

/* A name, and where its descriptor is in the skeleton. */
struct handle {
	const char *name;
	int *fd;
};

/* The descriptors by name; they are the caller's then, so that destroying the skeleton keeps them. */
static PyObject *give(struct handle *handles, size_t count)
{
	PyObject *result = PyDict_New();

	for (size_t i = 0; result && i < count; i++) {
		PyObject *fd = PyLong_FromLong(*handles[i].fd);

		if (!fd || PyDict_SetItemString(result, handles[i].name, fd))
			Py_CLEAR(result);
		Py_XDECREF(fd);
	}
	for (size_t i = 0; result && i < count; i++)
		*handles[i].fd = 0;
	return result;
}

static PyObject *load(PyObject *self, PyObject *args)
{
	unsigned int streams, flows;
	struct rtpload_bpf *skel;
	PyObject *result = NULL;
	int err;

	(void)self;
	if (!PyArg_ParseTuple(args, "II:load", &streams, &flows))
		return NULL;
	if (!streams || streams > RTPLOAD_FLOWS_MAX || !flows || flows > RTPLOAD_FLOWS_MAX)
		return PyErr_Format(PyExc_ValueError,
				    "load(%u, %u): both table sizes must be in 1..%d", streams,
				    flows, RTPLOAD_FLOWS_MAX);
	skel = rtpload_bpf__open();
	if (!skel)
		return PyErr_NoMemory();
	skel->maps.rl_flows.max_entries = streams;
	skel->maps.rl_reports.max_entries = flows;
	skel->maps.rl_expected.max_entries = flows;

	Py_BEGIN_ALLOW_THREADS
	errno = 0;
	err = rtpload_bpf__load(skel);
	Py_END_ALLOW_THREADS
	if (err) {
		errno = -err;
		PyErr_SetFromErrno(PyExc_OSError);
		rtpload_bpf__destroy(skel);
		return NULL;
	}

	struct handle handles[] = {
		{"generate", &skel->progs.rtp_generate.prog_fd},
		{"flood", &skel->progs.rtp_flood.prog_fd},
		{"meter_program", &skel->progs.rtp_meter.prog_fd},
		{"streams", &skel->maps.rl_flows.map_fd},
		{"hops", &skel->maps.rl_hops.map_fd},
		{"cursor", &skel->maps.rl_cursor.map_fd},
		{"pace", &skel->maps.rl_pace.map_fd},
		{"meter", &skel->maps.rl_meter.map_fd},
		{"totals", &skel->maps.rl_totals.map_fd},
		{"reports", &skel->maps.rl_reports.map_fd},
		{"expected", &skel->maps.rl_expected.map_fd},
		{"watched", &skel->maps.rl_watched.map_fd},
	};
	result = give(handles, sizeof(handles) / sizeof(handles[0]));
	rtpload_bpf__destroy(skel);
	return result;
}

static PyObject *load_bench(PyObject *self, PyObject *args)
{
	struct rtpbench_bpf *skel;
	PyObject *result = NULL;
	int err;

	(void)self;
	(void)args;
	skel = rtpbench_bpf__open();
	if (!skel)
		return PyErr_NoMemory();
	Py_BEGIN_ALLOW_THREADS
	errno = 0;
	err = rtpbench_bpf__load(skel);
	Py_END_ALLOW_THREADS
	if (err) {
		errno = -err;
		PyErr_SetFromErrno(PyExc_OSError);
	} else {
		struct handle handles[] = {
			{"bare_program", &skel->progs.rtp_bare.prog_fd},
			{"sink_program", &skel->progs.rtp_sink.prog_fd},
			{"bare", &skel->maps.rb_bare.map_fd},
			{"arrivals", &skel->maps.rb_arrivals.map_fd},
			{"delays", &skel->maps.rb_delays.map_fd},
		};

		result = give(handles, sizeof(handles) / sizeof(handles[0]));
	}
	rtpbench_bpf__destroy(skel);
	return result;
}

static PyMethodDef methods[] = {
	{"load", load, METH_VARARGS,
	 "load(streams, flows) -> {name: descriptor}\n\n"
	 "Load generator, flood and meter with their maps; tables hold `streams` generated and `flows` received\n"
	 "flows. The caller closes every descriptor. Raises OSError, ValueError."},
	{"load_bench", load_bench, METH_NOARGS,
	 "load_bench() -> {name: descriptor}\n\n"
	 "Load the bare forwarder and the sink. The caller closes every descriptor. Raises OSError."},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "_rtpload",
	.m_doc = "The light skeleton of the RTP load generator and outage meter.",
	.m_size = -1,
	.m_methods = methods,
};

PyMODINIT_FUNC PyInit__rtpload(void);
PyMODINIT_FUNC PyInit__rtpload(void)
{
	PyObject *self = PyModule_Create(&module);

	if (self && (PyModule_AddIntConstant(self, "FLOWS_MAX", RTPLOAD_FLOWS_MAX) ||
		     PyModule_AddIntConstant(self, "HOPS_MAX", RTPLOAD_HOPS_MAX) ||
		     PyModule_AddIntConstant(self, "WATCHED_MAX", RTPLOAD_WATCHED_MAX) ||
		     PyModule_AddIntConstant(self, "DELAYS", RTPBENCH_DELAYS)))
		Py_CLEAR(self);
	return self;
}
