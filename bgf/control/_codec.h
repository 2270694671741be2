/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the codec share: bytes that grow, and text as the bytes that it stands for. */
#ifndef BGF_CODEC_H
#define BGF_CODEC_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Of bencode that is read. */
#define DEPTH_MAX 16 /* containers in each other; a real request has two, a query's reply seven */
#define INTEGER_DIGITS_MAX 18 /* fits 64 bits with its sign, whatever the digits are */
#define LENGTH_DIGITS_MAX 8

/* The functions of the other files. */
extern PyMethodDef codec_bencode_methods[];

/* Bytes under construction. `data` is owned; all of it is freed by `out_free`. */
struct out {
	char *data;
	size_t len;
	size_t room;
};

/* 0, or -1 with MemoryError. */
int out_put(struct out *out, const void *data, size_t len);
int out_number(struct out *out, long long value);
/* 5:bytes. `data` is not NULL. */
int out_string(struct out *out, const char *data, size_t len);
void out_free(struct out *out);
/* The bytes; `out` is empty afterwards. */
PyObject *out_bytes(struct out *out);

/*
 * The UTF-8 of a str, lone surrogates as the raw bytes that they stand for. The pointer is good
 * while `text` and `*held` live: the caller drops `*held` (which may be NULL).
 */
const char *text_bytes(PyObject *text, Py_ssize_t *len, PyObject **held);

#endif
