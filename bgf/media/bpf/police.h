/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/*
 * Token buckets: sustained rate with its burst, peak rate with its own (H.248.53 tman).
 *
 * Each is one number, the time at which it would be full again (the virtual scheduling form of
 * ITU-T I.371's algorithm, the same as a token bucket), moved by compare-and-swap: no lock, and
 * never a byte more than the rate allows on however many CPUs. What is not exact errs that way:
 * a packet that conforms is refused when other CPUs move its bucket POLICE_TRIES times meanwhile,
 * or when the peak bucket was charged and the sustained one ran out in that moment.
 */
#ifndef BGF_POLICE_H
#define BGF_POLICE_H

#define POLICE_TRIES 4

/* When the bucket is full again after this packet. */
static __always_inline __u64 full_after(__u64 full, __u64 cost, __u64 now)
{
	return (full > now ? full : now) + cost;
}

static __always_inline bool move(__u64 *bucket, __u64 from, __u64 to)
{
	return likely(__sync_val_compare_and_swap(bucket, from, to) == from);
}

/* Takes it for one packet more, other CPUs having moved it meanwhile. */
static __always_inline bool take(__u64 *bucket, __u64 cost, __u64 depth, __u64 now)
{
	int try;

#pragma clang loop unroll(full)
	for (try = 1; try < POLICE_TRIES; try++) {
		__u64 full = *(volatile __u64 *)bucket, after = full_after(full, cost, now);

		if (after - now > depth)
			return false;
		if (move(bucket, full, after))
			return true;
	}
	return false;
}

/* `length` is the IP packet's, bytes. A packet that is only traced takes nothing. */
static __always_inline bool conforms(const struct packet *packet, struct bgf_pinhole *pinhole,
				     __u32 length, bool trace)
{
	__u64 now = packet->now_ns << BGF_TIME_SHIFT;
	__u64 sustained = (length * pinhole->sustained_cost) >> BGF_COST_SHIFT;
	__u64 peak = (length * pinhole->peak_cost) >> BGF_COST_SHIFT;
	struct bgf_stream *stream = &pinhole->stream;
	__u64 sustained_full = *(volatile __u64 *)&stream->sustained_full;
	__u64 peak_full = *(volatile __u64 *)&stream->peak_full;
	__u64 sustained_after = full_after(sustained_full, sustained, now);
	__u64 peak_after = full_after(peak_full, peak, now);

	/* Both are asked before either is charged: what one refuses costs the other nothing. What is
	 * not limited has a depth that everything fits into, and is not charged. */
	if (sustained_after - now > pinhole->sustained_depth ||
	    peak_after - now > pinhole->peak_depth)
		return false;
	if (unlikely(trace))
		return true;
	if (peak && !move(&stream->peak_full, peak_full, peak_after) &&
	    !take(&stream->peak_full, peak, pinhole->peak_depth, now))
		return false;
	return !sustained || move(&stream->sustained_full, sustained_full, sustained_after) ||
	       take(&stream->sustained_full, sustained, pinhole->sustained_depth, now);
}

#endif
