/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packet path's large maps as memory: pinholes written and closed, rows read, cleared, added up.
 *
 * Knows: struct bgf_pinhole and struct bgf_stats, maps that the caller has mapped, arrays that are
 * his. Calls no kernel. The program reads what is written here while it is written: a pinhole's
 * version is odd then, and a port leads to it only when it is whole. Stores are not reordered with
 * each other (x86-64); a machine that does so would need a barrier in the program, too.
 */
#include "_xdp.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bpf/bgf.h"

/* What user space writes of a pinhole besides its version: two parts around the program's own. */
#define FRONT_BYTES (offsetof(struct bgf_pinhole, stream) - sizeof(__u32))
#define BACK_BYTES (sizeof(struct bgf_pinhole) - offsetof(struct bgf_pinhole, source_mask))

_Static_assert(offsetof(struct bgf_pinhole, version) == 0, "the version comes first");
_Static_assert(offsetof(struct bgf_pinhole, source_mask) ==
		       offsetof(struct bgf_pinhole, stream) + sizeof(struct bgf_stream),
	       "nothing is forgotten");

/* 0, or -1 with a Python error, when an index is out of a buffer's range. */
static int within(const Py_buffer *indices, const Py_buffer *rows, size_t row_bytes)
{
	const uint32_t *index = indices->buf;
	Py_ssize_t i;

	for (i = 0; i < indices->len / (Py_ssize_t)sizeof(*index); i++)
		if (index[i] >= (size_t)rows->len / row_bytes) {
			PyErr_SetString(PyExc_ValueError, "an index is out of range");
			return -1;
		}
	return 0;
}

static int is_same(const struct bgf_pinhole *there, const struct bgf_pinhole *made)
{
	return !(there->version & 1) && !memcmp(&there->flags, &made->flags, FRONT_BYTES) &&
	       !memcmp(&there->source_mask, &made->source_mask, BACK_BYTES);
}

