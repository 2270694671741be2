"""What can go wrong with a cloud, as one line each. Imports the error tree and nothing else."""

from __future__ import annotations

from bgf.errors import BgfError


class CloudRefused(BgfError):
    """OpenStack answered, and would not or could not. The text says which part and the way out."""

    code = "cloud"


class NodeRefused(BgfError):
    """A gateway was asked through ssh, and would not or could not."""

    code = "node"
