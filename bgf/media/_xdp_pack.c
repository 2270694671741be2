/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows to pinholes, many at once: 100,000 of them are to be installed in a fifth of a second.
 *
 * Knows: the fields of bgf.model.Flow in their order, struct bgf_pinhole. Reads what it is given and
 * writes into buffers; calls no kernel. What it finds wrong with a flow it tells by the flow's
 * position (ValueError(position)); the caller says in words what it is.
 */
#include "_xdp.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bpf/bgf.h"

#define NS 1000000000ull
#define NO_SLOT UINT32_MAX
#define DSCP_MAX 63
#define ECN_BITS 0x03 /* of the traffic class: not the gateway's to set (RFC 3168) */
#define TYPE_MAX 127
#define CLOCK_DEFAULT 8000
#define LATCH_STRICT 3
#define COMPONENT_RTCP 2
#define PORT_MAX 65535

enum flow_field {
	GROUP, SESSION, STREAM, COMPONENT, REALM_IN, LOCAL_IN, REALM_OUT, LOCAL_OUT, REMOTE, SOURCE,
	GATE, LATCH, LEARNED, LATCH_ROUND, FOLLOWS, POLICER, DSCP, RTP, RTCP_MUX, INACTIVITY_MS,
	ICE, DEMUX, FLOW_FIELDS
};

/* Everything that one call works with. Objects are the caller's unless marked. */
struct packing {
	PyObject *astuple;  /* ours. msgspec.structs.astuple */
	PyObject *host;	    /* ours. The names of an Address' fields */
	PyObject *port;
	PyObject *free;	    /* list of slots, taken from its end */
	PyObject *groups;   /* dict: id -> index */
	PyObject *realms;   /* dict: realm -> (ifindex, vlan, dict: far host -> next hop) */
	PyObject *rows;	    /* dict: host -> (row, ifindex, vlan) */
	PyObject *add_row;  /* (realm, host) -> the same, for those that `rows` lack */
	PyObject *hosts;    /* dict: host -> 16 bytes */
	PyObject *pack_host;
	PyObject *guarded;  /* set of hosts */
	PyObject *add_hop;  /* (realm, host) -> next hop, for those that `realms` lack */
	PyObject *special;  /* ours. list of positions */
	const uint8_t *odd; /* by slot: needs a second look */
	Py_ssize_t odd_len;
	uint32_t *index; /* by cell: slot + 1; those of new flows stand there until the end */
	Py_ssize_t index_len;
	struct bgf_pinhole *pinholes;
	uint32_t *slots;
	uint32_t *cells; /* of ports */
	uint32_t *fresh; /* cells that were given a slot */
	Py_ssize_t taken;
	Py_ssize_t short_of; /* flows that found no slot */
	/* Many flows share one object: what was made of the last is made once. All of them live as
	 * long as the flows do. */
	PyObject *last_source;
	PyObject *last_policer;
	PyObject *last_rtp;
	struct bgf_pinhole filter;
	struct bgf_pinhole policed;
	struct bgf_pinhole media;
	int odd_clock;
};

/* 0 and *value, or -1: not an int, or out of 0..max. No Python error is left behind. */
static int number(PyObject *object, unsigned long long max, unsigned long long *value)
{
	*value = PyLong_AsUnsignedLongLong(object);
	if (*value == UINT64_MAX && PyErr_Occurred()) {
		PyErr_Clear();
		return -1;
	}
	return *value <= max ? 0 : -1;
}

/* The fields of a struct as a tuple of our own, later ones than we know included; NULL without a
 * Python error for what is none. */
static PyObject *fields(struct packing *all, PyObject *object, Py_ssize_t count)
{
	PyObject *tuple = PyObject_CallFunctionObjArgs(all->astuple, object, NULL);

	if (tuple && PyTuple_Check(tuple) && PyTuple_Size(tuple) >= count)
		return tuple;
	PyErr_Clear();
	Py_XDECREF(tuple);
	return NULL;
}

