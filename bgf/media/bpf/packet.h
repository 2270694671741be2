/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/*
 * A packet as the program sees it, how its link layer and interface are read, how it is counted.
 *
 * Knows: one VLAN tag at most (IEEE 802.1Q); a frame with two is nobody's here.
 */
#ifndef BGF_PACKET_H
#define BGF_PACKET_H

#define TAG_BYTES 4
#define VLAN_MASK 0x0fff
#define VLAN_NONE 0xffff /* matches no interface */

struct vlan_tag {
	__be16 control;
	__be16 proto;
};

/*
 * Functions that are not static are gone through by the verifier once, whoever calls them, and what
 * they are given it takes for unknown. That keeps its work small; but a call costs as much as some
 * features do, so only what is rare stands apart. No structure that they are given may have holes,
 * since all of its bytes must have been written (Linux 5.15).
 *
 * For the same end `ip6` and `tag` are computed from bytes of the packet, never assigned: were they
 * constants, the verifier would go through all that follows once for each pair of them.
 */
#define APART __attribute__((noinline))

/*
 * What a packet is found by and judged by, whichever its IP version. A hairpin changes key, source
 * and hops to what they are behind its first pinhole; `ip6`, `tag` and `sum` stay the frame's.
 */
struct packet {
	struct bgf_key key;
	struct bgf_address source;
	__u64 now_ns;	  /* CLOCK_BOOTTIME */
	__u64 sum;	  /* of the addresses and ports on the frame, see sums.h */
	__be16 source_port;
	__u16 payload;	  /* of the IP packet, bytes */
	__u16 udp_length; /* header and payload, bytes */
	__u16 place;	  /* of its interface */
	__u8 hops;
	__u8 tos;
	__u8 tag;    /* bytes of its VLAN tag */
	__u8 ip6;    /* 1 or 0 */
	__u32 slot; /* of its pinhole */
	__u32 version; /* of its pinhole, as it was when it was found */
	__u8 turned; /* it is behind the first pinhole of a hairpin */
	__u8 pad[3];
};

_Static_assert(sizeof(struct packet) == 80, "no holes");

static __always_inline struct bgf_trace *traced(struct xdp_md *ctx)
{
	struct bgf_trace *trace = (void *)(long)ctx->data_meta;

	if (likely((void *)(trace + 1) > (void *)(long)ctx->data))
		return NULL;
	return trace->magic == BGF_TRACE_MAGIC ? trace : NULL;
}

static __always_inline void count(struct bgf_cpu *own, const struct packet *packet, __u32 outcome)
{
	__u32 cell = packet->place * BGF_ROW + outcome;

	if (likely(cell < BGF_COUNTS))
		own->packets_of[cell]++;
}

/* The outcome, for whom it may concern. For what is rare, so apart. */
APART int note(struct xdp_md *ctx, const struct packet *packet, __u32 outcome, __u32 ifindex,
	       __u32 vlan)
{
	struct bgf_trace *trace = traced(ctx);
	struct bgf_cpu *own;

	if (trace) {
		trace->outcome = outcome;
		trace->ifindex = ifindex;
		trace->vlan = vlan;
		return 0;
	}
	own = this_cpu();
	if (own && packet)
		count(own, packet, outcome);
	return 0;
}

static __always_inline int refuse(struct xdp_md *ctx, const struct packet *packet, __u32 outcome)
{
	note(ctx, packet, outcome, 0, 0);
	return XDP_DROP;
}

static __always_inline int pass(struct xdp_md *ctx, const struct packet *packet, __u32 outcome)
{
	note(ctx, packet, outcome, 0, 0);
	return XDP_PASS;
}

/* Is it for the MAC address of one of the realms' interfaces? Finds its place. */
static __always_inline bool is_ours(struct xdp_md *ctx, const struct ethhdr *eth,
				    struct packet *packet)
{
	/* Whole words of a frame: of packed structures the compiler would read bytes. */
	const __u32 *have = (const void *)eth;
	__u32 ifindex = ctx->ingress_ifindex, probe;
	const struct bgf_interface *own;

	packet->key.ifindex = ifindex;
#pragma clang loop unroll(full)
	for (probe = 0; probe < BGF_PROBES; probe++) {
		__u32 place = (ifindex + packet->key.vlan + probe) % BGF_INTERFACE_PLACES;

		own = bpf_map_lookup_elem(&interfaces, &place);
		if (!own)
			return false;
		if (likely(own->ifindex == ifindex && own->vlan == packet->key.vlan)) {
			packet->place = place;
			return have[0] == *(const __u32 *)own->mac &&
			       (__u16)have[1] == *(const __u16 *)(own->mac + 4);
		}
	}
	packet->place = BGF_INTERFACE_PLACES;
	return false;
}

/* Where an address stands that another has displaced: its place and one, 0 for nowhere. */
APART int search_address(const struct bgf_address *address)
{
	__u32 probe, first;

	if (!address)
		return 0;
	first = BGF_ADDRESS_HASH(address);
#pragma clang loop unroll(disable)
	for (probe = 1; probe < BGF_ADDRESS_PROBES; probe++) {
		__u32 at = (first + probe) % BGF_ADDRESS_PLACES;
		struct bgf_place *place = bpf_map_lookup_elem(&addresses, &at);

		if (!place || !place->used)
			return 0;
		if (place->address.lo == address->lo && place->address.hi == address->hi)
			return at + 1;
	}
	return 0;
}

/* Where an address stands; NULL for one that is nowhere. */
static __always_inline struct bgf_place *find_address(const struct bgf_address *address)
{
	__u32 at = BGF_ADDRESS_HASH(address);
	struct bgf_place *place = bpf_map_lookup_elem(&addresses, &at);

	if (!place || !place->used)
		return NULL;
	if (likely(place->address.lo == address->lo && place->address.hi == address->hi))
		return place;
	at = search_address(address);
	if (!at--)
		return NULL;
	return bpf_map_lookup_elem(&addresses, &at);
}

/* The pinhole for packets to this port of an address, arriving here; NULL when there is none. */
static __always_inline struct bgf_pinhole *find_pinhole(const struct bgf_place *place,
							__u32 ifindex, __u16 vlan, __be16 port_be,
							__u32 *slot, __u32 *version)
{
	__u32 port = bpf_ntohs(port_be);
	struct bgf_pinhole *pinhole;
	struct bgf_ports *row;
	__u32 cell;

	/* The verifier of Linux 6.1 forgets at a byte swap that 16 bits were 16 bits. */
	asm volatile("" : "+r"(port));
	port &= 0xffff;
	if (unlikely(place->ifindex != ifindex || place->vlan != vlan))
		return NULL;
	cell = place->row;
	row = bpf_map_lookup_elem(&ports, &cell);
	if (!row)
		return NULL;
	/* Nobody's cell is 0, and one less than that no slot. */
	cell = *(volatile __u32 *)&row->slot[port] - 1;
	pinhole = bpf_map_lookup_elem(&pinholes, &cell);
	if (!pinhole)
		return NULL;
	*slot = cell;
	*version = *(volatile __u32 *)&pinhole->version;
	/* Still here, so that version is not of another's who has the slot by now. */
	if (unlikely(*version & 1 || *(volatile __u32 *)&row->slot[port] - 1 != cell))
		return NULL;
	return pinhole;
}

#endif
