/* The module sfu._relay: the native relay as a Python object.  See _relay.h for the rules. */
#include "_relay.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_NS 2000000 /* counts are this old at most when they are read one by one */
#define EVENT_BATCH 65536 /* bytes of events that are copied under one lock */

typedef struct {
    uint32_t size, ip;
    uint16_t port;
} SentHead;

Types *types_of(PyObject *self) {
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &relay_module);
    return module == NULL ? NULL : PyModule_GetState(module);
}

/* ---------------------------------------------------------------- what handles share */

PyObject *value_at(const void *record, const Place *place) {
    const char *at = (const char *)record + place->at;
    switch (place->kind) {
        case U64: return PyLong_FromUnsignedLongLong(*(const uint64_t *)at);
        case I64: return PyLong_FromLongLong(*(const int64_t *)at);
        case U32: return PyLong_FromUnsignedLong(*(const uint32_t *)at);
        case INT: return PyLong_FromLong(*(const int *)at);
        case NUMBER: return PyFloat_FromDouble(*(const double *)at);
        case TRUTH: return PyBool_FromLong(*(const bool *)at);
    }
    Py_UNREACHABLE();
}

RelayObject *owner_of(PyObject *self, RelayObject *known, PyObject *relay) {
    Types *types = types_of(self);
    if (types == NULL) return NULL;
    if (known != NULL || !PyObject_TypeCheck(relay, types->relay) || ((RelayObject *)relay)->relay == NULL) {
        PyErr_SetString(PyExc_TypeError, "a handle is made once, of a relay");
        return NULL;
    }
    Py_INCREF(relay);
    return (RelayObject *)relay;
}

bool other_relay(const RelayObject *mine, const RelayObject *its) {
    if (mine == its) return false;
    PyErr_SetString(PyExc_TypeError, "handles of two relays don't mix");
    return true;
}

int not_deleted(PyObject *value) {
    if (value != NULL) return 0;
    PyErr_SetString(PyExc_AttributeError, "can't be deleted");
    return -1;
}

FeedObject *feed_arg(PyObject *self, const RelayObject *owner, PyObject *value) {
    Types *types = types_of(self);
    if (types == NULL) return NULL;
    if (!PyObject_TypeCheck(value, types->feed)) {
        PyErr_SetString(PyExc_TypeError, "this is no feed of a native relay");
        return NULL;
    }
    return other_relay(owner, ((FeedObject *)value)->owner) ? NULL : (FeedObject *)value;
}

/* ---------------------------------------------------------------- life */

/* Under the lock: no Python here. */
static void keep_sent(void *context, const uint8_t *data, int size, const struct sockaddr_in *to) {
    RelayObject *self = context;
    Bytes *sent = &self->sent;
    SentHead head = {(uint32_t)size, ntohl(to->sin_addr.s_addr), ntohs(to->sin_port)};
    size_t wanted = sent->size + sizeof head + (size_t)size;
    if (wanted > sent->room) {
        uint8_t *grown = realloc(sent->at, wanted * 2);
        if (grown == NULL) {
            self->sent_all = false;
            return;
        }
        sent->at = grown;
        sent->room = wanted * 2;
    }
    memcpy(sent->at + sent->size, &head, sizeof head);
    memcpy(sent->at + sent->size + sizeof head, data, (size_t)size);
    sent->size = wanted;
}

