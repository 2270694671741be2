/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/* Copies of a pinhole's packets for user space: as they arrive, and as they leave. */
#ifndef BGF_CAPTURE_H
#define BGF_CAPTURE_H

static __always_inline void capture(struct xdp_md *ctx, const struct bgf_pinhole *pinhole,
				    __u32 ifindex, __u16 vlan, bool leaving)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	__u64 length;
	struct bgf_config *node = bpf_map_lookup_elem(&config, &zero);
	struct bgf_captured head = {
		.key = pinhole->key,
		.time_ns = bpf_ktime_get_boot_ns(),
		.ifindex = ifindex,
		.vlan = vlan,
		.leaving = leaving,
	};

	/* The compiler would keep but half of a pointer, which the verifier does not allow. */
	asm volatile("" : "+r"(data), "+r"(end));
	length = end - data;
	if (!node)
		return;
	head.length = length;
	head.kept = length < node->snap ? length : node->snap;
	/* Nobody listens on this CPU, or too slowly: he counts what he lost himself. */
	(void)bpf_perf_event_output(ctx, &captured, (__u64)head.kept << 32 | BPF_F_CURRENT_CPU,
				    &head, sizeof(head));
}

#endif
