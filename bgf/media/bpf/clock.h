/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/*
 * What time it is, for each CPU: CLOCK_BOOTTIME, read as often as it pays.
 *
 * Reading it costs as much as half of the program. So a CPU keeps what it has read. It reads again
 * when the kernel's tick has moved on (jiffies: 1 to 10 ms), and in between the more seldom the
 * more packets this tick has had: each has its own reading up to twice CLOCK_READS of them
 * (128,000/s at 250 Hz), then every second, every third, every CLOCK_PACKETS-th at last.
 *
 * What is kept is never ahead of the clock. It is behind by a 256th of a tick at most while packets
 * come evenly, and by a tick at worst, when they cease to. That is the error of
 *   - a lease: none, since what is kept decides only while the deadline is further away than
 *     CLOCK_SLACK_NS; nearer than that the clock itself is asked. Should a machine stand still,
 *     and its tick after that, at most CLOCK_PACKETS - 1 packets of a CPU go by the time before;
 *   - policing: a stream may send what its rate allows in that time more, once, and never more in
 *     the long run; or a packet may be refused that much too early;
 *   - jitter: that much in a packet's arrival, a sixteenth of it in the estimate; the longest gap;
 *   - last_seen_ns, and the times of reports and captures.
 */
#ifndef BGF_CLOCK_H
#define BGF_CLOCK_H

#define CLOCK_READS 256u
#define CLOCK_PACKETS 16u
#define CLOCK_SLACK_NS 40000000ull /* ticks are shorter, however late they are taken */

/* The row of this CPU, which is always there. */
static __always_inline struct bgf_cpu *this_cpu(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&cpus, &cpu);
}

static __always_inline __u64 read_clock(struct bgf_cpu *own, __u64 tick)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 every;

	if (own->tick != tick) {
		own->tick = tick;
		own->packets = 0;
	}
	every = own->packets / CLOCK_READS;
	every = every < 1 ? 1 : every < CLOCK_PACKETS ? every : CLOCK_PACKETS;
	own->packets += every;
	own->left = every;
	own->boot_ns = now;
	return now;
}

/* For a packet, once: `own` is the row of this CPU. */
static __always_inline __u64 clock_now(struct bgf_cpu *own)
{
	__u64 tick = bpf_jiffies64();

	own->left--;
	return likely(own->left && own->tick == tick) ? own->boot_ns : read_clock(own, tick);
}

/* Is it before the deadline, by the clock itself where what is kept is too near to tell? */
static __always_inline bool is_before(__u64 now, __u64 deadline)
{
	return likely(now + CLOCK_SLACK_NS < deadline) ||
	       (now < deadline && bpf_ktime_get_boot_ns() < deadline);
}

#endif
