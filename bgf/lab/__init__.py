"""The N+1 cluster in network namespaces on one machine: topology, processes, SIP peers, drill.

Knows: `bgf.model`, `bgf.errors`, `bgf.config`, the `ng` client of `bgf.control` and the raw
bpf(2) wrappers. The gateways under test are other processes, met through their sockets only.
"""
