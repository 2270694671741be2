/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bencode (BitTorrent BEP 3), both ways. A refusal is a ValueError whose text names the offset.
 *
 * Knows: bytes. Must not know what any key means. Everything read is bounded before it is used.
 */
#include "_codec.h"

#include <string.h>

#define WRITTEN_DEPTH_MAX 64

struct in {
	const char *data;
	Py_ssize_t len;
	Py_ssize_t at;
	PyObject *gathered; /* borrowed; names of the outermost dictionary whose values add up */
};

static PyObject *value(struct in *in, int depth);

static int is_digit(char byte)
{
	return byte >= '0' && byte <= '9';
}

static char byte_at(const struct in *in, Py_ssize_t at)
{
	return at < in->len ? in->data[at] : '\0';
}

static PyObject *refuse(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	PyErr_FormatV(PyExc_ValueError, format, arguments);
	va_end(arguments);
	return NULL;
}

/* The text of a string that begins here, NULL without an error when none does. */
static const char *string(struct in *in, Py_ssize_t *size)
{
	Py_ssize_t at = in->at, length = 0;

	while (at < in->len && at - in->at < LENGTH_DIGITS_MAX && is_digit(in->data[at]))
		length = length * 10 + (in->data[at++] - '0');
	if (at == in->at || byte_at(in, at) != ':' || at == in->len)
		return NULL;
	at++;
	if (length > in->len - at) {
		refuse("string of %zd bytes at byte %zd, %zd are left", length, in->at, in->len - at);
		return NULL;
	}
	*size = length;
	in->at = at + length;
	return in->data + at;
}

static PyObject *integer(struct in *in)
{
	Py_ssize_t at = in->at + 1, begin;
	long long found = 0;
	int minus = byte_at(in, at) == '-';

	begin = at += minus;
	while (at < in->len && at - begin < INTEGER_DIGITS_MAX && is_digit(in->data[at]))
		found = found * 10 + (in->data[at++] - '0');
	if (at == begin || at == in->len || in->data[at] != 'e')
		return refuse("an integer has 1 to %d digits and 'e' (byte %zd)", INTEGER_DIGITS_MAX,
			      in->at);
	in->at = at + 1;
	return PyLong_FromLongLong(minus ? -found : found);
}

static PyObject *list(struct in *in, int depth)
{
	PyObject *values = PyList_New(0), *one;

	in->at++;
	while (values && !(in->at < in->len && in->data[in->at] == 'e')) {
		one = value(in, depth + 1);
		if (!one || PyList_Append(values, one))
			Py_CLEAR(values);
		Py_XDECREF(one);
	}
	in->at++;
	return values;
}

/* A key as bytes, or as text with hyphens for its spaces. */
static PyObject *key_of(const char *data, Py_ssize_t size, int named)
{
	char changed[64];
	Py_ssize_t i;

	if (!named)
		return PyBytes_FromStringAndSize(data, size);
	if (size > (Py_ssize_t)sizeof(changed) || !memchr(data, ' ', (size_t)size)) {
		PyObject *text = PyUnicode_DecodeUTF8(data, size, "replace"), *hyphened;

		if (!text || size <= (Py_ssize_t)sizeof(changed))
			return text;
		hyphened = PyObject_CallMethod(text, "replace", "ss", " ", "-");
		Py_DECREF(text);
		return hyphened;
	}
	for (i = 0; i < size; i++)
		changed[i] = data[i] == ' ' ? '-' : data[i];
	return PyUnicode_DecodeUTF8(changed, size, "replace");
}

static int append_all(PyObject *list, PyObject *one)
{
	Py_ssize_t end = PyList_Size(list);

	return PyList_Check(one) ? PyList_SetSlice(list, end, end, one) : PyList_Append(list, one);
}

/* The values of a key that came before, and this one, as one list. */
static int gather(PyObject *entries, PyObject *key, PyObject *one)
{
	PyObject *before = PyDict_GetItemWithError(entries, key), *both;
	int err = -1;

	if (!before)
		return -1;
	if (PyList_Check(before))
		return append_all(before, one);
	both = PyList_New(0);
	if (both && !append_all(both, before) && !append_all(both, one))
		err = PyDict_SetItem(entries, key, both);
	Py_XDECREF(both);
	return err;
}

/* Of a key given twice the first counts, unless its values add up. */
static int keep(const struct in *in, int named, PyObject *entries, PyObject *key, PyObject *one)
{
	int known = PyDict_Contains(entries, key), gathers = 0;

	if (known > 0 && named && in->gathered)
		gathers = PySet_Contains(in->gathered, key);
	if (known < 0 || gathers < 0)
		return -1;
	if (!known)
		return PyDict_SetItem(entries, key, one);
	return gathers ? gather(entries, key, one) : 0;
}

