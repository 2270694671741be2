/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/*
 * A pinhole's judgement of a packet: armed, open, from whom, what it is, where to, how fast.
 *
 * The order is that of the outcomes: disarmed, gate-closed, bad-source by the filter, bad-rtp,
 * bad-source by the latch, ttl-expired, no-peer, no-neighbour, too-big, policed. What is off costs
 * one test of a bit.
 */
#ifndef BGF_PINHOLE_H
#define BGF_PINHOLE_H

#define BGF_OUT_IP6_SHIFT 3

_Static_assert(BGF_OUT_IP6 == 1u << BGF_OUT_IP6_SHIFT, "one bit");

static __always_inline bool admits(const struct bgf_pinhole *pinhole, const struct packet *packet)
{
	__u64 lo = pinhole->source.lo ^ packet->source.lo, hi = pinhole->source.hi ^ packet->source.hi;
	__u16 port = bpf_ntohs(packet->source_port);

	if (unlikely(pinhole->flags & BGF_SOURCE_PREFIX)) {
		lo &= pinhole->source_mask.lo;
		hi &= pinhole->source_mask.hi;
	}
	if (pinhole->flags & BGF_SOURCE_HOST && (lo || hi))
		return false;
	return !(pinhole->flags & BGF_SOURCE_PORT) ||
	       (port >= pinhole->source_port_first && port <= pinhole->source_port_last);
}

static __always_inline bool is_armed(const struct bgf_pinhole *pinhole, __u64 now)
{
	__u32 index = pinhole->group;
	__u64 *deadline = bpf_map_lookup_elem(&armed, &index);

	return deadline && is_before(now, *deadline);
}

static __always_inline __u32 judge(struct xdp_md *ctx, const struct packet *packet,
				   const struct bgf_pinhole *pinhole, struct rtp *rtp)
{
	__u32 flags = pinhole->flags;

	if (!is_armed(pinhole, packet->now_ns))
		return BGF_DISARMED;
	if (!(flags & BGF_OPEN))
		return BGF_GATE_CLOSED;
	if (flags & (BGF_SOURCE_HOST | BGF_SOURCE_PORT) && !admits(pinhole, packet))
		return BGF_BAD_SOURCE;
	if (flags & BGF_RTP && !read_rtp(ctx, packet, pinhole, rtp))
		return BGF_BAD_RTP;
	if (flags & BGF_LATCH && !latch_admits(ctx, packet))
		return BGF_BAD_SOURCE;
	return packet->hops <= 1 ? BGF_TTL : BGF_FORWARD;
}

static __always_inline void aim(const struct bgf_pinhole *pinhole, const struct bgf_nexthop *next,
				struct target *to)
{
	to->local = pinhole->local_out;
	to->remote = pinhole->remote;
	to->local_port_be = pinhole->local_port_be;
	to->remote_port_be = pinhole->remote_port_be;
	to->sum = pinhole->sum_out;
	to->ip6 = pinhole->flags >> BGF_OUT_IP6_SHIFT & 1;
	__builtin_memcpy(to->macs, next->macs, sizeof(to->macs));
	to->ifindex = next->ifindex;
	to->mtu = next->mtu;
	to->vlan = next->vlan;
}

/*
 * Where the latch of the other direction leads: what it has learned, by a next hop that is known
 * and kept up, else by the MAC address of back then, else through another pinhole of this node.
 * Returns whether there is anybody to send to, or ANOTHER_PINHOLE.
 */
#define ANOTHER_PINHOLE 2

APART int aim_back(const struct bgf_pinhole *pinhole, struct target *to)
{
	struct bgf_interface *own;
	struct bgf_latch *latch;
	__u32 slot, word, state;
	bool signalled;
	int found = 1;

	if (!pinhole || !to)
		return 0;
	signalled = !(pinhole->flags & BGF_NO_REMOTE);
	slot = pinhole->peer_slot;
	latch = bpf_map_lookup_elem(&latches, &slot);
	word = latch ? *(volatile __u32 *)&latch->word : BGF_LATCH_OPEN;
	state = word & BGF_LATCH_STATE;
	if (!latch || (state != BGF_LATCH_SET && state != BGF_LATCH_REPLACE))
		return signalled;
	if (to->mtu && signalled && pinhole->remote.lo == latch->address.lo &&
	    pinhole->remote.hi == latch->address.hi) {
		/* The pinhole's own next hop leads there. */
	} else if (*(__u32 *)latch->mac | *(__u16 *)(latch->mac + 4)) {
		__u32 place = latch->place;

		own = bpf_map_lookup_elem(&interfaces, &place);
		if (!own)
			return 0;
		__builtin_memcpy(to->macs, latch->mac, sizeof(latch->mac));
		__builtin_memcpy(to->macs + ETH_ALEN, own->mac, sizeof(own->mac));
		to->ifindex = own->ifindex;
		to->mtu = own->mtu;
		to->vlan = own->vlan;
	} else {
		found = ANOTHER_PINHOLE;
	}
	to->remote = latch->address;
	to->remote_port_be = latch->port_be;
	to->sum = fold(sum_address(&to->local) + sum_address(&to->remote) + to->local_port_be +
		       to->remote_port_be);
	/* Learned anew in this moment: what was read may be of both. */
	return *(volatile __u32 *)&latch->word == word ? found : 0;
}

