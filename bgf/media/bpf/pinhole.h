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

#define HAIRPIN_PASSES 2 /* pinholes that a packet goes through, at most */

static __always_inline bool same_key(const struct bgf_pinhole *pinhole, const struct bgf_key *key)
{
	const volatile struct bgf_key *now = &pinhole->key;

	return now->local.lo == key->local.lo && now->local.hi == key->local.hi &&
	       now->ifindex == key->ifindex && now->port_be == key->port_be &&
	       now->vlan == key->vlan;
}

static __always_inline bool admits(const struct bgf_pinhole *pinhole, const struct packet *packet)
{
	const struct bgf_address *mask = &pinhole->source_mask;
	__u16 port = bpf_ntohs(packet->source_port);

	if (pinhole->flags & BGF_SOURCE_HOST &&
	    ((pinhole->source.lo ^ packet->source.lo) & mask->lo ||
	     (pinhole->source.hi ^ packet->source.hi) & mask->hi))
		return false;
	return !(pinhole->flags & BGF_SOURCE_PORT) ||
	       (port >= pinhole->source_port_first && port <= pinhole->source_port_last);
}

static __always_inline bool is_armed(const struct bgf_pinhole *pinhole, __u64 now)
{
	__u32 index = pinhole->group;
	__u64 *deadline = bpf_map_lookup_elem(&armed, &index);

	return deadline && now < *deadline;
}

static __always_inline __u32 judge(struct xdp_md *ctx, const struct packet *packet,
				   const struct bgf_pinhole *pinhole, struct rtp *rtp, __u64 now)
{
	__u32 flags = pinhole->flags;

	if (!is_armed(pinhole, now))
		return BGF_DISARMED;
	if (!(flags & BGF_OPEN))
		return BGF_GATE_CLOSED;
	if (flags & (BGF_SOURCE_HOST | BGF_SOURCE_PORT) && !admits(pinhole, packet))
		return BGF_BAD_SOURCE;
	if (flags & BGF_RTP && !read_rtp(ctx, packet, flags, pinhole, rtp))
		return BGF_BAD_RTP;
	if (flags & BGF_LATCH && !latch_admits(ctx, packet, pinhole, now))
		return BGF_BAD_SOURCE;
	return packet->hops <= 1 ? BGF_TTL : BGF_FORWARD;
}

/* What the way back knows beyond the map: its copy stands on the stack while the packet leaves. */
struct way_back {
	struct bgf_address address;
	__u8 macs[12];
	bool local; /* the peer may be another pinhole of this node */
};

static __always_inline void aim(const struct bgf_pinhole *pinhole, const struct bgf_nexthop *next,
				struct target *to)
{
	to->local = &pinhole->local_out;
	to->remote = &pinhole->remote;
	to->local_port_be = pinhole->local_port_be;
	to->remote_port_be = pinhole->remote_port_be;
	to->sum = pinhole->sum_out;
	to->ip6 = pinhole->flags & BGF_OUT_IP6;
	to->macs = next->macs;
	to->ifindex = next->ifindex;
	to->mtu = next->mtu;
	to->vlan = next->vlan;
}

/* Where the latch of the other direction leads; false when it has learned nobody and nobody is
 * signalled. */
static __always_inline bool aim_back(const struct bgf_pinhole *pinhole, struct way_back *back,
				     struct target *to)
{
	__u32 slot = pinhole->peer_slot, word, state, place;
	struct bgf_latch *latch = bpf_map_lookup_elem(&latches, &slot);
	const struct bgf_interface *own;

	word = latch ? *(volatile __u32 *)&latch->word : BGF_LATCH_OPEN;
	state = word & BGF_LATCH_STATE;
	if (state != BGF_LATCH_SET && state != BGF_LATCH_REPLACE)
		return !(pinhole->flags & BGF_NO_REMOTE);
	back->address = latch->address;
	place = latch->place;
	to->remote_port_be = latch->port_be;
	__builtin_memcpy(back->macs, latch->mac, sizeof(latch->mac));
	if (*(volatile __u32 *)&latch->word != word)
		return false;
	if (to->mtu && !(pinhole->flags & BGF_NO_REMOTE) &&
	    pinhole->remote.lo == back->address.lo && pinhole->remote.hi == back->address.hi) {
		/* Its next hop is known and kept up: better than the MAC address of back then. */
	} else if (*(__u32 *)back->macs | *(__u16 *)(back->macs + 4)) {
		own = bpf_map_lookup_elem(&interfaces, &place);
		if (!own)
			return false;
		__builtin_memcpy(back->macs + ETH_ALEN, own->mac, sizeof(own->mac));
		to->macs = back->macs;
		to->ifindex = own->ifindex;
		to->mtu = own->mtu;
		to->vlan = own->vlan;
	} else {
		back->local = true;
	}
	to->remote = &back->address;
	to->sum = fold(sum_address(&pinhole->local_out) + sum_address(&back->address) +
		       to->local_port_be + to->remote_port_be);
	return true;
}

