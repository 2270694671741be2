// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0
/*
 * The packet path: pinhole firewall and NAPT between IPv4 and IPv6, and the S-BFD reflector.
 *
 * Knows: the maps of bgf.h. Decides by them alone; it allocates nothing and no process need live.
 * Needs nothing newer than Linux 5.15. In order, a packet is
 *   - not for this interface's MAC address, or no UDP to a guarded address: the kernel's (PASS);
 *   - an S-BFD probe for this node: reflected, whatever the groups' state;
 *   - for a pinhole: refused for one of the reasons in bgf.h, or rewritten and sent on.
 * What reaches a guarded address without a pinhole is dropped; ARP, ICMP and ND are the kernel's.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bgf.h"
#include "sums.h"

#define SBFD_PORT 7784		 /* RFC 7881 section 4 */
#define SBFD_VERSION 1		 /* RFC 5880 section 4.1 */
#define SBFD_UP_INDEPENDENT 0xc8 /* state Up (3 << 6), control plane independent (C) */
#define SBFD_POLL 0x20
#define SBFD_FINAL 0x10
#define SBFD_AUTH_OR_MULTIPOINT 0x05
#define SBFD_LENGTH_MIN 24
#define HOPS_MAX 255	       /* RFC 7881 section 5: TTL and hop limit of what is reflected */
#define IP4_FRAGMENT 0x3fff    /* more fragments, or an offset */
#define IP4_DONT_FRAGMENT 0x4000
#define GROWTH ((int)(sizeof(struct ipv6hdr) - sizeof(struct iphdr)))
/* The half of a v4-mapped address that an IPv4 address is put into, as it stands in memory. */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the committed skeleton is little-endian"
#endif
#define MAPPED 0xffff0000u

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define MAP(name, kind, k, v, entries)                                                             \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__uint(max_entries, entries);                                                      \
		__type(key, k);                                                                    \
		__type(value, v);                                                                  \
	} name SEC(".maps")

struct group_id {
	char text[BGF_GROUP_ID_LEN];
};

/* The sizes are those of BGF_MAPS unless the loader sets others. */
#define SIZE(map, entries) SIZE_##map = entries,
enum { BGF_MAPS(SIZE) };

MAP(config, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_config, SIZE_config);
MAP(groups, BPF_MAP_TYPE_ARRAY, __u32, struct group_id, SIZE_groups);
MAP(armed, BPF_MAP_TYPE_ARRAY, __u32, __u64, SIZE_armed);
MAP(interfaces, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_interface, SIZE_interfaces);
MAP(guarded, BPF_MAP_TYPE_HASH, struct bgf_address, __u32, SIZE_guarded);
MAP(pinholes, BPF_MAP_TYPE_HASH, struct bgf_key, struct bgf_pinhole, SIZE_pinholes);
MAP(stats, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct bgf_stats, SIZE_stats);
MAP(nexthops, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_nexthop, SIZE_nexthops);
MAP(outcomes, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, SIZE_outcomes);

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

/* What a packet is found by and judged by, whichever its IP version. */
struct packet {
	struct bgf_key key;
	struct bgf_address source;
	__be16 source_port;
	__u16 length;	  /* of the IP packet, bytes */
	__u16 udp_length; /* header and payload, bytes */
	__u8 hops;
	bool ip6;
};

/* ---- bookkeeping ----------------------------------------------------------------------------- */

static __always_inline struct bgf_trace *traced(struct xdp_md *ctx)
{
	struct bgf_trace *trace = (void *)(long)ctx->data_meta;

	if (likely((void *)(trace + 1) > (void *)(long)ctx->data))
		return NULL;
	return trace->magic == BGF_TRACE_MAGIC ? trace : NULL;
}

static __always_inline void note(struct xdp_md *ctx, __u32 outcome, __u32 ifindex)
{
	struct bgf_trace *trace = traced(ctx);
	__u64 *count;

	if (unlikely(trace != NULL)) {
		trace->outcome = outcome;
		trace->ifindex = ifindex;
		return;
	}
	count = bpf_map_lookup_elem(&outcomes, &outcome);
	if (likely(count != NULL))
		(*count)++;
}

static __always_inline int refuse(struct xdp_md *ctx, __u32 outcome)
{
	note(ctx, outcome, 0);
	return XDP_DROP;
}

static __always_inline bool is_ours(struct xdp_md *ctx, const struct ethhdr *eth)
{
	const __u16 *want, *have = (const __u16 *)eth->h_dest;
	__u32 ifindex = ctx->ingress_ifindex, probe;
	const struct bgf_interface *own;

#pragma clang loop unroll(full)
	for (probe = 0; probe < BGF_PROBES; probe++) {
		__u32 place = (ifindex + probe) % BGF_INTERFACE_PLACES;

		own = bpf_map_lookup_elem(&interfaces, &place);
		if (!own)
			return false;
		if (likely(own->ifindex == ifindex)) {
			want = (const __u16 *)own->mac;
			return have[0] == want[0] && have[1] == want[1] && have[2] == want[2];
		}
	}
	return false;
}