static __always_inline void account(const struct packet *packet, const struct bgf_pinhole *pinhole,
				    const struct rtp *rtp)
{
	__u32 bytes = packet->udp_length - sizeof(struct udphdr);
	__u32 row = packet->stats_first + packet->slot;
	struct bgf_stats *stat = bpf_map_lookup_elem(&stats, &row);

	if (unlikely(!stat))
		return;
	stat->packets++;
	stat->bytes += bytes;
	stat->last_seen_ns = packet->now_ns;
	if (!(pinhole->flags & BGF_RTP))
		return;
	if (rtp->kind == RTP_MEDIA) {
		stat->rtp_packets++;
		stat->rtp_bytes += bytes;
		observe(packet, pinhole, rtp);
	} else if (rtp->kind == RTP_CONTROL) {
		stat->rtcp_packets++;
	}
}

/*
 * With many flows each line of a flow's memory is far away. Asked for here, they come together
 * while the packet is judged; asked for where they are needed, they would come one by one.
 */
static __always_inline void warm(const struct packet *packet)
{
	__u32 row = packet->stats_first + packet->slot, slot = packet->slot;
	struct bgf_stats *stat = bpf_map_lookup_elem(&stats, &row);
	struct bgf_stream *stream = bpf_map_lookup_elem(&streams, &slot);

	if (stat)
		(void)*(volatile __u64 *)&stat->packets;
	if (stream)
		(void)*(volatile __u64 *)&stream->last_ns;
}

/* The same packet as it would arrive where it goes: at another pinhole of this node. */
static __always_inline void turn(struct packet *packet, const struct bgf_pinhole *pinhole,
				 const struct target *to)
{
	packet->key.local = to->remote;
	packet->key.port_be = to->remote_port_be;
	packet->key.ifindex = pinhole->ifindex_out;
	packet->key.vlan = pinhole->vlan_out;
	packet->source = to->local;
	packet->source_port = to->local_port_be;
	packet->hops--;
	packet->tos = (packet->tos & pinhole->tos_mask) | pinhole->tos_bits;
	packet->turned = true;
}

static __always_inline __u32 ip_length(const struct packet *packet, bool ip6)
{
	return packet->payload + (ip6 ? IP6_HEADER : IP4_HEADER);
}

/*
 * The second half: the packet has passed its last pinhole and knows where it goes.
 */
static __always_inline int leave(struct xdp_md *ctx, const struct packet *packet,
				 const struct bgf_pinhole *pinhole, struct target *to,
				 const struct rtp *rtp, __u32 length)
{
	__u32 flags = pinhole->flags, outcome;

	if (!to->mtu)
		return refuse(ctx, packet, BGF_NO_NEIGHBOUR);
	if (ip_length(packet, to->ip6) > to->mtu)
		return refuse(ctx, packet, BGF_TOO_BIG);
	if (flags & BGF_POLICE && !conforms(ctx, packet, pinhole, length))
		return refuse(ctx, packet, BGF_POLICED);
	to->hops = packet->hops - 1;
	to->tos = (packet->tos & pinhole->tos_mask) | pinhole->tos_bits;
	outcome = rewrite(ctx, packet, to);
	if (unlikely(*(volatile __u32 *)&pinhole->version != packet->version))
		outcome = BGF_NO_PINHOLE; /* it was closed or changed meanwhile */
	if (unlikely(outcome != BGF_FORWARD))
		return refuse(ctx, packet, outcome);
	note(ctx, packet, BGF_FORWARD, to->ifindex, to->vlan);
	if (unlikely(traced(ctx) != NULL))
		return XDP_REDIRECT;
	account(packet, pinhole, rtp);
	if (unlikely(flags & BGF_CAPTURED))
		capture(ctx, packet, to);
	return (int)bpf_redirect(to->ifindex, 0);
}

/*
 * A packet whose way leads to another pinhole of this node goes through both and is rewritten once:
 * the wire would not bring it back. -1 when there is none, or of a group that another node has
 * charge of: that is reached on the wire.
 */