static __always_inline void account(const struct packet *packet, const struct bgf_pinhole *pinhole,
				    const struct rtp *rtp, __u64 now)
{
	__u32 bytes = packet->udp_length - sizeof(struct udphdr), slot = pinhole->slot;
	struct bgf_stats *stat = bpf_map_lookup_elem(&stats, &slot);

	if (unlikely(!stat))
		return;
	stat->packets++;
	stat->bytes += bytes;
	stat->last_seen_ns = now;
	if (!(pinhole->flags & BGF_RTP))
		return;
	if (rtp->kind == RTP_MEDIA) {
		stat->rtp_packets++;
		stat->rtp_bytes += bytes;
		observe(pinhole, rtp, now);
	} else if (rtp->kind == RTP_CONTROL) {
		stat->rtcp_packets++;
	}
}

/* The same packet as it would arrive where it goes: at another pinhole of this node. */
static __always_inline void turn(struct packet *packet, const struct bgf_pinhole *pinhole,
				 const struct target *to)
{
	packet->key.local = *to->remote;
	packet->key.port_be = to->remote_port_be;
	packet->key.ifindex = pinhole->ifindex_out;
	packet->key.vlan = pinhole->vlan_out;
	packet->source = *to->local;
	packet->source_port = to->local_port_be;
	packet->hops--;
	packet->tos = (packet->tos & pinhole->tos_mask) | pinhole->tos_bits;
	packet->turned = true;
}

/* The action for what has a pinhole, 0 for what has none. */
static __always_inline int forward(struct xdp_md *ctx, struct packet *packet)
{
	struct bgf_pinhole *pinhole = bpf_map_lookup_elem(&pinholes, &packet->key);
	__u32 outcome, index, length, flags = 0;
	struct bgf_nexthop *next;
	struct way_back back;
	struct target to;
	struct rtp rtp;
	__u64 now;
	int pass;

	if (!pinhole)
		return 0;
	now = bpf_ktime_get_boot_ns();
	/* A v4-mapped address sums to 0xffff more than its IPv4 part, which is nothing here. */
	packet->sum = fold(sum_address(&packet->key.local) + sum_address(&packet->source) +
			   packet->key.port_be + packet->source_port);
	length = packet->payload + (packet->ip6 ? IP6_HEADER : IP4_HEADER);
#pragma clang loop unroll(disable)
	for (pass = 0; pass < HAIRPIN_PASSES; pass++) {
		struct bgf_pinhole *second;

		rtp.kind = RTP_NONE;
		back.local = false;
		flags = pinhole->flags;
		if (unlikely(flags & BGF_CAPTURED && !packet->traced && !packet->turned))
			capture(ctx, pinhole, packet->key.ifindex, packet->key.vlan, false);
		outcome = judge(ctx, packet, pinhole, &rtp, now);
		if (outcome != BGF_FORWARD)
			return refuse(ctx, packet, outcome);
		index = pinhole->nexthop;
		next = bpf_map_lookup_elem(&nexthops, &index);
		if (!next)
			return refuse(ctx, packet, BGF_NO_NEIGHBOUR);
		aim(pinhole, next, &to);
		if (unlikely(flags & BGF_FOLLOW) && !aim_back(pinhole, &back, &to))
			return refuse(ctx, packet, BGF_NO_PEER);
		if (likely(!(flags & BGF_HAIRPIN) && !back.local) || packet->turned)
			break;
		{
			struct bgf_key there = {
				.local = *to.remote,
				.ifindex = pinhole->ifindex_out,
				.port_be = to.remote_port_be,
				.vlan = pinhole->vlan_out,
			};

			second = bpf_map_lookup_elem(&pinholes, &there);
		}
		/* A group that another node has charge of is reached on the wire. */
		if (!second || !is_armed(second, now))
			break;
		if (flags & BGF_POLICE && !conforms(packet, pinhole, length, now))
			return refuse(ctx, packet, BGF_POLICED);
		if (!packet->traced)
			account(packet, pinhole, &rtp, now);
		turn(packet, pinhole, &to);
		length = packet->payload + (to.ip6 ? IP6_HEADER : IP4_HEADER);
		pinhole = second;
	}
	if (!to.mtu)
		return refuse(ctx, packet, BGF_NO_NEIGHBOUR);
	if (packet->payload + (to.ip6 ? IP6_HEADER : IP4_HEADER) > to.mtu)
		return refuse(ctx, packet, BGF_TOO_BIG);
	if (flags & BGF_POLICE && !conforms(packet, pinhole, length, now))
		return refuse(ctx, packet, BGF_POLICED);
	to.hops = packet->hops - 1;
	to.tos = (packet->tos & pinhole->tos_mask) | pinhole->tos_bits;
	outcome = rewrite(ctx, packet, &to);
	if (unlikely(!same_key(pinhole, &packet->key)))
		outcome = BGF_NO_PINHOLE; /* it was closed meanwhile */
	if (unlikely(outcome != BGF_FORWARD))
		return refuse(ctx, packet, outcome);
	note(ctx, packet, BGF_FORWARD, to.ifindex, to.vlan);
	if (unlikely(packet->traced))
		return XDP_REDIRECT;
	account(packet, pinhole, &rtp, now);
	if (unlikely(flags & BGF_CAPTURED))
		capture(ctx, pinhole, to.ifindex, to.vlan, true);
	return (int)bpf_redirect(to.ifindex, 0);
}

#endif
