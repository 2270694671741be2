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

static __always_inline bool leaves_as_ip6(const struct bgf_pinhole *pinhole)
{
	return pinhole->flags >> BGF_OUT_IP6_SHIFT & 1;
}

/*
 * Where the latch of the other direction leads: what it has learned, by a next hop that is known
 * and kept up, else by the MAC address of back then, else through another pinhole of this node.
 * Returns whether there is anybody to send to, or ANOTHER_PINHOLE.
 */
#define ANOTHER_PINHOLE 2

APART int aim_back(const struct bgf_pinhole *pinhole, struct bgf_target *to)
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
	if (to->hop.mtu && signalled && to->way.remote.lo == latch->address.lo &&
	    to->way.remote.hi == latch->address.hi) {
		/* The pinhole's own next hop leads there. */
	} else if (*(__u32 *)latch->mac | *(__u16 *)(latch->mac + 4)) {
		__u8 *macs = (__u8 *)to->hop.macs;
		__u32 place = latch->place;

		own = bpf_map_lookup_elem(&interfaces, &place);
		if (!own)
			return 0;
		__builtin_memcpy(macs, latch->mac, sizeof(latch->mac));
		__builtin_memcpy(macs + ETH_ALEN, own->mac, sizeof(own->mac));
		to->hop.ifindex = own->ifindex;
		to->hop.mtu = own->mtu;
		to->hop.vlan = own->vlan;
	} else {
		found = ANOTHER_PINHOLE;
	}
	to->way.remote = latch->address;
	to->way.remote_port_be = latch->port_be;
	to->way.sum = fold(sum_address(&to->way.local) + sum_address(&to->way.remote) +
			   to->way.local_port_be + to->way.remote_port_be);
	/* Learned anew in this moment: what was read may be of both. */
	return *(volatile __u32 *)&latch->word == word ? found : 0;
}

/*
 * With many flows each line of a flow's memory is far away. Asked for here, they come together
 * while the packet is judged; asked for where they are needed, they would come one by one.
 */
static __always_inline struct bgf_stats *find_stats(const struct packet *packet,
						    const struct bgf_pinhole *pinhole,
						    const struct bgf_cpu *own)
{
	__u32 row = own->stats_first + packet->slot;
	struct bgf_stats *stat = bpf_map_lookup_elem(&stats, &row);

	if (likely(stat != NULL))
		(void)*(volatile __u64 *)&stat->packets;
	(void)*(volatile __u64 *)&pinhole->types[0];
	(void)*(volatile __u64 *)&pinhole->stream.last_ns;
	return stat;
}

