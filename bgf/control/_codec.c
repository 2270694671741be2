/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The module of the codec, and bytes under construction.
 *
 * Knows: memory. Must not know what is written.
 */
#include "_codec_sdp.h"

#include <string.h>

#define ROOM_MIN 4096 /* a usual reply */
#define DIGITS_MAX 24

static int grow(struct out *out, size_t len)
{
	size_t room = out->room ? out->room : ROOM_MIN;
	char *more;

	while (room - out->len < len) {
		if (room > (size_t)PY_SSIZE_T_MAX / 2) {
			PyErr_NoMemory();
			return -1;
		}
		room *= 2;
	}
	more = PyMem_Realloc(out->data, room);
	if (!more) {
		PyErr_NoMemory();
		return -1;
	}
	out->data = more;
	out->room = room;
	return 0;
}

int out_put(struct out *out, const void *data, size_t len)
{
	if (!len)
		return 0;
	if (out->room - out->len < len && grow(out, len))
		return -1;
	memcpy(out->data + out->len, data, len);
	out->len += len;
	return 0;
}

/* Its digits, at the end of the buffer. */
static const char *digits_of(char digits[DIGITS_MAX], long long value)
{
	unsigned long long rest = value < 0 ? 0ULL - (unsigned long long)value : (unsigned long long)value;
	char *at = digits + DIGITS_MAX;

	do {
		*--at = (char)('0' + rest % 10);
		rest /= 10;
	} while (rest);
	if (value < 0)
		*--at = '-';
	return at;
}

int out_number(struct out *out, long long value)
{
	char digits[DIGITS_MAX];
	const char *at = digits_of(digits, value);

	return out_put(out, at, (size_t)(digits + DIGITS_MAX - at));
}

int out_string(struct out *out, const char *data, size_t len)
{
	char digits[DIGITS_MAX], *to;
	const char *at = digits_of(digits, (long long)len);
	size_t size = (size_t)(digits + DIGITS_MAX - at);

	if (out->room - out->len < len + DIGITS_MAX + 1 && grow(out, len + DIGITS_MAX + 1))
		return -1;
	to = out->data + out->len;
	memcpy(to, at, size);
	to[size] = ':';
	memcpy(to + size + 1, data, len);
	out->len += size + 1 + len;
	return 0;
}

void out_free(struct out *out)
{
	PyMem_Free(out->data);
	memset(out, 0, sizeof(*out));
}

PyObject *out_bytes(struct out *out)
{
	PyObject *made = PyBytes_FromStringAndSize(out->data ? out->data : "", (Py_ssize_t)out->len);

	out_free(out);
	return made;
}

const char *text_bytes(PyObject *text, Py_ssize_t *len, PyObject **held)
{
	const char *data = PyUnicode_AsUTF8AndSize(text, len);
	char *raw;

	*held = NULL;
	if (data || !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
		return data;
	PyErr_Clear();
	*held = PyUnicode_AsEncodedString(text, "utf-8", "surrogateescape");
	if (!*held || PyBytes_AsStringAndSize(*held, &raw, len))
		return NULL;
	return raw;
}

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "_codec",
	.m_doc = "What the `ng` codec does with every byte of a frame.",
	.m_size = -1,
};

PyMODINIT_FUNC PyInit__codec(void);
PyMODINIT_FUNC PyInit__codec(void)
{
	PyObject *made = PyModule_Create(&module);

	if (made && (PyModule_AddFunctions(made, codec_bencode_methods) ||
		     PyModule_AddFunctions(made, codec_sdp_methods) ||
		     PyModule_AddFunctions(made, codec_rewrite_methods) ||
		     PyModule_AddIntConstant(made, "DEPTH_MAX", DEPTH_MAX) ||
		     PyModule_AddIntConstant(made, "INTEGER_DIGITS_MAX", INTEGER_DIGITS_MAX) ||
		     PyModule_AddIntConstant(made, "LENGTH_DIGITS_MAX", LENGTH_DIGITS_MAX)))
		Py_CLEAR(made);
	return made;
}
