/* A member of the cluster for Python (stable ABI 3.11). Types: _node.pyi.
 *
 * Knows: Python objects and node_loop.h. Must not know: the engine.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdio.h>
#include <string.h>

#include "node_loop.h"

#define WHY_BYTES 512

typedef struct {
    PyObject_HEAD
    loop *l;        /* NULL once closed */
    uint32_t users; /* calls under way that let other threads in */
    bool closing;   /* the last of them closes */
} Node;

static PyObject *errors;

static PyObject *fail(seg_status status, const char *why)
{
    const char *name = status == SEG_INVALID         ? "Invalid"
                       : status == SEG_AWAY          ? "Away"
                       : status == SEG_NOT_FOUND     ? "NotFound"
                       : status == SEG_FULL          ? "Full"
                       : status == SEG_CORRUPT       ? "Corrupt"
                       : status == SEG_WRONG_VERSION ? "WrongVersion"
                                                     : "Unavailable";
    PyObject *type = PyObject_GetAttrString(errors, name);
    if (type != NULL) {
        PyErr_SetString(type, why);
        Py_DECREF(type);
    }
    return NULL;
}

static bool closed(const Node *o)
{
    if (o->l != NULL && !o->closing) {
        return false;
    }
    fail(SEG_UNAVAILABLE, "this member is closed");
    return true;
}

/* Around every call that lets other threads in: one of them may close the member. */
static void hold(Node *o) { o->users++; }

static void let_go(Node *o)
{
    if (--o->users == 0 && o->closing) {
        loop *l = o->l;
        o->l = NULL;
        o->closing = false;
        loop_close(l);
    }
}

static PyObject *node_make(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"segment", "name", "host", "port", "key_file", "history",
                            "promote_delay_ns", "resend_ns", "repair_per_s", "busy", NULL};
    loop_options o = {0};
    int port, history = 8, busy = 0;
    unsigned long long promote = 0, resend = 20000000;
    unsigned int repair = 2000;
    char why[WHY_BYTES] = "";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sssis|$iKKIp:Node", names, &o.segment, &o.name,
                                     &o.host, &port, &o.key_file, &history, &promote, &resend, &repair,
                                     &busy)) {
        return NULL;
    }
    if (port < 0 || port > 65535 || history < 0 || history > (int)NODE_HISTORY_MAX || resend == 0) {
        snprintf(why, sizeof why,
                 "port %d, history %d, resend_ns %llu: a port up to 65535, a history of 0 to %u and a "
                 "positive time are needed",
                 port, history, resend, NODE_HISTORY_MAX);
        return fail(SEG_INVALID, why);
    }
    o.port = (uint16_t)port;
    o.history = (uint8_t)history;
    o.promote_delay_ns = promote;
    o.resend_ns = resend;
    o.repair_per_s = repair;
    o.busy = busy != 0;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Node *self = (Node *)allocate(type, 0);
    if (self == NULL) {
        return NULL;
    }
    seg_status status = loop_open(&o, &self->l, why, sizeof why);
    if (status != SEG_OK) {
        Py_DECREF(self);
        return fail(status, why);
    }
    return (PyObject *)self;
}

static void node_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    loop_close(((Node *)self)->l);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *node_close(PyObject *self, PyObject *ignored)
{
    Node *o = (Node *)self;
    (void)ignored;
    if (o->l != NULL) {
        o->closing = true;
        loop_stop(o->l);
        hold(o);
        let_go(o);
    }
    Py_RETURN_NONE;
}

static PyObject *node_run(PyObject *self, PyObject *ignored)
{
    Node *o = (Node *)self;
    (void)ignored;
    if (closed(o)) {
        return NULL;
    }
    hold(o);
    Py_BEGIN_ALLOW_THREADS
    loop_run(o->l);
    Py_END_ALLOW_THREADS
    let_go(o);
    Py_RETURN_NONE;
}

static PyObject *node_stop(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    if (((Node *)self)->l != NULL) {
        loop_stop(((Node *)self)->l);
    }
    Py_RETURN_NONE;
}

