/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The module of the codec, and bytes under construction.
 *
 * Knows: memory. Must not know what is written.
 */
#include "_codec_sdp.h"

#include <string.h>

#define ROOM_MIN 1024

int out_put(struct out *out, const void *data, size_t len)
{
	if (!len)
		return 0;
	if (out->room - out->len < len) {
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
	}
	memcpy(out->data + out->len, data, len);
	out->len += len;
	return 0;
}

int out_number(struct out *out, long long value)
{
	char digits[24], *at = digits + sizeof(digits);
	unsigned long long rest = value < 0 ? 0ULL - (unsigned long long)value : (unsigned long long)value;

	do {
		*--at = (char)('0' + rest % 10);
		rest /= 10;
	} while (rest);
	if (value < 0)
		*--at = '-';
	return out_put(out, at, (size_t)(digits + sizeof(digits) - at));
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
