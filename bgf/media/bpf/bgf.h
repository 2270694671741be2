/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/*
 * What the packet program and user space tell each other: maps, keys, values, outcomes.
 *
 * Knows: layouts only. Every value that stands in network byte order says so (`_be`); an address is
 * 16 bytes, IPv4 in its v4-mapped form (RFC 4291 section 2.5.5.2). Change any layout or the meaning
 * of any field and BGF_LAYOUT must go up: pinned maps of another layout are refused.
 */
#ifndef BGF_H
#define BGF_H

#include <linux/types.h>

#define BGF_LAYOUT 5

/* Maps by name, in the order of the object file. The last column is the default size in entries. */
#define BGF_MAPS(X)                                                                                \
	X(config, 1)      /* array: struct bgf_config */                                           \
	X(cpus, 256)      /* array: CPU -> struct bgf_cpu */                                       \
	X(groups, 256)    /* array: group index -> its id, for those who open the pins */          \
	X(armed, 256)     /* array: group index -> deadline, CLOCK_BOOTTIME ns; 0 never */         \
	X(interfaces, 256) /* array: struct bgf_interface, see BGF_PROBES */                       \
	X(addresses, 8192) /* array: struct bgf_place, see BGF_ADDRESS_PROBES */                  \
	X(ports, 16)	  /* array: row -> struct bgf_ports */                                      \
	X(pinholes, 65536) /* array: slot -> struct bgf_pinhole */                                 \
	X(stats, 65536)   /* array: CPU x slots + slot -> struct bgf_stats */                      \
	X(latches, 65536) /* array: slot -> struct bgf_latch */                                    \
	X(nexthops, 16384) /* array: index -> struct bgf_nexthop; 0 is never valid */              \
	X(reports, 262144) /* ring buffer, bytes: struct bgf_report */                             \
	X(captured, 1024) /* perf event array, one entry for each CPU: struct bgf_captured */ \
	X(checks, 1024) /* perf event array, likewise: STUN checks, struct bgf_captured */

/* What becomes of a packet, with the name that user space gives it. PASS is not counted. */
#define BGF_OUTCOMES(X)                                                                            \
	X(PASS, "pass")                                                                            \
	X(FORWARD, "forward")                                                                      \
	X(REFLECT, "reflect")                                                                      \
	X(NO_PINHOLE, "no-pinhole")                                                                \
	X(GATE_CLOSED, "gate-closed")                                                              \
	X(BAD_SOURCE, "bad-source")                                                                \
	X(DISARMED, "disarmed")                                                                    \
	X(NO_NEIGHBOUR, "no-neighbour")                                                            \
	X(FRAGMENT, "fragment")                                                                    \
	X(MALFORMED, "malformed")                                                                  \
	X(TTL, "ttl-expired")                                                                      \
	X(TOO_BIG, "too-big")                                                                      \
	X(POLICED, "policed")                                                                      \
	X(BAD_RTP, "bad-rtp")                                                                      \
	X(NO_PEER, "no-peer")                                                                      \
	X(RUNT, "runt")                                                                            \
	X(OPTIONS, "ip-options")                                                                   \
	X(ICMP, "icmp")                                                                            \
	X(ICMP_ERROR, "icmp-error")                                                                \
	X(VLAN, "foreign-vlan")                                                                    \
	X(CHECK, "stun-check")

#define BGF_OUTCOME_ENUM(name, text) BGF_##name,
enum bgf_outcome { BGF_OUTCOMES(BGF_OUTCOME_ENUM) BGF_OUTCOME_COUNT };
#undef BGF_OUTCOME_ENUM

#define BGF_GROUP_ID_LEN 64

struct bgf_config {
	__u32 layout;	     /* BGF_LAYOUT of who filled the maps */
	__u32 discriminator; /* S-BFD, this node's; 0 reflects nothing */
	__u32 snap;	     /* bytes of a frame that a capture keeps */
};

