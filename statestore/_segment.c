/* The segment for Python (stable ABI 3.11): the module and Segment.
 *
 * Knows: Python objects and the functions of segment.h. Must not know: the layout.
 *
 * Called with the interpreter lock held throughout: the longest wait is SEG_STEAL_AFTER_NS.
 */
#include "_segment.h"

static PyTypeObject *segment_type;

/* ---- Segment ---- */
static void segment_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    seg_close(((Segment *)self)->s);
    Py_DECREF(((Segment *)self)->path);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *segment_close(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    seg_close(((Segment *)self)->s);
    ((Segment *)self)->s = NULL;
    Py_RETURN_NONE;
}

static PyObject *segment_forget(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    if (((Segment *)self)->s != NULL) {
        seg_forget(((Segment *)self)->s);
    }
    Py_RETURN_NONE;
}

static PyObject *segment_lookup(PyObject *self, PyObject *key)
{
    Segment *o = (Segment *)self;
    char *data;
    Py_ssize_t len;
    seg_handle h;
    if (closed(o) || PyBytes_AsStringAndSize(key, &data, &len) != 0) {
        return NULL;
    }
    seg_status status = seg_lookup(o->s, data, (size_t)len, &h);
    return status == SEG_OK ? new_handle(o, key, &h) : fail(o, status, key, 0);
}

/* create(key, value, capacity, deadline_ns, grant) */
static PyObject *segment_create(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    PyObject *key, *value, *grant;
    unsigned long long capacity, deadline_ns;
    seg_new n = {0};
    seg_handle h;
    Bytes b;
    if (closed(o) || !PyArg_ParseTuple(args, "SOKKO:create", &key, &value, &capacity, &deadline_ns,
                                       &grant) ||
        !take_grant(o, grant, &n.grant) || !take_bytes(value, &b)) {
        return NULL;
    }
    n.value = b.data;
    n.len = (size_t)b.len;
    n.capacity = (size_t)capacity;
    n.deadline_ns = deadline_ns;
    seg_status status =
        seg_create(o->s, PyBytes_AsString(key), (size_t)PyBytes_Size(key), &n, &h);
    drop_bytes(&b);
    return status == SEG_OK ? new_handle(o, key, &h) : fail(o, status, key, n.epoch_seen);
}

/* scan(prefix, cursor, limit) -> (cursor, handles, ended) */
static PyObject *segment_scan(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    const char *prefix;
    Py_ssize_t prefix_len, limit;
    unsigned long long cursor;
    char key[SEG_KEY_BYTES_MAX];
    if (closed(o) || !PyArg_ParseTuple(args, "y#Kn:scan", &prefix, &prefix_len, &cursor, &limit)) {
        return NULL;
    }
    uint64_t at = cursor;
    seg_status status = SEG_OK;
    PyObject *list = PyList_New(0);
    while (list != NULL && status == SEG_OK && PyList_Size(list) < limit) {
        size_t len;
        seg_handle h;
        status = seg_scan(o->s, &at, prefix, (size_t)prefix_len, key, &len, &h);
        if (status == SEG_OK) {
            PyObject *name = PyBytes_FromStringAndSize(key, (Py_ssize_t)len);
            PyObject *handle = name == NULL ? NULL : new_handle(o, name, &h);
            if (handle == NULL || PyList_Append(list, handle) != 0) {
                Py_DECREF(list);
                list = NULL;
            }
            Py_XDECREF(name);
            Py_XDECREF(handle);
        } else if (status != SEG_NOT_FOUND) {
            Py_DECREF(list);
            list = fail(o, status, NULL, 0);
        }
    }
    if (list == NULL) {
        return NULL;
    }
    return Py_BuildValue("KNN", (unsigned long long)at, list, PyBool_FromLong(status != SEG_OK));
}

static PyObject *segment_watch(PyObject *self, PyObject *prefix)
{
    Segment *o = (Segment *)self;
    if (closed(o)) {
        return NULL;
    }
    if (!PyBytes_Check(prefix)) {
        PyErr_SetString(PyExc_TypeError, "prefix must be bytes");
        return NULL;
    }
    seg_cursor at;
    seg_status status = seg_watch(o->s, &at);
    if (status != SEG_OK) {
        return fail(o, status, prefix, 0);
    }
    Cursor *c = PyObject_New(Cursor, cursor_type);
    if (c != NULL) {
        Py_INCREF((PyObject *)o);
        Py_INCREF(prefix);
        c->segment = o;
        c->prefix = prefix;
        c->c = at;
    }
    return (PyObject *)c;
}

