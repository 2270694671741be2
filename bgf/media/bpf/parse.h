/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/*
 * From bytes to struct packet, and what is wrong with those that are no whole UDP packet.
 *
 * Both IP parsers fill the local address first, and return FORWARD when it is whole UDP, PASS when it
 * is the kernel's whatever its address, RUNT when there is no address to read, else the outcome
 * that it has at a guarded address.
 */
#ifndef BGF_PARSE_H
#define BGF_PARSE_H

#define IP4_FRAGMENT 0x3fff /* more fragments, or an offset */
/* The half of a v4-mapped address that an IPv4 address is put into, as it stands in memory. */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the committed skeleton is little-endian"
#endif
#define MAPPED 0xffff0000u
#define ICMP4_UNREACHABLE 3 /* RFC 792 */
#define ICMP4_QUENCH 4
#define ICMP4_REDIRECT 5
#define ICMP4_TIME 11
#define ICMP4_PARAMETER 12
#define ICMP6_INFORMATIONAL 128 /* RFC 4443 section 2.1: errors are below */

/*
 * ICMP is the kernel's, which answers pings and drops errors about packets that no socket of its
 * has sent; they are told apart in the counts. Media ends do not wait for such errors: what is
 * lost, RTCP says. `error` is whether the type is one.
 */
static __always_inline __u32 icmp(bool error)
{
	return error ? BGF_ICMP_ERROR : BGF_ICMP;
}

/* The bit in which versions 4 and 6 differ. */
static __always_inline __u8 version_bit(const __u8 *at)
{
	return *at >> 5 & 1;
}

static __always_inline __u32 parse_ip4(void *at, void *end, struct packet *packet)
{
	struct iphdr *ip = at;
	struct udphdr *udp = (void *)(ip + 1);
	__u16 length;

	if ((void *)(ip + 1) > end)
		return BGF_RUNT;
	if (ip->version != 4)
		return BGF_PASS;
	packet->key.local.lo = MAPPED | (__u64)ip->daddr << 32;
	if (unlikely(ip->protocol != IPPROTO_UDP)) {
		__u8 *type = (void *)(ip + 1);

		if (ip->protocol != IPPROTO_ICMP)
			return BGF_NO_PINHOLE;
		if (ip->ihl != 5 || (void *)(type + 1) > end)
			return BGF_ICMP;
		return icmp((*type >= ICMP4_UNREACHABLE && *type <= ICMP4_REDIRECT) ||
			    *type == ICMP4_TIME || *type == ICMP4_PARAMETER);
	}
	if (ip->frag_off & bpf_htons(IP4_FRAGMENT))
		return BGF_FRAGMENT;
	/* Options have no place in media (RFC 7126). */
	if (unlikely(ip->ihl != 5))
		return ip->ihl > 5 ? BGF_OPTIONS : BGF_MALFORMED;
	if ((void *)(udp + 1) > end)
		return BGF_RUNT;
	length = bpf_ntohs(ip->tot_len);
	packet->udp_length = bpf_ntohs(udp->len);
	if (length > end - at || packet->udp_length < sizeof(*udp) ||
	    packet->udp_length + sizeof(*ip) > length || !is_ip4_whole(ip))
		return BGF_MALFORMED;
	packet->payload = length - (__u16)sizeof(*ip);
	packet->source.lo = MAPPED | (__u64)ip->saddr << 32;
	/* A v4-mapped address sums to 0xffff more than its IPv4 part, which is nothing here. */
	packet->sum = (__u64)ip->saddr + ip->daddr + udp->dest + udp->source;
	packet->ip6 = version_bit(at);
	packet->hops = ip->ttl;
	packet->tos = ip->tos;
	packet->key.port_be = udp->dest;
	packet->source_port = udp->source;
	return BGF_FORWARD;
}

static __always_inline bool is_mapped(const struct bgf_address *address)
{
	return !address->hi && (__u32)address->lo == MAPPED;
}

static __always_inline bool is_extension(__u8 header)
{
	return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING || header == IPPROTO_DSTOPTS;
}

static __always_inline __u32 parse_ip6(void *at, void *end, struct packet *packet)
{
	struct ipv6hdr *ip = at;
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(ip + 1) > end)
		return BGF_RUNT;
	if (ip->version != 6)
		return BGF_PASS;
	__builtin_memcpy(&packet->key.local, &ip->daddr, sizeof(ip->daddr));
	if (unlikely(ip->nexthdr != IPPROTO_UDP)) {
		__u8 *type = (void *)(ip + 1);

		if (ip->nexthdr == IPPROTO_ICMPV6)
			return icmp((void *)(type + 1) <= end && *type < ICMP6_INFORMATIONAL);
		if (ip->nexthdr == IPPROTO_FRAGMENT)
			return BGF_FRAGMENT;
		/* What they hide is not looked for: media has none. */
		return is_extension(ip->nexthdr) ? BGF_OPTIONS : BGF_NO_PINHOLE;
	}
	if ((void *)(udp + 1) > end)
		return BGF_RUNT;
	packet->payload = bpf_ntohs(ip->payload_len);
	packet->udp_length = bpf_ntohs(udp->len);
	/* No checksum is no IPv6 (RFC 8200 section 8.1). */
	if (packet->payload > end - (void *)udp || packet->udp_length < sizeof(*udp) ||
	    packet->udp_length > packet->payload || !udp->check)
		return BGF_MALFORMED;
	__builtin_memcpy(&packet->source, &ip->saddr, sizeof(ip->saddr));
	packet->sum = sum_address(&packet->source) + sum_address(&packet->key.local) + udp->dest +
		      udp->source;
	/* Our own way to write IPv4, which nobody may send (RFC 4291 section 2.5.5.2). */
	if (is_mapped(&packet->source) || is_mapped(&packet->key.local))
		return BGF_MALFORMED;
	packet->ip6 = version_bit(at);
	packet->hops = ip->hop_limit;
	packet->tos = (__u8)(bpf_ntohl(*(__be32 *)ip) >> 20);
	packet->key.port_be = udp->dest;
	packet->source_port = udp->source;
	return BGF_FORWARD;
}

/*
 * Fills `packet`, which is all zero, and tells what it is: FORWARD for whole UDP to one of the
 * realms' interfaces, else an outcome; PASS and VLAN hold whatever the address.
 */
static __always_inline __u32 parse(struct xdp_md *ctx, struct packet *packet)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	void *at = eth + 1;
	__u32 outcome;
	__be16 proto;

	if (at > end)
		return BGF_PASS;
	proto = *(const __be16 *)(at - sizeof(proto)); /* the compiler takes eth->h_proto for unaligned */
	if (unlikely(proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD))) {
		struct vlan_tag *tag = at;

		at = tag + 1;
		if (at > end)
			return BGF_PASS;
		packet->key.vlan = bpf_ntohs(tag->control) & VLAN_MASK; /* 0: only a priority */
		if (proto != bpf_htons(ETH_P_8021Q) || tag->proto == bpf_htons(ETH_P_8021Q))
			packet->key.vlan = VLAN_NONE;
		proto = tag->proto;
	}
	if (unlikely(!is_ours(ctx, eth, packet)))
		return packet->key.vlan && packet->place == BGF_INTERFACE_PLACES ? BGF_VLAN : BGF_PASS;
	if (proto == bpf_htons(ETH_P_IP))
		outcome = parse_ip4(at, end, packet);
	else if (proto == bpf_htons(ETH_P_IPV6))
		outcome = parse_ip6(at, end, packet);
	else
		return BGF_PASS;
	packet->tag = (at - (void *)(eth + 1)) & TAG_BYTES;
	return outcome;
}

#endif
