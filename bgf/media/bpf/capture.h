/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/* Copies of a pinhole's packets for user space: as they arrive, and as they leave. */
#ifndef BGF_CAPTURE_H
#define BGF_CAPTURE_H

/* `hop` is where the frame leaves, NULL for one that has arrived. */
APART int capture(struct xdp_md *ctx, const struct packet *packet, const struct bgf_nexthop *hop)
{
	struct bgf_captured head = {};
	struct bgf_config *node;
	__u32 length, zero = 0;
	void *data, *end;

	/* A hairpin's packet has arrived but once; it leaves from both of its pinholes. */
	if (!packet || traced(ctx) || (packet->turned && !hop))
		return 0;
	node = bpf_map_lookup_elem(&config, &zero);
	if (!node)
		return 0;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	/* The compiler would keep but half of a pointer, which the verifier does not allow. */
	asm volatile("" : "+r"(data), "+r"(end));
	length = end - data;
	head.key = packet->key;
	head.time_ns = packet->now_ns;
	head.length = length;
	head.kept = length < node->snap ? length : node->snap;
	head.ifindex = hop ? hop->ifindex : packet->key.ifindex;
	head.vlan = hop ? hop->vlan : packet->key.vlan;
	head.leaving = hop != NULL;
	/* Nobody listens on this CPU, or too slowly: he counts what he lost himself. */
	return (int)bpf_perf_event_output(ctx, &captured,
					  (__u64)head.kept << 32 | BPF_F_CURRENT_CPU, &head,
					  sizeof(head));
}

#endif
