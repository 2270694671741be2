/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/*
 * Latches: who sends to a pinhole is learned from the first packet that it admits (H.248.37).
 *
 * What is learned stands in the map at once, with the link layer's sender as a way back, so that
 * the other direction flows without waiting for a process; a report wakes the process up. Its
 * `word` is moved by compare-and-swap: one packet wins, those that come while it is written are
 * refused. User space writes a latch only to let it learn anew, or to say what is known already.
 */
#ifndef BGF_LATCH_H
#define BGF_LATCH_H

static __always_inline bool is_sender(const struct bgf_latch *latch, const struct packet *packet)
{
	return latch->address.lo == packet->source.lo && latch->address.hi == packet->source.hi &&
	       latch->port_be == packet->source_port;
}

static __always_inline void report(const struct packet *packet, __u32 round)
{
	struct bgf_report *report = bpf_ringbuf_reserve(&reports, sizeof(*report), 0);

	if (!report)
		return; /* user space looks at the latches themselves now and then */
	report->key = packet->key;
	report->address = packet->source;
	report->time_ns = packet->now_ns;
	report->round = round;
	report->port_be = packet->source_port;
	report->pad = 0;
	bpf_ringbuf_submit(report, 0);
}

/* The sender of this packet, from now on. Rare, so apart. */
APART int learn(struct xdp_md *ctx, const struct packet *packet, __u32 slot, __u32 word)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	__u32 round = word & ~BGF_LATCH_STATE;
	struct bgf_latch *latch = bpf_map_lookup_elem(&latches, &slot);

	if (!packet || !latch)
		return false;
	if (traced(ctx))
		return true;
	if (__sync_val_compare_and_swap(&latch->word, word, round | BGF_LATCH_BUSY) != word)
		return false;
	latch->address = packet->source;
	latch->port_be = packet->source_port;
	latch->place = packet->place;
	__builtin_memset(latch->mac, 0, sizeof(latch->mac));
	if (!packet->turned && (void *)(eth + 1) <= (void *)(long)ctx->data_end)
		__builtin_memcpy(latch->mac, eth->h_source, sizeof(latch->mac));
	__sync_lock_test_and_set(&latch->word, round | BGF_LATCH_SET);
	report(packet, round >> 8);
	return true;
}

/* Whether this sender may send; learns it where that is what the latch waits for. */
static __always_inline bool latch_admits(struct xdp_md *ctx, const struct packet *packet)
{
	__u32 slot = packet->slot, word, state;
	struct bgf_latch *latch = bpf_map_lookup_elem(&latches, &slot);

	if (!latch)
		return false;
	word = *(volatile __u32 *)&latch->word;
	state = word & BGF_LATCH_STATE;
	if (state == BGF_LATCH_BUSY)
		return false;
	if (state != BGF_LATCH_OPEN && is_sender(latch, packet))
		return true;
	if (state == BGF_LATCH_SET)
		return false;
	return learn(ctx, packet, slot, word);
}

#endif