static void write_one(struct bgf_pinhole *there, const struct bgf_pinhole *made)
{
	uint32_t version = there->version | 1;

	__atomic_store_n(&there->version, version, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memcpy(&there->flags, &made->flags, FRONT_BYTES);
	memcpy(&there->source_mask, &made->source_mask, BACK_BYTES);
	__atomic_store_n(&there->version, version + 1, __ATOMIC_SEQ_CST);
}

/* Returns how many were written: what stands there already is left alone. */
static PyObject *py_write_pinholes(PyObject *self, PyObject *args)
{
	Py_buffer pinholes, ports, values, slots, cells;
	const struct bgf_pinhole *made;
	struct bgf_pinhole *there;
	PyObject *result = NULL;
	const uint32_t *slot, *cell;
	Py_ssize_t i, count, written = 0;
	uint32_t *port;

	(void)self;
	if (!PyArg_ParseTuple(args, "w*w*y*y*y*", &pinholes, &ports, &values, &slots, &cells))
		return NULL;
	made = values.buf;
	there = pinholes.buf;
	port = ports.buf;
	slot = slots.buf;
	cell = cells.buf;
	count = slots.len / (Py_ssize_t)sizeof(*slot);
	if (cells.len != slots.len || values.len != count * (Py_ssize_t)sizeof(*made)) {
		PyErr_SetString(PyExc_ValueError, "not as many pinholes as slots and cells");
		goto out;
	}
	if (within(&slots, &pinholes, sizeof(*there)) || within(&cells, &ports, sizeof(*port)))
		goto out;
	for (i = 0; i < count; i++) {
		struct bgf_pinhole *old = &there[slot[i]];

		if (port[cell[i]] == slot[i] + 1 && is_same(old, &made[i]))
			continue;
		write_one(old, &made[i]);
		__atomic_store_n(&port[cell[i]], slot[i] + 1, __ATOMIC_RELEASE);
		written++;
	}
	result = PyLong_FromSsize_t(written);
out:
	PyBuffer_Release(&pinholes);
	PyBuffer_Release(&ports);
	PyBuffer_Release(&values);
	PyBuffer_Release(&slots);
	PyBuffer_Release(&cells);
	return result;
}

/* Positions of those that are not there, whole and exactly so. */
static PyObject *py_compare_pinholes(PyObject *self, PyObject *args)
{
	Py_buffer pinholes, values, slots;
	const struct bgf_pinhole *made, *there;
	PyObject *found = NULL, *at;
	const uint32_t *slot;
	Py_ssize_t i, count;
	int err = 0;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*y*y*", &pinholes, &values, &slots))
		return NULL;
	made = values.buf;
	there = pinholes.buf;
	slot = slots.buf;
	count = slots.len / (Py_ssize_t)sizeof(*slot);
	if (values.len != count * (Py_ssize_t)sizeof(*made))
		PyErr_SetString(PyExc_ValueError, "not as many pinholes as slots");
	else if (!within(&slots, &pinholes, sizeof(*there)))
		found = PyList_New(0);
	for (i = 0; found && !err && i < count; i++) {
		if (is_same(&there[slot[i]], &made[i]))
			continue;
		at = PyLong_FromSsize_t(i);
		err = at ? PyList_Append(found, at) : -1;
		Py_XDECREF(at);
	}
	if (err)
		Py_CLEAR(found);
	PyBuffer_Release(&pinholes);
	PyBuffer_Release(&values);
	PyBuffer_Release(&slots);
	return found;
}

static PyObject *py_close_pinholes(PyObject *self, PyObject *args)
{
	static const struct bgf_pinhole nothing;
	Py_buffer pinholes, ports, slots, cells;
	struct bgf_pinhole *there;
	PyObject *result = NULL;
	const uint32_t *slot, *cell;
	uint32_t *port;
	Py_ssize_t i;

	(void)self;
	if (!PyArg_ParseTuple(args, "w*w*y*y*", &pinholes, &ports, &slots, &cells))
		return NULL;
	there = pinholes.buf;
	port = ports.buf;
	slot = slots.buf;
	cell = cells.buf;
	if (cells.len != slots.len)
		PyErr_SetString(PyExc_ValueError, "not as many slots as cells");
	else if (!within(&slots, &pinholes, sizeof(*there)) && !within(&cells, &ports, sizeof(*port)))
		result = Py_NewRef(Py_None);
	for (i = 0; result && i < slots.len / (Py_ssize_t)sizeof(*slot); i++) {
		__atomic_store_n(&port[cell[i]], 0, __ATOMIC_SEQ_CST);
		write_one(&there[slot[i]], &nothing);
	}
	PyBuffer_Release(&pinholes);
	PyBuffer_Release(&ports);
	PyBuffer_Release(&slots);
	PyBuffer_Release(&cells);
	return result;
}

/* Every port that leads somewhere, as (cells, slots). */
static PyObject *py_scan_ports(PyObject *self, PyObject *args)
{
	PyObject *cells = NULL, *slots = NULL, *result = NULL;
	Py_ssize_t i, count = 0;
	const uint32_t *port;
	uint32_t *cell, *slot;
	Py_buffer ports;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*", &ports))
		return NULL;
	port = ports.buf;
	for (i = 0; i < ports.len / (Py_ssize_t)sizeof(*port); i++)
		count += port[i] != 0;
	cells = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(*cell));
	slots = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(*slot));
	if (cells && slots) {
		cell = (uint32_t *)PyBytes_AsString(cells);
		slot = (uint32_t *)PyBytes_AsString(slots);
		for (i = 0; count && i < ports.len / (Py_ssize_t)sizeof(*port); i++) {
			if (!port[i])
				continue;
			*cell++ = (uint32_t)i;
			*slot++ = port[i] - 1;
			count--;
		}
		result = Py_BuildValue("OO", cells, slots);
	}
	Py_XDECREF(cells);
	Py_XDECREF(slots);
	PyBuffer_Release(&ports);
	return result;
}

