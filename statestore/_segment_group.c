/* What concerns many items or the cluster, for Python: scans, watches, fences, places, messages.
 *
 * Knows: Python objects and the functions of dal.h. Must not know: the layout, the network.
 */
#include "_segment.h"

PyTypeObject *cursor_type;

/* ---- scan(prefix, cursor, limit) -> (cursor, handles, ended) ---- */

static bool add_handle(Segment *o, PyObject *list, const void *key, size_t len, dal_handle *h)
{
    PyObject *name = PyBytes_FromStringAndSize(key, (Py_ssize_t)len);
    PyObject *handle = name == NULL ? NULL : new_handle(o, name, h);
    bool good = handle != NULL && PyList_Append(list, handle) == 0;
    Py_XDECREF(name);
    Py_XDECREF(handle);
    return good;
}

static PyObject *scanned(uint64_t cursor, PyObject *list, bool ended)
{
    return list == NULL ? NULL
                        : Py_BuildValue("KNN", (unsigned long long)cursor, list,
                                        PyBool_FromLong(ended));
}

/* A whole batch, as the server has sent it. */
static PyObject *scan_far(Segment *o, const client_request *r)
{
    client_request with_room = *r;
    client_result t = {0};
    uint8_t *room = PyMem_Malloc(SEG_VALUE_BYTES_MAX);
    if (room == NULL) {
        return PyErr_NoMemory();
    }
    with_room.out = room;
    with_room.cap = SEG_VALUE_BYTES_MAX;
    hold(o);
    dal_status status = dal_run(o->d, &with_room, &t);
    PyObject *list = status == DAL_OK || status == DAL_NOT_FOUND ? PyList_New(0)
                                                                 : fail(o, status, NULL, 0);
    let_go(o);
    wire_reader at = {room, room + t.len};
    const void *key;
    size_t len;
    while (list != NULL && at.at < at.end) {
        dal_handle h = {.remote_slot = DAL_NO_SLOT};
        if (!wire_take_key(&at, &key, &len)) {
            fail(o, DAL_CORRUPT, NULL, 0);
        } else if (add_handle(o, list, key, len, &h)) {
            continue;
        }
        Py_DECREF(list);
        list = NULL;
    }
    PyMem_Free(room);
    return scanned(t.cursor, list, status == DAL_NOT_FOUND);
}

static PyObject *segment_scan(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    const char *prefix;
    Py_ssize_t prefix_len, limit;
    unsigned long long cursor;
    char key[DAL_KEY_BYTES_MAX];
    if (closed(o) || !PyArg_ParseTuple(args, "y#Kn:scan", &prefix, &prefix_len, &cursor, &limit)) {
        return NULL;
    }
    if (o->d->s == NULL) {
        const client_request r = {
            .verb = CLIENT_SCAN, .key = prefix, .key_len = (size_t)prefix_len, .cursor = cursor};
        return scan_far(o, &r);
    }
    uint64_t at = cursor;
    dal_status status = DAL_OK;
    PyObject *list = PyList_New(0);
    while (list != NULL && status == DAL_OK && PyList_Size(list) < limit) {
        dal_handle h;
        status = dal_scan(o->d, &at, prefix, (size_t)prefix_len, key, &h);
        if (status == DAL_NOT_FOUND) {
            break;
        }
        if (status != DAL_OK) {
            fail(o, status, NULL, 0);
        } else if (add_handle(o, list, key, h.key_len, &h)) {
            continue;
        }
        Py_DECREF(list);
        list = NULL;
    }
    return scanned(at, list, status != DAL_OK);
}

/* ---- watches ---- */

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
    Cursor *c = PyObject_New(Cursor, cursor_type);
    if (c == NULL) {
        return NULL;
    }
    Py_INCREF((PyObject *)o);
    Py_INCREF(prefix);
    c->segment = o;
    c->prefix = prefix;
    c->remote = 0;
    c->c = (seg_cursor){0};
    dal_status status;
    hold(o);
    if (o->d->s != NULL) {
        status = (dal_status)seg_watch(o->d->s, &c->c);
        dal_interest(o->d);
    } else {
        char key[DAL_KEY_BYTES_MAX];
        size_t len;
        bool deleted;
        status = dal_watch(o->d, &c->remote, PyBytes_AsString(prefix),
                           (size_t)PyBytes_Size(prefix), key, &len, &deleted);
        status = status == DAL_NOT_FOUND ? DAL_OK : status;
    }
    if (status != DAL_OK) {
        fail(o, status, prefix, 0);
        Py_DECREF((PyObject *)c);
        c = NULL;
    }
    let_go(o);
    return (PyObject *)c;
}

