/* Handle, Grant and Cursor for Python: the objects of the fast path, and their errors.
 *
 * Knows: Python objects and the functions of segment.h. Must not know: the layout.
 */
#include "_segment.h"

PyTypeObject *handle_type, *grant_type, *cursor_type;
PyObject *errors;

/* ---- errors: one line that names the thing, the value and the way out ---- */
static PyObject *fail_as(const char *name, PyObject *text, uint64_t epoch_seen)
{
    PyObject *type = text == NULL ? NULL : PyObject_GetAttrString(errors, name);
    if (type != NULL) {
        PyObject *error = strcmp(name, "Fenced") == 0
                              ? PyObject_CallFunction(type, "OK", text, epoch_seen)
                              : PyObject_CallFunction(type, "O", text);
        if (error != NULL) {
            PyErr_SetObject(type, error);
            Py_DECREF(error);
        }
        Py_DECREF(type);
    }
    Py_XDECREF(text);
    return NULL;
}

static const char *const error_names[] = {
    [SEG_NOT_FOUND] = "NotFound",       [SEG_EXISTS] = "Exists",
    [SEG_FULL] = "Full",                [SEG_FENCED] = "Fenced",
    [SEG_CORRUPT] = "Corrupt",          [SEG_WRONG_VERSION] = "WrongVersion",
    [SEG_TOO_BIG] = "TooBig",           [SEG_OVERRUN] = "Overrun",
    [SEG_UNAVAILABLE] = "Unavailable",  [SEG_CHANGED] = "Unavailable",
    [SEG_INVALID] = "Invalid",          [SEG_AWAY] = "Unavailable",
    [SEG_NOT_SERVING] = "Unavailable",
};

PyObject *fail_open(seg_status status, const char *why)
{
    return fail_as(error_names[status], PyUnicode_DecodeFSDefault(why), 0);
}

/* `key` is bytes, or NULL. */
PyObject *fail(Segment *o, seg_status status, PyObject *key, uint64_t epoch_seen)
{
    PyObject *path = o->path;
    const char *format = NULL;
    PyObject *text;
    PyObject *none = key == NULL ? PyBytes_FromStringAndSize("", 0) : NULL;
    key = key == NULL ? none : key;
    switch (status) {
    case SEG_NOT_FOUND:
        format = "item %R: no such key in %U";
        break;
    case SEG_EXISTS:
        format = "item %R: exists already in %U; write it instead";
        break;
    case SEG_FULL:
        format = "item %R: no room of that size in %U; enlarge the segment or delete items";
        break;
    case SEG_CORRUPT:
        format = "item %R: %U contradicts itself; stop its users, remove it and start again";
        break;
    case SEG_OVERRUN:
        format = "watch of %R: changes in %U were missed; scan the prefix again";
        break;
    case SEG_INVALID:
        format = "item %R: the operation does not fit its value or its name in %U";
        break;
    case SEG_AWAY:
        format = "item %R: its master is another member than that of %U; ask the cluster";
        break;
    case SEG_NOT_SERVING:
        format = "item %R: the member of %U is outside the view, or its lease is over";
        break;
    case SEG_FENCED:
        text = PyUnicode_FromFormat("item %R: the grant is older than its fence, which stands at "
                                    "epoch %llu; somebody else owns it now",
                                    key, (unsigned long long)epoch_seen);
        goto out;
    case SEG_TOO_BIG:
        text = PyUnicode_FromFormat("item %R: key over %u or value over %u bytes; split it", key,
                                    SEG_KEY_BYTES_MAX, SEG_VALUE_BYTES_MAX);
        goto out;
    default:
        if (o->s != NULL && !seg_usable(o->s)) {
            format = "item %R: %U was opened before a fork; open it again in the child";
        } else if (o->s == NULL) {
            format = "item %R: %U is closed";
        } else {
            format = "item %R: %U cannot do that now (read-only, or too many writers); try again";
        }
    }
    text = PyUnicode_FromFormat(format, key, path);
out:
    Py_XDECREF(none);
    return fail_as(error_names[status], text, epoch_seen);
}

bool closed(Segment *o)
{
    if (o->s != NULL) {
        return false;
    }
    fail(o, SEG_UNAVAILABLE, NULL, 0);
    return true;
}

