/* The type Feed of sfu._relay.  See _relay.h for the rules. */
#include "_relay.h"

#include <string.h>

static int feed_init(PyObject *object, PyObject *args, PyObject *names) {
    FeedObject *self = (FeedObject *)object;
    PyObject *relay, *list;
    unsigned long long id;
    int is_video, asks_again, count;
    FeedCodec codecs[MAX_CODECS] = {0};
    if (names != NULL && PyDict_Size(names) > 0) {
        PyErr_SetString(PyExc_TypeError, "no keywords");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OKpO!p", &relay, &id, &is_video, &PyTuple_Type, &list, &asks_again)) return -1;
    count = (int)PyTuple_Size(list);
    if (count < 1 || count > MAX_CODECS) {
        PyErr_SetString(PyExc_ValueError, "a feed has 1 to 24 codecs");
        return -1;
    }
    for (int i = 0; i < count; i++) {
        int codec;
        unsigned int clock_rate;
        if (!PyArg_ParseTuple(PyTuple_GetItem(list, i), "biiI", &codecs[i].payload_type, &codecs[i].rtx_type,
                              &codec, &clock_rate))
            return -1;
        codecs[i].codec = (Codec)codec;
        codecs[i].clock_rate = clock_rate;
    }
    RelayObject *owner = owner_of(object, self->owner, relay);
    if (owner == NULL) return -1;
    self->owner = owner;
    enter(owner);
    self->feed = feed_new(owner->relay, id, is_video, codecs, count, asks_again);
    if (self->feed != NULL) feed_counts(self->feed, &self->last);
    leave(owner);
    if (self->feed != NULL) return 0;
    PyErr_NoMemory();
    return -1;
}

static void feed_shut(FeedObject *self) {
    if (self->feed == NULL) return;
    enter(self->owner);
    feed_counts(self->feed, &self->last);
    feed_free(self->feed);
    leave(self->owner);
    self->feed = NULL;
    self->last.wanted = false;
}

static void feed_dealloc(PyObject *object) {
    FeedObject *self = (FeedObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    feed_shut(self);
    Py_XDECREF(self->owner);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *feed_close(PyObject *object, PyObject *none) {
    (void)none;
    feed_shut((FeedObject *)object);
    Py_RETURN_NONE;
}

static void feed_look(FeedObject *self) {
    if (self->feed == NULL) return;
    enter(self->owner);
    feed_counts(self->feed, &self->last);
    leave(self->owner);
}

/* What we change ourselves must be seen at once. */
static PyObject *feed_state(PyObject *object, void *place) {
    FeedObject *self = (FeedObject *)object;
    feed_look(self);
    return value_at(&self->last, place);
}

static void feed_look_again(FeedObject *self) {
    if (self->feed != NULL && !looked_lately(self->owner, &self->looked_ns)) feed_look(self);
}

static PyObject *feed_value(PyObject *object, void *place) {
    FeedObject *self = (FeedObject *)object;
    feed_look_again(self);
    return value_at(&self->last, place);
}

/* RFC 3550 section 6.4.1: the cumulative number; negative after duplicates. */
static PyObject *feed_lost(PyObject *object, void *none) {
    (void)none;
    FeedObject *self = (FeedObject *)object;
    feed_look_again(self);
    const FeedCounts *last = &self->last;
    return PyLong_FromLongLong(last->highest < 0 ? 0 : last->highest - last->base_seq + 1 - (int64_t)last->received);
}

static PyObject *feed_layer_bytes(PyObject *object, void *none) {
    (void)none;
    FeedObject *self = (FeedObject *)object;
    feed_look_again(self);
    PyObject *tuple = PyTuple_New(MAX_LAYERS);
    for (int i = 0; tuple != NULL && i < MAX_LAYERS; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(self->last.layer_bytes[i]);
        if (number == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SetItem(tuple, i, number);
    }
    return tuple;
}

static PyObject *feed_get_paused(PyObject *object, void *none) {
    (void)none;
    return PyBool_FromLong(((FeedObject *)object)->paused);
}

static int feed_put_paused(PyObject *object, PyObject *value, void *none) {
    (void)none;
    FeedObject *self = (FeedObject *)object;
    int paused = not_deleted(value) < 0 ? -1 : PyObject_IsTrue(value);
    if (paused < 0) return -1;
    self->paused = paused;
    if (self->feed == NULL) return 0;
    enter(self->owner);
    feed_set_paused(self->feed, paused);
    leave(self->owner);
    return 0;
}

static PyObject *feed_let_go(PyObject *object, PyObject *number) {
    FeedObject *self = (FeedObject *)object;
    double now_ms = PyFloat_AsDouble(number);
    if (PyErr_Occurred()) return NULL;
    if (self->feed == NULL) Py_RETURN_NONE;
    enter(self->owner);
    feed_release(self->feed, now_ms);
    leave_sending(self->owner, now_ms);
    Py_RETURN_NONE;
}

static PyObject *feed_report(PyObject *object, PyObject *args) {
    FeedObject *self = (FeedObject *)object;
    unsigned long long ntp;
    unsigned int rtp_timestamp;
    double local_ms, arrival_ms;
    if (!PyArg_ParseTuple(args, "KIdd", &ntp, &rtp_timestamp, &local_ms, &arrival_ms)) return NULL;
    if (self->feed == NULL) Py_RETURN_NONE;
    enter(self->owner);
    feed_note_report(self->feed, ntp, rtp_timestamp, local_ms, arrival_ms);
    leave(self->owner);
    Py_RETURN_NONE;
}

static PyObject *feed_level(PyObject *object, PyObject *none) {
    (void)none;
    FeedObject *self = (FeedObject *)object;
    double power = 0;
    uint32_t count = 0;
    if (self->feed != NULL) {
        enter(self->owner);
        feed_take_level(self->feed, &power, &count);
        leave(self->owner);
    }
    return Py_BuildValue("dI", power, (unsigned int)count);
}

static PyObject *feed_fraction(PyObject *object, PyObject *none) {
    (void)none;
    FeedObject *self = (FeedObject *)object;
    int fraction = 0;
    if (self->feed != NULL) {
        enter(self->owner);
        fraction = feed_take_fraction(self->feed);
        leave(self->owner);
    }
    return PyLong_FromLong(fraction);
}

static PyMethodDef feed_methods[] = {
    {"close", feed_close, METH_NOARGS, "No more packets; the counts stay."},
    {"release", feed_let_go, METH_O, "(now_ms): the answer to EVENT_ALIVE."},
    {"note_report", feed_report, METH_VARARGS, "(ntp, rtp_timestamp, local_ms, arrival_ms)"},
    {"take_level", feed_level, METH_NOARGS, "(power, packets) since the last call."},
    {"take_fraction", feed_fraction, METH_NOARGS, "Fraction lost since the last call, 0...255."},
    {0},
};
#define STATE(name, kind) {#name, feed_state, NULL, NULL, PLACE(FeedCounts, name, kind)}
#define FEED(name, kind) {#name, feed_value, NULL, NULL, PLACE(FeedCounts, name, kind)}
static PyGetSetDef feed_values[] = {
    STATE(ssrc, U32), STATE(rtx_ssrc, U32), FEED(clock_rate, U32), STATE(wanted, TRUTH), FEED(packets, U64),
    FEED(bytes, U64), FEED(rtx_packets, U64), FEED(rtx_bytes, U64), FEED(frames, U64), FEED(received, U64),
    FEED(recovered, U64), FEED(report_ntp, U64), FEED(width, INT), FEED(height, INT), FEED(highest, I64),
    FEED(base_seq, I64), FEED(last_ms, NUMBER), FEED(jitter, NUMBER), FEED(report_arrival_ms, NUMBER),
    {"lost", feed_lost, NULL, NULL, NULL},
    {"layer_bytes", feed_layer_bytes, NULL, NULL, NULL},
    {"paused", feed_get_paused, feed_put_paused, NULL, NULL},
    {0},
};
static PyType_Slot feed_slots[] = {
    {Py_tp_doc, "(relay, id, is_video, ((payload type, RTX type, codec, clock rate), ...), asks_again)"},
    {Py_tp_new, PyType_GenericNew}, {Py_tp_init, feed_init}, {Py_tp_dealloc, feed_dealloc},
    {Py_tp_methods, feed_methods}, {Py_tp_getset, feed_values}, {0},
};
PyType_Spec feed_spec = {
    "sfu._relay.Feed", sizeof(FeedObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, feed_slots,
};
