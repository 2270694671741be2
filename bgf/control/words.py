"""The words of the `ng` protocol, sorted by what a border gateway does about them. Data only.

CARRIED words go to the machine as flags; NEUTRAL ones wish for what is so anyway; DECLINED ones
are understood and not done. Every other word is unknown. Neither of the last two is an error:
the reply's `warning` names them. Source: rtpengine's `ng` manual; Kamailio 5.6 `rtpengine`.
"""

from __future__ import annotations

CARRIED = frozenset(
    (
        "asymmetric",
        "symmetric",
        "strict-source",
        "fatal",
        "all",
        "reset",
        "SIP-source-address",
        "loop-protect",
        "reject-ICE",
        "no-rtcp-attribute",
    )
)
"""Bare words of `flags` that the machine gets as they are. `asymmetric`, `symmetric` and
`strict-source` say who may send (`bgf.session_flows`)."""
LEG_PER_BRANCH = "leg-per-branch"
"""A bare word of ours: the Call-ID may come here more than once at a time, and `via-branch` says
which of its legs a command is about. For the codec alone."""
NEUTRAL = frozenset(
    (
        "trust-address",
        "port-latching",
        "no-port-latching",
        "unidirectional",
        "allow-transcoding",
        "no-codec-renegotiation",
        "reuse-codecs",
        "single-codec",
        "static-codecs",
        "no-redis-update",
        "full-rtcp-attribute",
        "SDES-off",
        "SDES-no",
        "SDES-disable",
        "DTLS-off",
        "DTLS-no",
        "DTLS-disable",
        "OSRTP-accept",
    )
)
"""Bare words that change nothing here. `port-latching` is about our own ports: they always stay."""
DECLINED = frozenset(
    (
        "media-handover",
        "always-transcode",
        "inject-DTMF",
        "detect-DTMF",
        "generate-RTCP",
        "generate-mid",
        "mirror-RTCP",
        "original-sendrecv",
        "strip-extmap",
        "pad-crypto",
        "debug",
        "block-DTMF",
        "block-media",
        "block-short",
        "NAT-wait",
        "pierce-NAT",
        "early-media",
        "fragment",
        "trickle-ICE",
        "discard-recording",
        "egress",
    )
)
"""Bare words that ask for what is not done here."""
DECLINED_PREFIXES = ("SDES-", "DTLS-", "OSRTP-", "codec-", "transcode-", "T.38-", "T38-")

CARRIED_KEYS = frozenset(
    (
        "ICE",
        "TOS",
        "label",
        "from-label",
        "replace",
        "rtcp-mux",
        "delete-delay",
        "endpoint-learning",
        "record-call",
        "address",
        "limit",
    )
)
"""Keys that the machine gets as `key=value` flags; a list gives one flag per entry."""
HANDLED_KEYS = frozenset(
    (
        "address-family",
        "transport-protocol",
        "media-address",
    )
)
"""Keys that the codec itself turns into fields of the request."""
LISTED_KEYS = frozenset(
    (
        "direction",
        "flags",
        "replace",
        "rtcp-mux",
        "SDES",
        "OSRTP",
        "T.38",
    )
)
"""Keys that hold lists: given more than once, they add up. OpenSIPS writes a word that it does not
know with each of its values, `direction=` too."""
PREFIXED_KEYS = ("replace", "rtcp-mux", "endpoint-learning")
"""Keys whose values may come as bare words, too: `replace-origin` is `replace=origin`."""
NEUTRAL_KEYS = frozenset(
    (
        "sip-message-type",
        "ICE-lite",
        "user-agent",
        "metadata",
        "to-label",
        "set-label",
    )
)
"""Keys that change nothing here."""
DECLINED_KEYS = frozenset(
    (
        "codec",
        "SDES",
        "OSRTP",
        "DTLS",
        "DTLS-reverse",
        "DTLS-fingerprint",
        "T.38",
        "ptime",
        "ptime-reverse",
        "repacketize",
        "media-echo",
        "generate-RTCP",
        "delay-buffer",
        "audio-player",
        "drop-traffic",
        "xmlrpc-callback",
        "DTMF-log-dest",
        "DTMF-security",
        "volume",
        "interface",
        "all",
        "template",
        "rtpp-flags",
    )
)
"""Keys that ask for what is not done here."""
OFF = frozenset(
    (
        "off",
        "no",
        "disable",
        "accept",
    )
)
"""Values that turn a declined key into no wish at all."""
REPLACED = frozenset(
    (
        "origin",
        "session-connection",
    )
)
"""What `replace` may name; session-connection always is, for media must come to us."""

ICE_VALUES = frozenset(("remove", "force", "default", "optional", "force-relay"))
ICE_WITH_CANDIDATES = frozenset(("optional", "force-relay"))
"""Values of `ICE` that would have the far end's candidates beside ours."""
MUX_VALUES = frozenset(("offer", "require", "demux", "accept", "reject"))

RECORD_CALL = "record-call"
"""As a bare word it means `record-call=on`."""

_BRIDGES = "forwards each call's media between its two sides only"
_PLAYS = "plays and decodes no media"

OUT_OF_SCOPE = {
    "play media": _PLAYS,
    "stop media": _PLAYS,
    "play DTMF": _PLAYS,
    "transcode": _PLAYS,
    "publish": _BRIDGES,
    "subscribe request": _BRIDGES,
    "subscribe answer": _BRIDGES,
    "unsubscribe": _BRIDGES,
    "connect": _BRIDGES,
}
"""Commands of `ng` that ask for what a border gateway is not, and what it is instead."""
