/* CPython's side of sfu/native: what _relay.c (the relay), _leg.c, _feed.c and _route.c share.
 *
 * Thin handles over relay.h and no policy; sfu/native_relay.py gives them their Python shape.  Rules:
 *  - A handle keeps its relay alive, so the relay's struct is freed last; it keeps no other handle.
 *  - Nothing of Python is made, freed or called under the relay's lock: the collector may run at any
 *    allocation, and what it frees takes the lock.  Values are copied out first.
 *  - A closed handle answers with what it had counted last and does nothing.
 *  - The GIL is kept while waiting for the lock: the relay's thread holds it for one packet at most and
 *    never wants the GIL. */
#ifndef LIANXIN_BINDING_H
#define LIANXIN_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>

#include "native/relay.h"

typedef struct {
    uint8_t *at;
    size_t size, room;
} Bytes;

typedef struct {
    PyObject_HEAD
    Relay *relay;
    Bytes sent;    /* with fd -1: records of SentHead and datagram, until taken */
    bool sent_all; /* false: no memory for one of them */
    bool runs;
} RelayObject;

typedef struct {
    PyTypeObject *relay, *leg, *feed, *route;
} Types;

extern struct PyModuleDef relay_module;
extern PyType_Spec leg_spec, feed_spec, route_spec;

typedef struct {
    PyObject_HEAD
    RelayObject *owner; /* NULL before __init__ */
    Leg *leg;           /* NULL once closed; so with the others */
    PyObject *sessions; /* whatever keeps libsrtp's sessions alive */
    double rtt_ms, mending_ms;
    int64_t looked_ns;
    LegCounts last;
} LegObject;

typedef struct {
    PyObject_HEAD
    RelayObject *owner;
    Feed *feed;
    bool paused;
    int64_t looked_ns;
    FeedCounts last;
} FeedObject;

typedef struct {
    PyObject_HEAD
    RelayObject *owner;
    Route *route;
    uint32_t ssrc, rtx_ssrc;
    int max_spatial, max_temporal;
    int64_t last_sequence, rtx_sequence;
    int64_t looked_ns;
    RouteCounts last;
} RouteObject;

typedef enum { U64, I64, U32, INT, NUMBER, TRUTH } Kind;
typedef struct {
    size_t at;
    Kind kind;
} Place;
#define PLACE(record, field, kind) (&(Place){offsetof(record, field), kind})
PyObject *value_at(const void *record, const Place *place);

/* The relay that a new handle's arguments begin with, a new reference for it to keep; NULL with an exception. */
RelayObject *owner_of(PyObject *self, RelayObject *known, PyObject *relay);
/* True, with an exception, when these are two. */
bool other_relay(const RelayObject *mine, const RelayObject *its);
/* `value` if it is a feed of this relay, NULL with an exception otherwise. */
FeedObject *feed_arg(PyObject *self, const RelayObject *owner, PyObject *value);
int not_deleted(PyObject *value);
/* While the thread runs: true when counts were copied a moment ago, so that reading ten of them takes the lock
 * once.  It may be held for as long as a packet takes to all its receivers. */
bool looked_lately(const RelayObject *owner, int64_t *looked_ns);

/* Of the module that `self`, an instance of one of its types or a subclass of them, comes from. */
Types *types_of(PyObject *self);

static inline void enter(const RelayObject *owner) { relay_lock(owner->relay); }
static inline void leave(const RelayObject *owner) { relay_unlock(owner->relay); }
/* What the call has made to be sent goes out before others get their turn. */
static inline void leave_sending(const RelayObject *owner, double now_ms) {
    relay_flush(owner->relay, now_ms);
    relay_unlock(owner->relay);
}

#endif