/*
 * A realm's interface stands at its ifindex plus its VLAN, modulo the size of the table, or one of
 * the next few places where that is taken: an array is looked up without a call, a hash is not.
 * The place is also the row of its counts; the row behind the last is that of foreign VLANs.
 */
#define BGF_INTERFACE_PLACES 256u
#define BGF_PROBES 4u
#define BGF_ROW 32u /* an enum bgf_outcome fits into it */
#define BGF_COUNTS ((BGF_INTERFACE_PLACES + 1) * BGF_ROW)

struct bgf_interface {
	__u32 ifindex; /* 0: nobody stands here */
	__u32 mtu;
	__u8 mac[6];
	__u16 vlan; /* 802.1Q VLAN identifier; 0 untagged */
};

struct bgf_address {
	__u64 hi; /* as the 8 bytes stand on the wire */
	__u64 lo;
};

/*
 * An address stands at its hash (BGF_ADDRESS_HASH), or one of the next few places where that is
 * taken, without a gap. Pinholes are found by its row and the port: two array lookups, each of
 * which touches one cache line, where a hash of keys touches many.
 */
#define BGF_ADDRESS_PLACES 8192u
#define BGF_ADDRESS_SHIFT 51 /* 64 less the bits of a place */
#define BGF_ADDRESS_PROBES 8u
#define BGF_ADDRESS_HI 0x9e3779b97f4a7c15ull
#define BGF_ADDRESS_MIX 0xd6e8feb86659fd93ull
#define BGF_ADDRESS_HASH(a)                                                                        \
	((((a)->lo ^ (a)->hi * BGF_ADDRESS_HI) * BGF_ADDRESS_MIX) >> BGF_ADDRESS_SHIFT)

struct bgf_place {
	struct bgf_address address;
	__u32 ifindex; /* of its realm: it has pinholes there alone */
	__u16 vlan;
	__u8 used;    /* somebody stands here */
	__u8 guarded; /* it is a media address: what has no pinhole is dropped */
	__u32 row;    /* of ports */
	__u32 pad;
};

/* A row: slot + 1 for each port, 0 where no pinhole is. User space sees all rows as one array of
 * cells, row << 16 | port. */
struct bgf_ports {
	__u32 slot[65536];
};

/* Where packets of a pinhole arrive, in what is told to user space. */
struct bgf_key {
	struct bgf_address local;
	__u32 ifindex;
	__u16 port_be;
	__u16 vlan;
};

#define BGF_OPEN 0x001u	       /* the gate */
#define BGF_SOURCE_HOST 0x002u /* `source` must match */
#define BGF_SOURCE_PORT 0x004u /* the port must lie in its range */
#define BGF_OUT_IP6 0x008u     /* leaves as IPv6 */
#define BGF_POLICE 0x010u      /* through both token buckets */
#define BGF_RTP 0x020u	       /* RTP headers are read: statistics */
#define BGF_RTCP 0x040u	       /* with RTP: it is RTCP alone */
#define BGF_MUXED 0x080u       /* with RTP: RTCP comes in between (RFC 5761) */
#define BGF_RTP_CHECK 0x100u   /* with RTP: what is none is refused */
#define BGF_RTP_TYPES 0x200u   /* with RTP: and what has a payload type that `types` lacks */
#define BGF_LATCH 0x400u       /* its latch decides about the sender */
#define BGF_FOLLOW 0x800u      /* goes to what the latch of `peer_slot` has learned */
#define BGF_NO_REMOTE 0x1000u  /* with FOLLOW: nowhere else */
#define BGF_HAIRPIN 0x2000u    /* `remote` is an address of this node: a pinhole may be there */
#define BGF_CAPTURED 0x4000u   /* its packets are copied to user space */
#define BGF_SOURCE_PREFIX 0x8000u /* with SOURCE_HOST: under `source_mask` */
#define BGF_CHECKS 0x10000u /* STUN checks that arrive are told to user space, and go nowhere */
#define BGF_DEMUX 0x20000u /* RTCP that arrives goes on by the pinhole of the next port */

