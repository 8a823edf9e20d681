/* The type Route of sfu._relay.  See _relay.h for the rules. */
#include "_relay.h"

#include <string.h>

static int route_init(PyObject *object, PyObject *args, PyObject *names) {
    RouteObject *self = (RouteObject *)object;
    PyObject *relay, *leg;
    unsigned long long id;
    int is_video, resends;
    unsigned int ssrc, rtx_ssrc;
    long long first_sequence, rtx_sequence;
    if (names != NULL && PyDict_Size(names) > 0) {
        PyErr_SetString(PyExc_TypeError, "no keywords");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OKOpIIpLL", &relay, &id, &leg, &is_video, &ssrc, &rtx_ssrc, &resends,
                          &first_sequence, &rtx_sequence))
        return -1;
    RelayObject *owner = owner_of(object, self->owner, relay);
    if (owner == NULL) return -1;
    self->owner = owner;
    Leg *its = NULL;
    if (leg != Py_None) {
        if (!PyObject_TypeCheck(leg, types_of(object)->leg)) {
            PyErr_SetString(PyExc_TypeError, "this is no leg of a native relay");
            return -1;
        }
        if (other_relay(owner, ((LegObject *)leg)->owner)) return -1;
        its = ((LegObject *)leg)->leg;
        if (its == NULL) {
            PyErr_SetString(PyExc_ValueError, "this leg is closed");
            return -1;
        }
    }
    self->ssrc = ssrc;
    self->rtx_ssrc = rtx_ssrc;
    self->max_spatial = self->max_temporal = 7;
    self->last_sequence = first_sequence - 1;
    self->rtx_sequence = rtx_sequence;
    enter(owner);
    self->route = route_new(owner->relay, id, its, is_video, ssrc, rtx_ssrc, resends, first_sequence, rtx_sequence);
    if (self->route != NULL) route_counts(self->route, &self->last);
    leave(owner);
    if (self->route != NULL) return 0;
    PyErr_NoMemory();
    return -1;
}

static void route_shut(RouteObject *self) {
    if (self->route == NULL) return;
    enter(self->owner);
    route_stop(self->route);
    route_counts(self->route, &self->last);
    route_last_numbers(self->route, &self->last_sequence, &self->rtx_sequence);
    route_free(self->route);
    leave(self->owner);
    self->route = NULL;
    self->last.feed = self->last.target = 0;
}

