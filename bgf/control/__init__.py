"""Control protocols: codecs without sockets, and the sockets beside them.

Knows: bytes and `events`. Must not know: sessions, ports that are free, who owns what.
Imports only `bgf.model`, `bgf.events` and `bgf.errors`.
"""