/* The rows of a map with these indices, one behind the other. */
static PyObject *py_take_rows(PyObject *self, PyObject *args)
{
	PyObject *result = NULL;
	Py_buffer rows, indices;
	Py_ssize_t i, row_bytes;
	const uint32_t *index;
	char *into;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*y*n", &rows, &indices, &row_bytes))
		return NULL;
	index = indices.buf;
	if (row_bytes <= 0)
		PyErr_SetString(PyExc_ValueError, "rows have a size");
	else if (!within(&indices, &rows, (size_t)row_bytes))
		result = PyBytes_FromStringAndSize(
			NULL, indices.len / (Py_ssize_t)sizeof(*index) * row_bytes);
	if (result) {
		into = PyBytes_AsString(result);
		for (i = 0; i < indices.len / (Py_ssize_t)sizeof(*index); i++, into += row_bytes)
			memcpy(into, (const char *)rows.buf + index[i] * (size_t)row_bytes,
			       (size_t)row_bytes);
	}
	PyBuffer_Release(&rows);
	PyBuffer_Release(&indices);
	return result;
}

/* What the program has written of these pinholes' streams. */
static PyObject *py_clear_streams(PyObject *self, PyObject *args)
{
	struct bgf_pinhole *there;
	PyObject *result = NULL;
	Py_buffer pinholes, slots;
	const uint32_t *slot;
	Py_ssize_t i;

	(void)self;
	if (!PyArg_ParseTuple(args, "w*y*", &pinholes, &slots))
		return NULL;
	there = pinholes.buf;
	slot = slots.buf;
	if (!within(&slots, &pinholes, sizeof(*there)))
		result = Py_NewRef(Py_None);
	for (i = 0; result && i < slots.len / (Py_ssize_t)sizeof(*slot); i++)
		memset(&there[slot[i]].stream, 0, sizeof(there->stream));
	PyBuffer_Release(&pinholes);
	PyBuffer_Release(&slots);
	return result;
}

static PyObject *py_clear_rows(PyObject *self, PyObject *args)
{
	PyObject *result = NULL;
	Py_buffer rows, indices;
	Py_ssize_t i, row_bytes, parts = 1, part;
	const uint32_t *index;

	(void)self;
	if (!PyArg_ParseTuple(args, "w*y*n|n", &rows, &indices, &row_bytes, &parts))
		return NULL;
	index = indices.buf;
	if (row_bytes <= 0 || parts <= 0)
		PyErr_SetString(PyExc_ValueError, "rows have a size");
	else if (!within(&indices, &rows, (size_t)(row_bytes * parts)))
		result = Py_NewRef(Py_None);
	for (part = 0; result && part < parts; part++) {
		char *first = (char *)rows.buf + part * (rows.len / parts);

		for (i = 0; i < indices.len / (Py_ssize_t)sizeof(*index); i++)
			memset(first + index[i] * (size_t)row_bytes, 0, (size_t)row_bytes);
	}
	PyBuffer_Release(&rows);
	PyBuffer_Release(&indices);
	return result;
}

/* What is booked: slot + 1 by cell, next hop by slot, how many pinholes use a next hop. */
struct book {
	Py_buffer index, hops, uses;
	PyObject *idle; /* next hops that were without a use at some time: look again */
};

static void close_book(struct book *book)
{
	PyBuffer_Release(&book->index);
	PyBuffer_Release(&book->hops);
	PyBuffer_Release(&book->uses);
}

/* The next hop of a slot becomes this one. 0, or -1 with a Python error. */
static int book_hop(struct book *book, uint32_t slot, uint32_t next)
{
	uint32_t *old = (uint32_t *)book->hops.buf + slot, *use = book->uses.buf;
	size_t count = (size_t)book->uses.len / sizeof(*use);
	PyObject *index;
	int err = 0;

	if (next >= count || *old >= count) {
		PyErr_SetString(PyExc_ValueError, "a next hop is out of range");
		return -1;
	}
	use[next]++;
	if (*old && --use[*old] == 0) {
		index = PyLong_FromUnsignedLong(*old);
		err = index ? PyList_Append(book->idle, index) : -1;
		Py_XDECREF(index);
	}
	*old = next;
	return err;
}

