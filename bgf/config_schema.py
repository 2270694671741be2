"""The schema of a node's file: each key, its type, range, default, meaning, what a change needs.

Knows: the keys as data. Must not know how they are parsed: the parser is the parser's, and a test
holds the two together, key by key and range by range.
"""

from __future__ import annotations

import enum
from typing import Any, Final, NamedTuple

from bgf import config as node_config
from bgf import config_control as control
from bgf import config_failover as failover
from bgf import config_media as media
from bgf import config_monitor as monitor
from bgf import config_recording as recording
from bgf import config_safety as safety
from bgf import config_state as state
from bgf.model import PORT_MAX


class Change(enum.StrEnum):
    """What it takes until a changed value counts."""

    RELOAD = "reload"
    MONITOR = "restart of bgf monitor"
    GATEWAY = "restart of bgf gateway"
    FAILOVER = "restart of bgf failover"
    STATE = "restart of bgf state"
    NODE = "restart of all of the node's processes"
    SEGMENT = "a new segment: stop the processes, remove it, start them"


class Key(NamedTuple):
    """`path` has `NAME` for a name that the file chooses and `[]` for one of several tables.

    `type` is text, integer, boolean, list, table or tables. `default` None: the key must be there;
    "" in words: absent. `limits` are of an integer. `same`: alike on every node.
    """

    path: str
    type: str
    text: str
    change: Change
    default: Any = None
    limits: tuple[int, int] | None = None
    values: tuple[str, ...] = ()
    same: bool = False


class Section(NamedTuple):
    """A table of the file."""

    path: str
    text: str
    keys: tuple[Key, ...]


ABSENT: Final = ""
_G, _F, _S, _N, _L, _M = (
    Change.GATEWAY, Change.FAILOVER, Change.STATE, Change.NODE, Change.RELOAD, Change.MONITOR,
)  # fmt: skip
PORTS: Final = (1, PORT_MAX)
_SAFE: Final = failover.PROFILES[failover.DEFAULT_PROFILE]


def _timer(name: str, text: str) -> Key:
    default = getattr(_SAFE, name)
    return Key(f"failover.{name}", "integer", text, _F, default, failover.RANGES[name], same=True)