static PyObject *segment_grant(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    PyObject *name;
    unsigned long long epoch;
    uint32_t fence;
    if (closed(o) || !PyArg_ParseTuple(args, "SK:grant", &name, &epoch)) {
        return NULL;
    }
    seg_status status =
        seg_fence(o->s, PyBytes_AsString(name), (size_t)PyBytes_Size(name), true, &fence);
    if (status != SEG_OK) {
        return fail(o, status, name, 0);
    }
    Grant *g = PyObject_New(Grant, grant_type);
    if (g != NULL) {
        Py_INCREF((PyObject *)o);
        Py_INCREF(name);
        g->segment = o;
        g->name = name;
        g->g = (seg_grant){epoch, fence};
    }
    return (PyObject *)g;
}

static PyObject *segment_fence(PyObject *self, PyObject *name)
{
    Segment *o = (Segment *)self;
    char *data;
    Py_ssize_t len;
    uint32_t fence;
    if (closed(o) || PyBytes_AsStringAndSize(name, &data, &len) != 0) {
        return NULL;
    }
    seg_status status = seg_fence(o->s, data, (size_t)len, false, &fence);
    if (status != SEG_OK && status != SEG_NOT_FOUND) {
        return fail(o, status, name, 0);
    }
    return PyLong_FromUnsignedLongLong(status == SEG_OK ? seg_fence_epoch(o->s, fence) : 0);
}

static PyObject *segment_raise_fence(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    PyObject *name;
    unsigned long long epoch;
    uint32_t fence;
    bool raised = false;
    if (closed(o) || !PyArg_ParseTuple(args, "SK:raise_fence", &name, &epoch)) {
        return NULL;
    }
    seg_status status =
        seg_fence(o->s, PyBytes_AsString(name), (size_t)PyBytes_Size(name), true, &fence);
    if (status == SEG_OK) {
        status = seg_fence_raise(o->s, fence, epoch, &raised);
    }
    return status == SEG_OK ? PyBool_FromLong(raised) : fail(o, status, name, 0);
}

typedef struct {
    const char *name;
    uint64_t value;
} Figure;

static PyObject *dictionary(const Figure *figures, size_t n)
{
    PyObject *d = PyDict_New();
    for (size_t i = 0; d != NULL && i < n; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(figures[i].value);
        if (value == NULL || PyDict_SetItemString(d, figures[i].name, value) != 0) {
            Py_DECREF(d);
            d = NULL;
        }
        Py_XDECREF(value);
    }
    return d;
}
#define DICTIONARY(figures) dictionary(figures, sizeof(figures) / sizeof *(figures))

static PyObject *segment_stats(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    Segment *o = (Segment *)self;
    seg_stats t;
    if (closed(o)) {
        return NULL;
    }
    seg_status status = seg_stats_read(o->s, &t);
    if (status != SEG_OK) {
        return fail(o, status, NULL, 0);
    }
    const Figure figures[] = {
        {"items", t.items},
        {"bytes", t.bytes},
        {"free", t.free_bytes},
        {"total", t.total_bytes},
        {"clients", t.clients},
        {"feed_sequence", t.feed_sequence},
        {"feed_capacity", t.feed_capacity},
        {"writes", t.writes},
        {"creates", t.creates},
        {"deletes", t.deletes},
        {"retries", t.retries},
        {"auth_misses", t.auth_misses},
        {"lock_takeovers", t.takeovers},
        {"lock_steals", t.steals},
        {"fenced", t.fenced},
        {"generation", t.generation},
    };
    return DICTIONARY(figures);
}

static PyObject *segment_housekeep(PyObject *self, PyObject *now)
{
    Segment *o = (Segment *)self;
    uint64_t now_ns;
    seg_kept k;
    if (closed(o) || !take_u64(now, &now_ns)) {
        return NULL;
    }
    seg_status status = seg_housekeep(o->s, now_ns, &k);
    if (status != SEG_OK) {
        return fail(o, status, NULL, 0);
    }
    const Figure figures[] = {
        {"expired", k.expired},
        {"dead_clients", k.dead_clients},
        {"locks_recovered", k.locks_recovered},
        {"items_reaped", k.items_reaped},
        {"blocks_freed", k.blocks_freed},
    };
    return DICTIONARY(figures);
}

static PyObject *segment_verify(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    Segment *o = (Segment *)self;
    seg_verdict v;
    if (closed(o)) {
        return NULL;
    }
    seg_status status = seg_verify(o->s, &v);
    if (status != SEG_OK) {
        return fail(o, status, NULL, 0);
    }
    const Figure figures[] = {
        {"items", v.items},
        {"unreachable", v.unreachable},
        {"misplaced", v.misplaced},
        {"dead", v.unlocked_dead},
        {"torn_refs", v.torn_refs},
        {"shared_blocks", v.shared_blocks},
        {"orphans", v.orphans},
        {"locked", v.locked},
    };
    return DICTIONARY(figures);
}