static void cursor_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Cursor *c = (Cursor *)self;
    if (c->segment->d != NULL) {
        dal_release_cursor(c->segment->d, &c->remote);
    }
    Py_DECREF(c->segment);
    Py_DECREF(c->prefix);
    PyObject_Free(self);
    Py_DECREF(type);
}

static dal_status cursor_next(Cursor *c, char *key, size_t *len, bool *deleted)
{
    const char *prefix = PyBytes_AsString(c->prefix);
    size_t prefix_len = (size_t)PyBytes_Size(c->prefix);
    dal *d = c->segment->d;
    if (d->s != NULL) {
        return (dal_status)seg_poll(d->s, &c->c, prefix, prefix_len, key, len, deleted);
    }
    return dal_watch(d, &c->remote, prefix, prefix_len, key, len, deleted);
}

static PyObject *cursor_poll(PyObject *self, PyObject *arg)
{
    Cursor *c = (Cursor *)self;
    Segment *o = c->segment;
    char key[DAL_KEY_BYTES_MAX];
    Py_ssize_t max = PyLong_AsSsize_t(arg);
    if ((max == -1 && PyErr_Occurred() != NULL) || closed(o)) {
        return NULL;
    }
    hold(o);
    if (o->d->s != NULL) {
        dal_interest(o->d);
    }
    PyObject *list = PyList_New(0);
    while (list != NULL && PyList_Size(list) < max) {
        size_t len = 0;
        bool deleted = false;
        dal_status status = cursor_next(c, key, &len, &deleted);
        if (status == DAL_NOT_FOUND) {
            break;
        }
        PyObject *change = NULL;
        if (status == DAL_OK) {
            change = Py_BuildValue("Ny#", PyBool_FromLong(deleted), key, (Py_ssize_t)len);
        } else {
            fail(o, status, c->prefix, 0);
        }
        if (change == NULL || PyList_Append(list, change) != 0) {
            Py_DECREF(list);
            list = NULL;
        }
        Py_XDECREF(change);
    }
    let_go(o);
    return list;
}