/* Books what has been written. Returns idle next hops. */
static PyObject *py_book_pinholes(PyObject *self, PyObject *args)
{
	struct book book = {.idle = NULL};
	const struct bgf_pinhole *pinhole;
	Py_buffer values, slots, cells;
	const uint32_t *slot, *cell;
	uint32_t *index;
	Py_ssize_t i;

	(void)self;
	if (!PyArg_ParseTuple(args, "w*w*w*y*y*y*", &book.index, &book.hops, &book.uses, &values,
			      &slots, &cells))
		return NULL;
	pinhole = values.buf;
	slot = slots.buf;
	cell = cells.buf;
	index = book.index.buf;
	if (values.len / (Py_ssize_t)sizeof(*pinhole) != slots.len / (Py_ssize_t)sizeof(*slot) ||
	    cells.len != slots.len)
		PyErr_SetString(PyExc_ValueError, "not as many pinholes as slots and cells");
	else if (!within(&slots, &book.hops, sizeof(*slot)) &&
		 !within(&cells, &book.index, sizeof(*index)))
		book.idle = PyList_New(0);
	for (i = 0; book.idle && i < slots.len / (Py_ssize_t)sizeof(*slot); i++) {
		index[cell[i]] = slot[i] + 1;
		if (book_hop(&book, slot[i], pinhole[i].nexthop))
			Py_CLEAR(book.idle);
	}
	close_book(&book);
	PyBuffer_Release(&values);
	PyBuffer_Release(&slots);
	PyBuffer_Release(&cells);
	return book.idle;
}

/* Forgets what is booked of these; others are passed over. Returns (slots, cells, idle next hops). */
static PyObject *py_unbook_pinholes(PyObject *self, PyObject *args)
{
	struct book book = {.idle = NULL};
	PyObject *gone = NULL, *from = NULL, *result = NULL;
	Py_ssize_t i, count, taken = 0;
	const uint32_t *slot, *cell;
	Py_buffer slots, cells;
	uint32_t *index;

	(void)self;
	if (!PyArg_ParseTuple(args, "w*w*w*y*y*", &book.index, &book.hops, &book.uses, &slots, &cells))
		return NULL;
	slot = slots.buf;
	cell = cells.buf;
	index = book.index.buf;
	count = slots.len / (Py_ssize_t)sizeof(*slot);
	if (cells.len != slots.len) {
		PyErr_SetString(PyExc_ValueError, "not as many slots as cells");
		goto out;
	}
	if (within(&cells, &book.index, sizeof(*index)))
		goto out;
	gone = PyBytes_FromStringAndSize(NULL, slots.len);
	from = PyBytes_FromStringAndSize(NULL, slots.len);
	book.idle = PyList_New(0);
	if (!gone || !from || !book.idle)
		goto out;
	for (i = 0; i < count; i++) {
		if (slot[i] >= (size_t)book.hops.len / sizeof(*slot) || index[cell[i]] != slot[i] + 1)
			continue;
		index[cell[i]] = 0;
		if (book_hop(&book, slot[i], 0))
			goto out;
		((uint32_t *)PyBytes_AsString(gone))[taken] = slot[i];
		((uint32_t *)PyBytes_AsString(from))[taken++] = cell[i];
	}
	taken *= (Py_ssize_t)sizeof(*slot);
	result = Py_BuildValue("y#y#O", PyBytes_AsString(gone), taken, PyBytes_AsString(from), taken,
			       book.idle);
out:
	Py_XDECREF(gone);
	Py_XDECREF(from);
	Py_XDECREF(book.idle);
	close_book(&book);
	PyBuffer_Release(&slots);
	PyBuffer_Release(&cells);
	return result;
}