static int host_bytes(struct packing *all, PyObject *host, struct bgf_address *address)
{
	PyObject *raw = PyDict_GetItemWithError(all->hosts, host), *made = NULL;
	char *bytes;

	if (!raw) {
		PyErr_Clear();
		raw = made = PyObject_CallFunctionObjArgs(all->pack_host, host, NULL);
	}
	bytes = raw && PyBytes_Check(raw) && PyBytes_Size(raw) == sizeof(*address)
			? PyBytes_AsString(raw)
			: NULL;
	if (bytes)
		memcpy(address, bytes, sizeof(*address));
	PyErr_Clear();
	Py_XDECREF(made);
	return bytes ? 0 : -1;
}

/* An Address; its host is borrowed from `object`, which lives as long as its flow. */
static int transport(struct packing *all, PyObject *object, struct bgf_address *address,
		     uint16_t *port_be, PyObject **host)
{
	PyObject *text = PyObject_GetAttr(object, all->host);
	PyObject *digits = text ? PyObject_GetAttr(object, all->port) : NULL;
	unsigned long long port;
	int err = !digits || number(digits, PORT_MAX, &port) || host_bytes(all, text, address);

	if (!err)
		*port_be = __builtin_bswap16((uint16_t)port);
	*host = text;
	PyErr_Clear();
	Py_XDECREF(text);
	Py_XDECREF(digits);
	return err ? -1 : 0;
}

static int is_ip4(const struct bgf_address *address)
{
	static const uint8_t mapped[12] = {[10] = 0xff, 0xff};

	return memcmp(address, mapped, sizeof(mapped)) == 0;
}

static uint16_t sum(const struct bgf_way *way)
{
	uint64_t total = (uint64_t)way->local_port_be + way->remote_port_be;
	const uint16_t *near = (const uint16_t *)&way->local;
	const uint16_t *far = (const uint16_t *)&way->remote;
	size_t i;

	for (i = 0; i < sizeof(struct bgf_address) / 2; i++)
		total += (uint64_t)near[i] + far[i];
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)total;
}

static void mask_bits(struct bgf_address *mask, unsigned int bits)
{
	uint8_t *byte = (uint8_t *)mask;
	unsigned int i;

	for (i = 0; i < sizeof(*mask); i++, bits -= bits < 8 ? bits : 8)
		byte[i] = bits >= 8 ? 0xff : (uint8_t)(0xff00 >> bits);
}

static int read_source(struct packing *all, PyObject *object, struct bgf_pinhole *pinhole, int strict)
{
	PyObject *tuple = fields(all, object, 4), *host, *port, *prefix, *last;
	unsigned long long first_port = 0, last_port = PORT_MAX, bits = 128;
	int err = -1;

	if (!tuple)
		return -1;
	host = PyTuple_GetItem(tuple, 0);
	port = PyTuple_GetItem(tuple, 1);
	prefix = PyTuple_GetItem(tuple, 2);
	last = PyTuple_GetItem(tuple, 3);
	if (strict && (host == Py_None || port == Py_None || prefix != Py_None || last != Py_None))
		goto out;
	if (host != Py_None) {
		if (host_bytes(all, host, &pinhole->source))
			goto out;
		if (prefix != Py_None) {
			unsigned int head = is_ip4(&pinhole->source) ? 96 : 0;

			if (number(prefix, 128 - head, &bits))
				goto out;
			bits += head;
		}
		pinhole->flags |= BGF_SOURCE_HOST;
		if (prefix != Py_None) {
			pinhole->flags |= BGF_SOURCE_PREFIX;
			mask_bits(&pinhole->source_mask, (unsigned int)bits);
		}
	} else if (prefix != Py_None) {
		goto out;
	}
	if (port != Py_None) {
		if (number(port, PORT_MAX, &first_port))
			goto out;
		last_port = first_port;
		pinhole->flags |= BGF_SOURCE_PORT;
	}
	if (last != Py_None &&
	    (port == Py_None || number(last, PORT_MAX, &last_port) || last_port < first_port))
		goto out;
	pinhole->source_port_first = (uint16_t)first_port;
	pinhole->source_port_last = (uint16_t)last_port;
	err = 0;
out:
	Py_DECREF(tuple);
	return err;
}

