/* Transport-wide feedback: receivers' feedback about what was sent, and arrivals that are to be reported. */
#include "../twcc.h"

#include "../packet.h"
#include "script.h"

static void check(const Digest *digest)
{
    MUST(digest->groups >= 0 && digest->groups <= MAX_GROUPS);
    MUST(digest->clusters >= 0 && digest->clusters <= MAX_CLUSTERS);
    MUST(digest->received <= HISTORY_SIZE && digest->lost <= HISTORY_SIZE);
    int packets = 0;
    for (int i = 0; i < digest->clusters; i++) {
        MUST(digest->cluster[i].first_send_ms <= digest->cluster[i].last_send_ms);
        packets += digest->cluster[i].packets;
    }
    MUST(packets <= digest->received);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t body[MAX_PACKET + 64];
    static Digest digest;
    Script script = {data, data + size};
    History *history = history_new(), *echo = history_new();
    Arrivals *arrivals = arrivals_new();
    if (!history || !echo || !arrivals)
        return 0;
    uint16_t number = (uint16_t)read16(&script);
    double now_ms = 1.79e12;
    while (script.at < script.end) {
        switch (read8(&script) % 6) {
        case 0: /* some packets leave, and some of them come */
            for (unsigned left = read8(&script), lose = read8(&script); left; left--, number++) {
                history_record(history, number, now_ms, 1000, (int)(lose & 7));
                history_record(echo, number, now_ms, 1000, 0);
                if (!lose || left % lose)
                    arrivals_record(arrivals, number, now_ms);
                now_ms += lose / 16.0;
            }
            break;
        case 1:
            arrivals_record(arrivals, (uint16_t)read16(&script), now_ms - read8(&script));
            break;
        case 2:
            now_ms += read16(&script);
            break;
        case 3:
            number += (uint16_t)read16(&script);
            break;
        case 4: { /* what we write ourselves must be readable, whatever has come */
            int messages = 0;
            for (int length; (length = arrivals_take(arrivals, now_ms, body)) > 0; messages++) {
                MUST(length <= FEEDBACK_MAX && length % 4 == 0 && messages < 2100);
                MUST(!history_acknowledge(echo, body, length, now_ms, &digest));
                check(&digest);
            }
            break;
        }
        default: { /* a stranger's */
            int length = read_bytes(&script, body, (int)read16(&script) % (int)sizeof body);
            uint8_t *exact = malloc((size_t)length + 1); /* so that reading past its end is noticed */
            if (!exact)
                break;
            memcpy(exact + 1, body, (size_t)length);
            if (!history_acknowledge(history, exact + 1, length, now_ms, &digest))
                check(&digest);
            free(exact);
        }
        }
    }
    history_free(history);
    history_free(echo);
    arrivals_free(arrivals);
    return 0;
}
