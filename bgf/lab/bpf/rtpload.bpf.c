/* XDP programs of the lab: `rtp_generate` and `rtp_flood` write RTP packets, `rtp_meter` times them.
 *
 * rtp_generate receives nothing. User space runs it with BPF_PROG_TEST_RUN and
 * BPF_F_TEST_XDP_LIVE_FRAMES (Linux 5.18): every run is one packet, sent out of the device named
 * in the context. A frame is a recycled page that keeps whatever its last receiver wrote into
 * it, at whatever offset: so every octet is written every time, the silence included.
 *
 * rtp_flood is the same for rates that no process could time: it keeps the schedule itself, and a
 * run in which nothing is due sends nothing. It holds its processor all the time.
 *
 * rtp_meter sits on the receiving veth. It consumes generated frames after checking them, records
 * other RTP and lets it pass, and does not touch anything else. Both programs keep no state but
 * the maps; one receive queue runs one at a time, so the counters need no atomics.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "rtpload.h"

#define IP_FRAGMENT_MASK 0x3fff /* more-fragments flag and offset (RFC 791) */
#define IP_DONT_FRAGMENT 0x4000
#define HOP_LIMIT 64
#define RTP_VERSION_MASK 0xc0
#define RTP_VERSION_2 0x80
#define RTCP_TYPE_FIRST 64 /* payload types 64..95 are RTCP when muxed (RFC 5761 section 4) */
#define RTCP_TYPE_LAST 95

struct rtp {
	__u8 bits;
	__u8 type;
	__u16 sequence;
	__u32 timestamp;
	__u32 ssrc;
};

struct media {
	struct udphdr udp;
	struct rtp rtp;
	union {
		struct rtpload_stamp stamp;
		__u8 octets[RTPLOAD_PAYLOAD];
	};
} __attribute__((packed, aligned(2)));

_Static_assert(sizeof(struct media) == RTPLOAD_UDP_LENGTH, "media");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RTPLOAD_FLOWS_MAX);
	__type(key, __u32);
	__type(value, struct rtpload_flow);
} rl_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RTPLOAD_HOPS_MAX);
	__type(key, __u32);
	__type(value, struct rtpload_hop);
} rl_hops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rtpload_cursor);
} rl_cursor SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rtpload_pace);
} rl_pace SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rtpload_meter);
} rl_meter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rtpload_totals);
} rl_totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, RTPLOAD_FLOWS_MAX);
	__type(key, struct rtpload_key);
	__type(value, struct rtpload_report);
} rl_reports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, RTPLOAD_FLOWS_MAX);
	__type(key, struct rtpload_endpoint);
	__type(value, struct rtpload_expected);
} rl_expected SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, RTPLOAD_WATCHED_MAX);
	__type(key, __u8[16]);
	__type(value, __u32);
} rl_watched SEC(".maps");

static __always_inline void copy16(void *to, const void *from)
{
	__builtin_memcpy(to, from, 16);
}

static __always_inline int same16(const void *a, const void *b)
{
	const __u32 *x = a, *y = b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

static __always_inline void map_ip4(__u8 to[16], __u32 address)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = address;
}

static __always_inline __u32 sum32(__u32 word)
{
	return (word >> 16) + (word & 0xffff);
}

static __always_inline __u32 sum64(__u64 word)
{
	return sum32(word >> 32) + sum32((__u32)word);
}

/* The checksum of RFC 1071 from a sum of 16-bit words that is below 2^32. */
static __always_inline __u16 finish(__u32 sum)
{
	sum = sum32(sum);
	sum = sum32(sum);
	return ~sum;
}