static int pack_source(struct packing *all, PyObject *object, struct bgf_pinhole *pinhole, int strict)
{
	struct bgf_pinhole *made = &all->filter;

	if (strict || object != all->last_source) {
		memset(made, 0, sizeof(*made));
		all->last_source = NULL;
		if (read_source(all, object, made, strict))
			return -1;
		all->last_source = object;
	}
	pinhole->flags |= made->flags;
	pinhole->source = made->source;
	pinhole->source_mask = made->source_mask;
	pinhole->source_port_first = made->source_port_first;
	pinhole->source_port_last = made->source_port_last;
	return 0;
}

static void bucket(unsigned long long rate, unsigned long long burst, __u64 *cost, __u64 *depth)
{
	unsigned __int128 room;

	if (!rate)
		return;
	*cost = (NS << (BGF_TIME_SHIFT + BGF_COST_SHIFT)) / rate;
	room = ((unsigned __int128)burst * *cost) >> BGF_COST_SHIFT;
	*depth = room > BGF_NO_BUCKET >> 1 ? BGF_NO_BUCKET >> 1 : (__u64)room;
}

static int pack_policer(struct packing *all, PyObject *object, struct bgf_pinhole *pinhole)
{
	struct bgf_pinhole *made = &all->policed;
	unsigned long long value[4] = {0};
	PyObject *tuple;
	int i, err = 0;

	if (object != all->last_policer) {
		tuple = object == Py_None ? NULL : fields(all, object, 4);
		if (!tuple && object != Py_None)
			return -1;
		for (i = 0; tuple && i < 4; i++)
			err |= number(PyTuple_GetItem(tuple, i), UINT64_MAX, &value[i]);
		Py_XDECREF(tuple);
		if (err)
			return -1;
		memset(made, 0, sizeof(*made));
		made->sustained_depth = BGF_NO_BUCKET;
		made->peak_depth = BGF_NO_BUCKET;
		bucket(value[0], value[1], &made->sustained_cost, &made->sustained_depth);
		bucket(value[2], value[3], &made->peak_cost, &made->peak_depth);
		made->flags = object == Py_None ? 0 : BGF_POLICE;
		all->last_policer = object;
	}
	pinhole->flags |= made->flags;
	pinhole->sustained_cost = made->sustained_cost;
	pinhole->sustained_depth = made->sustained_depth;
	pinhole->peak_cost = made->peak_cost;
	pinhole->peak_depth = made->peak_depth;
	return 0;
}

static int read_rtp(struct packing *all, PyObject *object)
{
	struct bgf_pinhole *made = &all->media;
	PyObject *tuple = fields(all, object, 3), *types;
	unsigned long long hz, type;
	Py_ssize_t i;
	int err = -1;

	if (!tuple)
		return -1;
	memset(made, 0, sizeof(*made));
	types = PyTuple_GetItem(tuple, 1);
	if (number(PyTuple_GetItem(tuple, 2), NS - 1, &hz) || !hz || !PyTuple_Check(types))
		goto out;
	for (i = 0; i < PyTuple_Size(types); i++) {
		if (number(PyTuple_GetItem(types, i), TYPE_MAX, &type))
			goto out;
		made->types[type / 64] |= 1ull << type % 64;
	}
	made->flags = BGF_RTP;
	if (PyTuple_GetItem(tuple, 0) == Py_True)
		made->flags |= BGF_RTP_CHECK;
	if (i)
		made->flags |= BGF_RTP_TYPES;
	/* Rounded, as the model is: half a unit in 2^32. */
	made->clock = (uint32_t)(((hz << 32) + NS / 2) / NS);
	all->odd_clock = hz != CLOCK_DEFAULT;
	all->last_rtp = object;
	err = 0;
out:
	Py_DECREF(tuple);
	return err;
}

