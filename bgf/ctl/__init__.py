"""bgfctl: what an operator asks and starts. Talks to admin sockets, never to shared memory.

Knows: `bgf.config`, `bgf.errors`, `bgf.admin`, and the entry points of the lab. Must not
know how a gateway works inside: it shows what the processes say of themselves.
"""
