"""The media room: the packet path of one node.

`datapath` is what others ask of it, `xdp` the kernel's answer to that. Imports `model`, `events`
and `errors` of the house, nothing else.
"""