SECTIONS: Final = (
    Section("node", "Who this node is.", (
        Key("node.id", "text", "Stable name; never reuse one for another machine.", _N),
        Key("node.discriminator", "integer", "S-BFD discriminator (RFC 7880), different on every "
            "node.", _N, limits=node_config.DISCRIMINATOR_RANGE),
        Key("node.run_dir", "text", "Directory of the admin sockets, locks and histories.", _N),
        Key("node.host", "text", "What this node shares with others that would die with it: the "
            "name of its machine or hypervisor. Of equal standbys, one elsewhere takes over.", _F,
            ABSENT),
        Key("node.rack", "text", "As `node.host`, for the next larger thing.", _F, ABSENT),
    )),
    Section("state", "Where state is kept. Without `[state.cluster]` the store is embedded: one "
            "host, no network.", (
        Key("state.address", "text", "`dal:///DIRECTORY`; the directory should be on tmpfs: on a "
            "disk, write-back stalls writers.", Change.SEGMENT),
        Key("state.size_mb", "integer", "Size of the segment when it is created, MiB. Every member "
            "holds the whole key map, 64 bytes and its key per item, and its share of the values.",
            Change.SEGMENT, 256, state.SIZE_MB_RANGE),
        Key("state.cluster", "table", "Makes the node a member of a cluster.", Change.SEGMENT,
            ABSENT),
    )),
    Section("state.cluster", "This node's state server. Keys of this table but `listen` and "
            "`metrics` are the same on every node.", (
        Key("state.cluster.listen", "text", "UDP ADDRESS:PORT of the state server, on the "
            "management network.", _S),
        Key("state.cluster.key_file", "text", "The cluster key: lines `ID HEX64`, mode 0600 or "
            "refused; the first one seals, all open. Its content is read anew by "
            "`bgfctl state reload-keys`.", _S, same=True),
        Key("state.cluster.etcd", "list", '`["http://10.30.0.201:2379", ...]`, all members.', _N,
            same=True),
        Key("state.cluster.name", "text", "Clusters of different names may share one etcd: keys "
            "begin with `/NAME/`.", _N, "bgf", same=True),
        Key("state.cluster.profile", "text", "Lease and renewal of the members: `safe` 3 s, `fast` "
            "1 s, `lab` 0.4 s. A member that pauses for longer stops serving, and is evicted after "
            "5, 1.5, 0.6 s.", _S, "safe", values=state.PROFILES, same=True),
        Key("state.cluster.replicas", "integer", "Copies of a call's journal besides the master's. "
            "Flows have one on every member.", _G, 2, state.REPLICAS_RANGE, same=True),
        Key("state.cluster.history", "integer", "So many accesses decide that an item moves to "
            "where it is used; 1: at the first one, 0: never.", _S, 8, state.HISTORY_RANGE,
            same=True),
        Key("state.cluster.promote", "text", "A dead member's items are written again at once, "
            "or after its lease (decision 47).", _S, "at once", values=state.PROMOTE, same=True),
        Key("state.cluster.repair_per_s", "integer", "Missing copies made again, per second and "
            "member; an eighth of it in the four seconds after a death.", _S, 2_000,
            state.REPAIR_PER_S_RANGE),
        Key("state.cluster.metrics", "text", "Where Prometheus scrapes this state server alone; "
            "`[monitor]` has the same figures and all others.", _S, ABSENT),
        Key("state.cluster.etcd_ca_file", "text", "Authority of etcd's certificates; needed where "
            "`etcd` says https.", _N, ABSENT),
        Key("state.cluster.etcd_cert_file", "text", "This node's own certificate towards etcd.",
            _N, ABSENT),
        Key("state.cluster.etcd_key_file", "text", "Its key.", _N, ABSENT),
    )),
    Section("media", "The packet path.", (
        Key("media.pin_dir", "text", "Directory on a bpffs where program, maps and links are "
            "pinned.", _N),
        Key("media.pinholes_max", "integer", "Size of the pinhole table: 4 per call with separate "
            "RTCP, 2 with rtcp-mux; at least one per port of the groups.", _G, 65_536,
            media.PINHOLES_RANGE),
        Key("media.attach", "text", "Native XDP, generic XDP, or native where the driver has it "
            "(said in the log).", _G, "auto", values=media.ATTACH_MODES),
        Key("media.port_quarantine_ms", "integer", "A released port pair rests so long, also "
            "across a takeover: what the old party still sends must not reach the next call.", _G,
            media.QUARANTINE_MS, media.QUARANTINE_MS_RANGE, same=True),
        Key("media.close_hanging_s", "integer", "The owner ends a call that has had no media for "
            "so long; 0: it is only reported.", _L, 0, media.CLOSE_HANGING_S_RANGE, same=True),
        Key("media.close_held_s", "integer", "The same for a call of which no media is due, as on "
            "hold on both sides: no packet, offer or answer for so long. Reported from half of it "
            "on; 0: neither. Not ended while `close_hanging_s` is 0, nor before that.",
            _L, media.CLOSE_HELD_S, media.CLOSE_HELD_S_RANGE, same=True),
    )),
    Section("realms.NAME", "A network this node is in. Realms but `interface` are the same on "
            "every node.", (
        Key("realms.NAME.interface", "text", "The interface that is in that network, of its own.",
            _G),
        Key("realms.NAME.media", "boolean", "False for a network without pinholes (management).",
            _G, True, same=True),
        Key("realms.NAME.latch", "text", "Who may send from there. `off`: any port of the host "
            "that the description names. `latch`: whoever sends first, then he alone, for parties "
            "behind NATs. `strict`: the described host and port. A call's flags go before it.", _G,
            "off", values=tuple(media.LATCH_MODES), same=True),
        Key("realms.NAME.rtp_check", "text", "`header` drops what is no RTP, `payload-types` also "
            "what neither description names. Not with `off` only where nothing else uses media "
            "ports: ZRTP and STUN would be dropped.", _G, "off",
            values=("off", "header", "payload-types"), same=True),
        Key("realms.NAME.inactivity_s", "integer", "A stream that should carry media from there "
            "and has none for so long is reported; 0: never.", _G, media.INACTIVITY_S,
            media.INACTIVITY_S_RANGE, same=True),
        Key("realms.NAME.streams", "table", "Rules by kind of media.", _G, ABSENT, same=True),
    )),
    Section("realms.NAME.streams.KIND", "For `audio`, `video`, ... or `any`: marks of what leaves "
            "into the realm, rates of what arrives from it (H.248.53; bytes, IP headers included).",
            (
        Key("realms.NAME.streams.KIND.dscp", "integer", "DSCP; absent: as it came.", _G, ABSENT,
            media.DSCP_RANGE, same=True),
        Key("realms.NAME.streams.KIND.sustained_bytes_s", "integer", "Sustained rate, bytes/s.",
            _G, ABSENT, media.RATE_RANGE, same=True),
        Key("realms.NAME.streams.KIND.burst_bytes", "integer", "So much may come at once; by "
            "default a tenth of a second, 3,000 at least.", _G, ABSENT, media.BURST_RANGE,
            same=True),
        Key("realms.NAME.streams.KIND.peak_bytes_s", "integer", "Peak rate, bytes/s.", _G, ABSENT,
            media.RATE_RANGE, same=True),
        Key("realms.NAME.streams.KIND.peak_burst_bytes", "integer", "At once at the peak rate.",
            _G, media.PEAK_BURST_BYTES, media.BURST_RANGE, same=True),
    )),
    Section("groups[]", "A service group: what moves from a dead node to a standby. The same list "
            "on every node.", (
        Key("groups[].id", "text", "Its name.", _N, same=True),
        Key("groups[].preferred", "text", "Who claims the group when nobody has ever owned it; "
            "there is no fail-back.", _F, ABSENT, same=True),
        Key("groups[].control", "text", "ADDRESS/PREFIX where the proxy sends `ng`; moves with the "
            "group.", _N, same=True),
        Key("groups[].control_port", "integer", "Port of `ng` over UDP.", _G, limits=PORTS,
            same=True),
        Key("groups[].control_realm", "text", "The realm of that address.", _N, same=True),
        Key("groups[].ports", "list", "`[FIRST, LAST]` of the media ports; pairs begin even.", _G,
            same=True),
        Key("groups[].addresses", "table", "The group's media addresses by realm, one per IP "
            'version: `{ access = ["fd00:a::101/64"] }`. They move with the group.', _N, same=True),
    )),
    Section("control", "Who commands, and how much. The same on every node.", (
        Key("control.default_realms", "list", "Realms of an offer without `direction`: towards its "
            "sender, towards its receiver.", _G, same=True),
        Key("control.peers", "list", "Prefixes and addresses that may command. Absent: the "
            "networks of the control addresses, and everybody where such an address is a /32 or "
            "/128.", _L, ABSENT, same=True),
        Key("control.listen", "table", "Transports of `ng`.", _G, ABSENT, same=True),
        Key("control.listen.udp", "boolean", "On each group's `control_port`.", _G, True,
            same=True),
        Key("control.listen.tcp", "integer", "Port of `ng` over TCP; absent: not at all.", _G,
            ABSENT, PORTS, same=True),
        Key("control.listen.http", "integer", "Port of `ng` over HTTP and WebSocket; absent: not "
            "at all.", _G, ABSENT, PORTS, same=True),
        Key("control.rate_per_peer", "integer", "Frames a second of one peer; 0: any. Datagrams "
            "beyond it are dropped, connections held back.", _L, control.RATE_PER_PEER,
            control.RATE_RANGE, same=True),
        Key("control.sessions_max", "integer", "Calls of one group.", _L, control.SESSIONS_MAX,
            control.SESSIONS_RANGE, same=True),
        Key("control.new_calls_per_s", "integer", "New calls of one group per second, and so many "
            "at once; 0: any.", _L, 0, control.RATE_RANGE, same=True),
        Key("control.memory_max_mb", "integer", "Own memory of the gateway process; 0: three "
            "quarters of the machine's, or of its control group's.", _L, 0,
            control.MEMORY_MB_RANGE),
        Key("control.lag_max_ms", "integer", "A new call that would wait longer for its answer is "
            "refused; a proxy asks again after 1,000.", _L, control.LAG_MS, control.LAG_MS_RANGE,
            same=True),
        Key("control.journal", "text", "What is written of a call: its inputs, the call itself at "
            "every step, or inputs, and the call itself with its answer and at every 17th input "
            "later. Each node reads all three. `implicit` restores several times more slowly; "
            "`bgfctl sessions why` explains from inputs.", _G, control.JOURNAL,
            values=control.JOURNALS),
    )),
    Section("failover", "The timers of detection and takeover (decision 29). The same on every "
            "node.", (
        Key("failover.profile", "text", "All timers by name: `safe` (100 ms x 5, lease 3 s), "
            "`fast` (50 x 3, 1.5 s), `lab` (20 x 3, 1 s); the keys below override it, and have "
            "its values by default (those of `safe` are shown).", _F, failover.DEFAULT_PROFILE,
            values=tuple(failover.PROFILES), same=True),
        _timer("probe_interval_ms", "Between two probes of a peer on a path."),
        _timer("detect_multiplier", "A node is silent after interval x multiplier."),
        _timer("lease_ms", "How long a node may forward without renewing; longer than any pause "
               "that you want to survive, and than a silence."),
        _timer("announce_interval_ms", "Gratuitous ARP and unsolicited NA are repeated so often."),
        _timer("patience_ms", "The next in line acts when the one before it did not for so long."),
        _timer("unowned_grace_ms", "A group that nobody ever owned is left so long to its "
               "preferred node."),
        Key("failover.realtime_priority", "integer", "SCHED_RR priority of the failover process, "
            "whose pauses are the cluster's outage (decision 56); 0: it is scheduled like any "
            "other. Refused by the machine: it says so and goes on.", _F,
            failover.REALTIME_PRIORITY, failover.REALTIME_PRIORITY_RANGE),
        Key("failover.peers", "tables", "The other nodes.", _F, ABSENT),
        Key("failover.fencing", "table", "Absent: nobody is switched off.", _F, ABSENT),
        Key("failover.watchdog", "table", "Absent: nothing resets this machine.", _F, ABSENT),
    )),
    Section("failover.fencing", "Who has a dead owner switched off, once its lease is over and "
        "this node has taken its groups. No takeover waits for it (decision 40).", (
        Key("failover.fencing.driver", "text", "`nova`: its server is stopped through OpenStack.",
            _F, "none", values=safety.DRIVERS),
        Key("failover.fencing.cloud", "text", "A cloud of `clouds_file`.", _F, "bgf"),
        Key("failover.fencing.clouds_file", "text", "A clouds.yaml, readable to bgf alone.", _F,
            "/etc/bgf/clouds.yaml"),
        Key("failover.fencing.cluster", "text", "What the servers' metadata `bgf_cluster` says; "
            "`bgf_node` is the node. Must be there with a driver.", _F, ABSENT),
        Key("failover.fencing.timeout_s", "integer", "Seconds until an attempt has failed.", _F,
            120, safety.FENCE_TIMEOUT_S_RANGE),
        Key("failover.fencing.force_down", "boolean", "Also tell Nova that a host which it holds "
            "to be down is fenced, so that its servers may be evacuated (an admin's right).",
            _F, False),
    )),
    Section("failover.watchdog", "The machine resets when its failover process hangs, or cannot "
        "let go of what is not its own.", (
        Key("failover.watchdog.device", "text", "As /dev/watchdog; absent: none.", _F, ABSENT),
        Key("failover.watchdog.timeout_s", "integer", "Seconds without being fed.", _F, 30,
            safety.WATCHDOG_TIMEOUT_S_RANGE),
    )),
    Section("failover.peers[]", "Another node.", (
        Key("failover.peers[].id", "text", "Its `node.id`.", _F),
        Key("failover.peers[].discriminator", "integer", "Its `node.discriminator`.", _F,
            limits=node_config.DISCRIMINATOR_RANGE),
        Key("failover.peers[].paths", "table", "Its own fixed address in each realm probed: "
            "all media realms, and the management network (`media = false` and an interface of its "
            "own), so that *node dead*, *link dead* and *management cut* are told apart: "
            '`{ access = "10.10.0.12", core = "10.20.0.12", mgmt = "10.30.0.12" }`.', _F),
    )),
    Section("recording", "Where calls are recorded, and where media is forwarded to.", (
        Key("recording.directory", "text", "Calls that `start recording` or `record-call=on` asks "
            "for; absent: such commands are refused.", _G, ABSENT),
        Key("recording.file_bytes_max", "integer", "A file ends there.", _G,
            recording.FILE_BYTES_MAX, recording.FILE_BYTES_RANGE),
        Key("recording.files_max", "integer", "No new one begins while the directory has so many: "
            "move them away.", _G, recording.FILES_MAX, recording.FILES_RANGE),
        Key("recording.recorder", "text", "`HOST:PORT` that `start forwarding` copies media to.",
            _G, ABSENT),
        Key("recording.recorder_realm", "text", "The realm by whose interface; absent: the routing "
            "table's.", _G, ABSENT),
        Key("recording.calls_max", "integer", "Calls copied at a time, recorded or forwarded.", _G,
            recording.CALLS_MAX, recording.CALLS_RANGE),
    )),
    Section("monitor", "Figures for Prometheus and the status page (`bgf monitor`). Without the "
            "table there is neither.", (
        Key("monitor.listen", "text", f"ADDRESS:PORT on the management network, usually port "
            f"{monitor.MONITOR_PORT}. Read-only, without a password: keep the network closed.", _M),
        Key("monitor.peers", "list", "The other nodes' monitors, so that the page shows them all.",
            _M, ABSENT),
        Key("monitor.drills", "text", "Directory of drill reports (`bgfctl drill FAULT --json "
            "FILE`, a plot of the same name beside) that the page shows, besides their history.",
            _M, ABSENT),
    )),
)  # fmt: skip

KEYS: Final = {key.path: key for section in SECTIONS for key in section.keys}
