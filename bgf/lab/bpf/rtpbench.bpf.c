/* Two XDP programs for benchmarks of a packet path: a forwarder that does the least, and a sink.
 *
 * rtp_bare stands in the gateway's place: new addresses of the same family, one hop less, both
 * checksums mended, redirected. It finds nothing out: what it writes stands in one element of an
 * array, the same for every packet. So it is what any forwarder has to do, and no more.
 *
 * rtp_sink stands at the receiver: it counts generated packets and drops them, others pass. When
 * asked to, it records how long each was under way, by the time that the generator wrote into it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "rtpbench.h"
#include "rtpload.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rtpbench_bare);
} rb_bare SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rtpbench_arrivals);
} rb_arrivals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RTPBENCH_DELAYS);
	__type(key, __u32);
	__type(value, __u64);
} rb_delays SEC(".maps");

static __always_inline __u64 sum(const void *at, int words)
{
	const __u32 *word = at;
	__u64 total = 0;
	int i;

#pragma clang loop unroll(full)
	for (i = 0; i < words; i++)
		total += word[i];
	return total;
}

/* The sum as 16 bits (RFC 1071). */
static __always_inline __u16 fold(__u64 total)
{
	total = (total & 0xffffffff) + (total >> 32);
	total = (total & 0xffff) + (total >> 16);
	total = (total & 0xffff) + (total >> 16);
	total = (total & 0xffff) + (total >> 16);
	return (__u16)total;
}

/* `check` after a part that summed to `was` has become one that sums to `is` (RFC 1624). */
static __always_inline __u16 mend(__u16 check, __u64 was, __u64 is)
{
	__u16 mended = ~fold((__u64)(__u16)~check + (__u16)~fold(was) + is);

	return mended ? mended : 0xffff;
}

SEC("xdp")
int rtp_bare(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct rtpbench_bare *bare;
	struct udphdr *udp;
	__u32 zero = 0;
	__u64 was;

	bare = bpf_map_lookup_elem(&rb_bare, &zero);
	if (!bare || (void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || ip->protocol != IPPROTO_UDP || ip->ihl != 5)
			return XDP_PASS;
		was = sum(&ip->saddr, 2);
		__builtin_memcpy(&ip->saddr, bare->source4, 4);
		__builtin_memcpy(&ip->daddr, bare->destination4, 4);
		ip->ttl--;
		ip->check = 0;
		ip->check = ~fold(sum(ip, 5));
		if (udp->check)
			udp->check = mend(udp->check, was, sum(&ip->saddr, 2));
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end || ip->nexthdr != IPPROTO_UDP)
			return XDP_PASS;
		was = sum(&ip->saddr, 8);
		__builtin_memcpy(&ip->saddr, bare->source6, 16);
		__builtin_memcpy(&ip->daddr, bare->destination6, 16);
		ip->hop_limit--;
		udp->check = mend(udp->check, was, sum(&ip->saddr, 8));
	} else {
		return XDP_PASS;
	}
	__builtin_memcpy(eth, bare->macs, sizeof(bare->macs));
	return (int)bpf_redirect(bare->ifindex, 0);
}

static __always_inline __u32 delay_class(__u64 delay)
{
	__u32 bit = 0, shift, class;
	__u64 rest = delay;

	/* The highest bit: clang has no instruction of this machine's for it. */
	if (rest >> 32) {
		bit += 32;
		rest >>= 32;
	}
	if (rest >> 16) {
		bit += 16;
		rest >>= 16;
	}
	if (rest >> 8) {
		bit += 8;
		rest >>= 8;
	}
	if (rest >> 4) {
		bit += 4;
		rest >>= 4;
	}
	if (rest >> 2) {
		bit += 2;
		rest >>= 2;
	}
	bit += rest >> 1;
	shift = bit > RTPBENCH_DELAY_BITS ? bit - RTPBENCH_DELAY_BITS : 0;
	class = (shift << RTPBENCH_DELAY_BITS) + (__u32)(delay >> shift);
	return class < RTPBENCH_DELAYS ? class : RTPBENCH_DELAYS - 1;
}

SEC("xdp")
int rtp_sink(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct rtpbench_arrivals *arrivals;
	struct rtpload_stamp *stamp;
	struct udphdr *udp;
	__u32 zero = 0;

	arrivals = bpf_map_lookup_elem(&rb_arrivals, &zero);
	if (!arrivals || (void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		udp = (void *)(eth + 1) + sizeof(struct iphdr);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		udp = (void *)(eth + 1) + sizeof(struct ipv6hdr);
	else
		goto other;
	stamp = (void *)(udp + 1) + RTPLOAD_RTP;
	if ((void *)(stamp + 1) > end || stamp->magic != bpf_htonl(RTPLOAD_MAGIC))
		goto other;
	arrivals->packets++;
	arrivals->bytes += bpf_ntohs(udp->len) - sizeof(*udp);
	if (arrivals->timed) {
		__u32 class = delay_class(bpf_ktime_get_boot_ns() - stamp->sent_ns);
		__u64 *count = bpf_map_lookup_elem(&rb_delays, &class);

		if (count)
			(*count)++;
	}
	return XDP_DROP;

other:
	arrivals->others++;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