static __always_inline void account(const struct packet *packet, struct bgf_pinhole *pinhole,
				    struct bgf_stats *stat, const struct rtp *rtp)
{
	__u32 bytes = packet->udp_length - sizeof(struct udphdr);

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

/* The same packet as it would arrive where it goes: at another pinhole of this node. */
static __always_inline void turn(struct packet *packet, const struct bgf_pinhole *pinhole,
				 const struct bgf_way *way)
{
	packet->key.local = way->remote;
	packet->key.port_be = way->remote_port_be;
	packet->key.ifindex = pinhole->ifindex_out;
	packet->key.vlan = pinhole->vlan_out;
	packet->source = way->local;
	packet->source_port = way->local_port_be;
	packet->hops--;
	packet->tos = new_tos(packet, way);
	packet->turned = true;
}

static __always_inline __u32 ip_length(const struct packet *packet, bool ip6)
{
	return packet->payload + (ip6 ? IP6_HEADER : IP4_HEADER);
}

/*
 * The second half: the packet has passed its last pinhole. Its way and its next hop are read only
 * where they are written into the frame, so that nothing of them need be kept in between.
 */
static __always_inline int leave(struct xdp_md *ctx, const struct packet *packet,
				 struct bgf_pinhole *pinhole, const struct bgf_way *way,
				 const struct bgf_nexthop *hop, struct bgf_cpu *own,
				 struct bgf_stats *stat,
				 const struct rtp *rtp, __u32 length)
{
	bool ip6 = leaves_as_ip6(pinhole), trace = traced(ctx) != NULL;
	__u32 outcome;

	if (unlikely(!hop->mtu))
		return refuse(ctx, packet, BGF_NO_NEIGHBOUR);
	if (unlikely(ip_length(packet, ip6) > hop->mtu))
		return refuse(ctx, packet, BGF_TOO_BIG);
	if (pinhole->flags & BGF_POLICE && !conforms(packet, pinhole, length, trace))
		return refuse(ctx, packet, BGF_POLICED);
	if (likely(stays_in_place(packet, hop, ip6)))
		outcome = rewrite_in_place(ctx, packet, way, hop);
	else
		outcome = rewrite(ctx, packet, way, hop, ip6);
	if (unlikely(*(volatile __u32 *)&pinhole->version != packet->version))
		outcome = BGF_NO_PINHOLE; /* it was closed or changed meanwhile */
	if (unlikely(outcome != BGF_FORWARD))
		return refuse(ctx, packet, outcome);
	if (unlikely(trace)) {
		note(ctx, packet, BGF_FORWARD, hop->ifindex, hop->vlan);
		return XDP_REDIRECT;
	}
	count(own, packet, BGF_FORWARD);
	account(packet, pinhole, stat, rtp);
	return (int)bpf_redirect(hop->ifindex, 0);
}

/*
 * A packet whose way leads to another pinhole of this node goes through both and is rewritten once:
 * the wire would not bring it back. NULL when there is none, or of a group that another node has
 * charge of: that is reached on the wire. Otherwise `outcome` is FORWARD, or why it ends here.
 */
static __always_inline struct bgf_pinhole *turn_to_next(struct xdp_md *ctx, struct packet *packet,
							struct bgf_pinhole *first,
							const struct bgf_way *way,
							struct bgf_stats *stat, struct rtp *rtp,
							__u32 *outcome)
{
	struct bgf_place *place = find_address(&way->remote);
	__be16 port = way->remote_port_be;
	struct bgf_pinhole *pinhole;
	__u32 slot, version;

	if (!place)
		return NULL;
	pinhole = find_pinhole(place, first->ifindex_out, first->vlan_out, port, &slot, &version);
	if (pinhole && pinhole->flags & BGF_DEMUX && aside(ctx, packet, BGF_DEMUX) == ASIDE_RTCP) {
		port = next_port(port);
		pinhole = find_pinhole(place, first->ifindex_out, first->vlan_out, port, &slot,
				       &version);
	}
	if (!pinhole || !is_armed(pinhole, packet->now_ns))
		return NULL;
	*outcome = BGF_POLICED;
	if (first->flags & BGF_POLICE && !conforms(packet, first, ip_length(packet, packet->ip6),
						   traced(ctx) != NULL))
		return pinhole;
	if (!traced(ctx))
		account(packet, first, stat, rtp);
	turn(packet, first, way);
	packet->key.port_be = port;
	packet->slot = slot;
	packet->version = version;
	*outcome = judge(ctx, packet, pinhole, rtp);
	return pinhole;
}

static __always_inline bool aim(const struct bgf_pinhole *pinhole, struct bgf_target *to)
{
	__u32 index = pinhole->nexthop;
	struct bgf_nexthop *hop = bpf_map_lookup_elem(&nexthops, &index);

	if (!hop)
		return false;
	to->way = pinhole->way;
	to->hop = *hop;
	return true;
}

/* What takes longer to send on: it follows a latch, goes through two pinholes, is captured. */
#define ELSEWHERE (BGF_FOLLOW | BGF_HAIRPIN | BGF_CAPTURED)

APART int send_elsewhere(struct xdp_md *ctx, struct packet *packet, struct bgf_pinhole *first)
{
	struct bgf_pinhole *pinhole = first, *second = NULL;
	__u32 outcome = BGF_NO_PINHOLE, length;
	struct rtp rtp = {};
	int action, back = 1;
	struct bgf_target *to;
	struct bgf_stats *stat;
	struct bgf_cpu *own;

	own = this_cpu();
	if (!packet || !first || !own)
		return XDP_DROP;
	to = &own->target;
	stat = find_stats(packet, first, own);
	if (!stat)
		return XDP_DROP;
	length = ip_length(packet, packet->ip6);
	if (first->flags & BGF_RTP)
		read_rtp(ctx, packet, first, &rtp);
	if (!aim(first, to))
		return refuse(ctx, packet, BGF_NO_NEIGHBOUR);
	if (first->flags & BGF_FOLLOW)
		back = aim_back(first, to);
	if (!back)
		return refuse(ctx, packet, BGF_NO_PEER);
	if (first->flags & BGF_HAIRPIN || back == ANOTHER_PINHOLE)
		second = turn_to_next(ctx, packet, first, &to->way, stat, &rtp, &outcome);
	if (second) {
		if (outcome != BGF_FORWARD)
			return refuse(ctx, packet, outcome);
		pinhole = second;
		stat = find_stats(packet, second, own);
		if (!stat)
			return XDP_DROP;
		length = ip_length(packet, leaves_as_ip6(first));
		if (!aim(second, to))
			return refuse(ctx, packet, BGF_NO_NEIGHBOUR);
		if (second->flags & BGF_FOLLOW && !aim_back(second, to))
			return refuse(ctx, packet, BGF_NO_PEER);
	}
	action = leave(ctx, packet, pinhole, &to->way, &to->hop, own, stat, &rtp, length);
	if (action == XDP_REDIRECT && pinhole->flags & BGF_CAPTURED)
		capture(ctx, packet, &to->hop);
	if (action == XDP_REDIRECT && second && first->flags & BGF_CAPTURED) {
		/* Two calls, each of which has its copies under a key of its own. */
		packet->key = first->key;
		capture(ctx, packet, &to->hop);
	}
	return action;
}

/* The action for what has a pinhole, 0 for what has none. */
static __always_inline int forward(struct xdp_md *ctx, struct packet *packet,
				   const struct bgf_place *place)
{
	struct bgf_key *key = &packet->key;
	struct bgf_pinhole *pinhole = find_pinhole(place, key->ifindex, key->vlan, key->port_be,
						   &packet->slot, &packet->version);
	__u32 outcome, index, flags;
	struct bgf_nexthop *hop;
	struct rtp rtp = {};
	struct bgf_stats *stat;
	struct bgf_cpu *own;
	int action;

	if (!pinhole)
		return 0;
	own = this_cpu();
	if (unlikely(!own)) /* no clock, no lease */
		return refuse(ctx, packet, BGF_DISARMED);
	stat = find_stats(packet, pinhole, own);
	if (unlikely(!stat))
		return refuse(ctx, packet, BGF_NO_PINHOLE);
	packet->now_ns = clock_now(own);
	flags = pinhole->flags;
	if (unlikely(flags & (BGF_CAPTURED | BGF_CHECKS | BGF_DEMUX))) {
		if (flags & BGF_CAPTURED)
			capture(ctx, packet, NULL);
		action = aside(ctx, packet, flags);
		if (action == ASIDE_CHECK && is_armed(pinhole, packet->now_ns)) {
			tell_check(ctx, packet);
			return refuse(ctx, packet, BGF_CHECK);
		}
		if (action == ASIDE_RTCP) {
			key->port_be = next_port(key->port_be);
			pinhole = find_pinhole(place, key->ifindex, key->vlan, key->port_be,
					       &packet->slot, &packet->version);
			if (!pinhole)
				return 0;
			stat = find_stats(packet, pinhole, own);
			if (!stat)
				return 0;
			flags = pinhole->flags;
		}
	}
	outcome = judge(ctx, packet, pinhole, &rtp);
	if (unlikely(outcome != BGF_FORWARD))
		return refuse(ctx, packet, outcome);
	if (unlikely(flags & ELSEWHERE))
		return send_elsewhere(ctx, packet, pinhole);
	index = pinhole->nexthop;
	hop = bpf_map_lookup_elem(&nexthops, &index);
	if (unlikely(!hop))
		return refuse(ctx, packet, BGF_NO_NEIGHBOUR);
	return leave(ctx, packet, pinhole, &pinhole->way, hop, own, stat, &rtp,
		     ip_length(packet, packet->ip6));
}

#endif
