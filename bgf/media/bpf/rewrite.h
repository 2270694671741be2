/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/* NAPT: makes a frame the one that leaves, in all four pairs of IP versions, tagged or not. */
#ifndef BGF_REWRITE_H
#define BGF_REWRITE_H

#define IP4_DONT_FRAGMENT 0x4000
#define IP4_HEADER ((int)sizeof(struct iphdr))
#define IP6_HEADER ((int)sizeof(struct ipv6hdr))
#define FLOW_LABEL 0xfffffu
#define PRIORITY_SHIFT 13 /* of the 802.1Q priority in its tag */

/* What a packet becomes. */
struct target {
	struct bgf_address local; /* new source */
	struct bgf_address remote;
	__u8 macs[2 * ETH_ALEN]; /* destination, source */
	__u32 ifindex;
	__u32 mtu;
	__u16 local_port_be;
	__u16 remote_port_be;
	__u16 sum; /* of both addresses and both ports */
	__u16 vlan;
	__u8 hops;
	__u8 tos;
	__u8 ip6; /* 1 or 0 */
	__u8 pad;
};

_Static_assert(sizeof(struct target) == 64, "no holes");

static __always_inline void write_ip4(struct iphdr *ip, const struct packet *packet,
				      const struct target *to, __u32 second)
{
	__u32 *word = (__u32 *)ip;

	word[0] = bpf_htonl(0x45u << 24 | (__u32)to->tos << 16 |
			    (__u32)(packet->payload + IP4_HEADER));
	word[1] = second;
	word[2] = bpf_htonl((__u32)to->hops << 24 | IPPROTO_UDP << 16);
	word[3] = ((const __be32 *)&to->local)[3];
	word[4] = ((const __be32 *)&to->remote)[3];
	ip->check = ~sum_ip4(ip);
}

static __always_inline void write_ip6(struct ipv6hdr *ip, const struct packet *packet,
				      const struct target *to, __u32 label)
{
	__u32 *word = (__u32 *)ip;

	word[0] = bpf_htonl(6u << 28 | (__u32)to->tos << 20) | label;
	word[1] = bpf_htonl((__u32)packet->payload << 16 | IPPROTO_UDP << 8 | to->hops);
	__builtin_memcpy(&ip->saddr, &to->local, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &to->remote, sizeof(ip->daddr));
}

/*
 * What it returns is an outcome, FORWARD when done. The UDP checksum is mended by the difference
 * between the old addresses and ports and the new ones: the length and the protocol stand in both
 * pseudo headers alike.
 */
static __always_inline __u32 rewrite(struct xdp_md *ctx, const struct packet *packet,
				     const struct target *to)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	int header = to->ip6 ? IP6_HEADER : IP4_HEADER;
	int tag = to->vlan ? TAG_BYTES : 0, shift = packet->tag - tag;
	void *at = data + ETH_HLEN + packet->tag;
	struct udphdr *udp;
	__u32 kept;
	__u16 check;

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
	check = udp->check;
	if (likely(check != 0)) {
		check = udp_check((__u64)(__u16)~check + (__u16)~packet->sum + to->sum);
	} else if (to->ip6) {
		/* IPv6 demands one (RFC 8200 section 8.1); the ports go in with the sum of `to`. */
		__s64 sum;

		udp->source = 0;
		udp->dest = 0;
		sum = sum_frame(ctx, ETH_HLEN + packet->tag + IP4_HEADER, packet->udp_length);
		if (sum < 0)
			return BGF_TOO_BIG;
		check = udp_check((__u64)sum + to->sum + bpf_htons(packet->udp_length) +
				  bpf_htons(IPPROTO_UDP));
	}
	if (packet->ip6 != to->ip6) {
		/* No flow label (RFC 7915 section 4.1). IPv6 senders fragment themselves: keep it
		 * so. An atomic datagram needs no identification (RFC 6864 section 4.1). */
		kept = to->ip6 ? 0 : bpf_htonl(IP4_DONT_FRAGMENT);
	}
	if (shift) {
		if (bpf_xdp_adjust_head(ctx, shift))
			return BGF_TOO_BIG;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
	}
	at = data + ETH_HLEN + tag;
	if (to->ip6) {
		if (at + IP6_HEADER + sizeof(*udp) > end)
			return BGF_MALFORMED;
		write_ip6(at, packet, to, kept);
		udp = at + IP6_HEADER;
	} else {
		if (at + IP4_HEADER + sizeof(*udp) > end)
			return BGF_MALFORMED;
		write_ip4(at, packet, to, kept);
		udp = at + IP4_HEADER;
	}
	udp->source = to->local_port_be;
	udp->dest = to->remote_port_be;
	udp->check = check;
	if (data + ETH_HLEN + TAG_BYTES > end)
		return BGF_MALFORMED;
	__builtin_memcpy(data, to->macs, 2 * ETH_ALEN);
	at = data + 2 * ETH_ALEN;
	if (unlikely(to->vlan)) {
		struct vlan_tag *outer = at;

		/* The priority is the class of the traffic class's first three bits. */
		outer->control = bpf_htons(ETH_P_8021Q);
		outer->proto = bpf_htons((__u16)(to->tos >> 5 << PRIORITY_SHIFT | to->vlan));
		at += TAG_BYTES;
	}
	*(__be16 *)at = bpf_htons(to->ip6 ? ETH_P_IPV6 : ETH_P_IP);
	return BGF_FORWARD;
}

#endif
