/* What the files of the extension share: the objects, errors and arguments.
 *
 * Everything static here assumes one interpreter per process. The interpreter lock is held but for
 * the system calls that wait for the network (dal_net.c: leave, enter), so whatever another thread
 * does with the same store meanwhile meets the library at rest.
 */
#ifndef STATESTORE__SEGMENT_H
#define STATESTORE__SEGMENT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "dal_internal.h"

#define ARGS_MAX 4
#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS
#define WORDS(function) (PyCFunction)(void (*)(void))(function), METH_VARARGS | METH_KEYWORDS
#define SEALED (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE)

#define READ_MANY_BYTES 4096u /* expected of a value that is elsewhere; larger ones are read alone */

typedef struct {
    PyObject_HEAD
    dal *d;         /* NULL once closed */
    uint32_t users; /* calls under way: a wait lets other threads in */
    bool closing;   /* the last of them closes */
    bool sync;      /* of writes that do not say */
    PyObject *path;
} Segment;

typedef struct {
    PyObject_HEAD
    Segment *segment;
    PyObject *key;
    dal_handle h; /* h.key points into key */
} Handle;

typedef struct {
    PyObject_HEAD
    Segment *segment;
    PyObject *name;
    dal_grant g; /* g.fence points into name */
} Grant;

typedef struct {
    PyObject_HEAD
    Segment *segment;
    PyObject *prefix;
    seg_cursor c;    /* in memory */
    uint64_t remote; /* over the network */
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

/* ---- _segment_errors.c ---- */
/* Raise what a status stands for, about `key` (bytes, or NULL); always NULL. */
PyObject *fail(Segment *o, dal_status status, PyObject *key, uint64_t epoch_seen);
PyObject *fail_open(dal_status status, const char *why);
/* True, with an exception, once the segment is closed. */
bool closed(Segment *o);
/* The same for what needs a segment on this host. */
bool elsewhere(Segment *o);
void release(Segment *o);
/* Around every call that may wait. */
static inline void hold(Segment *o) { o->users++; }
static inline void let_go(Segment *o)
{
    if (--o->users == 0 && o->closing) {
        release(o);
    }
}

bool take_bytes(PyObject *o, Bytes *b);
void drop_bytes(Bytes *b);
/* Positional arguments then keywords into `out`, by `names`; missing ones stay NULL. */
bool take_args(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
               const char *const *names, Py_ssize_t required, PyObject **out);
bool take_grant(Segment *o, PyObject *given, const dal_grant **out);
/* `sync`: True, False, or None for the store's own. */
bool take_sync(Segment *o, PyObject *given, bool *out);
bool take_u64(PyObject *o, uint64_t *out);

/* ---- _segment_items.c ---- */
PyObject *new_handle(Segment *o, PyObject *key, const dal_handle *h);
/* ---- _segment_group.c ---- */
extern PyMethodDef group_methods[];
PyObject *home_of(Handle *h);

#endif