static PyObject *cursor_sequence(PyObject *self, void *ignored)
{
    (void)ignored;
    Cursor *c = (Cursor *)self;
    uint64_t far = c->remote & 0xffffffffffffull; /* a place and one; a server of an earlier version: the place */
    return PyLong_FromUnsignedLongLong(c->remote == 0 ? c->c.next : far - (far > 0));
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
PyType_Spec cursor_spec = {"statestore._segment.Cursor", sizeof(Cursor), 0, SEALED, cursor_slots};

/* ---- fences ---- */

static PyObject *segment_grant(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    PyObject *name;
    unsigned long long epoch;
    if (closed(o) || !PyArg_ParseTuple(args, "SK:grant", &name, &epoch)) {
        return NULL;
    }
    if (PyBytes_Size(name) > (Py_ssize_t)SEG_FENCE_NAME_BYTES_MAX) {
        return fail(o, DAL_TOO_BIG, name, 0);
    }
    if (o->d->s != NULL && !seg_usable(o->d->s)) {
        return fail(o, DAL_UNAVAILABLE, name, 0);
    }
    Grant *g = PyObject_New(Grant, grant_type);
    if (g != NULL) {
        Py_INCREF((PyObject *)o);
        Py_INCREF(name);
        g->segment = o;
        g->name = name;
        g->g = (dal_grant){PyBytes_AsString(name), (size_t)PyBytes_Size(name), epoch};
    }
    return (PyObject *)g;
}

static PyObject *segment_fence(PyObject *self, PyObject *name)
{
    Segment *o = (Segment *)self;
    char *data;
    Py_ssize_t len;
    uint64_t epoch = 0;
    if (closed(o) || PyBytes_AsStringAndSize(name, &data, &len) != 0) {
        return NULL;
    }
    hold(o);
    dal_status status = dal_fence(o->d, data, (size_t)len, &epoch);
    PyObject *found = status == DAL_OK ? PyLong_FromUnsignedLongLong(epoch)
                                       : fail(o, status, name, 0);
    let_go(o);
    return found;
}

static PyObject *segment_raise_fence(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    PyObject *name;
    unsigned long long epoch;
    if (closed(o) || !PyArg_ParseTuple(args, "SK:raise_fence", &name, &epoch)) {
        return NULL;
    }
    hold(o);
    dal_status status =
        dal_raise(o->d, PyBytes_AsString(name), (size_t)PyBytes_Size(name), epoch);
    PyObject *raised = status == DAL_OK || status == DAL_FENCED
                           ? PyBool_FromLong(status == DAL_OK)
                           : fail(o, status, name, 0);
    let_go(o);
    return raised;
}

/* ---- places ---- */

static PyObject *places(const char *name)
{
    PyObject *module = PyImport_ImportModule("statestore.places");
    PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    return found;
}

static PyObject *node_name(const seg_cluster *v, uint8_t slot)
{
    return (v->present >> slot & 1) != 0 ? PyUnicode_FromString(v->member[slot].node)
                                         : PyUnicode_FromFormat("slot %u", slot);
}

static PyObject *node_names(const seg_cluster *v, uint16_t slots)
{
    PyObject *list = PyList_New(0);
    for (uint8_t slot = 0; list != NULL && slot < SEG_SLOTS_MAX; slot++) {
        PyObject *name = (slots >> slot & 1) != 0 ? node_name(v, slot) : NULL;
        if ((slots >> slot & 1) != 0 && (name == NULL || PyList_Append(list, name) != 0)) {
            Py_DECREF(list);
            list = NULL;
        }
        Py_XDECREF(name);
    }
    PyObject *tuple = list == NULL ? NULL : PyList_AsTuple(list);
    Py_XDECREF(list);
    return tuple;
}

PyObject *home_of(Handle *h)
{
    static const char *const hints[] = {"none", "local", "remote", "pin"};
    Segment *o = h->segment;
    dal_home at;
    if (closed(o)) {
        return NULL;
    }
    hold(o);
    PyObject *made = NULL;
    dal_status status = dal_home_of(o->d, &h->h, &at);
    if (status != DAL_OK) {
        fail(o, status, h->key, 0);
    } else if (at.master >= SEG_SLOTS_MAX) {
        made = places("EMBEDDED");
    } else {
        const seg_cluster *v = dal_in_cluster(o->d) && o->d->c != NULL ? client_view(o->d->c) : NULL;
        seg_cluster none = {0};
        PyObject *type = places("Home");
        v = v != NULL ? v : &none;
        if (type != NULL) {
            made = PyObject_CallFunction(type, "NNNsI", node_name(v, at.master),
                                         node_names(v, at.replicas), node_names(v, at.learners),
                                         hints[at.hint & 3], (unsigned)at.want);
            Py_DECREF(type);
        }
    }
    let_go(o);
    return made;
}

static PyObject *segment_members(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    Segment *o = (Segment *)self;
    dal_member found[DAL_MEMBERS_MAX];
    size_t count = 0;
    uint64_t epoch = 0;
    if (closed(o)) {
        return NULL;
    }
    hold(o);
    dal_status status = dal_members(o->d, found, &count, &epoch);
    PyObject *list = status == DAL_OK ? PyList_New(0) : fail(o, status, NULL, 0);
    let_go(o);
    PyObject *type = list == NULL ? NULL : places("Member");
    for (size_t i = 0; list != NULL && i < count; i++) {
        const dal_member *m = &found[i];
        PyObject *one = type == NULL ? NULL
                                     : PyObject_CallFunction(
                                           type, "IssKNN", (unsigned)m->slot, m->node, m->address,
                                           (unsigned long long)m->incarnation,
                                           PyBool_FromLong(m->leader), PyBool_FromLong(m->self));
        if (one == NULL || PyList_Append(list, one) != 0) {
            Py_DECREF(list);
            list = NULL;
        }
        Py_XDECREF(one);
    }
    Py_XDECREF(type);
    return list == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)epoch, list);
}

