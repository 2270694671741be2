"""`bgf monitor`: figures for Prometheus and a page for people, on the management address.

Knows: the answers of the node's processes on their admin sockets. Must not know anything that it
could only learn from shared memory, packet tables or the registry: it reads, and holds nothing up.
"""