static void route_dealloc(PyObject *object) {
    RouteObject *self = (RouteObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    route_shut(self);
    Py_XDECREF(self->owner);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *route_close(PyObject *object, PyObject *none) {
    (void)none;
    route_shut((RouteObject *)object);
    Py_RETURN_NONE;
}

static PyObject *route_numbers(PyObject *object, PyObject *none) {
    (void)none;
    RouteObject *self = (RouteObject *)object;
    if (self->route != NULL) {
        enter(self->owner);
        route_last_numbers(self->route, &self->last_sequence, &self->rtx_sequence);
        leave(self->owner);
    }
    return Py_BuildValue("LL", (long long)self->last_sequence, (long long)self->rtx_sequence);
}

static int read_plan(ExtensionPlan *plan, PyObject *value) {
    const char *fixed, *passed;
    Py_ssize_t fixed_size, passed_size;
    if (!PyArg_ParseTuple(value, "y#bby#", &fixed, &fixed_size, &plan->transport_cc, &plan->abs_send_time, &passed,
                          &passed_size))
        return -1;
    if (fixed_size > (Py_ssize_t)sizeof plan->fixed || passed_size != sizeof plan->passed) {
        PyErr_SetString(PyExc_ValueError, "an extension plan of 64 and 256 bytes");
        return -1;
    }
    memcpy(plan->fixed, fixed, (size_t)fixed_size);
    plan->fixed_size = (int)fixed_size;
    memcpy(plan->passed, passed, sizeof plan->passed);
    return 0;
}

static int read_binding(Binding *binding, PyObject *codecs) {
    binding->codecs = (int)PyTuple_Size(codecs);
    if (binding->codecs > MAX_CODECS) {
        PyErr_SetString(PyExc_ValueError, "a binding has at most 24 codecs");
        return -1;
    }
    for (int i = 0; i < binding->codecs; i++) {
        OutCodec *codec = &binding->codec[i];
        int strip_red;
        if (!PyArg_ParseTuple(PyTuple_GetItem(codecs, i), "bbpiii", &codec->in_type, &codec->out_type, &strip_red,
                              &codec->red_inner, &codec->rtx_type, &codec->make_red))
            return -1;
        codec->strip_red = strip_red;
    }
    return 0;
}

static PyObject *route_go(PyObject *object, PyObject *args) {
    RouteObject *self = (RouteObject *)object;
    PyObject *value, *codecs, *plan, *rtx_plan;
    Binding binding = {0};
    if (!PyArg_ParseTuple(args, "OO!O!O!", &value, &PyTuple_Type, &codecs, &PyTuple_Type, &plan, &PyTuple_Type,
                          &rtx_plan) ||
        read_binding(&binding, codecs) < 0 || read_plan(&binding.plan, plan) < 0 ||
        read_plan(&binding.rtx_plan, rtx_plan) < 0)
        return NULL;
    FeedObject *its = feed_arg(object, self->owner, value);
    if (its == NULL) return NULL;
    if (self->route == NULL || its->feed == NULL) Py_RETURN_NONE;
    enter(self->owner);
    route_aim(self->route, its->feed, &binding);
    leave(self->owner);
    Py_RETURN_NONE;
}

static PyObject *route_halt(PyObject *object, PyObject *none) {
    (void)none;
    RouteObject *self = (RouteObject *)object;
    if (self->route == NULL) Py_RETURN_NONE;
    enter(self->owner);
    route_stop(self->route);
    leave(self->owner);
    Py_RETURN_NONE;
}

static PyObject *route_silence(PyObject *object, PyObject *number) {
    RouteObject *self = (RouteObject *)object;
    double now_ms = PyFloat_AsDouble(number);
    if (PyErr_Occurred()) return NULL;
    if (self->route == NULL) Py_RETURN_NONE;
    enter(self->owner);
    route_hush(self->route, now_ms);
    leave_sending(self->owner, 0);
    Py_RETURN_NONE;
}

static PyObject *route_again(PyObject *object, PyObject *args) {
    RouteObject *self = (RouteObject *)object;
    unsigned short sequence;
    double now_ms;
    if (!PyArg_ParseTuple(args, "Hd", &sequence, &now_ms)) return NULL;
    if (self->route == NULL) Py_RETURN_FALSE;
    enter(self->owner);
    bool sent = route_resend(self->route, sequence, now_ms);
    leave_sending(self->owner, 0);
    return PyBool_FromLong(sent);
}

static PyObject *route_timestamp(PyObject *object, PyObject *number) {
    RouteObject *self = (RouteObject *)object;
    double now_ms = PyFloat_AsDouble(number);
    if (PyErr_Occurred()) return NULL;
    uint32_t timestamp = 0;
    bool known = false;
    if (self->route != NULL) {
        enter(self->owner);
        known = route_out_timestamp(self->route, now_ms, &timestamp);
        leave(self->owner);
    }
    if (!known) Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(timestamp);
}

static void route_look(RouteObject *self) {
    if (self->route == NULL) return;
    enter(self->owner);
    route_counts(self->route, &self->last);
    leave(self->owner);
}

/* What we change ourselves must be seen at once. */
static PyObject *route_state(PyObject *object, void *place) {
    RouteObject *self = (RouteObject *)object;
    route_look(self);
    return value_at(&self->last, place);
}

static PyObject *route_value(PyObject *object, void *place) {
    RouteObject *self = (RouteObject *)object;
    if (self->route != NULL && !looked_lately(self->owner, &self->looked_ns)) route_look(self);
    return value_at(&self->last, place);
}

static PyObject *route_own(PyObject *object, void *place) { return value_at(object, place); }

static int route_put_layer(PyObject *object, PyObject *value, void *place) {
    RouteObject *self = (RouteObject *)object;
    if (not_deleted(value) < 0) return -1;
    long layer = PyLong_AsLong(value);
    if (PyErr_Occurred()) return -1;
    *(int *)((char *)object + ((const Place *)place)->at) = layer < 0 ? 0 : layer > 7 ? 7 : (int)layer;
    if (self->route == NULL) return 0;
    enter(self->owner);
    route_set_layers(self->route, self->max_spatial, self->max_temporal);
    leave(self->owner);
    return 0;
}

static PyMethodDef route_methods[] = {
    {"close", route_close, METH_NOARGS, "The counts and last numbers stay."},
    {"last_numbers", route_numbers, METH_NOARGS, "(sequence, RTX sequence) that were sent last."},
    {"aim_at", route_go, METH_VARARGS, "(feed, codecs, plan, rtx_plan); see native_relay.plain_binding"},
    {"stop", route_halt, METH_NOARGS, "Nothing is forwarded until the next aim."},
    {"hush", route_silence, METH_O, "(now_ms): a few frames of silence."},
    {"resend", route_again, METH_VARARGS, "(sequence, now_ms): answer a NACK."},
    {"out_timestamp", route_timestamp, METH_O, "(now_ms): the receiver's RTP timestamp, None = unknown."},
    {0},
};
#define ROUTE(name, kind) {#name, route_value, NULL, NULL, PLACE(RouteCounts, name, kind)}
static PyGetSetDef route_values[] = {
    ROUTE(packets, U64), ROUTE(bytes, U64), ROUTE(octets, U64), ROUTE(resent, U64), ROUTE(resent_bytes, U64),
    ROUTE(timestamp_shift, I64), ROUTE(spatial, INT),
    {"feed_id", route_state, NULL, "0 = none.", PLACE(RouteCounts, feed, U64)},
    {"target_id", route_state, NULL, "0 = none.", PLACE(RouteCounts, target, U64)},
    {"ssrc", route_own, NULL, NULL, PLACE(RouteObject, ssrc, U32)},
    {"rtx_ssrc", route_own, NULL, NULL, PLACE(RouteObject, rtx_ssrc, U32)},
    {"max_spatial", route_own, route_put_layer, NULL, PLACE(RouteObject, max_spatial, INT)},
    {"max_temporal", route_own, route_put_layer, NULL, PLACE(RouteObject, max_temporal, INT)},
    {0},
};
static PyType_Slot route_slots[] = {
    {Py_tp_doc, "(relay, id, leg or None, is_video, ssrc, rtx_ssrc, resends, first_sequence, rtx_sequence)"},
    {Py_tp_new, PyType_GenericNew}, {Py_tp_init, route_init}, {Py_tp_dealloc, route_dealloc},
    {Py_tp_methods, route_methods}, {Py_tp_getset, route_values}, {0},
};
PyType_Spec route_spec = {
    "sfu._relay.Route", sizeof(RouteObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, route_slots,
};