/* ---- S-BFD (RFC 7880, RFC 7881) -------------------------------------------------------------- */

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
static __always_inline int reflect(struct xdp_md *ctx, const struct packet *packet)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 zero = 0, headers = packet->ip6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct udphdr *udp = (void *)(eth + 1) + headers;
	struct sbfd *sbfd = (void *)(udp + 1);
	struct bgf_config *node;
	__u16 before, after;
	__be16 port;
	__be32 mine;

	if ((void *)(sbfd + 1) > end)
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
		struct ipv6hdr *ip = (void *)(eth + 1);
		struct in6_addr address = ip->saddr;

		ip->saddr = ip->daddr;
		ip->daddr = address;
		ip->hop_limit = HOPS_MAX;
	} else {
		struct iphdr *ip = (void *)(eth + 1);
		__be32 address = ip->saddr;

		ip->saddr = ip->daddr;
		ip->daddr = address;
		ip->ttl = HOPS_MAX;
		ip->check = 0;
		ip->check = ~sum_ip4(ip);
	}
	swap_macs(eth);
	note(ctx, BGF_REFLECT, ctx->ingress_ifindex);
	/* Not XDP_TX: a veth leaves those frames lying until it sends something else, unless its peer
	 * has an XDP program too. Forwarding needs redirection to work anyway. */
	return (int)bpf_redirect(ctx->ingress_ifindex, 0);
}

/* ---- NAPT ------------------------------------------------------------------------------------ */

static __always_inline bool same_key(const struct bgf_pinhole *pinhole, const struct bgf_key *key)
{
	const volatile struct bgf_key *now = &pinhole->key;

	return now->local.lo == key->local.lo && now->local.hi == key->local.hi &&
	       now->ifindex == key->ifindex && now->port_be == key->port_be;
}

static __always_inline void write_ip6(struct ipv6hdr *ip, const struct bgf_pinhole *pinhole)
{
	__builtin_memcpy(&ip->saddr, &pinhole->local_out, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &pinhole->remote, sizeof(ip->daddr));
}

static __always_inline void write_ip4(struct iphdr *ip, const struct bgf_pinhole *pinhole)
{
	ip->saddr = ((const __be32 *)&pinhole->local_out)[3];
	ip->daddr = ((const __be32 *)&pinhole->remote)[3];
	ip->check = 0;
	ip->check = ~sum_ip4(ip);
}

/*
 * Makes the packet the one that `pinhole` says; what it returns is an outcome, FORWARD when done.
 * The UDP checksum is mended by the difference between the old addresses and ports and the new
 * ones: the length and the protocol stand in both pseudo headers alike.
 */
