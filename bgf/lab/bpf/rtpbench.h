/* What the programs of the media benchmark and user space agree on, byte for byte.
 *
 * Knows: layouts only. Ports and addresses are in network order, all other numbers in the machine's.
 * bgf/lab/rtpbench.py packs and unpacks the same layouts; the sizes below are asserted in both.
 */
#ifndef BGF_RTPBENCH_H
#define BGF_RTPBENCH_H

#include <linux/types.h>

/* Delays are counted in classes of 1/16 octave: class n < 32 is n ns, above that a delay d with its
 * highest bit at b stands in class 16 * (b - 4) + (d >> (b - 4)). */
#define RTPBENCH_DELAY_BITS 4
#define RTPBENCH_DELAYS 1024

/* What the bare forwarder writes, the same into every packet. */
struct rtpbench_bare {
	__u8 macs[12];	 /* destination, source: as an Ethernet header begins */
	__u32 ifindex;	 /* where it leaves */
	__u8 source4[4];
	__u8 destination4[4];
	__u8 source6[16];
	__u8 destination6[16];
};

struct rtpbench_arrivals {
	__u64 packets; /* generated ones */
	__u64 bytes;   /* of UDP payload */
	__u64 others;  /* anything else; passed on */
	__u64 timed;   /* 1, set by user space: delays are recorded */
};

_Static_assert(sizeof(struct rtpbench_bare) == 56, "bare");
_Static_assert(sizeof(struct rtpbench_arrivals) == 32, "arrivals");

#endif
