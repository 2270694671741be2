/* The store for Python (stable ABI 3.11): the module and Segment.
 *
 * Knows: Python objects and the functions of dal.h. Must not know: the layout, the network.
 */
#include "_segment.h"

static PyTypeObject *segment_type;

/* ---- Segment: one open dal ---- */
static void segment_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Segment *o = (Segment *)self;
    dal_close(o->d);
    Py_DECREF(o->path);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *segment_close(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    Segment *o = (Segment *)self;
    if (o->d != NULL) {
        o->closing = true;
        hold(o);
        let_go(o);
    }
    Py_RETURN_NONE;
}

static PyObject *segment_forget(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    if (((Segment *)self)->d != NULL) {
        dal_forget(((Segment *)self)->d);
    }
    Py_RETURN_NONE;
}

static PyObject *segment_lookup(PyObject *self, PyObject *key)
{
    Segment *o = (Segment *)self;
    char *data;
    Py_ssize_t len;
    dal_handle h;
    if (closed(o) || PyBytes_AsStringAndSize(key, &data, &len) != 0) {
        return NULL;
    }
    hold(o);
    dal_status status = dal_lookup(o->d, data, (size_t)len, &h);
    PyObject *handle = status == DAL_OK ? new_handle(o, key, &h) : fail(o, status, key, 0);
    let_go(o);
    return handle;
}

/* The arguments that say how an item is made: capacity, ttl_ns, grant, replicas, hint. */
static bool take_way(Segment *o, PyObject *way, dal_write *w)
{
    unsigned long long capacity, ttl_ns;
    unsigned char replicas, hint;
    PyObject *grant, *sync;
    if (!PyArg_ParseTuple(way, "KKObbO:way", &capacity, &ttl_ns, &grant, &replicas, &hint, &sync) ||
        !take_grant(o, grant, &w->grant) || !take_sync(o, sync, &w->sync)) {
        return false;
    }
    w->capacity = (size_t)capacity;
    w->ttl_ns = ttl_ns;
    w->replicas = replicas;
    w->hint = hint & 3;
    return true;
}

typedef dal_status (*maker)(dal *, const void *, size_t, const void *, size_t, dal_write *,
                            dal_handle *);

static PyObject *make(Segment *o, PyObject *args, maker maker)
{
    PyObject *key, *value, *way;
    dal_write w = {0};
    dal_handle h;
    Bytes b;
    if (closed(o) || !PyArg_ParseTuple(args, "SOO", &key, &value, &way) || !take_way(o, way, &w) ||
        !take_bytes(value, &b)) {
        return NULL;
    }
    hold(o);
    dal_status status = maker(o->d, PyBytes_AsString(key), (size_t)PyBytes_Size(key), b.data,
                              (size_t)b.len, &w, &h);
    PyObject *handle = status == DAL_OK ? new_handle(o, key, &h)
                                        : fail(o, status, key, w.epoch_seen);
    let_go(o);
    drop_bytes(&b);
    return handle;
}

static PyObject *segment_create(PyObject *self, PyObject *args)
{
    return make((Segment *)self, args, dal_create);
}

static PyObject *segment_put(PyObject *self, PyObject *args)
{
    return make((Segment *)self, args, dal_put);
}

/* Keys and values of `pairs`, which must be bytes; false with an exception. */
static bool take_pairs(PyObject *pairs, dal_new *items, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyList_GetItem(pairs, i);
        char *key, *value;
        Py_ssize_t key_len, len;
        if (pair == NULL || !PyTuple_Check(pair) || PyTuple_Size(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "create_many() needs (key, value) pairs");
            return false;
        }
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(pair, 0), &key, &key_len) != 0 ||
            PyBytes_AsStringAndSize(PyTuple_GetItem(pair, 1), &value, &len) != 0) {
            return false;
        }
        items[i] = (dal_new){.key = key, .key_len = (size_t)key_len, .value = value,
                             .len = (size_t)len};
    }
    return true;
}

/* create_many([(key, value)], way) -> [key that existed] */
static PyObject *segment_create_many(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    PyObject *pairs, *way;
    dal_write w = {0};
    if (closed(o) || !PyArg_ParseTuple(args, "OO", &pairs, &way) || !take_way(o, way, &w)) {
        return NULL;
    }
    PyObject *own = PySequence_List(pairs); /* nobody else shall change it meanwhile */
    Py_ssize_t count = own == NULL ? 0 : PyList_Size(own);
    dal_new *items = own == NULL ? NULL : PyMem_Calloc((size_t)count + 1, sizeof *items);
    PyObject *existed = items == NULL || !take_pairs(own, items, count) ? NULL : PyList_New(0);
    if (existed != NULL) {
        hold(o);
        dal_status status = dal_create_many(o->d, items, (size_t)count, &w);
        Py_ssize_t first = -1;
        for (Py_ssize_t i = 0; existed != NULL && i < count; i++) {
            if (items[i].status == DAL_EXISTS &&
                PyList_Append(existed, PyTuple_GetItem(PyList_GetItem(own, i), 0)) != 0) {
                Py_DECREF(existed);
                existed = NULL;
            }
            if (items[i].status == status && first < 0) {
                first = i;
            }
        }
        if (existed != NULL && status != DAL_OK) {
            Py_DECREF(existed);
            existed = fail(o, status,
                           first < 0 ? NULL : PyTuple_GetItem(PyList_GetItem(own, first), 0),
                           w.epoch_seen);
        }
        let_go(o);
    }
    PyMem_Free(items);
    Py_XDECREF(own);
    return existed;
}

