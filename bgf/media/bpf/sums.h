/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/* One's complement sums (RFC 1071) and what is made of them (RFC 1624); native byte order. */
#ifndef BGF_SUMS_H
#define BGF_SUMS_H

#define SUM_MAX 4096 /* bytes that sum_frame takes at most: a frame in one page has no more */
#define OFFSET_MAX 128 /* of what is summed */

/* Of what is less than 2^47, in as many steps as that takes. */
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

static __always_inline __u64 sum_address(const struct bgf_address *a)
{
	return (a->hi & 0xffffffff) + (a->hi >> 32) + (a->lo & 0xffffffff) + (a->lo >> 32);
}

/*
 * Sums are kept as they add up, in 64 bits, and folded when they are written: they count modulo
 * 0xffff, and so do 32-bit words. What is less than SUM_NOTHING is taken away by adding SUM_NOTHING
 * less that.
 */
#define SUM_NOTHING (0xffffull << 24)

static __always_inline __u64 sum_ip4(const struct iphdr *ip)
{
	const __u32 *word = (const __u32 *)ip;

	return (__u64)word[0] + word[1] + word[2] + word[3] + word[4];
}

/* Is the header's sum right? A multiple of 0xffff is; after two steps there is but one. */
static __always_inline bool is_ip4_whole(const struct iphdr *ip)
{
	__u64 sum = sum_ip4(ip);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* A UDP checksum that comes out as zero is sent as its other form: zero says "none" (RFC 768). */
static __always_inline __u16 udp_check(__u64 sum)
{
	__u16 check = ~fold(sum);

	return check ? check : 0xffff;
}

/*
 * Sum of `length` bytes of the frame from its byte `offset`, in pieces as large as the helper takes,
 * then smaller ones. Negative when they are not all there, or too many.
 */
APART __s64 sum_frame(struct xdp_md *ctx, __u32 offset, __u32 length)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__s64 sum = 0;
	int i;

	if (length > SUM_MAX || offset > OFFSET_MAX)
		return -1;
	at += offset;
#pragma clang loop unroll(disable)
	for (i = 0; i < SUM_MAX / 512 && length >= 512; i++, at += 512, length -= 512) {
		if (at + 512 > end)
			return -1;
		sum = bpf_csum_diff(NULL, 0, at, 512, (__u32)sum);
	}
#pragma clang loop unroll(disable)
	for (i = 0; i < 8 && length >= 64; i++, at += 64, length -= 64) {
		if (at + 64 > end)
			return -1;
		sum = bpf_csum_diff(NULL, 0, at, 64, (__u32)sum);
	}
#pragma clang loop unroll(disable)
	for (i = 0; i < 16 && length >= 4; i++, at += 4, length -= 4) {
		if (at + 4 > end)
			return -1;
		sum = bpf_csum_diff(NULL, 0, at, 4, (__u32)sum);
	}
	if (length & 2) {
		if (at + 2 > end)
			return -1;
		sum += *(__u16 *)at;
		at += 2;
	}
	if (length & 1) {
		if (at + 1 > end)
			return -1;
		sum += bpf_htons((__u16)(*(__u8 *)at << 8));
	}
	return sum;
}

#endif