static int entry(struct in *in, int depth, int named, PyObject *entries)
{
	Py_ssize_t begun = in->at, size = 0;
	const char *text = string(in, &size);
	PyObject *key = NULL, *one = NULL;
	int err = -1;

	if (!text) {
		if (!PyErr_Occurred())
			key = value(in, depth + 1);
		if (key) {
			Py_DECREF(key);
			refuse("a dictionary key must be a string (at byte %zd)", begun);
		}
		return -1;
	}
	key = key_of(text, size, named);
	one = key ? value(in, depth + 1) : NULL;
	if (one)
		err = keep(in, named, entries, key, one);
	Py_XDECREF(key);
	Py_XDECREF(one);
	return err;
}

static PyObject *dictionary(struct in *in, int depth, int named)
{
	PyObject *entries = PyDict_New();

	in->at++;
	while (entries && !(in->at < in->len && in->data[in->at] == 'e'))
		if (entry(in, depth, named, entries))
			Py_CLEAR(entries);
	in->at++;
	return entries;
}

static PyObject *value(struct in *in, int depth)
{
	Py_ssize_t size = 0;
	const char *text = string(in, &size);
	char lead;

	if (text)
		return PyBytes_FromStringAndSize(text, size);
	if (PyErr_Occurred())
		return NULL;
	if (in->at >= in->len)
		return refuse("ends at byte %zd where a value must follow", in->at);
	lead = in->data[in->at];
	if (lead == 'd' || lead == 'l') {
		if (depth >= DEPTH_MAX)
			return refuse("nested deeper than %d at byte %zd", DEPTH_MAX, in->at);
		return lead == 'd' ? dictionary(in, depth, 0) : list(in, depth);
	}
	if (lead == 'i')
		return integer(in);
	if (is_digit(lead))
		return refuse("a string length has 1 to %d digits and ':' (byte %zd)",
			      LENGTH_DIGITS_MAX, in->at);
	return refuse("no value begins with byte 0x%02x (at byte %zd)", (unsigned char)lead, in->at);
}

static PyObject *py_decode(PyObject *self, PyObject *args)
{
	PyObject *data, *entries;
	struct in in = {0};
	Py_ssize_t end;
	int named = 0;
	char *raw;

	(void)self;
	if (!PyArg_ParseTuple(args, "Sn|pO!", &data, &in.at, &named, &PyFrozenSet_Type,
			      &in.gathered) ||
	    PyBytes_AsStringAndSize(data, &raw, &in.len))
		return NULL;
	if (in.at < 0 || in.at > in.len)
		return refuse("begins at byte %zd of %zd", in.at, in.len);
	/* Offsets are told from where the dictionary begins. */
	in.data = raw + in.at;
	in.len -= in.at;
	in.at = 0;
	if (byte_at(&in, 0) != 'd')
		return refuse("not a dictionary: it does not begin with 'd'");
	entries = dictionary(&in, 0, named);
	if (!entries)
		return NULL;
	for (end = in.at; end < in.len; end++)
		if (!strchr(" \t\n\r\v\f", in.data[end]) || !in.data[end]) {
			Py_DECREF(entries);
			return refuse("%zd bytes follow the dictionary", in.len - in.at);
		}
	return entries;
}

/* Writing. */

static int write_value(struct out *out, PyObject *one, int depth);

static int write_text(struct out *out, PyObject *text)
{
	PyObject *held;
	Py_ssize_t len;
	const char *data = text_bytes(text, &len, &held);
	int err = data ? out_string(out, data, (size_t)len) : -1;

	Py_XDECREF(held);
	return err;
}

static int write_integer(struct out *out, PyObject *one)
{
	int overflow;
	long long number = PyLong_AsLongLongAndOverflow(one, &overflow);
	PyObject *text;
	const char *data = NULL;
	Py_ssize_t len;
	int err = -1;

	if (number == -1 && !overflow && PyErr_Occurred())
		return -1;
	if (!overflow)
		return out_put(out, "i", 1) || out_number(out, number) || out_put(out, "e", 1) ? -1 : 0;
	text = PyObject_Str(one);
	if (text)
		data = PyUnicode_AsUTF8AndSize(text, &len);
	if (data)
		err = out_put(out, "i", 1) || out_put(out, data, (size_t)len) || out_put(out, "e", 1) ? -1 : 0;
	Py_XDECREF(text);
	return err;
}

/* 1 when the keys are plain text that stands in order already, as most dictionaries here do. */
static int is_sorted(PyObject *one)
{
	PyObject *key, *under;
	const char *text, *before = "";
	Py_ssize_t at = 0, len, before_len = 0;

	while (PyDict_Next(one, &at, &key, &under)) {
		int order;

		text = PyUnicode_Check(key) ? PyUnicode_AsUTF8AndSize(key, &len) : NULL;
		if (!text) {
			PyErr_Clear();
			return 0;
		}
		order = memcmp(before, text, (size_t)(before_len < len ? before_len : len));
		if (order > 0 || (!order && before_len > len))
			return 0;
		before = text;
		before_len = len;
	}
	return 1;
}