static PyObject *segment_move(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    PyObject *given;
    unsigned char slot;
    if (closed(o) || !PyArg_ParseTuple(args, "Ob:move", &given, &slot)) {
        return NULL;
    }
    if (Py_TYPE(given) != handle_type || ((Handle *)given)->segment != o) {
        PyErr_SetString(PyExc_TypeError, "move() needs a handle of this store");
        return NULL;
    }
    Handle *h = (Handle *)given;
    hold(o);
    dal_status status = dal_move(o->d, &h->h, slot);
    PyObject *done = status == DAL_OK ? Py_NewRef(Py_None) : fail(o, status, h->key, 0);
    let_go(o);
    return done;
}

static PyObject *segment_reload_keys(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    Segment *o = (Segment *)self;
    if (closed(o)) {
        return NULL;
    }
    dal_status status = dal_reload_keys(o->d);
    return status == DAL_OK ? Py_NewRef(Py_None) : fail_open(status, dal_why(o->d));
}

/* ---- messages ---- */

static PyObject *segment_inbox(PyObject *self, PyObject *name)
{
    Segment *o = (Segment *)self;
    char *data;
    Py_ssize_t len;
    if (closed(o) || PyBytes_AsStringAndSize(name, &data, &len) != 0) {
        return NULL;
    }
    hold(o);
    dal_status status = dal_inbox(o->d, data, (size_t)len);
    PyObject *done = status == DAL_OK ? Py_NewRef(Py_None) : fail(o, status, name, 0);
    let_go(o);
    return done;
}

static PyObject *segment_take(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    Segment *o = (Segment *)self;
    char inbox[CLIENT_INBOX_NAME_BYTES_MAX + 1];
    size_t len = 0;
    if (closed(o)) {
        return NULL;
    }
    char *room = PyMem_Malloc(DAL_VALUE_BYTES_MAX);
    if (room == NULL) {
        return PyErr_NoMemory();
    }
    hold(o);
    dal_status status = dal_take(o->d, room, DAL_VALUE_BYTES_MAX, &len, inbox);
    PyObject *message = status == DAL_OK ? Py_BuildValue("yy#", inbox, room, (Py_ssize_t)len)
                        : status == DAL_NOT_FOUND ? Py_NewRef(Py_None)
                                                  : fail(o, status, NULL, 0);
    let_go(o);
    PyMem_Free(room);
    return message;
}

/* tell(inbox or None, message) */
static PyObject *segment_tell(PyObject *self, PyObject *args)
{
    Segment *o = (Segment *)self;
    PyObject *inbox, *message;
    char *name = NULL;
    Py_ssize_t name_len = 0;
    Bytes b;
    if (closed(o) || !PyArg_ParseTuple(args, "OO:tell", &inbox, &message) ||
        (inbox != Py_None && PyBytes_AsStringAndSize(inbox, &name, &name_len) != 0) ||
        !take_bytes(message, &b)) {
        return NULL;
    }
    hold(o);
    dal_status status = name == NULL ? dal_announce(o->d, b.data, (size_t)b.len)
                                     : dal_tell(o->d, name, (size_t)name_len, b.data, (size_t)b.len);
    PyObject *done = status == DAL_OK ? Py_NewRef(Py_None)
                                      : fail(o, status, name == NULL ? NULL : inbox, 0);
    let_go(o);
    drop_bytes(&b);
    return done;
}

PyMethodDef group_methods[] = {
    {"scan", segment_scan, METH_VARARGS, "(prefix, cursor, limit) -> (cursor, handles, ended)"},
    {"watch", segment_watch, METH_O, "A cursor at the end of the feed."},
    {"grant", segment_grant, METH_VARARGS, "(name, epoch)"},
    {"fence", segment_fence, METH_O, "The epoch of that fence."},
    {"raise_fence", segment_raise_fence, METH_VARARGS, "(name, epoch) -> bool"},
    {"members", segment_members, METH_NOARGS, "(epoch, [Member])"},
    {"move", segment_move, METH_VARARGS, "(handle, slot)"},
    {"reload_keys", segment_reload_keys, METH_NOARGS, "Read the key file again."},
    {"inbox", segment_inbox, METH_O, "Take the messages of that inbox from now on."},
    {"take", segment_take, METH_NOARGS, "(inbox, message) or None."},
    {"tell", segment_tell, METH_VARARGS, "(inbox or None for all, message)"},
    {NULL, NULL, 0, NULL},
};