APART int hairpin(struct xdp_md *ctx, struct packet *packet, const struct bgf_pinhole *first,
		  struct target *to, struct rtp *rtp)
{
	__u32 outcome, index, length, slot, version;
	struct bgf_pinhole *pinhole;
	struct bgf_nexthop *next;
	struct bgf_key there = {};
	struct bgf_place *place;

	if (!packet || !first || !to || !rtp)
		return -1;
	there.local = to->remote;
	there.ifindex = first->ifindex_out;
	there.port_be = to->remote_port_be;
	there.vlan = first->vlan_out;
	place = find_address(&there.local);
	pinhole = place ? find_pinhole(place, &there, &slot, &version) : NULL;
	if (pinhole && pinhole->flags & BGF_DEMUX && aside(ctx, packet, BGF_DEMUX) == ASIDE_RTCP) {
		there.port_be = bpf_htons(bpf_ntohs(there.port_be) + 1);
		pinhole = find_pinhole(place, &there, &slot, &version);
	}
	if (!pinhole || !is_armed(pinhole, packet->now_ns))
		return -1;
	if (first->flags & BGF_POLICE &&
	    !conforms(ctx, packet, first, ip_length(packet, packet->ip6)))
		return refuse(ctx, packet, BGF_POLICED);
	if (!traced(ctx))
		account(packet, first, rtp);
	turn(packet, first, to);
	packet->key.port_be = there.port_be;
	packet->slot = slot;
	packet->version = version;
	outcome = judge(ctx, packet, pinhole, rtp);
	if (outcome != BGF_FORWARD)
		return refuse(ctx, packet, outcome);
	index = pinhole->nexthop;
	next = bpf_map_lookup_elem(&nexthops, &index);
	if (!next)
		return refuse(ctx, packet, BGF_NO_NEIGHBOUR);
	length = ip_length(packet, to->ip6);
	aim(pinhole, next, to);
	if (pinhole->flags & BGF_FOLLOW && !aim_back(pinhole, to))
		return refuse(ctx, packet, BGF_NO_PEER);
	return leave(ctx, packet, pinhole, to, rtp, length);
}

/* The action for what has a pinhole, 0 for what has none. */
static __always_inline int forward(struct xdp_md *ctx, struct packet *packet,
				   const struct bgf_place *place)
{
	struct bgf_pinhole *pinhole =
		find_pinhole(place, &packet->key, &packet->slot, &packet->version);
	__u32 outcome, index, flags, cpu;
	struct target to = {};
	struct bgf_nexthop *next;
	struct rtp rtp = {};
	struct bgf_cpu *own;
	int action, back = 1;

	if (!pinhole)
		return 0;
	cpu = bpf_get_smp_processor_id();
	own = bpf_map_lookup_elem(&cpus, &cpu);
	if (unlikely(!own)) /* no clock, no lease */
		return refuse(ctx, packet, BGF_DISARMED);
	packet->stats_first = own->stats_first;
	warm(packet);
	packet->now_ns = clock_now(own);
	flags = pinhole->flags;
	if (unlikely(flags & BGF_CAPTURED))
		capture(ctx, packet, NULL);
	if (unlikely(flags & (BGF_CHECKS | BGF_DEMUX))) {
		action = aside(ctx, packet, flags);
		if (action == ASIDE_CHECK && is_armed(pinhole, packet->now_ns)) {
			tell_check(ctx, packet);
			return refuse(ctx, packet, BGF_CHECK);
		}
		if (action == ASIDE_RTCP) {
			packet->key.port_be = bpf_htons(bpf_ntohs(packet->key.port_be) + 1);
			pinhole = find_pinhole(place, &packet->key, &packet->slot,
					       &packet->version);
			if (!pinhole)
				return 0;
			flags = pinhole->flags;
		}
	}
	outcome = judge(ctx, packet, pinhole, &rtp);
	if (outcome != BGF_FORWARD)
		return refuse(ctx, packet, outcome);
	index = pinhole->nexthop;
	next = bpf_map_lookup_elem(&nexthops, &index);
	if (!next)
		return refuse(ctx, packet, BGF_NO_NEIGHBOUR);
	aim(pinhole, next, &to);
	if (unlikely(flags & BGF_FOLLOW)) {
		back = aim_back(pinhole, &to);
		if (!back)
			return refuse(ctx, packet, BGF_NO_PEER);
	}
	if (unlikely(flags & BGF_HAIRPIN || back == ANOTHER_PINHOLE)) {
		action = hairpin(ctx, packet, pinhole, &to, &rtp);
		if (action >= 0)
			return action;
	}
	return leave(ctx, packet, pinhole, &to, &rtp, ip_length(packet, packet->ip6));
}

#endif
