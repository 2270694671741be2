"""Where things are in a cluster: members, homes of items. Plain values.

Knows names. Must not know: how they were learnt.
"""

from __future__ import annotations

from typing import NamedTuple

HINTS = ("none", "local", "remote", "pin")


class Member(NamedTuple):
    """One state server in the view."""

    slot: int
    node: str
    address: str
    incarnation: int
    leader: bool
    own: bool  # the server of this host


class Home(NamedTuple):
    """Where an item lives, by names of nodes. An embedded store is nobody's home: master ''."""

    master: str
    replicas: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()  # being filled
    hint: str = "none"
    want: int = 0  # replicas wanted


EMBEDDED = Home("")
