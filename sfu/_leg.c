/* The type Leg of sfu._relay.  See _relay.h for the rules. */
#include "_relay.h"

#include <string.h>

static int leg_init(PyObject *object, PyObject *args, PyObject *names) {
    LegObject *self = (LegObject *)object;
    PyObject *relay;
    unsigned long long id;
    if (names != NULL && PyDict_Size(names) > 0) {
        PyErr_SetString(PyExc_TypeError, "no keywords");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OK", &relay, &id)) return -1;
    RelayObject *owner = owner_of(object, self->owner, relay);
    if (owner == NULL) return -1;
    self->owner = owner;
    enter(owner);
    self->leg = leg_new(owner->relay, id);
    leave(owner);
    if (self->leg != NULL) return 0;
    PyErr_NoMemory();
    return -1;
}

static void leg_shut(LegObject *self) {
    if (self->leg != NULL) {
        enter(self->owner);
        leg_counts(self->leg, &self->last);
        leg_free(self->leg);
        leave(self->owner);
        self->leg = NULL;
        self->last.queued = 0;
    }
    Py_CLEAR(self->sessions); /* nobody uses them any more */
}

static void leg_dealloc(PyObject *object) {
    LegObject *self = (LegObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    leg_shut(self);
    Py_XDECREF(self->owner);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *leg_close(PyObject *object, PyObject *none) {
    (void)none;
    leg_shut((LegObject *)object);
    Py_RETURN_NONE;
}

static PyObject *leg_ids(PyObject *object, PyObject *args) {
    LegObject *self = (LegObject *)object;
    ExtensionIds ids = {0};
    const char *passed;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "bbbbbbby#", &ids.mid, &ids.rid, &ids.repaired_rid, &ids.audio_level,
                          &ids.transport_cc, &ids.abs_send_time, &ids.dependency, &passed, &size))
        return NULL;
    for (Py_ssize_t i = 0; i < size; i++) ids.passed[(uint8_t)passed[i]] = true;
    if (self->leg == NULL) Py_RETURN_NONE;
    enter(self->owner);
    leg_set_ids(self->leg, &ids);
    leave(self->owner);
    Py_RETURN_NONE;
}

static PyObject *leg_srtp(PyObject *object, PyObject *args) {
    LegObject *self = (LegObject *)object;
    unsigned long long at[4];
    PyObject *sessions;
    if (!PyArg_ParseTuple(args, "KKKKO", &at[0], &at[1], &at[2], &at[3], &sessions)) return NULL;
    if (self->leg == NULL) Py_RETURN_NONE;
    enter(self->owner);
    leg_set_srtp(self->leg, (void *)(uintptr_t)at[0], (void *)(uintptr_t)at[1], (void *)(uintptr_t)at[2],
                 (void *)(uintptr_t)at[3]);
    leave(self->owner);
    Py_INCREF(sessions);
    Py_XSETREF(self->sessions, sessions);
    Py_RETURN_NONE;
}

static PyObject *leg_bind(PyObject *object, PyObject *args) {
    LegObject *self = (LegObject *)object;
    unsigned int ip;
    unsigned short port;
    if (!PyArg_ParseTuple(args, "IH", &ip, &port)) return NULL;
    if (self->leg == NULL) Py_RETURN_NONE;
    enter(self->owner);
    leg_bind_address(self->leg, ip, port);
    leave(self->owner);
    Py_RETURN_NONE;
}

static PyObject *leg_get_address(PyObject *object, void *none) {
    (void)none;
    LegObject *self = (LegObject *)object;
    uint32_t ip = 0;
    uint16_t port = 0;
    if (self->leg != NULL) leg_address(self->leg, &ip, &port);
    return Py_BuildValue("IH", (unsigned int)ip, port);
}

static PyObject *leg_is_ready(PyObject *object, void *none) {
    (void)none;
    LegObject *self = (LegObject *)object;
    return PyBool_FromLong(self->leg != NULL && leg_ready(self->leg));
}

static PyObject *bind_with(PyObject *object, PyObject *args, void (*bind)(Leg *, uint32_t, Feed *)) {
    LegObject *self = (LegObject *)object;
    unsigned int ssrc;
    PyObject *value;
    if (!PyArg_ParseTuple(args, "IO", &ssrc, &value)) return NULL;
    FeedObject *its = feed_arg(object, self->owner, value);
    if (its == NULL) return NULL;
    if (self->leg == NULL || its->feed == NULL) Py_RETURN_NONE;
    enter(self->owner);
    bind(self->leg, ssrc, its->feed);
    leave(self->owner);
    Py_RETURN_NONE;
}

static PyObject *leg_ssrc(PyObject *object, PyObject *args) { return bind_with(object, args, leg_bind_ssrc); }
static PyObject *leg_rtx(PyObject *object, PyObject *args) { return bind_with(object, args, leg_bind_rtx); }

static PyObject *leg_drop(PyObject *object, PyObject *value) {
    LegObject *self = (LegObject *)object;
    FeedObject *its = feed_arg(object, self->owner, value);
    if (its == NULL) return NULL;
    if (self->leg == NULL || its->feed == NULL) Py_RETURN_NONE;
    enter(self->owner);
    leg_drop_feed(self->leg, its->feed);
    leave(self->owner);
    Py_RETURN_NONE;
}

static PyObject *leg_let_go(PyObject *object, PyObject *args) {
    LegObject *self = (LegObject *)object;
    unsigned int ssrc;
    double now_ms;
    if (!PyArg_ParseTuple(args, "Id", &ssrc, &now_ms)) return NULL;
    if (self->leg == NULL) Py_RETURN_NONE;
    enter(self->owner);
    leg_release(self->leg, ssrc, now_ms);
    leave_sending(self->owner, now_ms);
    Py_RETURN_NONE;
}

static PyObject *leg_rtcp(PyObject *object, PyObject *args) {
    LegObject *self = (LegObject *)object;
    const char *data;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "y#", &data, &size)) return NULL;
    if (self->leg == NULL || size > INT_MAX) Py_RETURN_FALSE;
    enter(self->owner);
    int failed = leg_send_rtcp(self->leg, (const uint8_t *)data, (int)size);
    leave_sending(self->owner, 0);
    return PyBool_FromLong(!failed);
}