/* ---- arguments ---- */
bool take_bytes(PyObject *o, Bytes *b)
{
    char *data;
    b->viewed = false;
    if (PyBytes_Check(o)) {
        if (PyBytes_AsStringAndSize(o, &data, &b->len) != 0) {
            return false;
        }
        b->data = data;
        return true;
    }
    if (PyObject_GetBuffer(o, &b->view, PyBUF_SIMPLE) != 0) {
        return false;
    }
    b->viewed = true;
    b->data = b->view.buf;
    b->len = b->view.len;
    return true;
}

void drop_bytes(Bytes *b)
{
    if (b->viewed) {
        PyBuffer_Release(&b->view);
    }
}

bool take_args(const char *function, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames, const char *const *names, Py_ssize_t required,
                      PyObject **out)
{
    Py_ssize_t max = 0;
    while (names[max] != NULL) {
        max++;
    }
    Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_Size(kwnames);
    if (nargs > max) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments (%zd given)", function,
                     max, nargs);
        return false;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        out[i] = args[i];
    }
    for (Py_ssize_t k = 0; k < named; k++) {
        PyObject *name = PyTuple_GetItem(kwnames, k);
        Py_ssize_t i = 0;
        while (i < max && PyUnicode_CompareWithASCIIString(name, names[i]) != 0) {
            i++;
        }
        if (i == max || out[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected or repeated argument %R",
                         function, name);
            return false;
        }
        out[i] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() needs the argument %s", function, names[i]);
            return false;
        }
    }
    return true;
}

bool take_grant(Segment *o, PyObject *given, const seg_grant **out)
{
    *out = NULL;
    if (given == NULL || given == Py_None) {
        return true;
    }
    if (Py_TYPE(given) != grant_type || ((Grant *)given)->segment != o) {
        PyErr_SetString(PyExc_TypeError, "grant must come from this store's grant()");
        return false;
    }
    *out = &((Grant *)given)->g;
    return true;
}

bool take_u64(PyObject *o, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(o);
    return !(*out == (uint64_t)-1 && PyErr_Occurred() != NULL);
}

PyObject *new_handle(Segment *o, PyObject *key, const seg_handle *h)
{
    Handle *handle = PyObject_New(Handle, handle_type);
    if (handle != NULL) {
        Py_INCREF((PyObject *)o);
        Py_INCREF(key);
        handle->segment = o;
        handle->key = key;
        handle->h = *h;
    }
    return (PyObject *)handle;
}

/* ---- Handle ---- */
static void handle_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Handle *h = (Handle *)self;
    Py_DECREF(h->segment);
    Py_DECREF(h->key);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *fetch(Handle *self, uint64_t *version)
{
    Segment *o = self->segment;
    if (closed(o)) {
        return NULL;
    }
    char *key = PyBytes_AsString(self->key);
    Py_ssize_t key_len = PyBytes_Size(self->key);
    size_t cap = seg_length(o->s, &self->h);
    for (uint32_t tries = 0; tries < SEG_WRITE_TRIES_MAX; tries++) {
        cap = cap <= SEG_VALUE_BYTES_MAX ? cap : SEG_VALUE_BYTES_MAX;
        size_t len = 0;
        PyObject *value = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)cap);
        if (value == NULL) {
            return NULL;
        }
        char *data = PyBytes_AsString(value);
        seg_status status = seg_read(o->s, key, (size_t)key_len, &self->h, data, cap, &len,
                                     version);
        if (status == SEG_OK && len == cap) {
            return value;
        }
        PyObject *shorter = NULL;
        if (status == SEG_OK) {
            shorter = PyBytes_FromStringAndSize(data, (Py_ssize_t)len);
        }
        Py_DECREF(value);
        if (status != SEG_TOO_BIG) {
            return status == SEG_OK ? shorter : fail(o, status, self->key, 0);
        }
        cap = len;
    }
    return fail(o, SEG_UNAVAILABLE, self->key, 0);
}

static PyObject *handle_read(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return fetch((Handle *)self, NULL);
}

static PyObject *handle_read_versioned(PyObject *self, PyObject *ignored)
{
    uint64_t version = 0;
    (void)ignored;
    PyObject *value = fetch((Handle *)self, &version);
    return value == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)version, value);
}

static seg_status run(Handle *h, seg_op *op)
{
    return seg_update(h->segment->s, PyBytes_AsString(h->key), (size_t)PyBytes_Size(h->key), &h->h,
                      op);
}