static bool take_member(PyObject *row, node_view *v)
{
    int slot, port;
    const char *name, *host;
    unsigned long long incarnation;
    char why[WHY_BYTES];
    if (!PyTuple_Check(row) ||
        !PyArg_ParseTuple(row, "issiK:member", &slot, &name, &host, &port, &incarnation)) {
        return false;
    }
    if (slot < 0 || slot >= (int)SEG_SLOTS_MAX || strlen(name) > SEG_NODE_BYTES_MAX ||
        !loop_address(host, v->member[slot].ip)) {
        snprintf(why, sizeof why, "member %.64s at %.64s in slot %d: not one of a view", name, host, slot);
        fail(SEG_INVALID, why);
        return false;
    }
    seg_member *m = &v->member[slot];
    m->slot = (uint8_t)slot;
    m->port = (uint16_t)port;
    m->incarnation = incarnation;
    memcpy(m->node, name, strlen(name) + 1);
    v->present |= (uint16_t)(1u << slot);
    return true;
}

static PyObject *node_set_view_(PyObject *self, PyObject *args)
{
    Node *o = (Node *)self;
    unsigned long long epoch;
    int leader;
    PyObject *members, *left;
    node_view v = {0};
    if (!PyArg_ParseTuple(args, "KiO!O!:set_view", &epoch, &leader, &PyList_Type, &members, &PyList_Type, &left)) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_Size(members); i++) {
        if (!take_member(PyList_GetItem(members, i), &v)) {
            return NULL;
        }
    }
    for (Py_ssize_t i = 0; i < PyList_Size(left); i++) {
        long slot = PyLong_AsLong(PyList_GetItem(left, i));
        if (slot < 0 || slot >= (long)SEG_SLOTS_MAX) {
            return PyErr_Occurred() != NULL ? NULL : fail(SEG_INVALID, "left: not a slot");
        }
        v.left |= (uint16_t)(1u << slot);
    }
    v.epoch = epoch;
    v.leader = (uint8_t)leader;
    if (closed(o)) {
        return NULL;
    }
    hold(o);
    Py_BEGIN_ALLOW_THREADS
    loop_set_view(o->l, &v);
    Py_END_ALLOW_THREADS
    let_go(o);
    Py_RETURN_NONE;
}

static PyObject *node_set_lease_(PyObject *self, PyObject *arg)
{
    Node *o = (Node *)self;
    uint64_t deadline = PyLong_AsUnsignedLongLong(arg);
    if (closed(o) || PyErr_Occurred() != NULL) {
        return NULL;
    }
    hold(o);
    Py_BEGIN_ALLOW_THREADS
    loop_set_lease(o->l, deadline);
    Py_END_ALLOW_THREADS
    let_go(o);
    Py_RETURN_NONE;
}

static PyObject *node_begin_anew(PyObject *self, PyObject *ignored)
{
    Node *o = (Node *)self;
    char why[WHY_BYTES] = "";
    uint64_t incarnation;
    (void)ignored;
    if (closed(o)) {
        return NULL;
    }
    hold(o);
    Py_BEGIN_ALLOW_THREADS
    incarnation = loop_begin_anew(o->l, why, sizeof why);
    Py_END_ALLOW_THREADS
    let_go(o);
    return incarnation == 0 ? fail(SEG_UNAVAILABLE, why) : PyLong_FromUnsignedLongLong(incarnation);
}

static PyObject *node_move_(PyObject *self, PyObject *args)
{
    Node *o = (Node *)self;
    const char *key;
    Py_ssize_t len;
    int slot;
    if (!PyArg_ParseTuple(args, "y#i:move", &key, &len, &slot) || closed(o)) {
        return NULL;
    }
    seg_status status;
    hold(o);
    Py_BEGIN_ALLOW_THREADS
    status = loop_move(o->l, key, (size_t)len, slot < 0 || slot > 254 ? 254 : (uint8_t)slot);
    Py_END_ALLOW_THREADS
    let_go(o);
    if (status == SEG_OK || status == SEG_EXISTS) {
        Py_RETURN_NONE;
    }
    char why[WHY_BYTES];
    snprintf(why, sizeof why, "item %.200s: %s", key,
             status == SEG_AWAY        ? "its master is another member; ask that one"
             : status == SEG_NOT_FOUND ? "there is none"
             : status == SEG_INVALID   ? "the target is not a complete member of the view"
             : status == SEG_CHANGED   ? "it is being moved or deleted; try again"
                                       : "cannot be moved now; try again");
    return fail(status, why);
}

