"""The composition root: the only room that sees all the others, and where the real clock lives.

Three processes per node, each small: `state` (keeps the segment), `gateway` (control and flows),
`failover` (detection, lease, addresses). Here cores are wired to adapters; nothing is decided.
"""
