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

#define BGF_LAYOUT 1

/* Maps by name, in the order of the object file. The last column is the default size in entries. */
#define BGF_MAPS(X)                                                                                \
	X(config, 1)      /* array: struct bgf_config */                                           \
	X(groups, 256)    /* array: group index -> its id, for those who open the pins */          \
	X(armed, 256)     /* array: group index -> deadline, CLOCK_BOOTTIME ns; 0 never */         \
	X(interfaces, 256) /* array: struct bgf_interface, see BGF_PROBES */                       \
	X(guarded, 1024)  /* hash: media address -> group index */                                 \
	X(pinholes, 65536) /* hash: struct bgf_key -> struct bgf_pinhole */                        \
	X(stats, 65536)   /* per-CPU array: slot -> struct bgf_stats */                            \
	X(nexthops, 16384) /* array: index -> struct bgf_nexthop; 0 is never valid */              \
	X(outcomes, 16)   /* per-CPU array: enum bgf_outcome -> packets, u64 */

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
	X(TOO_BIG, "too-big")

#define BGF_OUTCOME_ENUM(name, text) BGF_##name,
enum bgf_outcome { BGF_OUTCOMES(BGF_OUTCOME_ENUM) BGF_OUTCOME_COUNT };
#undef BGF_OUTCOME_ENUM

#define BGF_GROUP_ID_LEN 64

struct bgf_config {
	__u32 layout;	     /* BGF_LAYOUT of who filled the maps */
	__u32 discriminator; /* S-BFD, this node's; 0 reflects nothing */
};

/*
 * An interface stands at its ifindex modulo the size of the table, or one of the next few places
 * where that is taken: an array is looked up without a call, a hash is not.
 */
#define BGF_INTERFACE_PLACES 256u
#define BGF_PROBES 4u

struct bgf_interface {
	__u32 ifindex; /* 0: nobody stands here */
	__u8 mac[6];
	__u8 pad[2];
};

struct bgf_address {
	__u64 hi; /* as the 8 bytes stand on the wire */
	__u64 lo;
};

/* Where packets of a pinhole arrive. */
struct bgf_key {
	struct bgf_address local;
	__u32 ifindex; /* of the realm: an address is guarded in its own realm alone */
	__u16 port_be;
	__u16 pad;
};

#define BGF_OPEN 1u	   /* the gate */
#define BGF_SOURCE_HOST 2u /* `source` must match */
#define BGF_SOURCE_PORT 4u /* `source_port_be` must match */
#define BGF_OUT_IP6 8u	   /* leaves as IPv6 */

/*
 * The key comes first again: a removed element's memory may be given to another pinhole while a
 * packet is still being rewritten from it, so the program looks at the key once more at the end.
 */
struct bgf_pinhole {
	struct bgf_key key;
	struct bgf_address local_out; /* new source */
	struct bgf_address remote;    /* new destination */
	struct bgf_address source;    /* filter */
	__u16 local_port_be;
	__u16 remote_port_be;
	__u16 source_port_be;
	__u16 sum_out; /* one's complement sum of local_out, remote and their ports, as they go out */
	__u32 flags;
	__u32 group;   /* index into armed */
	__u32 nexthop; /* index into nexthops */
	__u32 slot;    /* index into stats */
};

struct bgf_stats {
	__u64 packets;
	__u64 bytes;	     /* UDP payload */
	__u64 last_seen_ns; /* CLOCK_BOOTTIME */
};

struct bgf_nexthop {
	__u8 macs[12];	/* destination, source: as an Ethernet header begins */
	__u32 ifindex;
	__u32 mtu;	/* largest IP packet, bytes; 0: no neighbour known to send to */
	__u32 pad;
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
	__u32 pad;
};

_Static_assert(sizeof(struct bgf_config) == 8, "shared layout");
_Static_assert(sizeof(struct bgf_interface) == 12, "shared layout");
_Static_assert(sizeof(struct bgf_address) == 16, "shared layout");
_Static_assert(sizeof(struct bgf_key) == 24, "shared layout");
_Static_assert(sizeof(struct bgf_pinhole) == 96, "shared layout");
_Static_assert(sizeof(struct bgf_stats) == 24, "shared layout");
_Static_assert(sizeof(struct bgf_nexthop) == 24, "shared layout");
_Static_assert(sizeof(struct bgf_trace) == 16, "shared layout");

#endif