/* Sets *odd where the clock is none that everybody assumes. */
static int pack_rtp(struct packing *all, PyObject *const *flow, struct bgf_pinhole *pinhole, int *odd)
{
	unsigned long long component;

	if (flow[RTP] == Py_None)
		return 0;
	if ((flow[RTP] != all->last_rtp && read_rtp(all, flow[RTP])) ||
	    number(flow[COMPONENT], UINT32_MAX, &component))
		return -1;
	pinhole->flags |= all->media.flags;
	if (component == COMPONENT_RTCP) {
		pinhole->flags |= BGF_RTCP;
		pinhole->flags &= ~BGF_RTP_TYPES; /* they are those of RTP */
	}
	if (flow[RTCP_MUX] == Py_True)
		pinhole->flags |= BGF_MUXED;
	pinhole->types[0] = all->media.types[0];
	pinhole->types[1] = all->media.types[1];
	pinhole->clock = all->media.clock;
	*odd |= all->odd_clock;
	return 0;
}

static int pack_marks(PyObject *const *flow, struct bgf_way *way)
{
	unsigned long long dscp;

	way->tos_mask = 0xff;
	if (flow[DSCP] == Py_None)
		return 0;
	if (number(flow[DSCP], DSCP_MAX, &dscp))
		return -1;
	way->tos_mask = ECN_BITS;
	way->tos_bits = (uint8_t)(dscp << 2);
	return 0;
}

/* (ifindex, vlan, dict of next hops) of a realm; -1 for an unknown one. */
static int wire(struct packing *all, PyObject *realm, __u32 *ifindex, __u16 *vlan, PyObject **hops)
{
	PyObject *found = PyDict_GetItemWithError(all->realms, realm);
	unsigned long long value[2];

	if (!found || number(PyTuple_GetItem(found, 0), UINT32_MAX, &value[0]) ||
	    number(PyTuple_GetItem(found, 1), UINT16_MAX, &value[1])) {
		PyErr_Clear();
		return -1;
	}
	*ifindex = (__u32)value[0];
	*vlan = (__u16)value[1];
	*hops = PyTuple_GetItem(found, 2);
	return 0;
}

/* The cell of an address and a port: 0, 1 for an address of another realm, -1 with an error. */
static int cell(struct packing *all, PyObject *realm, PyObject *host,
		const struct bgf_key *key, uint32_t *cell)
{
	PyObject *found = PyDict_GetItemWithError(all->rows, host), *made = NULL;
	unsigned long long row, ifindex, vlan;
	int err = -1;

	if (!found && !PyErr_Occurred())
		found = made = PyObject_CallFunctionObjArgs(all->add_row, realm, host, NULL);
	if (!found)
		return -1;
	if (PyTuple_Check(found) && PyTuple_Size(found) == 3 &&
	    !number(PyTuple_GetItem(found, 0), UINT16_MAX, &row) &&
	    !number(PyTuple_GetItem(found, 1), UINT32_MAX, &ifindex) &&
	    !number(PyTuple_GetItem(found, 2), UINT16_MAX, &vlan)) {
		*cell = (uint32_t)row << 16 | __builtin_bswap16(key->port_be);
		err = ifindex != key->ifindex || vlan != key->vlan;
	} else {
		PyErr_SetString(PyExc_TypeError, "a row is (row, ifindex, vlan)");
	}
	Py_XDECREF(made);
	return err;
}

/* Returns -1 with a Python error, 0 otherwise; `short_of` counts those that found none. */
static int take_slot(struct packing *all, uint32_t cell, uint32_t *slot)
{
	PyObject *found;
	Py_ssize_t at;

	if (cell >= all->index_len) {
		PyErr_SetString(PyExc_IndexError, "no such row");
		return -1;
	}
	if (!all->index[cell]) {
		at = PyList_Size(all->free) - 1 - all->taken;
		if (at < 0) {
			all->short_of++;
			return 0;
		}
		found = PyList_GetItem(all->free, at);
		*slot = found ? (uint32_t)PyLong_AsUnsignedLong(found) : 0;
		if (PyErr_Occurred())
			return -1;
		all->index[cell] = *slot + 1;
		all->fresh[all->taken++] = cell;
	}
	*slot = all->index[cell] - 1;
	return 0;
}