/* UDP, RTP and payload. The silence is all ones, which adds nothing to a one's complement sum. */
static __always_inline void write_media(struct media *media, struct rtpload_flow *flow, __u64 round,
					__u32 timestamp_step)
{
	__u32 timestamp = bpf_htonl(flow->timestamp + (__u32)round * timestamp_step);
	__u16 sequence = bpf_htons(flow->sequence++);
	__u64 now_ns = bpf_ktime_get_boot_ns();
	__u32 sum = flow->base_sum;

	media->udp.source = flow->source_port;
	media->udp.dest = flow->destination_port;
	media->udp.len = bpf_htons(RTPLOAD_UDP_LENGTH);
	media->rtp.bits = RTP_VERSION_2;
	media->rtp.type = flow->payload_type;
	media->rtp.sequence = sequence;
	media->rtp.timestamp = timestamp;
	media->rtp.ssrc = bpf_htonl(flow->ssrc);
	__builtin_memset(media->octets, 0xff, sizeof(media->octets));
	media->stamp.magic = bpf_htonl(RTPLOAD_MAGIC);
	media->stamp.flow = bpf_htonl(flow->ssrc);
	media->stamp.sent_ns = now_ns;
	media->stamp.round = round;

	sum += sequence + sum32(timestamp) + sum64(now_ns) + sum64(round);
	media->udp.check = finish(sum);
	if (!media->udp.check)
		media->udp.check = 0xffff; /* zero means "none" in UDP (RFC 768) */
}

static __always_inline void write_ethernet(struct ethhdr *eth, const struct rtpload_hop *hop,
					   __u16 proto)
{
	__builtin_memcpy(eth->h_dest, hop->destination, ETH_ALEN);
	__builtin_memcpy(eth->h_source, hop->source, ETH_ALEN);
	eth->h_proto = bpf_htons(proto);
}

static __always_inline int generate(struct xdp_md *ctx)
{
	struct rtpload_cursor *cursor;
	struct rtpload_flow *flow;
	struct rtpload_hop *hop;
	struct media *media;
	__u32 index = 0, hop_index;
	void *data, *end;
	__u64 round;

	cursor = bpf_map_lookup_elem(&rl_cursor, &index);
	if (!cursor || !cursor->flows)
		return XDP_DROP;
	index = cursor->next % cursor->flows;
	round = cursor->next / cursor->flows;
	cursor->next++;
	flow = bpf_map_lookup_elem(&rl_flows, &index);
	if (!flow)
		goto failed;
	hop_index = flow->hop;
	hop = bpf_map_lookup_elem(&rl_hops, &hop_index);
	if (!hop)
		goto failed;

	if (flow->family == 4) {
		struct iphdr *ip;

		if (bpf_xdp_adjust_tail(ctx, RTPLOAD_FRAME4 - RTPLOAD_FRAME6))
			goto failed;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		if (data + RTPLOAD_FRAME4 > end)
			goto failed;
		write_ethernet(data, hop, ETH_P_IP);
		ip = data + sizeof(struct ethhdr);
		ip->version = 4;
		ip->ihl = 5;
		ip->tos = 0;
		ip->tot_len = bpf_htons(RTPLOAD_FRAME4 - sizeof(struct ethhdr));
		ip->id = 0; /* an atomic datagram needs none (RFC 6864 section 4.1) */
		ip->frag_off = bpf_htons(IP_DONT_FRAGMENT);
		ip->ttl = HOP_LIMIT;
		ip->protocol = IPPROTO_UDP;
		ip->check = flow->ip_sum;
		__builtin_memcpy(&ip->saddr, flow->source + 12, 4);
		__builtin_memcpy(&ip->daddr, flow->destination + 12, 4);
		media = data + sizeof(struct ethhdr) + sizeof(*ip);
	} else {
		struct ipv6hdr *ip;

		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		if (data + RTPLOAD_FRAME6 > end)
			goto failed;
		write_ethernet(data, hop, ETH_P_IPV6);
		ip = data + sizeof(struct ethhdr);
		*(__u32 *)ip = bpf_htonl(6U << 28);
		ip->payload_len = bpf_htons(RTPLOAD_UDP_LENGTH);
		ip->nexthdr = IPPROTO_UDP;
		ip->hop_limit = HOP_LIMIT;
		copy16(&ip->saddr, flow->source);
		copy16(&ip->daddr, flow->destination);
		media = data + sizeof(struct ethhdr) + sizeof(*ip);
	}
	write_media(media, flow, round, cursor->timestamp_step);
	cursor->sent++;
	return XDP_TX;

failed:
	cursor->failed++;
	return XDP_DROP;
}

SEC("xdp")
int rtp_generate(struct xdp_md *ctx)
{
	return generate(ctx);
}