static PyMethodDef segment_methods[] = {
    {"close", segment_close, METH_NOARGS, "Unmap. Handles made from it are useless afterwards."},
    {"forget", segment_forget, METH_NOARGS, "For the child of a fork."},
    {"lookup", segment_lookup, METH_O, "The handle of a key."},
    {"create", segment_create, METH_VARARGS, "(key, value, capacity, deadline_ns, grant)"},
    {"scan", segment_scan, METH_VARARGS, "(prefix, cursor, limit) -> (cursor, handles, ended)"},
    {"watch", segment_watch, METH_O, "A cursor at the end of the feed."},
    {"grant", segment_grant, METH_VARARGS, "(name, epoch)"},
    {"fence", segment_fence, METH_O, "The epoch of that fence."},
    {"raise_fence", segment_raise_fence, METH_VARARGS, "(name, epoch) -> bool"},
    {"stats", segment_stats, METH_NOARGS, "Figures."},
    {"housekeep", segment_housekeep, METH_O, "(now_ns) -> what was done"},
    {"verify", segment_verify, METH_NOARGS, "Walk everything; only while nobody writes."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot segment_slots[] = {
    {Py_tp_dealloc, segment_free},
    {Py_tp_methods, segment_methods},
    {Py_tp_doc, "A mapped segment."},
    {0, NULL},
};
static PyType_Spec segment_spec = {"statestore._segment.Segment", sizeof(Segment), 0, SEALED,
                                   segment_slots};

/* ---- module ---- */
static PyObject *module_format(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *path;
    unsigned long long size;
    char why[1024] = "";
    if (!PyArg_ParseTuple(args, "O&K:format", PyUnicode_FSConverter, &path, &size)) {
        return NULL;
    }
    seg_status status = seg_format(PyBytes_AsString(path), size, why, sizeof why);
    Py_DECREF(path);
    return status == SEG_OK ? Py_NewRef(Py_None) : fail_open(status, why);
}

static PyObject *module_open(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *path;
    int readonly;
    char why[1024] = "";
    seg *s = NULL;
    if (!PyArg_ParseTuple(args, "O&p:open", PyUnicode_FSConverter, &path, &readonly)) {
        return NULL;
    }
    seg_status status = seg_open(PyBytes_AsString(path), readonly, &s, why, sizeof why);
    if (status != SEG_OK) {
        Py_DECREF(path);
        return fail_open(status, why);
    }
    PyObject *text = PyUnicode_DecodeFSDefault(PyBytes_AsString(path));
    Py_DECREF(path);
    Segment *o = text == NULL ? NULL : PyObject_New(Segment, segment_type);
    if (o == NULL) {
        Py_XDECREF(text);
        seg_close(s);
        return NULL;
    }
    o->s = s;
    o->path = text;
    return (PyObject *)o;
}

static PyMethodDef module_methods[] = {
    {"format", module_format, METH_VARARGS, "(path, size_bytes): make a segment file."},
    {"open", module_open, METH_VARARGS, "(path, readonly) -> Segment"},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "_segment", "The segment in C.", -1, module_methods, NULL, NULL, NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__segment(void)
{
    static const struct {
        const char *name;
        PyType_Spec *spec;
        PyTypeObject **type;
    } types[] = {
        {"Segment", &segment_spec, &segment_type},
        {"Handle", &handle_spec, &handle_type},
        {"Grant", &grant_spec, &grant_type},
        {"Cursor", &cursor_spec, &cursor_type},
    };
    PyObject *module = PyModule_Create(&module_definition);
    errors = PyImport_ImportModule("statestore.errors");
    if (module == NULL || errors == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        PyObject *type = PyType_FromSpec(types[i].spec);
        if (type == NULL || PyModule_AddObjectRef(module, types[i].name, type) != 0) {
            return NULL;
        }
        *types[i].type = (PyTypeObject *)type;
    }
    if (PyModule_AddIntConstant(module, "VALUE_BYTES_MAX", SEG_VALUE_BYTES_MAX) != 0 ||
        PyModule_AddIntConstant(module, "KEY_BYTES_MAX", SEG_KEY_BYTES_MAX) != 0 ||
        PyModule_AddIntConstant(module, "LAYOUT", SEG_LAYOUT) != 0) {
        return NULL;
    }
    return module;
}
