/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/*
 * RTP and RTCP headers: what may pass as one, and a stream's statistics (RFC 3550, RFC 5761).
 *
 * Statistics are of what is forwarded. Sequence and jitter are one for all CPUs and written
 * without a lock: where two CPUs meet in one stream one of both updates is lost, which the next
 * packet mends in `sequence` and the sixteenth part of a packet's jitter is worth. Counts are per
 * CPU and exact.
 */
#ifndef BGF_RTP_H
#define BGF_RTP_H

#define RTP_VERSION 2
#define RTP_HEADER 12
#define RTCP_HEADER 8
#define RTCP_FIRST 192 /* RFC 5761 section 4: with the marker bit, types 64 to 95 */
#define RTCP_LAST 223
#define RTP_DROPOUT_MAX 3000 /* RFC 3550 A.1: further ahead is a restart */
#define RTP_MISORDER_MAX 100 /* and so is further behind */
#define GAP_SHIFT 10	     /* bgf_stream.gap_max */

enum rtp_kind {
	RTP_NONE,
	RTP_MEDIA,
	RTP_CONTROL,
};

struct rtp {
	__u32 kind;
	__u32 ssrc;
	__u32 timestamp;
	__u16 sequence;
	__u16 type;
};

/*
 * What the packet is by its first bytes, and whether the pinhole admits it as that. Without
 * BGF_RTP_CHECK nothing is refused.
 */
static __always_inline bool read_rtp(struct xdp_md *ctx, const struct packet *packet,
				     const struct bgf_pinhole *pinhole, struct rtp *rtp)
{
	void *end = (void *)(long)ctx->data_end;
	__u32 headers = sizeof(struct udphdr) +
			(packet->ip6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u8 *at = (void *)(long)ctx->data + ETH_HLEN + packet->tag + headers;
	__u32 length = packet->udp_length - sizeof(struct udphdr), flags = pinhole->flags;
	bool control, good;

	rtp->kind = RTP_NONE;
	if (length < RTCP_HEADER || at + RTCP_HEADER > (__u8 *)end)
		return !(flags & BGF_RTP_CHECK);
	good = at[0] >> 6 == RTP_VERSION;
	control = at[1] >= RTCP_FIRST && at[1] <= RTCP_LAST;
	if (flags & (BGF_RTCP | BGF_MUXED) && (control || flags & BGF_RTCP)) {
		if (good && control)
			rtp->kind = RTP_CONTROL;
		return rtp->kind != RTP_NONE || !(flags & BGF_RTP_CHECK);
	}
	if (length < RTP_HEADER + 4 * (at[0] & 0x0f) || at + RTP_HEADER > (__u8 *)end || !good)
		return !(flags & BGF_RTP_CHECK);
	rtp->kind = RTP_MEDIA;
	rtp->type = at[1] & 0x7f;
	rtp->sequence = bpf_ntohs(*(__be16 *)(at + 2));
	rtp->timestamp = bpf_ntohl(*(__be32 *)(at + 4));
	rtp->ssrc = bpf_ntohl(*(__be32 *)(at + 8));
	if (flags & BGF_RTP_TYPES) {
		return pinhole->types[rtp->type >> 6] >> (rtp->type & 63) & 1;
	}
	return true;
}

static __always_inline void observe(const struct packet *packet, struct bgf_pinhole *pinhole,
				    const struct rtp *rtp)
{
	__u64 now = packet->now_ns;
	/* The bits above 2^32 of the time fall out of a product modulo 2^64, as they should. */
	__u32 arrival = (now * pinhole->clock) >> 32, transit = arrival - rtp->timestamp;
	struct bgf_stream *stream = &pinhole->stream;
	__u16 ahead;
	__u32 gap;

	if (unlikely(!stream->started || stream->ssrc != rtp->ssrc)) {
		if (stream->started) {
			stream->expected += stream->sequence - stream->sequence_first + 1;
			stream->ssrc_changes++;
		}
		stream->started = 1;
		stream->ssrc = rtp->ssrc;
		stream->sequence = rtp->sequence;
		stream->sequence_first = rtp->sequence;
	} else {
		__s32 change = (__s32)(transit - stream->transit);

		ahead = rtp->sequence - (__u16)stream->sequence;
		if (likely(ahead < RTP_DROPOUT_MAX)) {
			stream->sequence += ahead;
		} else if (ahead <= 0x10000 - RTP_MISORDER_MAX) {
			stream->expected += stream->sequence - stream->sequence_first + 1;
			stream->restarts++;
			stream->sequence = rtp->sequence;
			stream->sequence_first = rtp->sequence;
		}
		if (change < 0)
			change = -change;
		stream->jitter += (__u32)change - ((stream->jitter + 8) >> 4);
	}
	stream->transit = transit;
	if (likely(stream->last_ns != 0 && now > stream->last_ns)) {
		gap = (now - stream->last_ns) >> GAP_SHIFT;
		if (unlikely(gap > stream->gap_max))
			stream->gap_max = gap;
	}
	stream->last_ns = now;
}

#endif