SEC("xdp")
int rtp_flood(struct xdp_md *ctx)
{
	struct rtpload_pace *pace;
	__u32 index = 0;

	pace = bpf_map_lookup_elem(&rl_pace, &index);
	if (!pace)
		return XDP_DROP;
	if (pace->interval) {
		__u64 now = bpf_ktime_get_boot_ns() << RTPLOAD_PACE_SHIFT;

		if (now < pace->next)
			return XDP_DROP;
		if (now - pace->next > (__u64)RTPLOAD_CATCH_UP_NS << RTPLOAD_PACE_SHIFT)
			pace->next = now;
		pace->next += pace->interval;
	}
	return generate(ctx);
}

/* What the meter needs of one packet. */
struct seen {
	struct rtpload_key key;
	__u64 now_ns;
	__u64 bytes;
	__u32 ssrc;
	__u16 sequence;
	__u8 generated;
};

static __always_inline void begin_sequence(struct rtpload_report *report, const struct seen *seen)
{
	report->ssrc = seen->ssrc;
	report->sequence = seen->sequence;
	report->window = 1;
	report->restarting = 0;
}

/* Loss, order and duplicates (RFC 3550 appendix A.1, with a bitmap for the duplicates). */
static __always_inline void count_sequence(struct rtpload_report *report, const struct seen *seen)
{
	__u16 ahead = seen->sequence - report->sequence;
	__u16 behind = -ahead;

	if (!report->window || seen->ssrc != report->ssrc) {
		begin_sequence(report, seen);
	} else if (ahead == 0) {
		report->duplicates++;
	} else if (ahead <= RTPLOAD_DROPOUT_MAX) {
		report->lost += ahead - 1;
		report->window = ahead < RTPLOAD_WINDOW ? report->window << ahead | 1 : 1;
		report->sequence = seen->sequence;
		report->restarting = 0;
	} else if (behind < RTPLOAD_WINDOW) {
		__u64 bit = 1ULL << behind;

		if (report->window & bit) {
			report->duplicates++;
		} else {
			report->window |= bit;
			report->reordered++;
			if (report->lost)
				report->lost--;
		}
	} else if (report->restarting && seen->sequence == report->restart) {
		begin_sequence(report, seen); /* two in a row: the sender began anew */
	} else {
		report->restarting = 1;
		report->restart = seen->sequence + 1;
		report->reordered++;
	}
}

static __always_inline void count_arrival(struct rtpload_report *report, const struct seen *seen,
					  __u32 gap_epoch)
{
	if (report->gap_epoch != gap_epoch) {
		report->max_gap_ns = 0;
		report->gap_end_ns = 0;
		report->gap_lost = 0;
		report->gap_epoch = gap_epoch;
	}
	if (!report->packets) {
		report->first_ns = seen->now_ns;
	} else {
		__u64 gap_ns = seen->now_ns - report->last_ns;

		if (gap_ns > report->max_gap_ns) {
			__u16 missing = seen->sequence - report->sequence - 1;

			report->gap_lost = missing < RTPLOAD_DROPOUT_MAX ? missing : 0;
			*(volatile __u64 *)&report->gap_end_ns = seen->now_ns;
			*(volatile __u64 *)&report->max_gap_ns = gap_ns;
		}
	}
	report->last_ns = seen->now_ns;
	report->packets++;
	report->bytes += seen->bytes;
	count_sequence(report, seen);
}

static __always_inline struct rtpload_report *find_report(const struct seen *seen, __u32 gap_epoch)
{
	struct rtpload_report *report, fresh;

	report = bpf_map_lookup_elem(&rl_reports, &seen->key);
	if (report)
		return report;
	__builtin_memset(&fresh, 0, sizeof(fresh));
	fresh.ssrc = seen->ssrc;
	fresh.generated = seen->generated;
	fresh.gap_epoch = gap_epoch;
	bpf_map_update_elem(&rl_reports, &seen->key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&rl_reports, &seen->key);
}

/* True if the UDP checksum of a generated frame is right. `addresses` points at both addresses
 * of the IP header, `size` octets in all. The length is known, so is the protocol. */
static __always_inline int checksum_right(void *addresses, __u32 size, struct media *media)
{
	__s64 sum = bpf_htons(IPPROTO_UDP) + bpf_htons(RTPLOAD_UDP_LENGTH);

	sum = bpf_csum_diff(0, 0, addresses, size, sum);
	sum = bpf_csum_diff(0, 0, (__be32 *)media, RTPLOAD_UDP_LENGTH, sum);
	return media->udp.check && !finish(sum);
}