/* Returns -1 with a Python error. */
static int next_hop(struct packing *all, PyObject *hops, PyObject *realm, PyObject *host,
		    __u32 *index)
{
	PyObject *found = PyDict_GetItemWithError(hops, host), *made = NULL;

	if (!found && !PyErr_Occurred())
		found = made = PyObject_CallFunctionObjArgs(all->add_hop, realm, host, NULL);
	if (found)
		*index = (__u32)PyLong_AsUnsignedLong(found);
	Py_XDECREF(made);
	return !found || PyErr_Occurred() ? -1 : 0;
}

static int note_special(struct packing *all, Py_ssize_t position)
{
	PyObject *at = PyLong_FromSsize_t(position);
	int err = at ? PyList_Append(all->special, at) : -1;

	Py_XDECREF(at);
	return err;
}

/* 0; 1 for a flow that cannot be; -1 with a Python error. */
static int pack_one(struct packing *all, Py_ssize_t position, PyObject *const *flow)
{
	struct bgf_pinhole *pinhole = &all->pinholes[position];
	struct bgf_way *way = &pinhole->way;
	unsigned long long group, gate, latch, inactivity;
	PyObject *near, *far, *remote = NULL, *found, *hops, *unused;
	int odd = 0, follows = flow[FOLLOWS] == Py_True, contains, elsewhere;

	memset(pinhole, 0, sizeof(*pinhole));
	found = PyDict_GetItemWithError(all->groups, flow[GROUP]);
	if (!found || number(found, UINT32_MAX, &group) || number(flow[GATE], 1, &gate) ||
	    number(flow[LATCH], LATCH_STRICT, &latch) ||
	    number(flow[INACTIVITY_MS], UINT32_MAX, &inactivity) ||
	    wire(all, flow[REALM_IN], &pinhole->key.ifindex, &pinhole->key.vlan, &unused) ||
	    wire(all, flow[REALM_OUT], &pinhole->ifindex_out, &pinhole->vlan_out, &hops) ||
	    transport(all, flow[LOCAL_IN], &pinhole->key.local, &pinhole->key.port_be, &near) ||
	    transport(all, flow[LOCAL_OUT], &way->local, &way->local_port_be, &far) ||
	    (flow[REMOTE] != Py_None &&
	     transport(all, flow[REMOTE], &way->remote, &way->remote_port_be, &remote)) ||
	    pack_source(all, flow[SOURCE], pinhole, latch == LATCH_STRICT) ||
	    pack_policer(all, flow[POLICER], pinhole) || pack_marks(flow, &pinhole->way) ||
	    pack_rtp(all, flow, pinhole, &odd) ||
	    (remote && is_ip4(&way->remote) != is_ip4(&way->local))) {
		PyErr_Clear();
		return 1;
	}
	elsewhere = cell(all, flow[REALM_IN], near, &pinhole->key, &all->cells[position]);
	if (elsewhere)
		return elsewhere;
	pinhole->group = (__u32)group;
	pinhole->peer_slot = NO_SLOT;
	/* A gate can only be open towards somebody, be it one who will only be learned. */
	if (gate && (remote || follows))
		pinhole->flags |= BGF_OPEN;
	if (!is_ip4(&way->local))
		pinhole->flags |= BGF_OUT_IP6;
	if (latch && latch != LATCH_STRICT)
		pinhole->flags |= BGF_LATCH;
	if (follows)
		pinhole->flags |= remote ? BGF_FOLLOW : BGF_FOLLOW | BGF_NO_REMOTE;
	if (flow[ICE] != Py_None)
		pinhole->flags |= BGF_CHECKS;
	if (flow[DEMUX] == Py_True)
		pinhole->flags |= BGF_DEMUX;
	way->sum = sum(way);
	if (remote) {
		if (next_hop(all, hops, flow[REALM_OUT], remote, &pinhole->nexthop) < 0)
			return -1;
		contains = PySet_Contains(all->guarded, remote);
		if (contains < 0)
			return -1;
		if (contains)
			pinhole->flags |= BGF_HAIRPIN;
	}
	if (take_slot(all, all->cells[position], &all->slots[position]) < 0)
		return -1;
	odd |= follows || inactivity || pinhole->flags & BGF_LATCH ||
	       (all->slots[position] < all->odd_len && all->odd[all->slots[position]]);
	if (odd && note_special(all, position) < 0)
		return -1;
	return PyErr_Occurred() ? -1 : 0;
}