static __always_inline __u32 rewrite(struct xdp_md *ctx, const struct packet *packet,
				     const struct bgf_pinhole *pinhole,
				     const struct bgf_nexthop *next)
{
	bool out_ip6 = pinhole->flags & BGF_OUT_IP6;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct udphdr *udp;
	__u16 was, check;

	/* A v4-mapped address sums to 0xffff more than its IPv4 part, which is nothing here. */
	was = fold(sum_address(&packet->key.local) + sum_address(&packet->source) +
		   packet->key.port_be + packet->source_port);

	if (packet->ip6 == out_ip6) {
		if (out_ip6) {
			struct ipv6hdr *ip = (void *)(eth + 1);

			udp = (void *)(ip + 1);
			if ((void *)(udp + 1) > end)
				return BGF_MALFORMED;
			ip->hop_limit--;
			write_ip6(ip, pinhole);
		} else {
			struct iphdr *ip = (void *)(eth + 1);

			udp = (void *)(ip + 1);
			if ((void *)(udp + 1) > end)
				return BGF_MALFORMED;
			ip->ttl--;
			write_ip4(ip, pinhole);
		}
		check = udp->check;
		if (check)
			check = udp_check((__u64)(__u16)~check + (__u16)~was + pinhole->sum_out);
	} else if (out_ip6) {
		struct iphdr *old = (void *)(eth + 1);
		struct ipv6hdr *ip;
		__u8 tos;

		udp = (void *)(old + 1);
		if ((void *)(udp + 1) > end)
			return BGF_MALFORMED;
		tos = old->tos;
		check = udp->check;
		if (likely(check != 0)) {
			check = udp_check((__u64)(__u16)~check + (__u16)~was + pinhole->sum_out);
		} else {
			/* IPv6 demands one (RFC 8200 section 8.1); the ports go in with sum_out. */
			__s64 sum;

			udp->source = 0;
			udp->dest = 0;
			sum = sum_bytes(udp, end, packet->udp_length);
			if (sum < 0)
				return BGF_TOO_BIG;
			check = udp_check((__u64)sum + pinhole->sum_out +
					  bpf_htons(packet->udp_length) + bpf_htons(IPPROTO_UDP));
		}
		if (bpf_xdp_adjust_head(ctx, -GROWTH))
			return BGF_TOO_BIG;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		eth = data;
		ip = (void *)(eth + 1);
		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return BGF_MALFORMED;
		eth->h_proto = bpf_htons(ETH_P_IPV6);
		*(__be32 *)ip = bpf_htonl(6 << 28 | tos << 20); /* no flow label (RFC 7915 4.1) */
		ip->payload_len = bpf_htons(packet->length - (__u16)sizeof(struct iphdr));
		ip->nexthdr = IPPROTO_UDP;
		ip->hop_limit = packet->hops - 1;
		write_ip6(ip, pinhole);
	} else {
		struct ipv6hdr *old = (void *)(eth + 1);
		struct iphdr *ip;
		__u8 tos;

		if ((void *)(old + 1) > end)
			return BGF_MALFORMED;
		tos = (__u8)(bpf_ntohl(*(__be32 *)old) >> 20);
		if (bpf_xdp_adjust_head(ctx, GROWTH))
			return BGF_MALFORMED;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		eth = data;
		ip = (void *)(eth + 1);
		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return BGF_MALFORMED;
		eth->h_proto = bpf_htons(ETH_P_IP);
		ip->version = 4;
		ip->ihl = 5;
		ip->tos = tos;
		ip->tot_len = bpf_htons(packet->length - (__u16)GROWTH);
		/* IPv6 senders fragment themselves: keep it so. An atomic datagram needs no
		 * identification (RFC 6864 section 4.1). */
		ip->id = 0;
		ip->frag_off = bpf_htons(IP4_DONT_FRAGMENT);
		ip->ttl = packet->hops - 1;
		ip->protocol = IPPROTO_UDP;
		write_ip4(ip, pinhole);
		check = udp_check((__u64)(__u16)~udp->check + (__u16)~was + pinhole->sum_out);
	}
	__builtin_memcpy(eth, next->macs, sizeof(next->macs));
	udp->source = pinhole->local_port_be;
	udp->dest = pinhole->remote_port_be;
	udp->check = check;
	return BGF_FORWARD;
}

static __always_inline bool admits(const struct bgf_pinhole *pinhole, const struct packet *packet)
{
	if (pinhole->flags & BGF_SOURCE_HOST && (pinhole->source.lo != packet->source.lo ||
						 pinhole->source.hi != packet->source.hi))
		return false;
	return !(pinhole->flags & BGF_SOURCE_PORT) ||
	       pinhole->source_port_be == packet->source_port;
}

/* The action for what has a pinhole, 0 for what has none. */
static __always_inline int forward(struct xdp_md *ctx, const struct packet *packet)
{
	struct bgf_pinhole *pinhole = bpf_map_lookup_elem(&pinholes, &packet->key);
	struct bgf_nexthop *next;
	struct bgf_stats *stat;
	__u32 outcome, index, length, ifindex;
	__u64 now, *deadline;

	if (!pinhole)
		return 0;

	now = bpf_ktime_get_boot_ns();
	index = pinhole->group;
	deadline = bpf_map_lookup_elem(&armed, &index);
	if (!deadline || now >= *deadline)
		return refuse(ctx, BGF_DISARMED);
	if (!(pinhole->flags & BGF_OPEN))
		return refuse(ctx, BGF_GATE_CLOSED);
	if (!admits(pinhole, packet))
		return refuse(ctx, BGF_BAD_SOURCE);
	if (packet->hops <= 1)
		return refuse(ctx, BGF_TTL);
	index = pinhole->nexthop;
	next = bpf_map_lookup_elem(&nexthops, &index);
	if (!next || !next->mtu)
		return refuse(ctx, BGF_NO_NEIGHBOUR);
	ifindex = next->ifindex;
	length = packet->length;
	if (!packet->ip6 && pinhole->flags & BGF_OUT_IP6)
		length += GROWTH;
	else if (packet->ip6 && !(pinhole->flags & BGF_OUT_IP6))
		length -= GROWTH;
	if (length > next->mtu)
		return refuse(ctx, BGF_TOO_BIG);

	outcome = rewrite(ctx, packet, pinhole, next);
	index = pinhole->slot;
	if (unlikely(!same_key(pinhole, &packet->key)))
		outcome = BGF_NO_PINHOLE; /* it was closed meanwhile */
	if (unlikely(outcome != BGF_FORWARD))
		return refuse(ctx, outcome);
	note(ctx, BGF_FORWARD, ifindex);
	if (unlikely(traced(ctx) != NULL))
		return XDP_REDIRECT;
	stat = bpf_map_lookup_elem(&stats, &index);
	if (likely(stat != NULL)) {
		stat->packets++;
		stat->bytes += packet->udp_length - sizeof(struct udphdr);
		stat->last_seen_ns = now;
	}
	return (int)bpf_redirect(ifindex, 0);
}