static PyObject *at_time(PyObject *object, PyObject *number, void (*act)(Leg *, double)) {
    LegObject *self = (LegObject *)object;
    double now_ms = PyFloat_AsDouble(number);
    if (PyErr_Occurred()) return NULL;
    if (self->leg == NULL) Py_RETURN_NONE;
    enter(self->owner);
    act(self->leg, now_ms);
    leave_sending(self->owner, 0);
    Py_RETURN_NONE;
}

static PyObject *leg_again(PyObject *object, PyObject *number) { return at_time(object, number, leg_ask_again); }
static PyObject *leg_feedback(PyObject *object, PyObject *number) {
    return at_time(object, number, leg_send_feedback);
}

static PyObject *digest_tuple(const Digest *digest) {
    PyObject *groups = PyTuple_New(digest->groups), *clusters = PyTuple_New(digest->clusters);
    for (int i = 0; groups != NULL && i < digest->groups; i++) {
        const Group *g = &digest->group[i];
        PyObject *item = Py_BuildValue("ddL", g->send_ms, g->arrival_ms, (long long)g->size);
        if (item == NULL)
            Py_CLEAR(groups);
        else
            PyTuple_SetItem(groups, i, item);
    }
    for (int i = 0; clusters != NULL && i < digest->clusters; i++) {
        const Cluster *c = &digest->cluster[i];
        PyObject *item = Py_BuildValue("iiLdddd", c->cluster, c->packets, (long long)c->size, c->first_send_ms,
                                       c->last_send_ms, c->first_arrival_ms, c->last_arrival_ms);
        if (item == NULL)
            Py_CLEAR(clusters);
        else
            PyTuple_SetItem(clusters, i, item);
    }
    if (groups == NULL || clusters == NULL) {
        Py_XDECREF(groups);
        Py_XDECREF(clusters);
        return NULL;
    }
    return Py_BuildValue("NiiLdN", groups, digest->received, digest->lost, (long long)digest->acked_bytes,
                         digest->newest_send_ms, clusters);
}

static PyObject *leg_digest(PyObject *object, PyObject *args) {
    LegObject *self = (LegObject *)object;
    const char *body;
    Py_ssize_t size;
    double now_ms;
    Digest digest = {0};
    if (!PyArg_ParseTuple(args, "y#d", &body, &size, &now_ms)) return NULL;
    int failed = size > INT_MAX ? -1 : 0;
    if (self->leg != NULL && !failed) /* without the relay's lock */
        failed = leg_acknowledge(self->leg, (const uint8_t *)body, (int)size, now_ms, &digest);
    if (!failed) return digest_tuple(&digest);
    PyErr_SetString(PyExc_ValueError, "malformed transport-wide feedback");
    return NULL;
}

static PyObject *leg_pace(PyObject *object, PyObject *number) {
    LegObject *self = (LegObject *)object;
    double rate_bps = PyFloat_AsDouble(number);
    if (PyErr_Occurred()) return NULL;
    if (self->leg == NULL) Py_RETURN_NONE;
    enter(self->owner);
    leg_set_pacing(self->leg, rate_bps);
    leave(self->owner);
    Py_RETURN_NONE;
}

