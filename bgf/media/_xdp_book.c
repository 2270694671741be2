/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the owner of the pinholes keeps of each slot, for many at once; and counts of all CPUs added.
 *
 * Knows: struct bgf_pinhole, struct bgf_stats, and arrays that are the caller's. Calls no kernel.
 */
#include "_xdp.h"

#include <stdint.h>
#include <string.h>

#include "bpf/bgf.h"

/*
 * Books what has been written: for each pinhole its slot's key and next hop become the new ones and
 * the next hops' uses are counted. Returns keys that are no longer used and next hops that may be.
 */
static PyObject *py_book_pinholes(PyObject *self, PyObject *args)
{
	Py_buffer values, keys, hops, uses;
	PyObject *stale, *idle, *result = NULL;
	static const struct bgf_key nobody;
	struct bgf_pinhole *pinhole;
	struct bgf_key *by_slot;
	uint32_t *hop, *use;
	Py_ssize_t i;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*w*w*w*", &values, &keys, &hops, &uses))
		return NULL;
	stale = PyList_New(0);
	idle = PyList_New(0);
	pinhole = values.buf;
	by_slot = keys.buf;
	hop = hops.buf;
	use = uses.buf;
	for (i = 0; stale && idle && i < values.len / (Py_ssize_t)sizeof(*pinhole); i++, pinhole++) {
		size_t slot = pinhole->slot, next = pinhole->nexthop;
		PyObject *old = NULL;
		int err = 0;

		if (slot >= (size_t)hops.len / sizeof(*hop) ||
		    slot >= (size_t)keys.len / sizeof(*by_slot) ||
		    next >= (size_t)uses.len / sizeof(*use)) {
			PyErr_SetString(PyExc_ValueError, "a slot or a next hop is out of range");
			goto out;
		}
		if (memcmp(&by_slot[slot], &nobody, sizeof(nobody)) &&
		    memcmp(&by_slot[slot], &pinhole->key, sizeof(nobody))) {
			old = PyBytes_FromStringAndSize((char *)&by_slot[slot],
							sizeof(*by_slot));
			err |= !old || PyList_Append(stale, old) < 0;
			Py_XDECREF(old);
		}
		by_slot[slot] = pinhole->key;
		use[next]++;
		if (hop[slot] && --use[hop[slot]] == 0) {
			old = PyLong_FromUnsignedLong(hop[slot]);
			err |= !old || PyList_Append(idle, old) < 0;
			Py_XDECREF(old);
		}
		hop[slot] = (uint32_t)next;
		if (err)
			goto out;
	}
	if (stale && idle)
		result = Py_BuildValue("OO", stale, idle);
out:
	Py_XDECREF(stale);
	Py_XDECREF(idle);
	PyBuffer_Release(&values);
	PyBuffer_Release(&keys);
	PyBuffer_Release(&hops);
	PyBuffer_Release(&uses);
	return result;
}

/* Values of the per-CPU map `stats`, all CPUs of each slot together: sums, and the latest time. */
static PyObject *py_sum_stats(PyObject *self, PyObject *args)
{
	PyObject *summed = NULL;
	struct bgf_stats *total;
	const struct bgf_stats *one;
	Py_ssize_t count, i;
	unsigned int cpus, cpu;
	Py_buffer raw;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*I", &raw, &cpus))
		return NULL;
	if (!cpus || raw.len % (Py_ssize_t)(cpus * sizeof(*one))) {
		PyErr_SetString(PyExc_ValueError, "not a whole number of slots");
		goto out;
	}
	count = raw.len / (Py_ssize_t)(cpus * sizeof(*one));
	summed = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(*total));
	if (!summed)
		goto out;
	total = (struct bgf_stats *)PyBytes_AsString(summed);
	memset(total, 0, (size_t)count * sizeof(*total));
	one = raw.buf;
	for (i = 0; i < count; i++, total++)
		for (cpu = 0; cpu < cpus; cpu++, one++) {
			total->packets += one->packets;
			total->bytes += one->bytes;
			if (one->last_seen_ns > total->last_seen_ns)
				total->last_seen_ns = one->last_seen_ns;
			total->rtp_packets += one->rtp_packets;
			total->rtp_bytes += one->rtp_bytes;
			total->rtcp_packets += one->rtcp_packets;
		}
out:
	PyBuffer_Release(&raw);
	return summed;
}

PyMethodDef xdp_book_methods[] = {
	{"book_pinholes", py_book_pinholes, METH_VARARGS, NULL},
	{"sum_stats", py_sum_stats, METH_VARARGS, NULL},
	{NULL, NULL, 0, NULL},
};
