#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sendmmsg */
#endif
#include "output.h"

#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "packet.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef OUTPUT_SLOTS           /* fuzzers take fewer */
#define OUTPUT_SLOTS 1024      /* datagrams; also the most entries that one sendmmsg takes */
#define ARENA_SIZE (1u << 20)  /* bytes of datagrams before a flush: they should still be in the cache then */
#endif
#define ALIGNMENT 64u          /* a cache line */
#define MAX_SEGMENTS 64        /* UDP_MAX_SEGMENTS of older kernels */
#define MAX_SEND 65000         /* bytes of one GSO send */
#define FULL_WAIT_MS 2         /* once per flush, for a socket buffer that is full */

typedef union { /* room for one UDP_SEGMENT, aligned as cmsghdr wants it */
    struct cmsghdr head;
    uint8_t room[CMSG_SPACE(sizeof(uint16_t))];
} Control;

typedef struct {
    uint32_t at; /* in the arena */
    uint16_t size;
    int next; /* of the same destination, -1 = last */
    double arrival_ms;
} Slot;

struct Output {
    int fd;
    bool gso;       /* asked for, and not refused so far */
    bool gso_works; /* has carried something: a refusal is about one route or size, not about the kernel */
    bool waited;    /* in this flush */
    OutputSink sink;
    void *context;
    double epoch_ms; /* the callers' clock at CLOCK_MONOTONIC 0, -1 = not told yet */
    OutputCounts counts;
    Destination *first, **last; /* those with something to send, in the order of their first datagram */
    int used;                   /* slots */
    uint32_t filled;            /* bytes of the arena */
    Slot slot[OUTPUT_SLOTS];
    struct mmsghdr message[OUTPUT_SLOTS];
    struct iovec part[OUTPUT_SLOTS];
    Control control[OUTPUT_SLOTS];
    uint8_t arena[ARENA_SIZE];
};

static const double latency_bounds[LATENCY_BUCKETS - 1] = {.05, .1, .2, .5, 1, 2, 5, 10, 20, 50, 100};

Output *output_new(int fd, bool gso, OutputSink sink, void *context)
{
    Output *output = malloc(sizeof *output); /* not cleared: most of it is written before it is read */
    if (!output)
        return NULL;
    memset(output, 0, offsetof(Output, slot));
    output->fd = fd;
    output->sink = sink;
    output->context = context;
    output->epoch_ms = -1;
    output->last = &output->first;
    int whole = 0; /* 0 = no segments: nothing changes, but a kernel without UDP_SEGMENT says so */
    output->gso = gso && fd >= 0 && !setsockopt(fd, SOL_UDP, UDP_SEGMENT, &whole, sizeof whole);
    return output;
}

void output_free(Output *output)
{
    free(output);
}

bool output_has_gso(const Output *output)
{
    return output->gso;
}

const OutputCounts *output_counts(const Output *output)
{
    return &output->counts;
}

uint8_t *output_reserve(Output *output)
{
    if (output->used == OUTPUT_SLOTS || output->filled + SLOT_SIZE > ARENA_SIZE)
        output_flush(output, 0);
    return output->arena + output->filled;
}

void output_commit(Output *output, Destination *to, int size, double arrival_ms)
{
    int index = output->used++;
    output->slot[index] = (Slot){output->filled, (uint16_t)size, -1, arrival_ms};
    output->filled += ((uint32_t)size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    if (to->queued) {
        output->slot[to->tail].next = index;
    } else {
        to->queued = true;
        to->head = index;
        to->next = NULL;
        *output->last = to;
        output->last = &to->next;
    }
    to->tail = index;
}

void output_forget(Output *output, Destination *to)
{
    if (to->queued)
        output_flush(output, 0);
}

/* ------------------------------------------------------------------ flush */

static void note_latencies(Output *output, double now_ms)
{
    struct timespec now;
    if (now_ms <= 0 && output->epoch_ms < 0)
        return;
    if (now_ms <= 0 || output->epoch_ms < 0) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        double monotonic_ms = (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
        if (output->epoch_ms < 0)
            output->epoch_ms = now_ms - monotonic_ms;
        else
            now_ms = output->epoch_ms + monotonic_ms;
    }
    double known_ms = 0, latency_ms = 0; /* neighbours are mostly copies of one packet */
    int bucket = 0;
    for (int i = 0; i < output->used; i++) {
        double arrival_ms = output->slot[i].arrival_ms;
        if (arrival_ms <= 0)
            continue;
        if (arrival_ms != known_ms) {
            known_ms = arrival_ms;
            latency_ms = now_ms > arrival_ms ? now_ms - arrival_ms : 0;
            for (bucket = 0; bucket < LATENCY_BUCKETS - 1 && latency_ms > latency_bounds[bucket];)
                bucket++;
        }
        output->counts.latency[bucket]++;
        output->counts.latency_sum_ms += latency_ms;
    }
}

/* Fills one message with datagrams of `to` from slot *index on, and moves *index on.  `part` has room for them. */
static void gather(Output *output, Destination *to, int *index, struct msghdr *message, struct iovec *part,
                   Control *control)
{
    size_t segment = output->slot[*index].size, total = 0, count = 0;
    while (*index >= 0) {
        const Slot *slot = &output->slot[*index];
        if (count && (!output->gso || slot->size > segment || count == MAX_SEGMENTS || total + slot->size > MAX_SEND))
            break;
        part[count++] = (struct iovec){output->arena + slot->at, slot->size};
        total += slot->size;
        *index = slot->next;
        if (slot->size < segment) /* only the last one may be shorter */
            break;
    }
    *message = (struct msghdr){
        .msg_name = &to->address, .msg_namelen = sizeof to->address, .msg_iov = part, .msg_iovlen = count};
    if (count > 1) {
        uint16_t size = (uint16_t)segment;
        message->msg_control = control;
        message->msg_controllen = sizeof control->room;
        control->head = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof size), .cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT};
        memcpy(CMSG_DATA(&control->head), &size, sizeof size);
    }
}

