/* The engine on its thread with a real socket, two publishers that blast, and policy that changes all at the same
 * time: for the thread sanitizer.
 *
 *     race SECONDS
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "relay.c"

static atomic_bool ends;
static World shared;
static int peers[LEGS];
static struct sockaddr_in relay_address;

static double clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static uint32_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)(*state * 0x2545F4914F6CDD1Du >> 32);
}

static int bound_socket(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    MUST(fd >= 0);
    if (!bind(fd, (struct sockaddr *)&address, sizeof address))
        return fd;
    close(fd);
    return -1;
}

static void *relay_thread(void *relay)
{
    relay_run(relay);
    return NULL;
}

/* A publisher of four streams, and now and then rubbish; reads what comes. */
static void *peer_thread(void *context)
{
    int leg = *(int *)context;
    uint64_t state = 77 + (uint64_t)leg;
    uint16_t sequence[4] = {0};
    uint8_t packet[1500];
    long sent = 0;
    while (!atomic_load(&ends)) {
        uint32_t chance = next_random(&state), stream = chance & 3;
        uint32_t ssrc = stream_ssrc + stream;
        int size = 60 + (int)(chance >> 8 & 1023);
        static const uint8_t types[] = {96, 111, 98, 96};
        memset(packet, 0x11, sizeof packet);
        sequence[stream] = (uint16_t)(sequence[stream] + 1 + (chance >> 20) % 7 / 6);
        const uint8_t head[] = {0x90, types[stream], (uint8_t)(sequence[stream] >> 8), (uint8_t)sequence[stream],
                                0, 0, (uint8_t)(sequence[stream] >> 6), 0, (uint8_t)(ssrc >> 24),
                                (uint8_t)(ssrc >> 16), (uint8_t)(ssrc >> 8), (uint8_t)ssrc, 0xBE, 0xDE, 0, 1, 0x31,
                                (uint8_t)(sent >> 8), (uint8_t)sent, 0, 0x90, 0xE0, 0x80, 1, 1, 0,
                                chance >> 28 ? 0x11 : 0x10, 0, 0};
        memcpy(packet, head, sizeof head);
        if (leg >= 2) { /* a viewer: NACKs */
            uint32_t asked = out_ssrc + (chance >> 8 & 7) * 2;
            const uint8_t nack[] = {0x81, 205, 0, 3, 0, 0, 0, 1, (uint8_t)(asked >> 24), (uint8_t)(asked >> 16),
                                    (uint8_t)(asked >> 8), (uint8_t)asked, (uint8_t)(chance >> 24),
                                    (uint8_t)(chance >> 16), 0xFF, 0xFF};
            memcpy(packet, nack, sizeof nack);
            size = sizeof nack;
        }
        memset(packet + size, 0xA5, TAG);
        if (!(chance >> 4 & 63))
            packet[chance >> 10 & 31] ^= (uint8_t)chance;
        if (sendto(peers[leg], packet, (size_t)size + TAG, 0, (struct sockaddr *)&relay_address,
                   sizeof relay_address) > 0)
            sent++;
        while (recv(peers[leg], packet, sizeof packet, 0) > 0) {
        }
        if (sent % 50 == 0)
            usleep(500);
    }
    return NULL;
}

static long policy(double seconds)
{
    uint64_t state = 4711;
    uint8_t bytes[64];
    long calls = 0;
    for (double end = clock_ms() + seconds * 1000; clock_ms() < end; calls++) {
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (uint8_t)next_random(&state);
        Script script = {bytes, bytes + sizeof bytes};
        relay_lock(shared.relay);
        shared.now_ms = clock_ms();
        uint32_t chosen = next_random(&state) % 64;
        if (chosen < 2)
            call_leg(&shared, &script);
        else if (chosen < 5)
            call_feed(&shared, &script);
        else if (chosen < 20)
            call_route(&shared, &script);
        else if (chosen < 24)
            relay_flush(shared.relay, 0);
        else
            answer_events(&shared, &script);
        if (chosen == 63) /* as at the beginning, or soon nobody would send to anyone */
            for (int route = 0; route < ROUTES; route++) {
                world_open_leg(&shared, route % LEGS);
                world_open_feed(&shared, route % 4, route % 4 / 3);
                if (shared.feed[route % 4] && shared.leg[shared.feed_leg[route % 4]])
                    leg_bind_ssrc(shared.leg[shared.feed_leg[route % 4]], stream_ssrc + (uint32_t)route % 4,
                                  shared.feed[route % 4]);
                world_open_route(&shared, route, route < 4 ? 2 : 3, 0);
                world_aim(&shared, route, route % 4, 16);
            }
        relay_unlock(shared.relay);
        usleep(100);
    }
    return calls;
}

int main(int count, char **arguments)
{
    pthread_t relay, peer[LEGS];
    static int numbers[LEGS] = {0, 1, 2, 3};
    socklen_t length = sizeof relay_address;
    int fd = bound_socket(0);
    MUST(fd >= 0 && !getsockname(fd, (struct sockaddr *)&relay_address, &length));
    for (int leg = 0; leg < LEGS; leg++) /* ports in a row that nobody has */
        while ((peers[leg] = bound_socket((uint16_t)(first_port + leg * 4))) < 0) {
            while (leg > 0)
                close(peers[--leg]);
            first_port = (uint16_t)(first_port + 64);
            MUST(first_port > 4000);
        }
    world_open(&shared, fd);
    relay_unlock(shared.relay);
    MUST(!pthread_create(&relay, NULL, relay_thread, shared.relay));
    for (int leg = 0; leg < LEGS; leg++)
        MUST(!pthread_create(&peer[leg], NULL, peer_thread, &numbers[leg]));
    long calls = policy(count > 1 ? atof(arguments[1]) : 5);
    atomic_store(&ends, true);
    for (int leg = 0; leg < LEGS; leg++)
        pthread_join(peer[leg], NULL);
    relay_stop(shared.relay);
    pthread_join(relay, NULL);
    relay_lock(shared.relay);
    printf("%ld calls, %llu datagrams sent\n", calls,
           (unsigned long long)relay_output_counts(shared.relay)->datagrams);
    world_close(&shared, true);
    close(fd);
    for (int leg = 0; leg < LEGS; leg++)
        close(peers[leg]);
    return 0;
}