/* Room for each value, in one piece; false with an exception. */
static char *take_handles(Segment *o, PyObject *own, dal_get *items, Py_ssize_t count)
{
    size_t all = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Handle *h = (Handle *)PyList_GetItem(own, i);
        if (h == NULL || Py_TYPE((PyObject *)h) != handle_type || h->segment != o) {
            PyErr_SetString(PyExc_TypeError, "read_many() needs handles of this store");
            return NULL;
        }
        const seg_handle at = {h->h.auth, h->h.hash, h->h.item};
        size_t here = o->d->s != NULL ? seg_length(o->d->s, &at) : 0;
        here = here > READ_MANY_BYTES ? here : READ_MANY_BYTES;
        items[i] = (dal_get){.handle = &h->h, .cap = here < DAL_VALUE_BYTES_MAX ? here : DAL_VALUE_BYTES_MAX};
        all += items[i].cap;
    }
    char *room = PyMem_Malloc(all + 1);
    if (room == NULL) {
        (void)PyErr_NoMemory();
        return NULL;
    }
    char *at = room;
    for (Py_ssize_t i = 0; i < count; i++) {
        items[i].buf = at;
        at += items[i].cap;
    }
    return room;
}

/* read_many([handle], settled) -> [value, or None: read it alone to learn why] */
static PyObject *segment_read_many(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    PyObject *handles;
    int settled;
    if (!PyArg_ParseTuple(args, "Op", &handles, &settled) || closed(o)) {
        return NULL;
    }
    PyObject *own = PySequence_List(handles);
    Py_ssize_t count = own == NULL ? 0 : PyList_Size(own);
    dal_get *items = own == NULL ? NULL : PyMem_Calloc((size_t)count + 1, sizeof *items);
    char *room = items == NULL ? NULL : take_handles(o, own, items, count);
    PyObject *values = NULL;
    if (room != NULL) {
        hold(o);
        dal_status status = dal_read_many(o->d, items, (size_t)count, settled != 0);
        values = status == DAL_OK ? PyList_New(count) : fail(o, status, NULL, 0);
        let_go(o);
    }
    for (Py_ssize_t i = 0; values != NULL && i < count; i++) {
        PyObject *value = items[i].status == DAL_OK
                              ? PyBytes_FromStringAndSize(items[i].buf, (Py_ssize_t)items[i].len)
                              : Py_NewRef(Py_None);
        if (value == NULL || PyList_SetItem(values, i, value) != 0) {
            Py_DECREF(values);
            values = NULL;
        }
    }
    PyMem_Free(room);
    PyMem_Free(items);
    Py_XDECREF(own);
    return values;
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
    seg_stats t = {0};
    client_stats c = {0};
    if (closed(o)) {
        return NULL;
    }
    if (o->d->s != NULL) {
        seg_status status = seg_stats_read(o->d->s, &t);
        if (status != SEG_OK) {
            return fail(o, (dal_status)status, NULL, 0);
        }
    }
    if (o->d->c != NULL) {
        client_stats_read(o->d->c, &c);
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
        {"client_operations", c.started},
        {"client_requests", c.remote},
        {"client_repeated", c.repeated},
        {"client_rerouted", c.rerouted},
        {"client_confirmed", c.confirmed},
        {"client_copies", c.copies},
        {"client_in_doubt", c.in_doubt},
        {"client_unavailable", c.unavailable},
        {"client_pushes", c.pushes},
    };
    return DICTIONARY(figures);
}

