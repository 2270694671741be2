/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause OR Apache-2.0 */
/* The program's maps, with the sizes of BGF_MAPS unless the loader sets others. */
#ifndef BGF_MAPS_H
#define BGF_MAPS_H

#define SIZE(map, entries) SIZE_##map = entries,
enum { BGF_MAPS(SIZE) };
#undef SIZE

#define MAP_WITH(name, kind, k, v, flags)                                                          \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__uint(max_entries, SIZE_##name);                                                  \
		__uint(map_flags, flags);                                                          \
		__type(key, k);                                                                    \
		__type(value, v);                                                                  \
	} name SEC(".maps")
#define MAP(name, kind, k, v) MAP_WITH(name, kind, k, v, 0)

struct group_id {
	char text[BGF_GROUP_ID_LEN];
};

MAP(config, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_config);
MAP(groups, BPF_MAP_TYPE_ARRAY, __u32, struct group_id);
MAP(armed, BPF_MAP_TYPE_ARRAY, __u32, __u64);
MAP(interfaces, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_interface);
MAP(addresses, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_place);
/* What may be mapped into memory starts at a page, so that nothing straddles two cache lines; and
 * user space writes and reads it without a system call for each entry. */
MAP_WITH(cpus, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_cpu, BPF_F_MMAPABLE);
MAP_WITH(ports, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_ports, BPF_F_MMAPABLE);
MAP_WITH(pinholes, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_pinhole, BPF_F_MMAPABLE);
MAP_WITH(stats, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_stats, BPF_F_MMAPABLE);
MAP_WITH(latches, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_latch, BPF_F_MMAPABLE);
MAP(nexthops, BPF_MAP_TYPE_ARRAY, __u32, struct bgf_nexthop);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SIZE_reports);
} reports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(max_entries, SIZE_captured);
	__uint(key_size, 4);
	__uint(value_size, 4);
} captured SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(max_entries, SIZE_checks);
	__uint(key_size, 4);
	__uint(value_size, 4);
} checks SEC(".maps");

#endif
