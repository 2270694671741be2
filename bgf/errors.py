"""The error tree of the gateway. Imports nothing, is imported by every room of `bgf`.

Two branches matter to a caller: `Misuse` (we, or our operator, did it) and `PeerError`
(somebody outside did it; count it, answer it in the peer's protocol, go on). Every error
prints as one line that names the thing, the value and the way out.
"""


class BgfError(Exception):
    """Root of all errors raised on purpose. `code` is stable and machine-readable."""

    code = "error"


class Misuse(BgfError):
    """Our own side called something wrongly: a bug or an operator's mistake."""

    code = "misuse"


class ConfigError(Misuse):
    """A configuration value that cannot be used; the text names file, key and value."""

    code = "config"


class EnvironmentProblem(Misuse):
    """The machine lacks something: privileges, kernel features, packages, an address."""

    code = "environment"


class DatapathError(BgfError):
    """The packet path refused an operation (full table, missing map, kernel error)."""

    code = "datapath"


class PeerError(BgfError):
    """A peer sent something unusable. `reason` is what the peer is told (ng `error-reason`)."""

    code = "peer"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Malformed(PeerError):
    """Bytes that are not the protocol at all, or lack a mandatory key."""

    code = "malformed"


class Unsupported(PeerError):
    """Well-formed, understood, and outside what a border gateway does."""

    code = "unsupported"


class UnknownCall(PeerError):
    """A command for a call that is not (or no longer) here."""

    code = "unknown-call"


class PortsExhausted(PeerError):
    """Every port of the range is in use: the text is the one Kamailio fails over on."""

    code = "ports-exhausted"


class PortsUnbindable(DatapathError):
    """The packet path refuses pinholes at ports that were free to draw."""

    code = "ports-unbindable"


class PortsLeaked(Misuse):
    """A port pair is held in the name of a call that does not know it: our own fault."""

    code = "ports-leaked"


class LoadLimit(PeerError):
    """A named limit was reached; Kamailio tries its next node on ng result `load limit`."""

    code = "load-limit"


class Unserved(PeerError):
    """This node owns the group, and its state plane has not served for long: nothing is done."""

    code = "unserved"


class StateError(BgfError):
    """The state store did not take or give an item (full, unavailable, unreadable)."""

    code = "state"


class Fenced(StateError):
    """The store has seen a newer epoch of the group: this node no longer owns it."""

    code = "fenced"


class Unreadable(StateError):
    """A journal entry of an unknown version or shape: the call that it describes is lost."""

    code = "unreadable"


class NotNow(StateError):
    """The store cannot do it now and has done nothing: a view changes, or nobody answers."""

    code = "not-now"


class InDoubt(StateError):
    """The store may or may not have done it: what is recorded must be read again."""

    code = "in-doubt"
