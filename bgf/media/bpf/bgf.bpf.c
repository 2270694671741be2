// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0
/*
 * The packet path: pinhole firewall and NAPT between IPv4 and IPv6, and the S-BFD reflector.
 *
 * Knows: the maps of bgf.h. Decides by them alone; it allocates nothing and no process need live.
 * Needs nothing newer than Linux 5.15. In order, a packet is
 *   - not for this interface's MAC address and VLAN, or no UDP to a guarded address: the kernel's;
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

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#include "bgf.h"
#include "maps.h"
#include "clock.h"
#include "packet.h"
#include "sums.h"
#include "parse.h"
#include "sbfd.h"
#include "rewrite.h"
#include "police.h"
#include "rtp.h"
#include "latch.h"
#include "capture.h"
#include "aside.h"
#include "pinhole.h"

SEC("xdp")
int bgf_xdp(struct xdp_md *ctx)
{
	struct packet packet = {};
	__u32 outcome = parse(ctx, &packet);
	struct bgf_place *place;
	int action;

	if (unlikely(outcome == BGF_PASS))
		return XDP_PASS;
	if (unlikely(outcome == BGF_VLAN))
		return pass(ctx, &packet, BGF_VLAN);
	if (unlikely(outcome == BGF_FORWARD && packet.key.port_be == bpf_htons(SBFD_PORT))) {
		action = reflect(ctx, &packet);
		if (action)
			return action;
	}
	place = find_address(&packet.key.local);
	if (likely(outcome == BGF_FORWARD)) {
		action = place ? forward(ctx, &packet, place) : 0;
		if (action)
			return action;
		outcome = BGF_NO_PINHOLE;
	}
	/* No pinhole could take it: dropped at a guarded address or cut off before its address, else
	 * the kernel's. */
	if (!(place && place->guarded) &&
	    !(outcome == BGF_RUNT && !(packet.key.local.hi | packet.key.local.lo)))
		return XDP_PASS;
	if (outcome == BGF_ICMP || outcome == BGF_ICMP_ERROR)
		return pass(ctx, &packet, outcome);
	return refuse(ctx, &packet, outcome);
}

char _license[] SEC("license") = "Dual BSD/GPL";
