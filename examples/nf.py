"""A network function in ten lines of Python: counts packets (here: lines) in lasting state.

python nf.py dal:///run/bgf/state
"""

import contextlib
import sys

import statestore

with statestore.open(sys.argv[1]) as store:
    with contextlib.suppress(statestore.Exists):
        store.create("nf/packets", bytes(8))
    packets = store.lookup("nf/packets")
    total = 0
    for _packet in sys.stdin:
        total = packets.add(1)
    print(f"{total} packets")