static PyObject *leg_begin_probe(PyObject *object, PyObject *args) {
    LegObject *self = (LegObject *)object;
    int cluster, size;
    double rate_bps, now_ms;
    if (!PyArg_ParseTuple(args, "idid", &cluster, &rate_bps, &size, &now_ms)) return NULL;
    if (self->leg == NULL) Py_RETURN_FALSE;
    enter(self->owner);
    bool begun = leg_probe(self->leg, cluster, rate_bps, size, now_ms);
    leave(self->owner);
    return PyBool_FromLong(begun);
}

static PyObject *leg_value(PyObject *object, void *place) {
    LegObject *self = (LegObject *)object;
    if (self->leg != NULL && !looked_lately(self->owner, &self->looked_ns)) {
        enter(self->owner);
        leg_counts(self->leg, &self->last);
        leave(self->owner);
    }
    return value_at(&self->last, place);
}

static PyObject *leg_get_ms(PyObject *object, void *place) { return value_at(object, place); }

static int leg_put_rtt(PyObject *object, PyObject *value, void *none) {
    (void)none;
    LegObject *self = (LegObject *)object;
    if (not_deleted(value) < 0) return -1;
    double rtt_ms = PyFloat_AsDouble(value);
    if (PyErr_Occurred()) return -1;
    self->rtt_ms = rtt_ms;
    if (self->leg == NULL) return 0;
    enter(self->owner);
    leg_set_rtt(self->leg, rtt_ms);
    leave(self->owner);
    return 0;
}

static int leg_put_mending(PyObject *object, PyObject *value, void *none) {
    (void)none;
    LegObject *self = (LegObject *)object;
    if (not_deleted(value) < 0) return -1;
    double until_ms = PyFloat_AsDouble(value);
    if (PyErr_Occurred()) return -1;
    self->mending_ms = until_ms;
    if (self->leg == NULL) return 0;
    enter(self->owner);
    leg_set_mending(self->leg, until_ms);
    leave(self->owner);
    return 0;
}

static PyMethodDef leg_methods[] = {
    {"close", leg_close, METH_NOARGS, "No more packets; the counts stay."},
    {"set_ids", leg_ids, METH_VARARGS,
     "(mid, rid, repaired_rid, audio_level, transport_cc, abs_send_time, dependency, passed)"},
    {"set_srtp", leg_srtp, METH_VARARGS, "(receive, receive_rtcp, send, send_rtcp, what keeps them alive)"},
    {"bind_address", leg_bind, METH_VARARGS, "(ip, port)"},
    {"bind_ssrc", leg_ssrc, METH_VARARGS, "(ssrc, feed)"},
    {"bind_rtx_ssrc", leg_rtx, METH_VARARGS, "(ssrc, feed)"},
    {"drop_feed", leg_drop, METH_O, "(feed)"},
    {"release", leg_let_go, METH_VARARGS, "(ssrc, now_ms): the answer to EVENT_RESOLVE."},
    {"send_rtcp", leg_rtcp, METH_VARARGS, "(data); False: dropped and counted."},
    {"ask_again", leg_again, METH_O, "(now_ms): NACKs that are due."},
    {"send_feedback", leg_feedback, METH_O, "(now_ms): transport-wide feedback that is due."},
    {"digest", leg_digest, METH_VARARGS, "(body, now_ms): the fields of sfu.seams.Digest."},
    {"set_pacing", leg_pace, METH_O, "(rate_bps)"},
    {"begin_probe", leg_begin_probe, METH_VARARGS, "(cluster, rate_bps, size, now_ms)"},
    {0},
};
#define LEG(name, kind) {#name, leg_value, NULL, NULL, PLACE(LegCounts, name, kind)}
static PyGetSetDef leg_values[] = {
    LEG(bytes_in, U64), LEG(bytes_out, U64), LEG(other_packets, U64), LEG(other_bytes, U64), LEG(queued, U64),
    {"ready", leg_is_ready, NULL, NULL, NULL},
    {"address", leg_get_address, NULL, "(ip, port), (0, 0) = none.", NULL},
    {"rtt_ms", leg_get_ms, leg_put_rtt, NULL, PLACE(LegObject, rtt_ms, NUMBER)},
    {"mending_until_ms", leg_get_ms, leg_put_mending, NULL, PLACE(LegObject, mending_ms, NUMBER)},
    {0},
};
static PyType_Slot leg_slots[] = {
    {Py_tp_doc, "(relay, id)"},
    {Py_tp_new, PyType_GenericNew}, {Py_tp_init, leg_init}, {Py_tp_dealloc, leg_dealloc},
    {Py_tp_methods, leg_methods}, {Py_tp_getset, leg_values}, {0},
};
PyType_Spec leg_spec = {
    "sfu._relay.Leg", sizeof(LegObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, leg_slots,
};
