/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/* NAPT: makes a frame the one that leaves, in all four pairs of IP versions, tagged or not. */
#ifndef BGF_REWRITE_H
#define BGF_REWRITE_H

#define IP4_DONT_FRAGMENT 0x4000
#define IP4_HEADER ((int)sizeof(struct iphdr))
#define IP6_HEADER ((int)sizeof(struct ipv6hdr))
#define FLOW_LABEL 0xfffffu
#define PRIORITY_SHIFT 13 /* of the 802.1Q priority in its tag */

static __always_inline __u32 new_tos(const struct packet *packet, const struct bgf_way *way)
{
	return (packet->tos & way->tos_mask) | way->tos_bits;
}

static __always_inline void write_ip4(struct iphdr *ip, const struct packet *packet,
				      const struct bgf_way *way, __u32 second)
{
	__u32 first = bpf_htonl(0x45u << 24 | new_tos(packet, way) << 16 |
				(__u32)(packet->payload + IP4_HEADER));
	__u32 third = bpf_htonl((__u32)(packet->hops - 1) << 24 | IPPROTO_UDP << 16);
	__be32 source = way->local.lo >> 32, destination = way->remote.lo >> 32;
	__u32 *word = (__u32 *)ip;
	__u16 check = ~fold((__u64)first + second + third + source + destination);

	word[0] = first;
	word[1] = second;
	word[2] = third | (__u32)check << 16; /* little-endian, as parse.h is */
	word[3] = source;
	word[4] = destination;
}

static __always_inline void write_ip6(struct ipv6hdr *ip, const struct packet *packet,
				      const struct bgf_way *way, __u32 label)
{
	__u32 *word = (__u32 *)ip;

	word[0] = bpf_htonl(6u << 28 | new_tos(packet, way) << 20) | label;
	word[1] = bpf_htonl((__u32)packet->payload << 16 | IPPROTO_UDP << 8 |
			    (__u8)(packet->hops - 1));
	__builtin_memcpy(&ip->saddr, &way->local, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &way->remote, sizeof(ip->daddr));
}

static __always_inline void write_macs(__u32 *link, const struct bgf_nexthop *hop)
{
	link[0] = hop->macs[0];
	link[1] = hop->macs[1];
	link[2] = hop->macs[2];
}

/* The checksum, unless there is none, mended by the difference between the addresses and ports:
 * the length and the protocol stand in the pseudo headers of both versions alike. */
static __always_inline __u16 mend(__u16 check, const struct packet *packet,
				  const struct bgf_way *way)
{
	if (unlikely(!check))
		return 0;
	return udp_check((__u64)(__u16)~check + SUM_NOTHING - packet->sum + way->sum);
}

/* Can a frame be rewritten where it is? */
static __always_inline bool stays_in_place(const struct packet *packet,
					   const struct bgf_nexthop *hop, bool ip6)
{
	return packet->ip6 == ip6 && !(packet->tag | hop->vlan);
}

/* The same as `rewrite` for one that can, which is most of them. */
static __always_inline __u32 rewrite_in_place(struct xdp_md *ctx, const struct packet *packet,
					      const struct bgf_way *way,
					      const struct bgf_nexthop *hop)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *at = data + ETH_HLEN;
	struct udphdr *udp;

	if (packet->ip6) {
		udp = at + IP6_HEADER;
		if ((void *)(udp + 1) > end)
			return BGF_MALFORMED;
		write_ip6(at, packet, way, *(__be32 *)at & bpf_htonl(FLOW_LABEL));
	} else {
		udp = at + IP4_HEADER;
		if ((void *)(udp + 1) > end)
			return BGF_MALFORMED;
		write_ip4(at, packet, way, ((__u32 *)at)[1]);
	}
	udp->source = way->local_port_be;
	udp->dest = way->remote_port_be;
	udp->check = mend(udp->check, packet, way);
	write_macs(data, hop);
	return BGF_FORWARD;
}

/* What it returns is an outcome, FORWARD when done. */
static __always_inline __u32 rewrite(struct xdp_md *ctx, const struct packet *packet,
				     const struct bgf_way *way, const struct bgf_nexthop *hop,
				     bool ip6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	int header = ip6 ? IP6_HEADER : IP4_HEADER;
	int tag = hop->vlan ? TAG_BYTES : 0, shift = packet->tag - tag;
	void *at = data + ETH_HLEN + packet->tag;
	struct udphdr *udp;
	__u16 check;
	__u32 kept;

	/* What the old header leaves to the new one: identification and fragment word, flow label. */
	if (packet->ip6) {
		struct ipv6hdr *ip = at;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return BGF_MALFORMED;
		kept = *(__be32 *)ip & bpf_htonl(FLOW_LABEL);
		shift += IP6_HEADER - header;
	} else {
		struct iphdr *ip = at;

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return BGF_MALFORMED;
		kept = ((__u32 *)ip)[1];
		shift += IP4_HEADER - header;
	}
	check = mend(udp->check, packet, way);
	if (unlikely(!check && ip6)) {
		/* IPv6 demands one (RFC 8200 section 8.1); the ports go in with the way's sum. */
		__s64 sum;

		udp->source = 0;
		udp->dest = 0;
		sum = sum_frame(ctx, ETH_HLEN + packet->tag + IP4_HEADER, packet->udp_length);
		if (sum < 0)
			return BGF_TOO_BIG;
		check = udp_check((__u64)sum + way->sum + bpf_htons(packet->udp_length) +
				  bpf_htons(IPPROTO_UDP));
	}
	if (packet->ip6 != ip6) {
		/* No flow label (RFC 7915 section 4.1). IPv6 senders fragment themselves: keep it
		 * so. An atomic datagram needs no identification (RFC 6864 section 4.1). */
		kept = ip6 ? 0 : bpf_htonl(IP4_DONT_FRAGMENT);
	}
	if (shift) {
		if (bpf_xdp_adjust_head(ctx, shift))
			return BGF_TOO_BIG;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
	}
	at = data + ETH_HLEN + tag;
	if (ip6) {
		if (at + IP6_HEADER + sizeof(*udp) > end)
			return BGF_MALFORMED;
		write_ip6(at, packet, way, kept);
		udp = at + IP6_HEADER;
	} else {
		if (at + IP4_HEADER + sizeof(*udp) > end)
			return BGF_MALFORMED;
		write_ip4(at, packet, way, kept);
		udp = at + IP4_HEADER;
	}
	udp->source = way->local_port_be;
	udp->dest = way->remote_port_be;
	udp->check = check;
	if (data + ETH_HLEN + TAG_BYTES > end)
		return BGF_MALFORMED;
	write_macs(data, hop);
	at = data + 2 * ETH_ALEN;
	if (unlikely(hop->vlan)) {
		struct vlan_tag *outer = at;

		/* The priority is the class of the traffic class's first three bits. */
		outer->control = bpf_htons(ETH_P_8021Q);
		outer->proto = bpf_htons(
			(__u16)(new_tos(packet, way) >> 5 << PRIORITY_SHIFT | hop->vlan));
		at += TAG_BYTES;
	}
	*(__be16 *)at = bpf_htons(ip6 ? ETH_P_IPV6 : ETH_P_IP);
	return BGF_FORWARD;
}

#endif
