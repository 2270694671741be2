/* What the RTP load generator, the outage meter and user space agree on, byte for byte.
 *
 * Addresses are 16 bytes in network order; IPv4 is written as ::ffff:a.b.c.d (RFC 4291 section
 * 2.5.5.2). Ports are in network order. All other numbers are in the machine's order.
 * bgf/lab/rtpwire.py packs and unpacks the same layouts; the sizes below are asserted in both.
 */
#ifndef BGF_RTPLOAD_H
#define BGF_RTPLOAD_H

#include <linux/types.h>

#define RTPLOAD_MAGIC 0x4247464cU /* "BGFL": the first word of a generated payload */
#define RTPLOAD_PAYLOAD 160	  /* octets of PCMU in 20 ms (RFC 3551 section 4.5.14) */
#define RTPLOAD_RTP 12		  /* RTP header without CSRC (RFC 3550 section 5.1) */
#define RTPLOAD_UDP_LENGTH (8 + RTPLOAD_RTP + RTPLOAD_PAYLOAD)
#define RTPLOAD_FRAME4 (14 + 20 + RTPLOAD_UDP_LENGTH)
#define RTPLOAD_FRAME6 (14 + 40 + RTPLOAD_UDP_LENGTH)

/* Limits. The live sizes of the tables are set at load and never exceed these. */
#define RTPLOAD_FLOWS_MAX 262144
#define RTPLOAD_HOPS_MAX 256
#define RTPLOAD_WATCHED_MAX 256

/* RTP sequence rules (RFC 3550 appendix A.1). */
#define RTPLOAD_DROPOUT_MAX 3000 /* a longer jump ahead is a restart: one minute at 50 packets/s */
#define RTPLOAD_WINDOW 64	 /* packets behind the newest in which a duplicate is recognised */

/* The first 24 octets of a generated payload; the rest is PCMU silence (0xff). */
struct rtpload_stamp {
	__u32 magic; /* network order */
	__u32 flow;  /* the RTP SSRC once more, network order: no gateway rewrites a payload */
	__u64 sent_ns;
	__u64 round;
};

/* One generated flow. `base_sum` is the one's complement sum of the 16-bit words of UDP pseudo
 * header, UDP, RTP and payload that never change; `ip_sum` the finished IPv4 header checksum. */
struct rtpload_flow {
	__u8 source[16];
	__u8 destination[16];
	__u16 source_port;
	__u16 destination_port;
	__u32 ssrc;
	__u32 timestamp;
	__u32 base_sum;
	__u32 hop;
	__u16 sequence;
	__u16 ip_sum;
	__u8 family; /* 4 or 6 */
	__u8 payload_type;
	__u8 pad[6];
};

/* The two hardware addresses towards one destination host. */
struct rtpload_hop {
	__u8 destination[6];
	__u8 source[6];
	__u8 pad[4];
};

/* Where the generator is: packet number `next` is flow next % flows in round next / flows. */
struct rtpload_cursor {
	__u64 next;
	__u64 sent;
	__u64 failed; /* runs that could not write their frame: always 0 */
	__u32 flows;
	__u32 timestamp_step;
};

/* How fast rtp_flood goes. Times are in 1/256 ns: one second in it is exact to 1e-11 at any rate. */
#define RTPLOAD_PACE_SHIFT 8
#define RTPLOAD_CATCH_UP_NS 50000 /* what is overdue by more is left out: a queue takes 256 packets */
struct rtpload_pace {
	__u64 next;	/* when the next packet is due, CLOCK_BOOTTIME */
	__u64 interval; /* between two packets; 0: as fast as it goes */
};

/* What the meter is told. */
struct rtpload_meter {
	__u32 gap_epoch;      /* gaps of an older epoch are forgotten */
	__u32 check;	      /* 1: generated frames are compared with `expected` */
	__u32 watch_all;      /* 1: other RTP to any host is recorded, 0: only to `watched` hosts */
	__u32 pass_generated; /* 1: generated frames go on to the kernel too (tests) */
};

struct rtpload_totals {
	__u64 generated;
	__u64 observed; /* other RTP, recorded and passed */
	__u64 bad_checksum;
	__u64 wrong_source;
	__u64 wrong_destination;
	__u64 table_full; /* packets of flows that found no room in the table */
	__u64 delay_sum_ns;
	__u64 delay_max_ns;
};

struct rtpload_key {
	__u8 destination[16];
	__u8 source[16];
	__u16 destination_port;
	__u16 source_port;
};

struct rtpload_endpoint {
	__u8 host[16];
	__u16 port;
	__u16 pad;
};

struct rtpload_expected {
	__u8 source[16];
	__u16 source_port;
	__u16 pad;
	__u32 ssrc;
};

/* One received flow. A reader copies it while packets arrive; the writer stores `gap_end_ns`
 * and `gap_lost` before `max_gap_ns` and the copy runs the other way: no gap without its end. */
struct rtpload_report {
	__u64 packets;
	__u64 bytes; /* of UDP payload */
	__u64 first_ns;
	__u64 last_ns;
	__u64 max_gap_ns;
	__u64 gap_end_ns;
	__u64 lost;
	__u64 reordered;
	__u64 duplicates;
	__u64 wrong_source;
	__u64 wrong_destination;
	__u64 window; /* bit n: sequence - n has arrived */
	__u32 ssrc;
	__u32 gap_epoch;
	__u32 gap_lost; /* sequence numbers missing in the largest gap: 0 if only time passed */
	__u16 sequence; /* the newest */
	__u16 restart;	/* the sequence number that would confirm a restart */
	__u8 restarting;
	__u8 generated;
	__u8 pad[6];
};

_Static_assert(sizeof(struct rtpload_stamp) == 24, "stamp");
_Static_assert(sizeof(struct rtpload_flow) == 64, "flow");
_Static_assert(sizeof(struct rtpload_hop) == 16, "hop");
_Static_assert(sizeof(struct rtpload_cursor) == 32, "cursor");
_Static_assert(sizeof(struct rtpload_pace) == 16, "pace");
_Static_assert(sizeof(struct rtpload_meter) == 16, "meter");
_Static_assert(sizeof(struct rtpload_totals) == 64, "totals");
_Static_assert(sizeof(struct rtpload_key) == 36, "key");
_Static_assert(sizeof(struct rtpload_endpoint) == 20, "endpoint");
_Static_assert(sizeof(struct rtpload_expected) == 24, "expected");
_Static_assert(sizeof(struct rtpload_report) == 120, "report");

#endif
