/* The least that a relay of encrypted media can cost: copy, patch, encrypt, and hand over to the kernel by
 * UDP GSO, ten packets for one receiver in one call.  Everything above it is the relay's own. */
#define _GNU_SOURCE
#include "engine.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_LEGS 64
#define MAX_PACKETS 16
#define ROOM 1500

static double thread_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

double floor_run(const srtp_calls *calls, void **sessions, const uint16_t *ports, int legs, int packets,
                 int size, int rounds, int pause_us, uint32_t address) {
    static uint8_t plain[MAX_PACKETS][ROOM], out[MAX_PACKETS][ROOM];
    if (legs > MAX_LEGS || packets > MAX_PACKETS || size > ROOM - 160) return -1;
    int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 8 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    for (int i = 0; i < packets; i++) {
        memset(plain[i], 0xA5, (size_t)size);
        plain[i][0] = 0x80;
        plain[i][1] = 96;
    }
    double spent = 0;
    uint16_t sequence = 0;
    for (int round = 0; round < rounds; round++) {
        double begun = thread_ns();
        for (int leg = 0; leg < legs; leg++) {
            struct iovec parts[MAX_PACKETS];
            union { char bytes[CMSG_SPACE(sizeof(uint16_t))]; struct cmsghdr align; } control;
            for (int i = 0; i < packets; i++) {
                int length = size;
                uint16_t number = htons((uint16_t)(sequence + i));
                uint32_t ssrc = htonl(1000u + (uint32_t)leg);
                memcpy(out[i], plain[i], (size_t)size);
                memcpy(out[i] + 2, &number, 2);
                memcpy(out[i] + 8, &ssrc, 4);
                if (calls->protect(sessions[leg], out[i], &length)) { close(fd); return -1; }
                parts[i].iov_base = out[i];
                parts[i].iov_len = (size_t)length;
            }
            struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(ports[leg])};
            to.sin_addr.s_addr = htonl(address);
            struct msghdr message = {&to, sizeof to, parts, (size_t)packets, control.bytes, sizeof control.bytes, 0};
            struct cmsghdr *segment = CMSG_FIRSTHDR(&message);
            uint16_t step = (uint16_t)parts[0].iov_len;
            segment->cmsg_level = SOL_UDP;
            segment->cmsg_type = UDP_SEGMENT;
            segment->cmsg_len = CMSG_LEN(sizeof step);
            memcpy(CMSG_DATA(segment), &step, sizeof step);
            if (sendmsg(fd, &message, 0) < 0) { close(fd); return -1; }
        }
        spent += thread_ns() - begun;
        sequence = (uint16_t)(sequence + packets);
        usleep((useconds_t)pause_us);
    }
    close(fd);
    return spent / ((double)rounds * legs * packets);
}