static PyObject *segment_housekeep(PyObject *self, PyObject *now)
{
    Segment *o = (Segment *)self;
    uint64_t now_ns;
    seg_kept k;
    if (elsewhere(o) || !take_u64(now, &now_ns)) {
        return NULL;
    }
    seg_status status = seg_housekeep(o->d->s, now_ns, &k);
    if (status != SEG_OK) {
        return fail(o, (dal_status)status, NULL, 0);
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
    if (elsewhere(o)) {
        return NULL;
    }
    seg_status status = seg_verify(o->d->s, &v);
    if (status != SEG_OK) {
        return fail(o, (dal_status)status, NULL, 0);
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

static PyObject *segment_clustered(PyObject *self, void *ignored)
{
    (void)ignored;
    Segment *o = (Segment *)self;
    if (closed(o)) {
        return NULL;
    }
    return PyBool_FromLong(dal_joined(o->d));
}

/* One look at the segment: nobody is asked, nothing is waited for. */
static PyObject *segment_serving(PyObject *self, void *ignored)
{
    (void)ignored;
    Segment *o = (Segment *)self;
    if (closed(o)) {
        return NULL;
    }
    const seg *s = o->d->s;
    return PyBool_FromLong(s == NULL ||
                           (seg_usable(s) && (!seg_clustered(s) ||
                                              (seg_serving(s) && dal_now_ns() < seg_lease_ns(s)))));
}

static PyMethodDef segment_methods[] = {
    {"close", segment_close, METH_NOARGS, "Unmap. Handles made from it are useless afterwards."},
    {"forget", segment_forget, METH_NOARGS, "For the child of a fork."},
    {"lookup", segment_lookup, METH_O, "The handle of a key."},
    {"create", segment_create, METH_VARARGS,
     "(key, value, (capacity, ttl_ns, grant, replicas, hint, sync))"},
    {"put", segment_put, METH_VARARGS, "As create; replaces."},
    {"create_many", segment_create_many, METH_VARARGS, "([(key, value)], way) -> [existed]"},
    {"read_many", segment_read_many, METH_VARARGS, "([handle], settled) -> [value or None]"},
    {"stats", segment_stats, METH_NOARGS, "Figures."},
    {"housekeep", segment_housekeep, METH_O, "(now_ns) -> what was done"},
    {"verify", segment_verify, METH_NOARGS, "Walk everything; only while nobody writes."},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef all_methods[40];
static PyGetSetDef segment_attributes[] = {
    {"clustered", segment_clustered, NULL, "Is it part of a cluster?", NULL},
    {"serving", segment_serving, NULL, "Is this host's member in the view, with a lease?", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot segment_slots[] = {
    {Py_tp_dealloc, segment_free},
    {Py_tp_methods, all_methods},
    {Py_tp_getset, segment_attributes},
    {Py_tp_doc, "An open store: a mapped segment, or a way to a cluster."},
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
    return status == SEG_OK ? Py_NewRef(Py_None) : fail_open((dal_status)status, why);
}

static void *run_others(void)
{
    return PyEval_SaveThread();
}

static void run_again(void *state)
{
    PyEval_RestoreThread(state);
}

/* open(address, path, readonly, key_file or None, sync, timeout_ns, busy) */
static PyObject *module_open(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *address, *key_file = NULL, *given, *path;
    unsigned long long timeout_ns;
    int readonly, sync, busy;
    char why[1024] = "";
    dal *d = NULL;
    if (!PyArg_ParseTuple(args, "O&UpOpKp:open", PyUnicode_FSConverter, &address, &path, &readonly,
                          &given, &sync, &timeout_ns, &busy)) {
        return NULL;
    }
    if (given != Py_None && !PyUnicode_FSConverter(given, &key_file)) {
        Py_DECREF(address);
        return NULL;
    }
    dal_options o = DAL_DEFAULTS;
    o.key_file = key_file == NULL ? NULL : PyBytes_AsString(key_file);
    o.timeout_ns = timeout_ns;
    o.busy = busy;
    o.readonly = readonly;
    dal_status status = dal_open(PyBytes_AsString(address), &o, &d, why, sizeof why);
    Py_DECREF(address);
    Py_XDECREF(key_file);
    if (status != DAL_OK) {
        return fail_open(status, why);
    }
    d->leave = run_others;
    d->enter = run_again;
    Segment *made = PyObject_New(Segment, segment_type);
    if (made == NULL) {
        dal_close(d);
        return NULL;
    }
    made->d = d;
    made->users = 0;
    made->closing = false;
    made->sync = sync;
    made->path = Py_NewRef(path);
    return (PyObject *)made;
}

static PyMethodDef module_methods[] = {
    {"format", module_format, METH_VARARGS, "(path, size_bytes): make a segment file."},
    {"open", module_open, METH_VARARGS,
     "(address, name, readonly, key_file, sync, timeout_ns, busy) -> Segment"},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "_segment", "The store in C.", -1, module_methods, NULL, NULL, NULL,
    NULL,
};

/* The methods of this file, and those of the others. */
static void join_methods(void)
{
    size_t n = 0;
    for (const PyMethodDef *m = segment_methods; m->ml_name != NULL; m++) {
        all_methods[n++] = *m;
    }
    for (const PyMethodDef *m = group_methods; m->ml_name != NULL; m++) {
        all_methods[n++] = *m;
    }
}

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
    join_methods();
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
    if (PyModule_AddIntConstant(module, "VALUE_BYTES_MAX", DAL_VALUE_BYTES_MAX) != 0 ||
        PyModule_AddIntConstant(module, "KEY_BYTES_MAX", DAL_KEY_BYTES_MAX) != 0 ||
        PyModule_AddIntConstant(module, "LAYOUT", SEG_LAYOUT) != 0) {
        return NULL;
    }
    return module;
}
