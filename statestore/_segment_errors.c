/* Errors and arguments of the extension: one line that names the thing, the value and the way out.
 *
 * Knows: Python objects, statuses. Must not know: what an operation does.
 */
#include "_segment.h"

#include <unistd.h>

PyObject *errors;

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
    [DAL_OK] = "StateStoreError",       [DAL_NOT_FOUND] = "NotFound",
    [DAL_EXISTS] = "Exists",            [DAL_FULL] = "Full",
    [DAL_FENCED] = "Fenced",            [DAL_CORRUPT] = "Corrupt",
    [DAL_WRONG_VERSION] = "WrongVersion", [DAL_TOO_BIG] = "TooBig",
    [DAL_OVERRUN] = "Overrun",          [DAL_UNAVAILABLE] = "Unavailable",
    [DAL_CHANGED] = "Unavailable",      [DAL_INVALID] = "Invalid",
    [DAL_AWAY] = "Away",                [DAL_NOT_SERVING] = "NotServing",
    [DAL_IN_DOUBT] = "InDoubt",
};

PyObject *fail_open(dal_status status, const char *why)
{
    return fail_as(error_names[status], PyUnicode_DecodeFSDefault(why), 0);
}

PyObject *fail(Segment *o, dal_status status, PyObject *key, uint64_t epoch_seen)
{
    PyObject *path = o->path;
    const char *format = NULL;
    const char *detail = o->d != NULL && o->d->status == status ? o->d->why : "";
    PyObject *text;
    PyObject *none = key == NULL ? PyBytes_FromStringAndSize("", 0) : NULL;
    key = key == NULL ? none : key;
    switch (status) {
    case DAL_NOT_FOUND:
        format = "item %R: no such key in %U";
        break;
    case DAL_EXISTS:
        format = "item %R: exists already in %U; write it instead";
        break;
    case DAL_FULL:
        format = "item %R: no room of that size in %U; enlarge the segment or delete items";
        break;
    case DAL_CORRUPT:
        format = "item %R: %U contradicts itself; stop its users, remove it and start again";
        break;
    case DAL_OVERRUN:
        format = "watch of %R: changes in %U were missed; scan the prefix again";
        break;
    case DAL_INVALID:
        format = "item %R: the operation does not fit its value or its name in %U";
        break;
    case DAL_AWAY:
        format = "item %R: no copy of it in %U; read it from its master";
        break;
    case DAL_FENCED:
        text = PyUnicode_FromFormat("item %R: the grant is older than its fence, which stands at "
                                    "epoch %llu; somebody else owns it now",
                                    key, (unsigned long long)epoch_seen);
        goto out;
    case DAL_TOO_BIG:
        text = PyUnicode_FromFormat("item %R: key over %u or value over %u bytes; split it", key,
                                    DAL_KEY_BYTES_MAX, DAL_VALUE_BYTES_MAX);
        goto out;
    case DAL_NOT_SERVING:
    case DAL_IN_DOUBT:
        text = PyUnicode_FromFormat("item %R: %s (%U); %s", key, dal_why(o->d), path,
                                    status == DAL_IN_DOUBT ? "read it, then decide"
                                                           : "wait for the cluster");
        goto out;
    default:
        if (o->d == NULL || o->closing) {
            format = "item %R: %U is closed";
        } else if (o->d->pid != getpid() || (o->d->s != NULL && !seg_usable(o->d->s))) {
            format = "item %R: %U was opened before a fork; open it again in the child";
        } else if (detail[0] != '\0') {
            text = PyUnicode_FromFormat("item %R: %s (%U); try again", key, detail, path);
            goto out;
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
    if (o->d != NULL && !o->closing) {
        return false;
    }
    fail(o, DAL_UNAVAILABLE, NULL, 0);
    return true;
}

bool elsewhere(Segment *o)
{
    if (closed(o)) {
        return true;
    }
    if (o->d->s != NULL) {
        return false;
    }
    fail_as("Unavailable", PyUnicode_FromFormat("%U has no segment on this host: ask its server",
                                                o->path), 0);
    return true;
}

void release(Segment *o)
{
    dal *d = o->d;
    o->d = NULL;
    o->closing = false;
    dal_close(d);
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

bool take_args(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
               const char *const *names, Py_ssize_t required, PyObject **out)
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

bool take_grant(Segment *o, PyObject *given, const dal_grant **out)
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

bool take_sync(Segment *o, PyObject *given, bool *out)
{
    int is = given == NULL || given == Py_None ? o->sync : PyObject_IsTrue(given);
    *out = is > 0;
    return is >= 0;
}

bool take_u64(PyObject *o, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(o);
    return !(*out == (uint64_t)-1 && PyErr_Occurred() != NULL);
}
