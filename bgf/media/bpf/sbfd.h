/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/* The S-BFD reflector (RFC 7880, RFC 7881): answers for the node whatever its processes do. */
#ifndef BGF_SBFD_H
#define BGF_SBFD_H

#define SBFD_PORT 7784		 /* RFC 7881 section 4 */
#define SBFD_VERSION 1		 /* RFC 5880 section 4.1 */
#define SBFD_UP_INDEPENDENT 0xc8 /* state Up (3 << 6), control plane independent (C) */
#define SBFD_POLL 0x20
#define SBFD_FINAL 0x10
#define SBFD_AUTH_OR_MULTIPOINT 0x05
#define SBFD_LENGTH_MIN 24
#define HOPS_MAX 255 /* RFC 7881 section 5: TTL and hop limit of what is reflected */

/* RFC 5880 section 4.1. */
struct sbfd {
	__u8 version_diagnostic;
	__u8 state_flags;
	__u8 multiplier;
	__u8 length;
	__be32 mine;
	__be32 yours;
	__be32 intervals[3];
};

static __always_inline void swap_macs(struct ethhdr *eth)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
}

/*
 * Answers a probe in its place, 0 when it is none for us: then it is as any other packet. What
 * comes from port 7784 is another reflector's answer and is never answered, or two would play on.
 */
APART int reflect(struct xdp_md *ctx, const struct packet *packet)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct bgf_config *node;
	__u16 before, after;
	struct udphdr *udp;
	struct sbfd *sbfd;
	void *network;
	__u32 zero = 0;
	__be16 port;
	__be32 mine;

	if (!packet)
		return 0;
	network = (void *)(eth + 1) + packet->tag;
	udp = network + (packet->ip6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	sbfd = (void *)(udp + 1);
	if ((void *)(eth + 1) > end || (void *)(sbfd + 1) > end)
		return 0;
	node = bpf_map_lookup_elem(&config, &zero);
	if (!node || !node->discriminator || sbfd->yours != bpf_htonl(node->discriminator))
		return 0;
	if (udp->source == bpf_htons(SBFD_PORT) || sbfd->version_diagnostic >> 5 != SBFD_VERSION ||
	    sbfd->length < SBFD_LENGTH_MIN ||
	    sbfd->length + sizeof(*udp) > packet->udp_length || !sbfd->multiplier || !sbfd->mine ||
	    sbfd->state_flags & SBFD_AUTH_OR_MULTIPOINT)
		return 0;

	/* Swapping changes no sum; the flags and the hops do. */
	port = udp->source;
	udp->source = udp->dest;
	udp->dest = port;
	mine = sbfd->mine;
	sbfd->mine = sbfd->yours;
	sbfd->yours = mine;
	before = *(__u16 *)sbfd;
	sbfd->version_diagnostic = SBFD_VERSION << 5;
	sbfd->state_flags =
		SBFD_UP_INDEPENDENT | (sbfd->state_flags & SBFD_POLL ? SBFD_FINAL : 0);
	after = *(__u16 *)sbfd;
	if (udp->check)
		udp->check = udp_check((__u64)(__u16)~udp->check + (__u16)~before + after);

	if (packet->ip6) {
		struct ipv6hdr *ip = network;
		struct in6_addr address;

		if ((void *)(ip + 1) > end)
			return 0;
		address = ip->saddr;
		ip->saddr = ip->daddr;
		ip->daddr = address;
		ip->hop_limit = HOPS_MAX;
	} else {
		struct iphdr *ip = network;
		__be32 address;

		if ((void *)(ip + 1) > end)
			return 0;
		address = ip->saddr;
		ip->saddr = ip->daddr;
		ip->daddr = address;
		ip->ttl = HOPS_MAX;
		ip->check = 0;
		ip->check = ~fold(sum_ip4(ip));
	}
	swap_macs(eth);
	note(ctx, packet, BGF_REFLECT, ctx->ingress_ifindex, packet->key.vlan);
	/* Not XDP_TX: a veth leaves those frames lying until it sends something else, unless its peer
	 * has an XDP program too. Forwarding needs redirection to work anyway. */
	return (int)bpf_redirect(ctx->ingress_ifindex, 0);
}

#endif