static int write_in_order(struct out *out, PyObject *one, int depth)
{
	PyObject *key, *under;
	Py_ssize_t at = 0;

	if (out_put(out, "d", 1))
		return -1;
	while (PyDict_Next(one, &at, &key, &under))
		if (write_text(out, key) || write_value(out, under, depth + 1))
			return -1;
	return out_put(out, "e", 1);
}

/* Keys sorted by code point, which is how their UTF-8 sorts. */
static int write_dictionary(struct out *out, PyObject *one, int depth)
{
	PyObject *keys, *key, *under;
	Py_ssize_t i, count;
	int err = -1;

	if (is_sorted(one))
		return write_in_order(out, one, depth);
	keys = PyDict_Keys(one);
	if (!keys || PyList_Sort(keys) || out_put(out, "d", 1))
		goto done;
	count = PyList_Size(keys);
	for (i = 0; i < count; i++) {
		key = PyList_GetItem(keys, i);
		if (!PyUnicode_Check(key)) {
			PyErr_SetString(PyExc_TypeError, "keys are text");
			goto done;
		}
		under = PyDict_GetItemWithError(one, key);
		if (!under || write_text(out, key) || write_value(out, under, depth + 1))
			goto done;
	}
	err = out_put(out, "e", 1);
done:
	Py_XDECREF(keys);
	return err;
}

static int write_sequence(struct out *out, PyObject *one, int depth)
{
	PyObject *entries = PySequence_List(one);
	Py_ssize_t i, count;
	int err = -1;

	if (!entries || out_put(out, "l", 1))
		goto done;
	count = PyList_Size(entries);
	for (i = 0; i < count; i++)
		if (write_value(out, PyList_GetItem(entries, i), depth + 1))
			goto done;
	err = out_put(out, "e", 1);
done:
	Py_XDECREF(entries);
	return err;
}

static int write_mapping(struct out *out, PyObject *one, int depth)
{
	PyObject *copy = PyDict_New();
	int err = copy ? PyDict_Update(copy, one) : -1;

	if (!err)
		err = write_dictionary(out, copy, depth);
	Py_XDECREF(copy);
	return err;
}

static int write_value(struct out *out, PyObject *one, int depth)
{
	Py_ssize_t len;
	char *raw;

	if (depth > WRITTEN_DEPTH_MAX) {
		PyErr_SetString(PyExc_ValueError, "nested too deep to be written");
		return -1;
	}
	/* The very types first: to ask for their like is a call into the interpreter each. */
	if (Py_IS_TYPE(one, &PyUnicode_Type))
		return write_text(out, one);
	if (Py_IS_TYPE(one, &PyLong_Type))
		return write_integer(out, one);
	if (Py_IS_TYPE(one, &PyDict_Type))
		return write_dictionary(out, one, depth);
	if (PyUnicode_Check(one))
		return write_text(out, one);
	if (PyLong_Check(one))
		return write_integer(out, one);
	if (PyDict_Check(one))
		return write_dictionary(out, one, depth);
	if (PyBytes_Check(one))
		return PyBytes_AsStringAndSize(one, &raw, &len) ? -1 : out_string(out, raw, (size_t)len);
	if (PyObject_HasAttrString(one, "keys"))
		return write_mapping(out, one, depth);
	return write_sequence(out, one, depth);
}

static PyObject *py_encode(PyObject *self, PyObject *args)
{
	struct out out = {0};
	const char *before = NULL;
	Py_ssize_t len = 0;
	PyObject *one;

	(void)self;
	if (!PyArg_ParseTuple(args, "O|y#", &one, &before, &len))
		return NULL;
	if ((len && out_put(&out, before, (size_t)len)) || write_value(&out, one, 0)) {
		out_free(&out);
		return NULL;
	}
	return out_bytes(&out);
}

PyMethodDef codec_bencode_methods[] = {
	{"decode", py_decode, METH_VARARGS,
	 "decode(data, at, named=False, gathered=frozenset()) -> dict\n\n"
	 "The bencode dictionary that begins at an offset. White space after it is ignored. Keys are\n"
	 "bytes; `named` makes those of the outermost one text, with hyphens for spaces. Of a key given\n"
	 "twice the first counts; the values of those in `gathered` add up to a list. Raises ValueError,\n"
	 "nothing else that the bytes could cause."},
	{"encode", py_encode, METH_VARARGS,
	 "encode(value, before=b'') -> bytes\n\n"
	 "A value behind these bytes, dictionary keys sorted. Text is UTF-8, lone surrogates are the raw\n"
	 "bytes they stand for. Raises TypeError, ValueError for what is no such value."},
	{NULL, NULL, 0, NULL},
};