static PyObject *node_leave_(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    if (closed((Node *)self)) {
        return NULL;
    }
    loop_leave(((Node *)self)->l);
    Py_RETURN_NONE;
}

static PyObject *node_unwanted_(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    if (closed((Node *)self)) {
        return NULL;
    }
    uint16_t slots = loop_unwanted(((Node *)self)->l);
    PyObject *list = PyList_New(0);
    for (long s = 0; list != NULL && s < (long)SEG_SLOTS_MAX; s++) {
        PyObject *number = (slots >> s & 1) != 0 ? PyLong_FromLong(s) : NULL;
        if (number != NULL) {
            PyList_Append(list, number);
            Py_DECREF(number);
        }
    }
    return list;
}

static PyObject *node_reload_keys(PyObject *self, PyObject *ignored)
{
    char why[WHY_BYTES] = "";
    (void)ignored;
    if (closed((Node *)self)) {
        return NULL;
    }
    if (loop_reload_keys(((Node *)self)->l, why, sizeof why) != 0) {
        return fail(SEG_UNAVAILABLE, why);
    }
    Py_RETURN_NONE;
}

static bool put(PyObject *dict, const char *name, uint64_t value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    bool ok = number != NULL && PyDict_SetItemString(dict, name, number) == 0;
    Py_XDECREF(number);
    return ok;
}

static const char *const operations[32] = {
    [WIRE_READ] = "read", [WIRE_WRITE] = "write", [WIRE_APPEND] = "append", [WIRE_SWAP] = "swap",
    [WIRE_ADD] = "add", [WIRE_DELETE] = "delete", [WIRE_CREATE] = "create", [WIRE_LOOKUP] = "lookup",
    [WIRE_SCAN] = "scan", [WIRE_POLL] = "poll", [WIRE_RAISE] = "raise", [WIRE_FENCE] = "fence",
    [WIRE_MEMBERS] = "members", [WIRE_MOVE] = "move", [WIRE_ENSURE] = "ensure", [WIRE_TELL] = "tell",
    [WIRE_ANNOUNCE] = "announce", [WIRE_INBOX] = "inbox", [WIRE_COPY] = "copy",
};