static PyObject *run_bytes(Handle *h, seg_op *op, PyObject *value, PyObject *grant)
{
    Bytes b;
    if (closed(h->segment) || !take_grant(h->segment, grant, &op->grant) ||
        !take_bytes(value, &b)) {
        return NULL;
    }
    op->data = b.data;
    op->len = (size_t)b.len;
    seg_status status = run(h, op);
    drop_bytes(&b);
    if (op->verb == SEG_SWAP && (status == SEG_OK || status == SEG_CHANGED)) {
        return PyBool_FromLong(status == SEG_OK);
    }
    if (status != SEG_OK) {
        return fail(h->segment, status, h->key, op->epoch_seen);
    }
    Py_RETURN_NONE;
}

static PyObject *handle_write(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const char *const names[] = {"value", "grant", "deadline_ns", NULL};
    PyObject *a[ARGS_MAX] = {0};
    seg_op op = {.verb = SEG_WRITE};
    if (nargs == 1 && kwnames == NULL) {
        return run_bytes((Handle *)self, &op, args[0], NULL);
    }
    if (!take_args("write", args, nargs, kwnames, names, 1, a)) {
        return NULL;
    }
    if (a[2] != NULL && a[2] != Py_None) {
        op.set_deadline = true;
        if (!take_u64(a[2], &op.deadline_ns)) {
            return NULL;
        }
    }
    return run_bytes((Handle *)self, &op, a[0], a[1]);
}

static PyObject *handle_append(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    static const char *const names[] = {"entry", "grant", NULL};
    PyObject *a[ARGS_MAX] = {0};
    seg_op op = {.verb = SEG_APPEND};
    if (!take_args("append", args, nargs, kwnames, names, 1, a)) {
        return NULL;
    }
    return run_bytes((Handle *)self, &op, a[0], a[1]);
}

static PyObject *handle_compare_and_swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                         PyObject *kwnames)
{
    static const char *const names[] = {"version", "value", "grant", NULL};
    PyObject *a[ARGS_MAX] = {0};
    seg_op op = {.verb = SEG_SWAP};
    if (!take_args("compare_and_swap", args, nargs, kwnames, names, 2, a) ||
        !take_u64(a[0], &op.version)) {
        return NULL;
    }
    return run_bytes((Handle *)self, &op, a[1], a[2]);
}

static PyObject *handle_add(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const char *const names[] = {"delta", "grant", NULL};
    PyObject *a[ARGS_MAX] = {0};
    Handle *h = (Handle *)self;
    seg_op op = {.verb = SEG_ADD};
    if (!take_args("add", args, nargs, kwnames, names, 1, a) || closed(h->segment) ||
        !take_grant(h->segment, a[1], &op.grant)) {
        return NULL;
    }
    op.delta = PyLong_AsLongLong(a[0]);
    if (op.delta == -1 && PyErr_Occurred() != NULL) {
        return NULL;
    }
    seg_status status = run(h, &op);
    return status == SEG_OK ? PyLong_FromLongLong(op.sum)
                            : fail(h->segment, status, h->key, op.epoch_seen);
}

static PyObject *handle_delete(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    static const char *const names[] = {"grant", NULL};
    PyObject *a[ARGS_MAX] = {0};
    Handle *h = (Handle *)self;
    seg_op op = {.verb = SEG_DELETE};
    if (!take_args("delete", args, nargs, kwnames, names, 0, a) || closed(h->segment) ||
        !take_grant(h->segment, a[0], &op.grant)) {
        return NULL;
    }
    seg_status status = run(h, &op);
    if (status != SEG_OK) {
        return fail(h->segment, status, h->key, op.epoch_seen);
    }
    Py_RETURN_NONE;
}

static PyObject *handle_entries(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    Handle *h = (Handle *)self;
    PyObject *value = fetch(h, NULL);
    PyObject *list = value == NULL ? NULL : PyList_New(0);
    if (list == NULL) {
        Py_XDECREF(value);
        return NULL;
    }
    const char *data = PyBytes_AsString(value);
    size_t left = (size_t)PyBytes_Size(value);
    while (left > 0) {
        uint32_t n = 0;
        if (left >= sizeof n) {
            memcpy(&n, data, sizeof n);
        }
        if (left < sizeof n || n > left - sizeof n) {
            Py_DECREF(list);
            list = fail(h->segment, SEG_INVALID, h->key, 0);
            break;
        }
        PyObject *entry = PyBytes_FromStringAndSize(data + sizeof n, (Py_ssize_t)n);
        if (entry == NULL || PyList_Append(list, entry) != 0) {
            Py_XDECREF(entry);
            Py_DECREF(list);
            list = NULL;
            break;
        }
        Py_DECREF(entry);
        data += sizeof n + n;
        left -= sizeof n + n;
    }
    Py_DECREF(value);
    return list;
}