/* What a packet is to have in its headers when it leaves. */
struct bgf_way {
	__u16 local_port_be;
	__u16 remote_port_be;
	__u16 sum;     /* one's complement sum of both addresses and both ports */
	__u8 tos_mask; /* bits of the traffic class that stay */
	__u8 tos_bits; /* bits that are set */
	struct bgf_address local; /* new source */
	struct bgf_address remote; /* new destination */
};

/*
 * What is one for all CPUs: a stream's packets come on one CPU as long as its sender keeps its
 * port. A cache line of its own in its pinhole.
 */
struct bgf_stream {
	__u64 sustained_full; /* when the bucket is full again */
	__u64 peak_full;
	__u64 last_ns;	    /* of the last RTP packet */
	__u32 ssrc;	    /* of the last RTP packet, host order */
	__u32 sequence;	    /* highest, extended by its cycles (RFC 3550 A.1) */
	__u32 sequence_first;
	__u32 expected; /* of earlier SSRCs and before restarts */
	__u32 transit;	/* of the last packet, timestamp units */
	__u32 jitter;	/* timestamp units, times 16 (RFC 3550 A.8) */
	__u32 gap_max;	/* in 1024 ns */
	__u32 ssrc_changes;
	__u32 restarts;
	__u32 started; /* there was a packet */
};

/*
 * Four cache lines, of which most packets touch three; the map starts at a page. User space writes
 * it in place through a mapping: `version` is odd meanwhile and another one afterwards, and a
 * packet for which it has changed on the way is dropped. The program writes `stream` alone, and
 * user space all but that.
 */
struct bgf_pinhole {
	__u32 version;
	__u32 flags;
	__u32 group;   /* index into armed */
	__u32 nexthop; /* index into nexthops */
	__u16 source_port_first; /* filter, both included */
	__u16 source_port_last;
	__u32 clock; /* RTP timestamp units in a nanosecond, times 2^32 */
	struct bgf_way way;

	struct bgf_address source; /* filter */
	__u64 types[2];		   /* bit per payload type that is admitted */
	__u64 sustained_cost;	   /* see BGF_COST_SHIFT */
	__u64 sustained_depth;
	__u64 peak_cost;
	__u64 peak_depth;

	struct bgf_stream stream;

	struct bgf_address source_mask;
	__u32 ifindex_out;
	__u16 vlan_out;
	__u16 pad;
	__u32 peer_slot;
	__u32 pad2;
	struct bgf_key key; /* for user space: the program finds it without */
	__u64 pad3;
};

/*
 * Token buckets are kept as the time at which they would be full again, in 1/64 ns; a byte costs
 * `cost` / 2^10 of these, and what would lie more than `depth` ahead of now does not conform.
 */
#define BGF_TIME_SHIFT 6
#define BGF_COST_SHIFT 10
#define BGF_NO_BUCKET (~0ull) /* a depth that everything fits into */

struct bgf_stats {
	__u64 packets;
	__u64 bytes;	     /* UDP payload */
	__u64 last_seen_ns;  /* CLOCK_BOOTTIME */
	__u64 rtp_packets;   /* of flows with BGF_RTP */
	__u64 rtp_bytes;     /* UDP payload */
	__u64 rtcp_packets;
	__u64 pad[2]; /* a cache line of its own */
};

enum bgf_latch_state {
	BGF_LATCH_OPEN,	   /* the next sender is learned */
	BGF_LATCH_BUSY,	   /* a CPU is writing */
	BGF_LATCH_SET,	   /* the sender is known; others are refused */
	BGF_LATCH_REPLACE, /* the sender is known; the next other one replaces it */
};

#define BGF_LATCH_STATE 0xffu /* the rest of the word counts the relatches that were asked for */

