/* Handle and Grant for Python: the objects of the fast path.
 *
 * Knows: Python objects and the functions of dal.h. Must not know: the layout, the network.
 */
#include "_segment.h"

PyTypeObject *handle_type, *grant_type;

PyObject *new_handle(Segment *o, PyObject *key, const dal_handle *h)
{
    Handle *handle = PyObject_New(Handle, handle_type);
    if (handle != NULL) {
        Py_INCREF((PyObject *)o);
        Py_INCREF(key);
        handle->segment = o;
        handle->key = key;
        handle->h = *h;
        handle->h.key = PyBytes_AsString(key);
        handle->h.key_len = (size_t)PyBytes_Size(key);
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

typedef dal_status (*reader)(dal *, dal_handle *, void *, size_t, size_t *, uint64_t *);

/* By way of a buffer that has room for anything: another attempt would cost another journey. */
static PyObject *fetch_far(Handle *self, uint64_t *version, reader read)
{
    Segment *o = self->segment;
    char *room = PyMem_Malloc(DAL_VALUE_BYTES_MAX);
    size_t len = 0;
    if (room == NULL) {
        return PyErr_NoMemory();
    }
    hold(o);
    dal_status status = read(o->d, &self->h, room, DAL_VALUE_BYTES_MAX, &len, version);
    PyObject *value = status == DAL_OK ? PyBytes_FromStringAndSize(room, (Py_ssize_t)len)
                                       : fail(o, status, self->key, 0);
    let_go(o);
    PyMem_Free(room);
    return value;
}

static PyObject *fetch(Handle *self, uint64_t *version, reader read)
{
    Segment *o = self->segment;
    if (closed(o)) {
        return NULL;
    }
    dal *d = o->d;
    const seg_handle at = {self->h.auth, self->h.hash, self->h.item};
    size_t cap = d->s != NULL ? seg_length(d->s, &at) : 0;
    if (d->clustered && (cap == 0 || self->h.remote_item != 0)) {
        return fetch_far(self, version, read);
    }
    for (uint32_t tries = 0; tries < SEG_WRITE_TRIES_MAX; tries++) {
        cap = cap <= DAL_VALUE_BYTES_MAX ? cap : DAL_VALUE_BYTES_MAX;
        size_t len = 0;
        PyObject *value = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)cap);
        if (value == NULL) {
            return NULL;
        }
        char *data = PyBytes_AsString(value);
        hold(o);
        dal_status status = read(d, &self->h, data, cap, &len, version);
        if (status == DAL_OK && len == cap) {
            let_go(o);
            return value;
        }
        PyObject *shorter = NULL;
        if (status == DAL_OK) {
            shorter = PyBytes_FromStringAndSize(data, (Py_ssize_t)len);
        } else if (status != DAL_TOO_BIG) {
            fail(o, status, self->key, 0);
        }
        let_go(o);
        Py_DECREF(value);
        if (status != DAL_TOO_BIG) {
            return shorter;
        }
        if (closed(o)) {
            return NULL;
        }
        cap = len;
    }
    return fail(o, DAL_UNAVAILABLE, self->key, 0);
}

static bool reader_of(const char *function, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames, reader *out)
{
    static const char *const names[] = {"sync", NULL};
    PyObject *a[ARGS_MAX] = {0};
    *out = dal_read;
    if (nargs == 0 && kwnames == NULL) {
        return true;
    }
    int sync = 0;
    if (!take_args(function, args, nargs, kwnames, names, 0, a) ||
        (a[0] != NULL && (sync = PyObject_IsTrue(a[0])) < 0)) {
        return false;
    }
    *out = sync > 0 ? dal_read_sync : dal_read;
    return true;
}

static PyObject *handle_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    reader read;
    return reader_of("read", args, nargs, kwnames, &read) ? fetch((Handle *)self, NULL, read)
                                                          : NULL;
}

static PyObject *handle_read_versioned(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                       PyObject *kwnames)
{
    uint64_t version = 0;
    reader read;
    if (!reader_of("read_versioned", args, nargs, kwnames, &read)) {
        return NULL;
    }
    PyObject *value = fetch((Handle *)self, &version, read);
    return value == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)version, value);
}

static PyObject *handle_read_local(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return fetch((Handle *)self, NULL, dal_peek);
}

/* What a write that names nothing but its value is done with. */
static dal_write *plainly(Segment *o, dal_write *w)
{
    return o->sync ? w : NULL;
}

static PyObject *failed(Handle *h, dal_status status, uint64_t epoch_seen)
{
    return status == DAL_OK ? Py_NewRef(Py_None) : fail(h->segment, status, h->key, epoch_seen);
}

static PyObject *write_bytes(Handle *h, PyObject *value, dal_write *w)
{
    Bytes b;
    if (!take_bytes(value, &b)) {
        return NULL;
    }
    hold(h->segment);
    dal_status status = dal_write_value(h->segment->d, &h->h, b.data, (size_t)b.len, w);
    PyObject *done = failed(h, status, w == NULL ? 0 : w->epoch_seen);
    let_go(h->segment);
    drop_bytes(&b);
    return done;
}

static PyObject *handle_write(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const char *const names[] = {"value", "grant", "ttl_ns", "sync", NULL};
    PyObject *a[ARGS_MAX] = {0};
    Handle *h = (Handle *)self;
    dal_write w = {.sync = true};
    if (closed(h->segment)) {
        return NULL;
    }
    if (nargs == 1 && kwnames == NULL) {
        return write_bytes(h, args[0], plainly(h->segment, &w));
    }
    if (!take_args("write", args, nargs, kwnames, names, 1, a) ||
        !take_grant(h->segment, a[1], &w.grant) || !take_sync(h->segment, a[3], &w.sync)) {
        return NULL;
    }
    if (a[2] != NULL && a[2] != Py_None) {
        w.set_ttl = true;
        if (!take_u64(a[2], &w.ttl_ns)) {
            return NULL;
        }
    }
    return write_bytes(h, a[0], &w);
}

