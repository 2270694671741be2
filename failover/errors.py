"""The error tree of the failover room. Imports nothing.

Every error prints as one line that names the thing, the value and the way out. What a peer sent
is `MalformedPacket`: it is counted where it is caught and never ends a process.
`RegistryUnavailable` lives with the registry interface.
"""


class FailoverError(Exception):
    """Root of all errors raised on purpose in this room. `code` is stable."""

    code = "failover"


class MalformedPacket(FailoverError):
    """Bytes that are not an S-BFD control packet. The text says which rule they break."""

    code = "malformed-packet"


class FailoverConfigError(FailoverError):
    """A value of `FailoverConfig` that cannot be used; the text names it and the range."""

    code = "failover-config"


class AddressError(FailoverError):
    """The kernel refused an address, or an interface is missing; the text names both."""

    code = "address"


class AddressConflict(AddressError):
    """Somebody else on the link already answers for an address that nobody has owned yet."""

    code = "address-conflict"


class ProbeError(FailoverError):
    """A probing socket cannot be opened; the text names the path and the own address."""

    code = "probe"


class MoveRefused(FailoverError):
    """A planned move that cannot begin; the text says why, and what there is."""

    code = "move-refused"