struct bgf_latch {
	struct bgf_address address;
	__u32 word; /* enum bgf_latch_state, and the round above it */
	__u32 place; /* of the interface where the learned packet came */
	__u16 port_be;
	__u8 mac[6]; /* who sent it on that link; all zero when the state came from user space */
};

struct bgf_nexthop {
	__u32 macs[3]; /* destination, source: as an Ethernet header begins */
	__u32 ifindex;
	__u32 mtu;	/* largest IP packet, bytes; 0: no neighbour known to send to */
	__u16 vlan;	/* 0 untagged */
	__u16 pad;
};

/* Where a packet goes, when that is not what its pinhole and its next hop say. */
struct bgf_target {
	struct bgf_way way;
	struct bgf_nexthop hop;
};

/*
 * What a CPU keeps for itself: its clock (clock.h); where its part of `stats` begins, which user
 * space writes; in a cache line apart, what would be too large for the program's stack; and how
 * many packets had which outcome.
 */
struct bgf_cpu {
	__u64 tick; /* in which the clock was read last */
	__u64 boot_ns;
	__u32 packets; /* of this tick, those of the last reading included */
	__u32 left;    /* that go by the last reading, one more than that */
	__u32 stats_first;
	__u32 pad[9];
	struct bgf_target target;
	__u64 packets_of[BGF_COUNTS]; /* row x BGF_ROW + enum bgf_outcome */
};

/* A latch has been set. */
struct bgf_report {
	struct bgf_key key;
	struct bgf_address address;
	__u64 time_ns;
	__u32 round;
	__u16 port_be;
	__u16 pad;
};

/* Stands before the bytes of a captured frame. */
struct bgf_captured {
	struct bgf_key key;
	__u64 time_ns;
	__u32 length;  /* of the whole frame */
	__u32 ifindex; /* where it came or goes */
	__u16 vlan;
	__u16 leaving;
	__u32 kept; /* bytes of the frame that follow */
};

/*
 * A packet run through the program by BPF_PROG_TEST_RUN may carry this in front as XDP metadata: it
 * is then treated as any other, but counted nowhere, and the answer stands here afterwards.
 */
#define BGF_TRACE_MAGIC 0x62676674u
struct bgf_trace {
	__u32 magic;
	__u32 outcome;
	__u32 ifindex; /* where it leaves */
	__u32 vlan;
};

_Static_assert(BGF_OUTCOME_COUNT <= BGF_ROW, "a row of counts");
_Static_assert(sizeof(struct bgf_config) == 12, "shared layout");
_Static_assert(sizeof(struct bgf_cpu) == 128 + 8 * BGF_COUNTS, "shared layout");
_Static_assert(sizeof(struct bgf_interface) == 16, "shared layout");
_Static_assert(sizeof(struct bgf_address) == 16, "shared layout");
_Static_assert(sizeof(struct bgf_place) == 32, "shared layout");
_Static_assert(BGF_ADDRESS_PLACES == 1u << (64 - BGF_ADDRESS_SHIFT), "shared layout");
_Static_assert(sizeof(struct bgf_ports) == 1u << 18, "shared layout");
_Static_assert(sizeof(struct bgf_key) == 24, "shared layout");
_Static_assert(sizeof(struct bgf_way) == 40, "shared layout");
_Static_assert(sizeof(struct bgf_pinhole) == 256, "shared layout");
_Static_assert(sizeof(struct bgf_stats) == 64, "shared layout");
_Static_assert(sizeof(struct bgf_stream) == 64, "shared layout");
_Static_assert(sizeof(struct bgf_latch) == 32, "shared layout");
_Static_assert(sizeof(struct bgf_nexthop) == 24, "shared layout");
_Static_assert(sizeof(struct bgf_report) == 56, "shared layout");
_Static_assert(sizeof(struct bgf_captured) == 48, "shared layout");
_Static_assert(sizeof(struct bgf_trace) == 16, "shared layout");

#endif