/* Where the pinholes with these (host, port) are: (slots, cells); NO_SLOT and 0 where none is. */
static PyObject *py_locate_pinholes(PyObject *self, PyObject *args)
{
	PyObject *keys, *rows, *slots = NULL, *cells = NULL, *result = NULL;
	uint32_t *slot, *cell;
	const uint32_t *index;
	Py_ssize_t i, count;
	Py_buffer booked;

	(void)self;
	if (!PyArg_ParseTuple(args, "O!O!y*", &PyList_Type, &keys, &PyDict_Type, &rows, &booked))
		return NULL;
	index = booked.buf;
	count = PyList_Size(keys);
	slots = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(*slot));
	cells = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(*cell));
	if (!slots || !cells)
		goto out;
	slot = (uint32_t *)PyBytes_AsString(slots);
	cell = (uint32_t *)PyBytes_AsString(cells);
	for (i = 0; i < count; i++) {
		PyObject *key = PyList_GetItem(keys, i), *row = NULL;
		unsigned long first = 0, port = 0;

		if (!PyTuple_Check(key) || PyTuple_Size(key) != 2) {
			PyErr_SetString(PyExc_TypeError, "a key is (host, port)");
			goto out;
		}
		row = PyDict_GetItemWithError(rows, PyTuple_GetItem(key, 0));
		if (row) {
			first = PyLong_AsUnsignedLong(PyTuple_GetItem(row, 0));
			port = PyLong_AsUnsignedLong(PyTuple_GetItem(key, 1));
		}
		if (PyErr_Occurred())
			goto out;
		cell[i] = row && port <= UINT16_MAX && first <= UINT16_MAX ? first << 16 | port : 0;
		if (cell[i] >= (size_t)booked.len / sizeof(*index))
			cell[i] = 0;
		slot[i] = index[cell[i]] - 1; /* NO_SLOT where it is 0 */
	}
	result = Py_BuildValue("OO", slots, cells);
out:
	Py_XDECREF(slots);
	Py_XDECREF(cells);
	PyBuffer_Release(&booked);
	return result;
}

/* struct bgf_stats of each slot, all its CPUs together: sums, and the latest time. */
static PyObject *py_sum_stats(PyObject *self, PyObject *args)
{
	Py_buffer stats, slots;
	PyObject *summed = NULL;
	struct bgf_stats *total;
	unsigned int cpus, cpu;
	size_t each;
	const uint32_t *slot;
	Py_ssize_t i, count;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*y*I", &stats, &slots, &cpus))
		return NULL;
	slot = slots.buf;
	count = slots.len / (Py_ssize_t)sizeof(*slot);
	if (!cpus)
		PyErr_SetString(PyExc_ValueError, "no CPUs");
	else if (!within(&slots, &stats, cpus * sizeof(*total)))
		summed = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(*total));
	if (summed) {
		total = (struct bgf_stats *)PyBytes_AsString(summed);
		memset(total, 0, (size_t)count * sizeof(*total));
		each = (size_t)stats.len / sizeof(*total) / cpus;
		for (i = 0; i < count; i++, total++) {
			const struct bgf_stats *one = (const struct bgf_stats *)stats.buf + slot[i];

			for (cpu = 0; cpu < cpus; cpu++, one += each) {
				total->packets += one->packets;
				total->bytes += one->bytes;
				if (one->last_seen_ns > total->last_seen_ns)
					total->last_seen_ns = one->last_seen_ns;
				total->rtp_packets += one->rtp_packets;
				total->rtp_bytes += one->rtp_bytes;
				total->rtcp_packets += one->rtcp_packets;
			}
		}
	}
	PyBuffer_Release(&stats);
	PyBuffer_Release(&slots);
	return summed;
}

PyMethodDef xdp_book_methods[] = {
	{"write_pinholes", py_write_pinholes, METH_VARARGS, NULL},
	{"close_pinholes", py_close_pinholes, METH_VARARGS, NULL},
	{"compare_pinholes", py_compare_pinholes, METH_VARARGS, NULL},
	{"scan_ports", py_scan_ports, METH_VARARGS, NULL},
	{"take_rows", py_take_rows, METH_VARARGS, NULL},
	{"clear_streams", py_clear_streams, METH_VARARGS, NULL},
	{"clear_rows", py_clear_rows, METH_VARARGS, NULL},
	{"book_pinholes", py_book_pinholes, METH_VARARGS, NULL},
	{"unbook_pinholes", py_unbook_pinholes, METH_VARARGS, NULL},
	{"locate_pinholes", py_locate_pinholes, METH_VARARGS, NULL},
	{"sum_stats", py_sum_stats, METH_VARARGS, NULL},
	{NULL, NULL, 0, NULL},
};