static PyObject *node_stats_(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"walk", NULL};
    Node *o = (Node *)self;
    int walk = 0;
    static const struct {
        const char *name;
        size_t at;
    } fields[] = {
#define FIELD(f) {#f, offsetof(node_stats, f)}
        FIELD(epoch), FIELD(applied), FIELD(committed), FIELD(last), FIELD(items), FIELD(masters),
        FIELD(replicas), FIELD(stubs), FIELD(damaged), FIELD(proposals), FIELD(requests), FIELD(dirty), FIELD(flight),
        FIELD(moving), FIELD(repairing), FIELD(inboxes), FIELD(sessions), FIELD(lost), FIELD(promoted),
        FIELD(promote_ns), FIELD(thawed), FIELD(confirmed), FIELD(moves), FIELD(moves_failed), FIELD(repaired),
        FIELD(stale), FIELD(later), FIELD(misses), FIELD(in_doubt), FIELD(refused), FIELD(copies),
        FIELD(copies_applied), FIELD(notes), FIELD(overruns), FIELD(expired),
    };
    static const struct {
        const char *name;
        size_t at;
    } links[] = {
#define LINK(f) {"link_" #f, offsetof(link_stats, f)}
        LINK(datagrams_in), LINK(datagrams_out), LINK(messages_in), LINK(messages_out), LINK(bytes_in),
        LINK(bytes_out), LINK(unauthentic), LINK(replayed), LINK(malformed), LINK(unknown_index),
        LINK(unknown_key), LINK(dropped_waiting), LINK(dropped_queue), LINK(dropped_partial),
        LINK(dropped_answers), LINK(hellos), LINK(sessions), LINK(evicted),
    };
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:stats", names, &walk) || closed(o)) {
        return NULL;
    }
    node_stats s;
    link_stats k;
    uint64_t handled[LOOP_BUCKETS];
    hold(o);
    Py_BEGIN_ALLOW_THREADS
    loop_stats(o->l, walk != 0, &s, &k, handled);
    Py_END_ALLOW_THREADS
    let_go(o);
    PyObject *d = PyDict_New();
    bool ok = d != NULL && put(d, "phase", s.phase) && put(d, "complete", s.complete) &&
              put(d, "leading", s.leading) && put(d, "serving", s.serving) &&
              put(d, "leaving", s.leaving) && put(d, "left", s.left) && put(d, "self", s.self) &&
              put(d, "leader", s.leader);
    for (size_t i = 0; ok && i < sizeof fields / sizeof *fields; i++) {
        ok = put(d, fields[i].name, *(const uint64_t *)((const char *)&s + fields[i].at));
    }
    for (size_t i = 0; ok && i < sizeof links / sizeof *links; i++) {
        ok = put(d, links[i].name, *(const uint64_t *)((const char *)&k + links[i].at));
    }
    char name[64];
    for (size_t type = 0; ok && type < 32; type++) {
        if (operations[type] == NULL) {
            continue;
        }
        snprintf(name, sizeof name, "requests_%s", operations[type]);
        ok = put(d, name, s.requests_by_type[type]);
        for (size_t b = 0; ok && b < 32; b++) {
            if (s.waited[type][b] != 0) {
                /* buckets of microseconds: 1024 ns are the first */
                snprintf(name, sizeof name, "latency_%s_%zu", operations[type], b < 10 ? 0 : b - 10);
                PyObject *was = PyDict_GetItemString(d, name);
                ok = put(d, name, s.waited[type][b] +
                                      (was == NULL ? 0 : PyLong_AsUnsignedLongLong(was)));
            }
        }
    }
    for (size_t b = 0; ok && b < LOOP_BUCKETS; b++) {
        if (handled[b] != 0) {
            snprintf(name, sizeof name, "latency_datagram_%zu", b < 10 ? 0 : b - 10);
            PyObject *was = PyDict_GetItemString(d, name);
            ok = put(d, name, handled[b] + (was == NULL ? 0 : PyLong_AsUnsignedLongLong(was)));
        }
    }
    if (!ok) {
        Py_XDECREF(d);
        return NULL;
    }
    return d;
}

static PyObject *get_incarnation(PyObject *self, void *ignored)
{
    (void)ignored;
    return closed((Node *)self) ? NULL
                                : PyLong_FromUnsignedLongLong(loop_incarnation(((Node *)self)->l));
}

static PyObject *get_port(PyObject *self, void *ignored)
{
    (void)ignored;
    return closed((Node *)self) ? NULL : PyLong_FromLong(loop_port(((Node *)self)->l));
}

static PyMethodDef methods[] = {
    {"run", node_run, METH_NOARGS, NULL},
    {"stop", node_stop, METH_NOARGS, NULL},
    {"set_view", node_set_view_, METH_VARARGS, NULL},
    {"set_lease", node_set_lease_, METH_O, NULL},
    {"begin_anew", node_begin_anew, METH_NOARGS, NULL},
    {"move", node_move_, METH_VARARGS, NULL},
    {"leave", node_leave_, METH_NOARGS, NULL},
    {"unwanted", node_unwanted_, METH_NOARGS, NULL},
    {"reload_keys", node_reload_keys, METH_NOARGS, NULL},
    {"stats", (PyCFunction)(void (*)(void))node_stats_, METH_VARARGS | METH_KEYWORDS, NULL},
    {"close", node_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"incarnation", get_incarnation, NULL, NULL, NULL},
    {"port", get_port, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, node_make},
    {Py_tp_dealloc, node_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {"statestore._node.Node", sizeof(Node), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "statestore._node", NULL, -1,
                                    NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__node(void)
{
    PyObject *m = PyModule_Create(&module);
    PyObject *type = m == NULL ? NULL : PyType_FromSpec(&spec);
    errors = type == NULL ? NULL : PyImport_ImportModule("statestore.errors");
    if (errors == NULL || PyModule_AddObjectRef(m, "Node", type) != 0) {
        Py_XDECREF(m);
        return NULL;
    }
    return m;
}