static PyObject *handle_append(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    static const char *const names[] = {"entry", "grant", "sync", NULL};
    PyObject *a[ARGS_MAX] = {0};
    Handle *h = (Handle *)self;
    dal_write w = {0};
    Bytes b;
    if (closed(h->segment) || !take_args("append", args, nargs, kwnames, names, 1, a) ||
        !take_grant(h->segment, a[1], &w.grant) || !take_sync(h->segment, a[2], &w.sync) ||
        !take_bytes(a[0], &b)) {
        return NULL;
    }
    hold(h->segment);
    dal_status status = dal_append(h->segment->d, &h->h, b.data, (size_t)b.len, &w);
    PyObject *done = failed(h, status, w.epoch_seen);
    let_go(h->segment);
    drop_bytes(&b);
    return done;
}

static PyObject *handle_compare_and_swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                         PyObject *kwnames)
{
    static const char *const names[] = {"version", "value", "grant", "sync", NULL};
    PyObject *a[ARGS_MAX] = {0};
    Handle *h = (Handle *)self;
    dal_write w = {0};
    uint64_t version;
    Bytes b;
    if (closed(h->segment) || !take_args("compare_and_swap", args, nargs, kwnames, names, 2, a) ||
        !take_u64(a[0], &version) || !take_grant(h->segment, a[2], &w.grant) ||
        !take_sync(h->segment, a[3], &w.sync) || !take_bytes(a[1], &b)) {
        return NULL;
    }
    hold(h->segment);
    dal_status status = dal_swap(h->segment->d, &h->h, version, b.data, (size_t)b.len, &w);
    PyObject *done = status == DAL_OK || status == DAL_CHANGED
                         ? PyBool_FromLong(status == DAL_OK)
                         : failed(h, status, w.epoch_seen);
    let_go(h->segment);
    drop_bytes(&b);
    return done;
}

static PyObject *handle_add(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const char *const names[] = {"delta", "grant", "sync", NULL};
    PyObject *a[ARGS_MAX] = {0};
    Handle *h = (Handle *)self;
    dal_write w = {0};
    int64_t sum = 0;
    if (closed(h->segment) || !take_args("add", args, nargs, kwnames, names, 1, a) ||
        !take_grant(h->segment, a[1], &w.grant) || !take_sync(h->segment, a[2], &w.sync)) {
        return NULL;
    }
    long long delta = PyLong_AsLongLong(a[0]);
    if (delta == -1 && PyErr_Occurred() != NULL) {
        return NULL;
    }
    hold(h->segment);
    dal_status status = dal_add(h->segment->d, &h->h, delta, &sum, &w);
    PyObject *done = status == DAL_OK ? PyLong_FromLongLong(sum) : failed(h, status, w.epoch_seen);
    let_go(h->segment);
    return done;
}

static PyObject *handle_delete(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    static const char *const names[] = {"grant", NULL};
    PyObject *a[ARGS_MAX] = {0};
    Handle *h = (Handle *)self;
    dal_write w = {0};
    if (closed(h->segment) || !take_args("delete", args, nargs, kwnames, names, 0, a) ||
        !take_grant(h->segment, a[0], &w.grant)) {
        return NULL;
    }
    hold(h->segment);
    dal_status status = dal_delete(h->segment->d, &h->h, &w);
    PyObject *done = failed(h, status, w.epoch_seen);
    let_go(h->segment);
    return done;
}

static PyObject *handle_ensure(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    Handle *h = (Handle *)self;
    if (closed(h->segment)) {
        return NULL;
    }
    hold(h->segment);
    PyObject *done = failed(h, dal_ensure(h->segment->d, &h->h), 0);
    let_go(h->segment);
    return done;
}

static PyObject *handle_entries(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    Handle *h = (Handle *)self;
    PyObject *value = fetch(h, NULL, dal_read);
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
            list = fail(h->segment, DAL_INVALID, h->key, 0);
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
    return Py_NewRef(((Handle *)self)->key);
}

static PyObject *handle_home(PyObject *self, void *ignored)
{
    (void)ignored;
    return home_of((Handle *)self);
}

static PyObject *handle_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<statestore.Handle %R>", ((Handle *)self)->key);
}

static PyMethodDef handle_methods[] = {
    {"read", FAST(handle_read), "The value. sync: as all replicas have it."},
    {"read_versioned", FAST(handle_read_versioned), "(version, value)."},
    {"read_local", handle_read_local, METH_NOARGS, "The copy on this host, however old."},
    {"write", FAST(handle_write), "Replace the value."},
    {"append", FAST(handle_append), "Add one length-framed entry at the end."},
    {"entries", handle_entries, METH_NOARGS, "What was appended."},
    {"compare_and_swap", FAST(handle_compare_and_swap), "Replace the value of that version."},
    {"add", FAST(handle_add), "Add to a signed 64-bit counter; the sum."},
    {"delete", FAST(handle_delete), "Delete the item."},
    {"ensure", handle_ensure, METH_NOARGS, "Wait until all replicas have what stands now."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef handle_attributes[] = {
    {"key", handle_key, NULL, "The key.", NULL},
    {"home", handle_home, NULL, "Where it lives now.", NULL},
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
PyType_Spec handle_spec = {"statestore._segment.Handle", sizeof(Handle), 0, SEALED, handle_slots};

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
    return Py_NewRef(((Grant *)self)->name);
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
PyType_Spec grant_spec = {"statestore._segment.Grant", sizeof(Grant), 0, SEALED, grant_slots};
