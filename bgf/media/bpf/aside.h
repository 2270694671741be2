/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/*
 * What shares a port with RTP and goes another way (RFC 7983): STUN checks to user space, which
 * answers them; RTCP, where the far side has a port of its own for it, by the pinhole of the next
 * port. A pinhole that has neither costs one test of two bits.
 */
#ifndef BGF_ASIDE_H
#define BGF_ASIDE_H

#define STUN_HEADER 20
#define STUN_FIRST_MAX 3 /* RFC 7983 section 7 */
#define STUN_COOKIE 0x2112a442u /* RFC 8489 section 5 */
#define STUN_ALIGN 3
#define CHECK_BYTES_MAX 1514u /* of a frame with one; a longer one is told cut off */

enum aside {
	ASIDE_NO,
	ASIDE_CHECK,
	ASIDE_RTCP,
};

static __always_inline __be16 next_port(__be16 port)
{
	return bpf_htons(bpf_ntohs(port) + 1);
}

/* Which of these it is, as far as the pinhole asks. */
APART int aside(struct xdp_md *ctx, const struct packet *packet, __u32 flags)
{
	void *end = (void *)(long)ctx->data_end;
	__u32 headers, length;
	__u8 *at;

	if (!packet)
		return ASIDE_NO;
	headers = sizeof(struct udphdr) +
		  (packet->ip6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	at = (void *)(long)ctx->data + ETH_HLEN + packet->tag + headers;
	length = packet->udp_length - sizeof(struct udphdr);
	if (length < RTCP_HEADER || at + RTCP_HEADER > (__u8 *)end)
		return ASIDE_NO;
	if (flags & BGF_DEMUX && at[0] >> 6 == RTP_VERSION && at[1] >= RTCP_FIRST &&
	    at[1] <= RTCP_LAST)
		return ASIDE_RTCP;
	if (flags & BGF_CHECKS && at[0] <= STUN_FIRST_MAX && length >= STUN_HEADER &&
	    !(at[3] & STUN_ALIGN) && *(__be32 *)(at + 4) == bpf_htonl(STUN_COOKIE))
		return ASIDE_CHECK;
	return ASIDE_NO;
}

/* A copy for who answers it. */
APART int tell_check(struct xdp_md *ctx, const struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct bgf_captured head = {};
	__u64 length;

	if (!packet || traced(ctx))
		return 0;
	asm volatile("" : "+r"(data), "+r"(end)); /* see capture() */
	length = end - data;
	head.key = packet->key;
	head.time_ns = packet->now_ns;
	head.length = length;
	head.kept = length < CHECK_BYTES_MAX ? length : CHECK_BYTES_MAX;
	head.ifindex = packet->key.ifindex;
	head.vlan = packet->key.vlan;
	/* Where nobody listens, the peer asks again (RFC 8489 section 6.2.1). */
	return (int)bpf_perf_event_output(ctx, &checks,
					  (__u64)head.kept << 32 | BPF_F_CURRENT_CPU, &head,
					  sizeof(head));
}

#endif