static PyObject *handle_key(PyObject *self, void *ignored)
{
    (void)ignored;
    PyObject *key = ((Handle *)self)->key;
    Py_INCREF(key);
    return key;
}

static PyObject *handle_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<statestore.Handle %R>", ((Handle *)self)->key);
}

static PyMethodDef handle_methods[] = {
    {"read", handle_read, METH_NOARGS, "The value."},
    {"read_versioned", handle_read_versioned, METH_NOARGS, "(version, value)."},
    {"write", FAST(handle_write), "Replace the value."},
    {"append", FAST(handle_append), "Add one length-framed entry at the end."},
    {"entries", handle_entries, METH_NOARGS, "What was appended."},
    {"compare_and_swap", FAST(handle_compare_and_swap), "Replace the value of that version."},
    {"add", FAST(handle_add), "Add to a signed 64-bit counter; the sum."},
    {"delete", FAST(handle_delete), "Delete the item."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef handle_attributes[] = {
    {"key", handle_key, NULL, "The key.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot handle_slots[] = {
    {Py_tp_dealloc, handle_free},
    {Py_tp_methods, handle_methods},
    {Py_tp_getset, handle_attributes},
    {Py_tp_repr, handle_repr},
    {Py_tp_doc, "One item: a hint where it is, good for as long as its key lives."},
    {0, NULL},
};
PyType_Spec handle_spec = {"statestore._segment.Handle", sizeof(Handle), 0, SEALED,
                                  handle_slots};

/* ---- Grant ---- */
static void grant_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(((Grant *)self)->segment);
    Py_DECREF(((Grant *)self)->name);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *grant_epoch(PyObject *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(((Grant *)self)->g.epoch);
}

static PyObject *grant_fence(PyObject *self, void *ignored)
{
    (void)ignored;
    PyObject *name = ((Grant *)self)->name;
    Py_INCREF(name);
    return name;
}

static PyGetSetDef grant_attributes[] = {
    {"fence", grant_fence, NULL, "Name of the fence.", NULL},
    {"epoch", grant_epoch, NULL, "Newest epoch of the fence under which it is good.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot grant_slots[] = {
    {Py_tp_dealloc, grant_free},
    {Py_tp_getset, grant_attributes},
    {Py_tp_doc, "A right to write under a fence."},
    {0, NULL},
};
PyType_Spec grant_spec = {"statestore._segment.Grant", sizeof(Grant), 0, SEALED,
                                 grant_slots};

/* ---- Cursor ---- */
static void cursor_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(((Cursor *)self)->segment);
    Py_DECREF(((Cursor *)self)->prefix);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *cursor_poll(PyObject *self, PyObject *arg)
{
    Cursor *c = (Cursor *)self;
    char key[SEG_KEY_BYTES_MAX];
    Py_ssize_t max = PyLong_AsSsize_t(arg);
    if ((max == -1 && PyErr_Occurred() != NULL) || closed(c->segment)) {
        return NULL;
    }
    PyObject *list = PyList_New(0);
    while (list != NULL && PyList_Size(list) < max) {
        size_t len = 0;
        bool deleted = false;
        seg_status status = seg_poll(c->segment->s, &c->c, PyBytes_AsString(c->prefix),
                                     (size_t)PyBytes_Size(c->prefix), key, &len, &deleted);
        if (status == SEG_NOT_FOUND) {
            break;
        }
        PyObject *change = NULL;
        if (status == SEG_OK) {
            change = Py_BuildValue("Ny#", PyBool_FromLong(deleted), key, (Py_ssize_t)len);
        } else {
            fail(c->segment, status, c->prefix, 0);
        }
        if (change == NULL || PyList_Append(list, change) != 0) {
            Py_DECREF(list);
            list = NULL;
        }
        Py_XDECREF(change);
    }
    return list;
}

static PyObject *cursor_sequence(PyObject *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(((Cursor *)self)->c.next);
}

static PyMethodDef cursor_methods[] = {
    {"poll", cursor_poll, METH_O, "Up to that many (deleted, key)."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef cursor_attributes[] = {
    {"sequence", cursor_sequence, NULL, "Position in the feed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot cursor_slots[] = {
    {Py_tp_dealloc, cursor_free},
    {Py_tp_methods, cursor_methods},
    {Py_tp_getset, cursor_attributes},
    {Py_tp_doc, "A place in the change feed."},
    {0, NULL},
};
PyType_Spec cursor_spec = {"statestore._segment.Cursor", sizeof(Cursor), 0, SEALED,
                                  cursor_slots};