static __always_inline int take_generated(struct rtpload_meter *meter, struct rtpload_totals *totals,
					  const struct seen *seen, const struct media *media)
{
	struct rtpload_endpoint at = {.port = seen->key.destination_port};
	int verdict = meter->pass_generated ? XDP_PASS : XDP_DROP;
	__u64 delay_ns = seen->now_ns - media->stamp.sent_ns;
	int wrong_source = 0, wrong_destination = 0;
	struct rtpload_expected *expected;
	struct rtpload_report *report;

	totals->generated++;
	totals->delay_sum_ns += delay_ns;
	if (delay_ns > totals->delay_max_ns)
		totals->delay_max_ns = delay_ns;
	if (meter->check) {
		copy16(at.host, seen->key.destination);
		expected = bpf_map_lookup_elem(&rl_expected, &at);
		if (!expected || expected->ssrc != bpf_ntohl(media->stamp.flow) ||
		    expected->ssrc != seen->ssrc)
			wrong_destination = 1;
		else if (expected->source_port != seen->key.source_port ||
			 !same16(expected->source, seen->key.source))
			wrong_source = 1;
	}
	totals->wrong_source += wrong_source;
	totals->wrong_destination += wrong_destination;
	report = find_report(seen, meter->gap_epoch);
	if (!report) {
		totals->table_full++;
		return verdict;
	}
	/* Somebody else's packet must not end, or hide, this flow's silence. */
	if (wrong_destination) {
		report->wrong_destination++;
		return verdict;
	}
	report->wrong_source += wrong_source;
	count_arrival(report, seen, meter->gap_epoch);
	return verdict;
}

SEC("xdp")
int rtp_meter(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct rtpload_totals *totals;
	struct rtpload_report *report;
	struct rtpload_meter *meter;
	__u32 zero = 0, address_size;
	struct ethhdr *eth = data;
	struct media *media;
	struct seen seen = {};
	void *addresses;
	__u8 type;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->protocol != IPPROTO_UDP ||
		    ip->frag_off & bpf_htons(IP_FRAGMENT_MASK))
			return XDP_PASS;
		map_ip4(seen.key.source, ip->saddr);
		map_ip4(seen.key.destination, ip->daddr);
		addresses = &ip->saddr;
		address_size = 8;
		media = (void *)(ip + 1);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_UDP)
			return XDP_PASS;
		copy16(seen.key.source, &ip->saddr);
		copy16(seen.key.destination, &ip->daddr);
		addresses = &ip->saddr;
		address_size = 32;
		media = (void *)(ip + 1);
	} else {
		return XDP_PASS;
	}
	if ((void *)media->octets > end)
		return XDP_PASS;
	type = media->rtp.type & 0x7f;
	if ((media->rtp.bits & RTP_VERSION_MASK) != RTP_VERSION_2 ||
	    (type >= RTCP_TYPE_FIRST && type <= RTCP_TYPE_LAST))
		return XDP_PASS;
	meter = bpf_map_lookup_elem(&rl_meter, &zero);
	totals = bpf_map_lookup_elem(&rl_totals, &zero);
	if (!meter || !totals)
		return XDP_PASS;

	seen.now_ns = bpf_ktime_get_boot_ns();
	seen.key.source_port = media->udp.source;
	seen.key.destination_port = media->udp.dest;
	seen.ssrc = bpf_ntohl(media->rtp.ssrc);
	seen.sequence = bpf_ntohs(media->rtp.sequence);
	seen.bytes = bpf_ntohs(media->udp.len) - sizeof(media->udp);

	if ((void *)(media + 1) <= end && media->stamp.magic == bpf_htonl(RTPLOAD_MAGIC) &&
	    media->udp.len == bpf_htons(RTPLOAD_UDP_LENGTH)) {
		int right;

		if (address_size == 8)
			right = checksum_right(addresses, 8, media);
		else
			right = checksum_right(addresses, 32, media);
		totals->bad_checksum += !right;
		seen.generated = 1;
		return take_generated(meter, totals, &seen, media);
	}
	if (!meter->watch_all && !bpf_map_lookup_elem(&rl_watched, seen.key.destination))
		return XDP_PASS;
	totals->observed++;
	report = find_report(&seen, meter->gap_epoch);
	if (report)
		count_arrival(report, &seen, meter->gap_epoch);
	else
		totals->table_full++;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