static PyObject *all_made(struct packing *all, PyObject *values, Py_ssize_t count)
{
	Py_ssize_t words = count * (Py_ssize_t)sizeof(uint32_t);

	return Py_BuildValue("Oy#y#nOn", values, (char *)all->slots, words, (char *)all->cells, words,
			     all->taken, all->special, all->short_of);
}

static PyObject *py_pack_flows(PyObject *self, PyObject *args)
{
	struct packing all = {.taken = 0};
	PyObject *flows, *msgspec, *values, *result = NULL;
	Py_ssize_t count, i, field;
	Py_buffer index, odd;

	(void)self;
	if (!PyArg_ParseTuple(args, "O!w*O!O!O!O!O!OOy*OO", &PyList_Type, &flows, &index, &PyList_Type,
			      &all.free, &PyDict_Type, &all.groups, &PyDict_Type, &all.realms,
			      &PyDict_Type, &all.rows, &PyDict_Type, &all.hosts, &all.pack_host,
			      &all.guarded, &odd, &all.add_hop, &all.add_row))
		return NULL;
	count = PyList_Size(flows);
	all.index = index.buf;
	all.index_len = index.len / (Py_ssize_t)sizeof(*all.index);
	all.odd = odd.buf;
	all.odd_len = odd.len;
	msgspec = PyImport_ImportModule("msgspec.structs");
	all.astuple = msgspec ? PyObject_GetAttrString(msgspec, "astuple") : NULL;
	all.host = PyUnicode_InternFromString("host");
	all.port = PyUnicode_InternFromString("port");
	all.special = PyList_New(0);
	values = PyByteArray_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(*all.pinholes));
	all.pinholes = values ? (struct bgf_pinhole *)PyByteArray_AsString(values) : NULL;
	all.slots = calloc((size_t)count + 1, sizeof(*all.slots));
	all.cells = calloc((size_t)count + 1, sizeof(*all.cells));
	all.fresh = calloc((size_t)count + 1, sizeof(*all.fresh));
	if (!all.slots || !all.cells || !all.fresh)
		PyErr_NoMemory();
	if (PyErr_Occurred())
		goto out;
	for (i = 0; i < count; i++) {
		PyObject *tuple = fields(&all, PyList_GetItem(flows, i), FLOW_FIELDS);
		PyObject *flow[FLOW_FIELDS];
		int bad = tuple ? 0 : 1;

		for (field = 0; tuple && field < FLOW_FIELDS; field++)
			flow[field] = PyTuple_GetItem(tuple, field);
		if (!bad)
			bad = pack_one(&all, i, flow);
		Py_XDECREF(tuple);
		if (bad > 0)
			PyErr_SetObject(PyExc_ValueError, PyLong_FromSsize_t(i));
		if (bad)
			goto out;
	}
	result = all_made(&all, values, count);
out:
	/* Nothing has happened yet: who writes them books them. */
	for (i = 0; i < all.taken; i++)
		all.index[all.fresh[i]] = 0;
	Py_XDECREF(msgspec);
	Py_XDECREF(all.astuple);
	Py_XDECREF(all.host);
	Py_XDECREF(all.port);
	Py_XDECREF(all.special);
	Py_XDECREF(values);
	free(all.slots);
	free(all.cells);
	free(all.fresh);
	PyBuffer_Release(&index);
	PyBuffer_Release(&odd);
	return result;
}

PyMethodDef xdp_pack_methods[] = {
	{"pack_flows", py_pack_flows, METH_VARARGS, NULL},
	{NULL, NULL, 0, NULL},
};
