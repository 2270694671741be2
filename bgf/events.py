"""Every input and every effect of the gateway machine, with one canonical encoding. No behaviour.

An event is all that a step may depend on: the driver stamps `now_ns` (the time of calls, ns, the
same on all nodes) and writes the drawn ports into it, so that the same events always give the same
state (DESIGN section 2). Encodings are msgpack in array form; `SCHEMA` names the version, and
fields are only ever appended, with defaults, so that a version reads all that were before it.
"""

from __future__ import annotations

import enum

import msgspec

from bgf.model import Address, Flow, FlowKey, Ice

SCHEMA = 3
DISCARD_PORT = 9
"""Where nobody listens (RFC 863): what an ICE agent states that has no candidate to state."""
_NOWHERE = ("0.0.0.0", "::")


class Verb(enum.StrEnum):
    """`ng` commands that reach the machine. What changes state is journaled."""

    PING = "ping"
    OFFER = "offer"
    ANSWER = "answer"
    DELETE = "delete"
    QUERY = "query"
    LIST = "list"
    STATISTICS = "statistics"
    BLOCK_MEDIA = "block media"
    UNBLOCK_MEDIA = "unblock media"
    SILENCE_MEDIA = "silence media"
    UNSILENCE_MEDIA = "unsilence media"
    BLOCK_DTMF = "block DTMF"
    UNBLOCK_DTMF = "unblock DTMF"
    START_FORWARDING = "start forwarding"
    STOP_FORWARDING = "stop forwarding"
    START_RECORDING = "start recording"
    PAUSE_RECORDING = "pause recording"
    STOP_RECORDING = "stop recording"

    @property
    def changes_state(self) -> bool:
        return self not in (Verb.PING, Verb.QUERY, Verb.LIST, Verb.STATISTICS)


class MediaLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One m-line as the sender of the SDP described it (RFC 8866 section 5.14).

    `rtp.port` 0 means rejected (RFC 3264 section 6). `rtcp` is the explicit or implied RTCP
    address (RFC 3605), None when muxed-only or rejected. `direction` is sendrecv, sendonly,
    recvonly or inactive as stated by the sender. `payload_types` are the RTP formats that it
    names, in its order; `clock_hz` is the clock rate of the first (RFC 3551, `a=rtpmap`).
    `dtmf_types` are those of telephone-event (RFC 4733). `ice_ufrag` is its ICE user name (RFC 8839
    section 5.4), '' when it does no ICE; `dtls` says that it exchanges keys on the media port
    (`a=fingerprint`, RFC 5763).
    """

    kind: str
    transport: str
    rtp: Address
    rtcp: Address | None = None
    rtcp_mux: bool = False
    direction: str = "sendrecv"
    payload_types: tuple[int, ...] = ()
    clock_hz: int = 8_000
    dtmf_types: tuple[int, ...] = ()
    ice_ufrag: str = ""
    dtls: bool = False

    @property
    def undisclosed(self) -> bool:
        """Does it leave to ICE alone where it receives? Port 9 of the unspecified address says so,
        and is no hold (RFC 8839 section 4.2.5, RFC 8840 section 4.1.1)."""
        rtp = self.rtp
        return rtp.port == DISCARD_PORT and rtp.host in _NOWHERE and self.ice_ufrag != ""


class Command(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="command"):
    """A decoded control command, stamped by the driver.

    `realms` is (towards the sender of this SDP, towards its receiver), empty when not given.
    `family` is the requested IP version towards the receiver of the SDP, 0 when not given.
    `ports` are even RTP ports drawn for this command, RTCP on port + 1; one entry per port pair
    that `Gateway.demand` asked for, in its order. `wall_s` is the time in Unix seconds: what a
    peer is told of times, on whichever node. `entropy` is there when the command may need ICE
    credentials, which come out of it (`bgf.session_ice`). `carried` comes with a delete: what the
    call's pinholes had forwarded, (RTP packets, bytes, RTCP packets, bytes); empty: not known.
    """

    now_ns: int
    cookie: str
    verb: Verb
    call_id: str = ""
    from_tag: str = ""
    to_tag: str = ""
    via_branch: str = ""
    media: tuple[MediaLine, ...] = ()
    flags: tuple[str, ...] = ()
    realms: tuple[str, ...] = ()
    family: int = 0
    ports: tuple[int, ...] = ()
    wall_s: int = 0
    entropy: bytes = b""
    carried: tuple[int, ...] = ()


class Expired(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="expired"):
    """A deadline the machine had asked for has passed (half-open call, reply cache)."""

    now_ns: int
    call_id: str


class Learned(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="learned"):
    """The packet path has latched the pinhole `key` onto `peer` (H.248.37), in that round."""

    now_ns: int
    call_id: str
    key: FlowKey
    peer: Address
    latch_round: int


class Nominated(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="nominated"):
    """The ICE agent behind the pinhole `key` has chosen to send from `peer` (RFC 8445 section 8):
    a STUN check with USE-CANDIDATE and the right integrity came from there."""

    now_ns: int
    call_id: str
    key: FlowKey
    peer: Address


class Relatch(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="relatch"):
    """The operator wants every latching side of a call to learn its sender anew."""

    now_ns: int
    call_id: str


class Silent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="silent"):
    """A pinhole that should carry media has had none for its `inactivity_ms`.

    `last_seen_ns` (CLOCK_BOOTTIME of this node) 0: it never had any. Changes no state.
    """

    now_ns: int
    call_id: str
    key: FlowKey
    last_seen_ns: int


class Abandoned(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="abandoned"):
    """No media in any direction for longer than the owner's configuration lets a call hang: it
    ends here. The driver says so, since neither counters nor configuration are in the machine.

    `held`: none was due.
    """

    now_ns: int
    call_id: str
    silent_ms: int
    held: bool = False


class Heard(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="heard"):
    """Media came through an open pinhole of the call, the last of it `ago_ms` before now. The
    driver says so when a deadline of the call depends on it."""

    now_ns: int
    call_id: str
    ago_ms: int


Event = Command | Expired | Learned | Nominated | Relatch | Silent | Abandoned | Heard
Seen = Learned | Nominated | Relatch | Silent | Abandoned | Heard
"""What no peer has sent and no deadline brought: the packet path, the operator."""


class Result(enum.StrEnum):
    """`ng` reply results."""

    OK = "ok"
    PONG = "pong"
    ERROR = "error"
    LOAD_LIMIT = "load limit"


class MediaRewrite(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an m-line must say on the far side: our addresses. `rtp.port` 0 keeps it rejected.

    With `ice` it speaks for an ICE-lite agent with these credentials (RFC 8839).
    """

    rtp: Address
    rtcp: Address | None = None
    rtcp_mux: bool = False
    ice: Ice | None = None


