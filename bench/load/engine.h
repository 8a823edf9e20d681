/* The load generator's packet side: many WebRTC legs on one thread, without the GIL.
 *
 * Python does signalling, ICE and DTLS and hands over connected UDP sockets with SRTP sessions; the engine
 * sends RTP streams on time, drains what comes, counts it per SSRC, decrypts a sample, and answers as a
 * browser does: STUN consent, receiver and sender reports, transport-wide feedback.  The sockets are polled
 * every few milliseconds, so that the server under test never pays for waking a receiver; arrival times
 * are the kernel's (SO_TIMESTAMPNS), so that polling does not blur them.
 */
#ifndef LIANXIN_BENCH_ENGINE_H
#define LIANXIN_BENCH_ENGINE_H

#include <stdint.h>

/* libsrtp's functions, from pylibsrtp's bundled library. */
typedef int (*srtp_call)(void *session, void *packet, int *length);
typedef struct {
    srtp_call protect, unprotect, protect_rtcp, unprotect_rtcp;
} srtp_calls;

typedef struct {
    void *receive, *receive_rtcp, *send, *send_rtcp; /* srtp_t */
} srtp_sessions;

typedef struct {
    uint32_t ssrc;
    int32_t payload_type;
    int32_t video;            /* 0: audio, 960 ticks and one packet every 20 ms */
    int32_t frames_per_s;
    int32_t packets_per_frame;
    int32_t size;             /* bytes of the plain RTP packet with header and extensions */
    int32_t gap_us;           /* between the packets of one frame, 0 = a burst */
    int32_t phase_us;         /* of the first frame */
    int32_t key_every;        /* frames; PLI and FIR make one as well */
    int32_t mid_id, twcc_id, level_id; /* header extension ids, 0 = not sent */
    char mid[8];
} stream_spec;

typedef struct {
    uint64_t received, bytes, lost, rtx, decrypted, undecryptable, rtcp, streams;
} leg_counts;

typedef struct {
    uint64_t sent, received, bytes, lost, rtx, decrypted, undecryptable;
    uint64_t rtcp_in, feedback_out, plis, nacks, send_failures;
    uint64_t cpu_ns;          /* of the engine's thread so far */
} load_counts;

#define DELAY_BUCKETS 5000    /* of 20 us: one-way delay of sampled packets, the last one = more */
#define DELAY_STEP_NS 20000

typedef struct engine engine;

engine *load_new(const srtp_calls *calls, int tick_us, int sample_every);
void load_free(engine *);
/* The socket is connected to the server and stays the caller's to close, after load_free. */
int load_add_leg(engine *, int fd, const srtp_sessions *, const void *consent, int consent_size,
                 int twcc_id, int rtx_payload_type);
int load_add_stream(engine *, int leg, const stream_spec *);
void load_set_stream(engine *, int stream, int on);
void load_run(engine *); /* until load_stop; call it without the GIL */
void load_stop(engine *);
void load_read(engine *, load_counts *);
void load_read_leg(engine *, int leg, leg_counts *);
void load_reset_delays(engine *);
void load_read_delays(engine *, uint32_t *buckets);

/* The floor: CPU ns per packet of encrypting `packets` packets of `size` bytes for each of `legs` receivers and
 * sending them by GSO, measured over `rounds` rounds; -1 when the kernel has no UDP GSO. */
double floor_run(const srtp_calls *calls, void **sessions, const uint16_t *ports, int legs, int packets,
                 int size, int rounds, int pause_us, uint32_t address);

#endif