/* Waits for room in the socket's buffer, once per flush; false when that has been tried. */
static bool wait_for_room(Output *output)
{
    if (output->waited)
        return false;
    output->waited = true;
    struct pollfd waiting = {.fd = output->fd, .events = POLLOUT};
    return poll(&waiting, 1, FULL_WAIT_MS) > 0;
}

/* What was refused as one: each datagram on its own. */
static void send_single(Output *output, const struct msghdr *message)
{
    struct msghdr single = {.msg_name = message->msg_name, .msg_namelen = message->msg_namelen, .msg_iovlen = 1};
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        single.msg_iov = message->msg_iov + i;
        ssize_t sent;
        do {
            sent = sendmsg(output->fd, &single, MSG_DONTWAIT);
            output->counts.system_calls++;
        } while (sent < 0 && (errno == EINTR || (errno == EAGAIN && wait_for_room(output))));
        if (sent >= 0) {
            output->counts.datagrams++;
            output->counts.messages++;
        } else if (errno == EAGAIN || errno == ENOBUFS) {
            output->counts.full++;
        } else {
            output->counts.failed++;
        }
    }
}

/* The kernel took none of `message`: counts it, or sends it in another way. */
static void cope(Output *output, const struct msghdr *message, int error)
{
    if (error == EAGAIN || error == ENOBUFS) {
        output->counts.full += message->msg_iovlen;
    } else if (message->msg_iovlen > 1) {
        /* EIO: the device can't checksum segments.  EINVAL, EMSGSIZE: a kernel that knows no GSO after all, or
         * segments longer than this route's MTU, which pass as fragments when they are sent alone. */
        if (error == EIO || (error == EINVAL && !output->gso_works))
            output->gso = false;
        send_single(output, message);
    } else {
        output->counts.failed++;
    }
}

static void send_all(Output *output, int messages)
{
    output->waited = false;
    for (int done = 0; done < messages;) {
        int sent = sendmmsg(output->fd, output->message + done, (unsigned)(messages - done), MSG_DONTWAIT);
        output->counts.system_calls++;
        if (sent > 0) {
            output->counts.messages += (uint64_t)sent;
            for (; sent > 0; sent--, done++) {
                size_t count = output->message[done].msg_hdr.msg_iovlen;
                output->counts.datagrams += count;
                output->gso_works |= count > 1;
            }
        } else if (errno == EINTR || (errno == EAGAIN && wait_for_room(output))) {
            continue;
        } else {
            cope(output, &output->message[done].msg_hdr, errno);
            done++;
        }
    }
}

void output_flush(Output *output, double now_ms)
{
    if (!output->used)
        return;
    note_latencies(output, now_ms);
    int messages = 0, parts = 0;
    for (Destination *to = output->first; to; to = to->next) {
        for (int index = to->head; index >= 0;) {
            if (output->fd < 0) {
                const Slot *slot = &output->slot[index];
                if (output->sink)
                    output->sink(output->context, output->arena + slot->at, slot->size, &to->address);
                output->counts.datagrams++;
                index = slot->next;
                continue;
            }
            struct msghdr *message = &output->message[messages].msg_hdr;
            gather(output, to, &index, message, output->part + parts, &output->control[messages]);
            parts += (int)message->msg_iovlen;
            messages++;
        }
        to->queued = false;
    }
    send_all(output, messages);
    output->first = NULL;
    output->last = &output->first;
    output->used = 0;
    output->filled = 0;
}
