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
	__be16 source_port;
	__u16 payload;	  /* of the IP packet, bytes */
	__u16 udp_length; /* header and payload, bytes */
	__u16 sum;	  /* one's complement, of the addresses and ports on the frame */
	__u16 place;	  /* of its interface */
	__u8 hops;
	__u8 tos;
	__u8 tag;    /* bytes of its VLAN tag */
	__u8 ip6;    /* 1 or 0 */
	__u8 turned; /* it is behind the first pinhole of a hairpin */
	__u8 pad;
	__u32 slot; /* of its pinhole */
	__u32 version; /* of its pinhole, as it was when it was found */
	__u32 stats_first; /* of this CPU */
	__u32 pad2;
};

_Static_assert(sizeof(struct packet) == 80, "no holes");

static __always_inline struct bgf_trace *traced(struct xdp_md *ctx)
{
	struct bgf_trace *trace = (void *)(long)ctx->data_meta;

	if (likely((void *)(trace + 1) > (void *)(long)ctx->data))
		return NULL;
	return trace->magic == BGF_TRACE_MAGIC ? trace : NULL;
}

static __always_inline void note(struct xdp_md *ctx, const struct packet *packet, __u32 outcome,
				 __u32 ifindex, __u32 vlan)
{
	__u32 cell = packet->place * BGF_ROW + outcome;
	struct bgf_trace *trace = traced(ctx);
	__u64 *count;

	if (unlikely(trace != NULL)) {
		trace->outcome = outcome;
		trace->ifindex = ifindex;
		trace->vlan = vlan;
		return;
	}
	count = bpf_map_lookup_elem(&outcomes, &cell);
	if (likely(count != NULL))
		(*count)++;
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
	const __u16 *want, *have = (const __u16 *)eth->h_dest;
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
			want = (const __u16 *)own->mac;
			return have[0] == want[0] && have[1] == want[1] && have[2] == want[2];
		}
	}
	packet->place = BGF_INTERFACE_PLACES;
	return false;
}

/* Where an address stands; NULL for one that is nowhere. */
static __always_inline struct bgf_place *find_address(const struct bgf_address *address)
{
	__u32 probe, first = BGF_ADDRESS_HASH(address);
	struct bgf_place *place;

#pragma clang loop unroll(full)
	for (probe = 0; probe < BGF_ADDRESS_PROBES; probe++) {
		__u32 at = (first + probe) % BGF_ADDRESS_PLACES;

		place = bpf_map_lookup_elem(&addresses, &at);
		if (!place || !place->used)
			return NULL;
		if (likely(place->address.lo == address->lo && place->address.hi == address->hi))
			return place;
	}
	return NULL;
}

/* The pinhole for packets to this key at this address, NULL when there is none; notes which. */
static __always_inline struct bgf_pinhole *find_pinhole(const struct bgf_place *place,
							const struct bgf_key *key,
							__u32 *slot, __u32 *version)
{
	struct bgf_pinhole *pinhole;
	__u16 port = bpf_ntohs(key->port_be);
	struct bgf_ports *row;
	__u32 cell;

	if (unlikely(place->ifindex != key->ifindex || place->vlan != key->vlan))
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