class Party(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One side of a call, as a query tells it. `treatments` name what is ordered of its media."""

    tag: str
    label: str = ""
    branch: str = ""
    treatments: tuple[str, ...] = ()


class CallReport(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a query tells of a call besides its flows. Times are Unix seconds.

    `media` is, by m-line and then by side, (kind, transport, direction).
    """

    created_s: int
    signalled_s: int
    parties: tuple[Party, Party]
    media: tuple[tuple[tuple[str, str, str], tuple[str, str, str]], ...] = ()
    recording: str = "off"


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="reply"):
    """Answer `cookie`. The codec renders it together with the request's own SDP.

    `flows` and `report` are filled for `query`: whose counters the reply must carry, and of what;
    `calls` for `list`. `loop_mark` is to stand in the SDP, so that this group knows it should it
    come here again (`loop-protect`). `carried` is that of the delete that it answers, with the
    call's beginning in `created_s`: who asks again may ask another node, which has no counters.
    """

    cookie: str
    result: Result
    reason: str = ""
    warning: str = ""
    media: tuple[MediaRewrite, ...] = ()
    flows: tuple[Flow, ...] = ()
    created_ns: int = 0
    report: CallReport | None = None
    calls: tuple[str, ...] = ()
    loop_mark: str = ""
    carried: tuple[int, ...] = ()
    created_s: int = 0


class PutFlow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="put"):
    """Record and install a flow, replacing one with the same key."""

    flow: Flow


class DropFlow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="drop"):
    """Close and forget the pinhole with this key."""

    group: str
    key: FlowKey


class Forget(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="forget"):
    """The call has left the machine for good: its journal may go."""

    call_id: str


class Notify(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="notify"):
    """Tell whoever controls the call that media of one pinhole stopped, or never started.

    (H.248 `adid/ipstop`; `ng` has no message for it: it is logged and counted.)
    """

    call_id: str
    key: FlowKey
    stream: int
    never_started: bool


Effect = Reply | PutFlow | DropFlow | Forget | Notify