/* ---- parsing --------------------------------------------------------------------------------- */

/*
 * Both fill `packet`, its local address first, and return FORWARD when it is whole UDP, PASS when it
 * is the kernel's whatever its address, else the outcome that it has at a guarded address.
 */
static __always_inline __u32 parse_ip4(void *at, void *end, struct packet *packet)
{
	struct iphdr *ip = at;
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(ip + 1) > end || ip->version != 4)
		return BGF_PASS;
	packet->key.local.lo = MAPPED | (__u64)ip->daddr << 32;
	if (ip->protocol != IPPROTO_UDP)
		return ip->protocol == IPPROTO_ICMP ? BGF_PASS : BGF_NO_PINHOLE;
	if (ip->frag_off & bpf_htons(IP4_FRAGMENT))
		return BGF_FRAGMENT;
	/* Options have no place in media (RFC 7126): a packet with any is malformed to us. */
	if (ip->ihl != 5 || (void *)(udp + 1) > end)
		return BGF_MALFORMED;
	packet->length = bpf_ntohs(ip->tot_len);
	packet->udp_length = bpf_ntohs(udp->len);
	if (packet->length > end - at || packet->udp_length < sizeof(*udp) ||
	    packet->udp_length + sizeof(*ip) > packet->length || sum_ip4(ip) != 0xffff)
		return BGF_MALFORMED;
	packet->source.lo = MAPPED | (__u64)ip->saddr << 32;
	packet->hops = ip->ttl;
	packet->key.port_be = udp->dest;
	packet->source_port = udp->source;
	return BGF_FORWARD;
}

static __always_inline bool is_mapped(const struct bgf_address *address)
{
	return !address->hi && (__u32)address->lo == MAPPED;
}

static __always_inline __u32 parse_ip6(void *at, void *end, struct packet *packet)
{
	struct ipv6hdr *ip = at;
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(ip + 1) > end || ip->version != 6)
		return BGF_PASS;
	packet->ip6 = true;
	__builtin_memcpy(&packet->key.local, &ip->daddr, sizeof(ip->daddr));
	if (ip->nexthdr == IPPROTO_ICMPV6)
		return BGF_PASS;
	if (ip->nexthdr == IPPROTO_FRAGMENT)
		return BGF_FRAGMENT;
	/* Other extension headers are no media either; whatever they hide has no pinhole. */
	if (ip->nexthdr != IPPROTO_UDP)
		return BGF_NO_PINHOLE;
	if ((void *)(udp + 1) > end)
		return BGF_MALFORMED;
	packet->length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	packet->udp_length = bpf_ntohs(udp->len);
	/* No checksum is no IPv6 (RFC 8200 section 8.1). */
	if (bpf_ntohs(ip->payload_len) > end - (void *)udp || packet->udp_length < sizeof(*udp) ||
	    packet->udp_length > bpf_ntohs(ip->payload_len) || !udp->check)
		return BGF_MALFORMED;
	__builtin_memcpy(&packet->source, &ip->saddr, sizeof(ip->saddr));
	/* Our own way to write IPv4, which nobody may send (RFC 4291 section 2.5.5.2). */
	if (is_mapped(&packet->source) || is_mapped(&packet->key.local))
		return BGF_MALFORMED;
	packet->hops = ip->hop_limit;
	packet->key.port_be = udp->dest;
	packet->source_port = udp->source;
	return BGF_FORWARD;
}

SEC("xdp")
int bgf_xdp(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct packet packet = {};
	__u32 outcome;
	int action;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		outcome = parse_ip4(eth + 1, end, &packet);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		outcome = parse_ip6(eth + 1, end, &packet);
	else
		return XDP_PASS;
	if (outcome == BGF_PASS || !is_ours(ctx, eth))
		return XDP_PASS;
	if (unlikely(outcome == BGF_FORWARD && packet.key.port_be == bpf_htons(SBFD_PORT))) {
		action = reflect(ctx, &packet);
		if (action)
			return action;
	}
	if (likely(outcome == BGF_FORWARD)) {
		packet.key.ifindex = ctx->ingress_ifindex;
		action = forward(ctx, &packet);
		if (action)
			return action;
		outcome = BGF_NO_PINHOLE;
	}
	/* No pinhole could take it: dropped at a guarded address, else the kernel's. */
	if (!bpf_map_lookup_elem(&guarded, &packet.key.local))
		return XDP_PASS;
	return refuse(ctx, outcome);
}

char _license[] SEC("license") = "Dual BSD/GPL";