static int relay_init(PyObject *object, PyObject *args, PyObject *names) {
    static char *words[] = {"fd", "functions", "kernel_times", "gso", "batch", "epoch_ms", NULL};
    RelayObject *self = (RelayObject *)object;
    unsigned long long at[5];
    RelayConfig config = {.batch = 64};
    int kernel_times = 0, gso = 0;
    if (!PyArg_ParseTupleAndKeywords(args, names, "i(KKKKK)|$ppid", words, &config.fd, &at[0], &at[1], &at[2],
                                     &at[3], &at[4], &kernel_times, &gso, &config.batch, &config.epoch_ms))
        return -1;
    if (self->relay != NULL || config.batch < 1 || config.batch > 64 || !at[0] || !at[1] || !at[2] || !at[3]) {
        PyErr_SetString(PyExc_ValueError, "a relay is made once, with libsrtp's functions and a batch of 1 to 64");
        return -1;
    }
    /* C has no cast from a data pointer to a function; POSIX lets the bytes be the same (dlsym) */
    memcpy(&config.srtp.protect, &at[0], sizeof(void *));
    memcpy(&config.srtp.unprotect, &at[1], sizeof(void *));
    memcpy(&config.srtp.protect_rtcp, &at[2], sizeof(void *));
    memcpy(&config.srtp.unprotect_rtcp, &at[3], sizeof(void *));
    memcpy(&config.srtp.remove_stream, &at[4], sizeof(void *));
    config.kernel_times = kernel_times;
    config.gso = gso;
    config.sink = keep_sent;
    config.context = self;
    self->sent_all = true;
    self->relay = relay_new(&config);
    if (self->relay == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static void relay_dealloc(PyObject *object) {
    RelayObject *self = (RelayObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->relay != NULL) relay_free(self->relay); /* run() holds a reference, so it has returned */
    free(self->sent.at);
    type->tp_free(object);
    Py_DECREF(type);
}

static RelayObject *opened(PyObject *object) {
    RelayObject *self = (RelayObject *)object;
    if (self->relay != NULL) return self;
    PyErr_SetString(PyExc_ValueError, "this relay was never made");
    return NULL;
}

/* ---------------------------------------------------------------- running */

static PyObject *run(PyObject *object, PyObject *none) {
    (void)none;
    RelayObject *self = opened(object);
    if (self == NULL) return NULL;
    if (self->runs) {
        PyErr_SetString(PyExc_RuntimeError, "this relay runs already");
        return NULL;
    }
    self->runs = true;
    Py_BEGIN_ALLOW_THREADS
    relay_run(self->relay);
    Py_END_ALLOW_THREADS
    self->runs = false;
    Py_RETURN_NONE;
}

static PyObject *stop(PyObject *object, PyObject *none) {
    (void)none;
    RelayObject *self = opened(object);
    if (self == NULL) return NULL;
    relay_stop(self->relay);
    Py_RETURN_NONE;
}

static PyObject *receive(PyObject *object, PyObject *number) {
    RelayObject *self = opened(object);
    double now_ms = PyFloat_AsDouble(number);
    if (self == NULL || PyErr_Occurred()) return NULL;
    enter(self);
    int taken = relay_receive(self->relay, now_ms);
    leave_sending(self, now_ms);
    return PyLong_FromLong(taken);
}

static PyObject *input(PyObject *object, PyObject *args) {
    RelayObject *self = opened(object);
    Py_buffer data;
    unsigned int ip;
    unsigned short port;
    double now_ms;
    uint8_t datagram[SLOT_SIZE];
    if (self == NULL || !PyArg_ParseTuple(args, "y*IHd", &data, &ip, &port, &now_ms)) return NULL;
    int size = data.len > SLOT_SIZE ? SLOT_SIZE : (int)data.len;
    memcpy(datagram, data.buf, (size_t)size);
    PyBuffer_Release(&data);
    enter(self);
    relay_input(self->relay, datagram, size, ip, port, now_ms);
    leave_sending(self, now_ms);
    Py_RETURN_NONE;
}

static PyObject *release(PyObject *object, PyObject *number) {
    RelayObject *self = opened(object);
    double now_ms = PyFloat_AsDouble(number);
    if (self == NULL || PyErr_Occurred()) return NULL;
    enter(self);
    double wait_ms = relay_release(self->relay, now_ms);
    leave_sending(self, now_ms);
    return PyFloat_FromDouble(wait_ms);
}

static PyObject *tend(PyObject *object, PyObject *number) {
    RelayObject *self = opened(object);
    double now_ms = PyFloat_AsDouble(number);
    if (self == NULL || PyErr_Occurred()) return NULL;
    enter(self);
    relay_tend(self->relay, now_ms);
    leave_sending(self, 0);
    Py_RETURN_NONE;
}

bool looked_lately(const RelayObject *owner, int64_t *looked_ns) {
    struct timespec now;
    if (!owner->runs) return false; /* nobody else could hold the lock, and tests want to know exactly */
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (now_ns - *looked_ns < LOOK_NS) return true;
    *looked_ns = now_ns;
    return false;
}

/* ---------------------------------------------------------------- what it tells */

/* Copies events until `room` is used up; returns the bytes used. */
static size_t fetch(RelayObject *self, uint8_t *batch, size_t room) {
    size_t used = 0;
    const uint8_t *data;
    const EventHead *head;
    enter(self);
    /* a record must be known to fit before it is taken */
    while (used + sizeof *head + SLOT_SIZE <= room && (head = events_pop(relay_events(self->relay), &data)) != NULL) {
        memcpy(batch + used, head, sizeof *head);
        used += sizeof *head;
        memcpy(batch + used, data, head->size);
        used += head->size;
    }
    leave(self);
    return used;
}

static PyObject *drain(PyObject *object, PyObject *none) {
    (void)none;
    RelayObject *self = opened(object);
    PyObject *list = self == NULL ? NULL : PyList_New(0);
    uint8_t *batch = list == NULL ? NULL : PyMem_Malloc(EVENT_BATCH);
    if (batch == NULL) {
        Py_XDECREF(list);
        return self == NULL ? NULL : PyErr_NoMemory();
    }
    size_t used = fetch(self, batch, EVENT_BATCH);
    for (size_t at = 0; at < used;) {
        EventHead head;
        memcpy(&head, batch + at, sizeof head);
        at += sizeof head;
        PyObject *event = Py_BuildValue("iKidIHy#", (int)head.kind, (unsigned long long)head.subject,
                                        (int)head.number, head.now_ms, (unsigned int)head.ip,
                                        (unsigned short)head.port, (char *)batch + at, (Py_ssize_t)head.size);
        at += head.size;
        if (event == NULL || PyList_Append(list, event) < 0) {
            Py_XDECREF(event);
            Py_CLEAR(list);
            break;
        }
        Py_DECREF(event);
    }
    PyMem_Free(batch);
    return list;
}

static PyObject *sent(PyObject *object, PyObject *none) {
    (void)none;
    RelayObject *self = opened(object);
    if (self == NULL) return NULL;
    enter(self);
    Bytes taken = self->sent;
    bool all = self->sent_all;
    self->sent = (Bytes){0};
    self->sent_all = true;
    leave(self);
    PyObject *list = all ? PyList_New(0) : PyErr_NoMemory();
    for (size_t at = 0; list != NULL && at < taken.size;) {
        SentHead head;
        memcpy(&head, taken.at + at, sizeof head);
        at += sizeof head;
        PyObject *datagram =
            Py_BuildValue("y#IH", (char *)taken.at + at, (Py_ssize_t)head.size, head.ip, head.port);
        at += head.size;
        if (datagram == NULL || PyList_Append(list, datagram) < 0) Py_CLEAR(list);
        Py_XDECREF(datagram);
    }
    free(taken.at);
    return list;
}

static PyObject *numbers(const uint64_t *at, int count) {
    PyObject *tuple = PyTuple_New(count);
    for (int i = 0; tuple != NULL && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(at[i]);
        if (number == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SetItem(tuple, i, number);
    }
    return tuple;
}

static PyObject *drops(PyObject *object, PyObject *none) {
    (void)none;
    RelayObject *self = opened(object);
    if (self == NULL) return NULL;
    uint64_t counted[DROP_COUNT];
    enter(self);
    memcpy(counted, relay_drops(self->relay), sizeof counted);
    leave(self);
    return numbers(counted, DROP_COUNT);
}

static PyObject *output(PyObject *object, PyObject *none) {
    (void)none;
    RelayObject *self = opened(object);
    if (self == NULL) return NULL;
    enter(self);
    OutputCounts counts = *relay_output_counts(self->relay);
    leave(self);
    PyObject *latency = numbers(counts.latency, LATENCY_BUCKETS);
    if (latency == NULL) return NULL;
    return Py_BuildValue("KKKNd", (unsigned long long)counts.datagrams, (unsigned long long)counts.system_calls,
                         (unsigned long long)counts.messages, latency, counts.latency_sum_ms);
}

static PyObject *get_count(PyObject *object, void *which) {
    RelayObject *self = opened(object);
    if (self == NULL) return NULL;
    uint64_t count = 0;
    enter(self);
    switch ((intptr_t)which) {
        case 0: count = relay_nacks_sent(self->relay); break;
        case 1: count = relay_nacks_received(self->relay); break;
        case 2: count = events_lost(relay_events(self->relay)); break;
        case 3: count = (uint64_t)events_fd(relay_events(self->relay)); break;
    }
    leave(self);
    return PyLong_FromUnsignedLongLong(count);
}

/* ---------------------------------------------------------------- types and module */

static PyMethodDef relay_methods[] = {
    {"run", run, METH_NOARGS, "Receive and send until stop(); for a thread of its own, without the GIL."},
    {"stop", stop, METH_NOARGS, "Let run() return, now or when it begins."},
    {"receive", receive, METH_O, "Read one batch from the socket; the number of datagrams."},
    {"input", input, METH_VARARGS, "(data, ip, port, now_ms): one datagram."},
    {"release", release, METH_O, "Let go what is due; ms until the next call, -1 = not needed."},
    {"tend", tend, METH_O, "(now_ms): feedback and NACKs that are due, of all legs."},
    {"drain", drain, METH_NOARGS, "Events: [(kind, subject, number, now_ms, ip, port, data)]."},
    {"sent", sent, METH_NOARGS, "Without a socket: what would have been sent, [(data, ip, port)]."},
    {"drops", drops, METH_NOARGS, "Counts in the order of DROP_NAMES."},
    {"output", output, METH_NOARGS, "(datagrams, system calls, messages, latency, its sum in ms)."},
    {0},
};
static PyGetSetDef relay_values[] = {
    {"nacks_sent", get_count, NULL, "Numbers that publishers were asked for.", (void *)0},
    {"nacks_received", get_count, NULL, "Numbers that receivers have asked for.", (void *)1},
    {"events_lost", get_count, NULL, "Events that nobody fetched in time.", (void *)2},
    {"events_fd", get_count, NULL, "Readable while events wait.", (void *)3},
    {0},
};
static PyType_Slot relay_slots[] = {
    {Py_tp_doc, "(fd, functions, *, kernel_times, gso, batch, epoch_ms); see native/relay.h"},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, relay_init},
    {Py_tp_dealloc, relay_dealloc},
    {Py_tp_methods, relay_methods},
    {Py_tp_getset, relay_values},
    {0},
};
static PyType_Spec relay_spec = {"sfu._relay.Relay", sizeof(RelayObject), 0, Py_TPFLAGS_DEFAULT, relay_slots};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type) {
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int fill_module(PyObject *module) {
    Types *types = PyModule_GetState(module);
    if (add_type(module, &relay_spec, &types->relay) < 0 || add_type(module, &leg_spec, &types->leg) < 0 ||
        add_type(module, &feed_spec, &types->feed) < 0 || add_type(module, &route_spec, &types->route) < 0)
        return -1;
    PyObject *names = PyTuple_New(DROP_COUNT);
    for (int i = 0; names != NULL && i < DROP_COUNT; i++) {
        PyObject *name = PyUnicode_FromString(drop_names[i]);
        if (name == NULL)
            Py_CLEAR(names);
        else
            PyTuple_SetItem(names, i, name);
    }
    if (names == NULL) return -1;
    int failed = PyModule_AddObjectRef(module, "DROP_NAMES", names);
    Py_DECREF(names);
    return failed;
}

static int visit_module(PyObject *module, visitproc visit, void *arg) {
    Types *types = PyModule_GetState(module);
    Py_VISIT(types->relay);
    Py_VISIT(types->leg);
    Py_VISIT(types->feed);
    Py_VISIT(types->route);
    return 0;
}

static int clear_module(PyObject *module) {
    Types *types = PyModule_GetState(module);
    Py_CLEAR(types->relay);
    Py_CLEAR(types->leg);
    Py_CLEAR(types->feed);
    Py_CLEAR(types->route);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill_module}, {0}};
struct PyModuleDef relay_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sfu._relay",
    .m_doc = "The native relay; sfu.native_relay gives it its Python shape.",
    .m_size = sizeof(Types),
    .m_slots = module_slots,
    .m_traverse = visit_module,
    .m_clear = clear_module,
};

PyMODINIT_FUNC PyInit__relay(void) { return PyModuleDef_Init(&relay_module); }
