/* What the files of the extension share: the objects, errors and arguments.
 *
 * Everything static here assumes one interpreter per process.
 */
#ifndef STATESTORE__SEGMENT_H
#define STATESTORE__SEGMENT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "segment.h"

#define ARGS_MAX 4
#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS
#define SEALED (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE)

typedef struct {
    PyObject_HEAD
    seg *s; /* NULL once closed */
    PyObject *path;
} Segment;

typedef struct {
    PyObject_HEAD
    Segment *segment;
    PyObject *key;
    seg_handle h;
} Handle;

typedef struct {
    PyObject_HEAD
    Segment *segment;
    PyObject *name;
    seg_grant g;
} Grant;

typedef struct {
    PyObject_HEAD
    Segment *segment;
    PyObject *prefix;
    seg_cursor c;
} Cursor;

typedef struct {
    const char *data;
    Py_ssize_t len;
    Py_buffer view;
    bool viewed;
} Bytes;

extern PyTypeObject *handle_type, *grant_type, *cursor_type;
extern PyType_Spec handle_spec, grant_spec, cursor_spec;
extern PyObject *errors;

/* Raise what a status stands for, about `key` (bytes, or NULL); always NULL. */
PyObject *fail(Segment *o, seg_status status, PyObject *key, uint64_t epoch_seen);
PyObject *fail_open(seg_status status, const char *why);
/* True, with an exception, once the segment is closed. */
bool closed(Segment *o);

bool take_bytes(PyObject *o, Bytes *b);
void drop_bytes(Bytes *b);
/* Positional arguments then keywords into `out`, by `names`; missing ones stay NULL. */
bool take_args(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
               const char *const *names, Py_ssize_t required, PyObject **out);
bool take_grant(Segment *o, PyObject *given, const seg_grant **out);
bool take_u64(PyObject *o, uint64_t *out);
PyObject *new_handle(Segment *o, PyObject *key, const seg_handle *h);

#endif
