/* Datagrams from the socket, many at a time, and the thread that lives on it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define GATHER_MS 0.5     /* nobody waits longer for company */
#define MAX_AGE_MS 2000.0 /* older is no age but a clock that was set */

typedef union {
    char bytes[CMSG_SPACE(sizeof(struct timespec))];
    struct cmsghdr alignment;
} Ancillary;

struct Batch {
    int size;
    struct mmsghdr *message;
    struct iovec *vector;
    struct sockaddr_in *from;
    Ancillary *ancillary;
    uint8_t (*data)[SLOT_SIZE];
};

static void prepare(struct Batch *batch, int i)
{
    struct msghdr *header = &batch->message[i].msg_hdr;
    batch->vector[i] = (struct iovec){batch->data[i], SLOT_SIZE};
    *header = (struct msghdr){
        .msg_name = &batch->from[i], .msg_namelen = sizeof batch->from[i],
        .msg_iov = &batch->vector[i], .msg_iovlen = 1,
        .msg_control = &batch->ancillary[i], .msg_controllen = sizeof batch->ancillary[i],
    };
}

bool ask_for_kernel_times(int fd)
{
    int on = 1;
    return !setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
}

struct Batch *batch_new(int size)
{
    struct Batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return NULL;
    size_t count = (size_t)size;
    batch->size = size;
    batch->message = calloc(count, sizeof *batch->message);
    batch->vector = calloc(count, sizeof *batch->vector);
    batch->from = calloc(count, sizeof *batch->from);
    batch->ancillary = calloc(count, sizeof *batch->ancillary);
    batch->data = calloc(count, sizeof *batch->data);
    if (!batch->message || !batch->vector || !batch->from || !batch->ancillary || !batch->data) {
        batch_free(batch);
        return NULL;
    }
    for (int i = 0; i < size; i++)
        prepare(batch, i);
    return batch;
}

void batch_free(struct Batch *batch)
{
    if (!batch)
        return;
    free(batch->message);
    free(batch->vector);
    free(batch->from);
    free(batch->ancillary);
    free(batch->data);
    free(batch);
}

static double wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static double clock_now(const Relay *relay)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return relay->config.epoch_ms + (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* How long a datagram has waited in the socket; 0 when the kernel does not say. */
static double age_ms(struct msghdr *header, double wall_now_ms)
{
    struct cmsghdr *control = CMSG_FIRSTHDR(header);
    if (!control || control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_TIMESTAMPNS ||
        control->cmsg_len < CMSG_LEN(sizeof(struct timespec)))
        return 0;
    const struct timespec *stamp = (const struct timespec *)(const void *)CMSG_DATA(control);
    double age = wall_now_ms - ((double)stamp->tv_sec * 1e3 + (double)stamp->tv_nsec / 1e6);
    return age > 0 && age < MAX_AGE_MS ? age : 0;
}

static int receive(Relay *relay)
{
    struct Batch *batch = relay->batch;
    if (!batch)
        return 0;
    for (int tries = 0; tries < batch->size; tries++) {
        int count = recvmmsg(relay->config.fd, batch->message, (unsigned)batch->size, MSG_DONTWAIT, NULL);
        if (count >= 0)
            return count;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        /* an ICMP error of an earlier send, or a signal: what comes behind it is good */
    }
    return 0;
}

static void take_one(Relay *relay, int i, double now_ms, double wall_now_ms)
{
    struct Batch *batch = relay->batch;
    struct mmsghdr *message = &batch->message[i];
    struct sockaddr_in *from = &batch->from[i];
    double arrival_ms = now_ms - age_ms(&message->msg_hdr, wall_now_ms);
    if (from->sin_family == AF_INET)
        relay_take(relay, batch->data[i], (int)message->msg_len, ntohl(from->sin_addr.s_addr),
                   ntohs(from->sin_port), arrival_ms);
    prepare(batch, i);
}

int relay_receive(Relay *relay, double now_ms)
{
    int count = receive(relay);
    if (!count)
        return 0;
    double wall_now_ms = relay->config.kernel_times ? wall_ms() : 0;
    relay->now_ms = now_ms;
    for (int i = 0; i < count; i++)
        take_one(relay, i, now_ms, wall_now_ms);
    relay_flush(relay, now_ms);
    return count;
}

/* ---------------------------------------------------------------- the thread */

static void yield(Relay *relay)
{
    if (!atomic_load_explicit(&relay->waiting, memory_order_relaxed))
        return;
    relay_unlock(relay);
    relay_lock(relay); /* queues behind who waits */
}

/* What is in the socket, by the clock; yields between packets.  A leg may go away there, so all is looked up
 * afresh. */
static int take_waiting(Relay *relay)
{
    int count = receive(relay);
    double wall_now_ms = count && relay->config.kernel_times ? wall_ms() : 0;
    double began_ms = clock_now(relay);
    for (int i = 0; i < count; i++) {
        relay->now_ms = i ? clock_now(relay) : began_ms;
        take_one(relay, i, began_ms, wall_now_ms);
        yield(relay);
    }
    return count;
}

/* Until the socket is empty, but not for long.  The packets of a picture come one after the other while the first
 * is still being copied to its receivers: sent together, each receiver's are one message (GSO). */
static int run_batch(Relay *relay)
{
    int all = 0, count;
    double began_ms = clock_now(relay);
    relay->amid_batch = true;
    do {
        count = take_waiting(relay);
        all += count;
    } while (count && all < relay->batch->size && clock_now(relay) - began_ms < GATHER_MS);
    relay->amid_batch = false;
    if (all)
        relay_flush(relay, clock_now(relay));
    return all;
}

static void release_if_due(Relay *relay)
{
    double now_ms = clock_now(relay);
    if (!relay->first_waiting) {
        relay->next_release_ms = -1;
        return;
    }
    if (relay->next_release_ms >= 0 && now_ms < relay->next_release_ms)
        return;
    double wait_ms = relay_release(relay, now_ms);
    relay->next_release_ms = wait_ms < 0 ? -1 : now_ms + wait_ms;
    relay_flush_output(relay, clock_now(relay));
}

static int timeout_ms(const Relay *relay)
{
    if (relay->next_release_ms < 0)
        return -1;
    double left_ms = relay->next_release_ms - clock_now(relay);
    return left_ms <= 0 ? 0 : (int)ceil(left_ms);
}

static void sleep_for(Relay *relay, int timeout)
{
    struct pollfd fds[2] = {{relay->config.fd, POLLIN, 0}, {relay->wake_fd, POLLIN, 0}};
    if (poll(fds, 2, timeout) > 0 && fds[1].revents) {
        uint64_t count;
        ssize_t got = read(relay->wake_fd, &count, sizeof count);
        (void)got;
    }
}

void relay_run(Relay *relay)
{
    relay_lock(relay);
    while (!atomic_load(&relay->stopping)) {
        int count = run_batch(relay);
        release_if_due(relay);
        if (count >= relay->batch->size) { /* there may be more */
            yield(relay);
            continue;
        }
        int timeout = timeout_ms(relay);
        relay_unlock(relay);
        sleep_for(relay, timeout);
        relay_lock(relay);
    }
    relay_unlock(relay);
}
