"""Which nodes are meant, what each of their processes answers, and what follows from it.

Knows: run directories, the admin client, the names of commands and of the fields of answers.
Must not know how anything is shown. Answers come from processes of this version or the one
before: a missing or odd field is a zero or a blank, never a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bgf import config
from bgf.admin import AdminClient, Json
from bgf.errors import BgfError, ConfigError, EnvironmentProblem
from bgf.lab.plan import DEFAULT_RUN_DIR

NODE_FILE: Final = Path("/etc/bgf/node.toml")
"""Where the Debian package expects the file of the machine's own node."""

PROCESSES: Final = ("state", "gateway", "failover")

NODES_MAX: Final = 64
ASKED_AT_ONCE_MAX: Final = 16
TIMEOUT_S: Final = 5.0
NOT_DROPS: Final = (
    *("forward", "reflect", "pass", "icmp", "icmp-error", "foreign-vlan", "stun-check"),
)


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it is reached: its id and the directory of its admin sockets."""

    id: str
    run_dir: Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process said: `value`, or why there is none in `error` and `code`."""

    node: str
    process: str
    value: Json | None = None
    error: str = ""
    code: str = ""

    @property
    def ready(self) -> bool:
        return self.value is not None and self.value.get("ready") is True

    def as_json(self) -> Json:
        return self.value if self.value is not None else {"error": self.error, "code": self.code}


def find_nodes(
    configs: Sequence[Path], run_dirs: Sequence[Path], only: Sequence[str] = ()
) -> list[Node]:
    """The nodes named; when none is, those of the lab, or else this machine's own node.

    Raises ConfigError for a bad file, an unknown id in `only` or two ids in one place,
    EnvironmentProblem when there is no node to be found.
    """
    nodes: list[Node] = []
    for file in configs:
        node = config.load(file).node
        nodes.append(Node(node.id, node.run_dir))
    for directory in run_dirs if configs or run_dirs else (DEFAULT_RUN_DIR,):
        nodes += _nodes_under(directory)
    if not (nodes or configs or run_dirs) and NODE_FILE.exists():
        node = config.load(NODE_FILE).node
        nodes.append(Node(node.id, node.run_dir))
    if not nodes:
        looked = ", ".join(map(str, run_dirs or (DEFAULT_RUN_DIR,)))
        raise EnvironmentProblem(
            f"no node has run in {looked}: start the lab with 'bgfctl lab up', or name nodes with "
            "--config FILE or --run-dir DIR"
        )
    nodes = list(dict.fromkeys(nodes))
    _require_apart(nodes)
    if len(nodes) > NODES_MAX:
        raise ConfigError(f"{len(nodes)} nodes named: {NODES_MAX} at once are allowed")
    known = [node.id for node in nodes]
    for wanted in only:
        if wanted not in known:
            raise ConfigError(f"no node '{wanted}': there are {', '.join(known)}")
    return [node for node in nodes if not only or node.id in only]


def _require_apart(nodes: Sequence[Node]) -> None:
    """Two machines' nodes have the same run directory, each its own: asked here, both would be the
    one that lives here. Raises ConfigError."""
    known: dict[Path, str] = {}
    for node in nodes:
        other = known.setdefault(node.run_dir, node.id)
        if other != node.id:
            raise ConfigError(
                f"nodes '{other}' and '{node.id}' would both be asked in {node.run_dir}, and one "
                "of them at most is there: type it on each machine by itself, or forward each "
                "node's sockets to DIR/NODE and give --run-dir DIR"
            )


def _nodes_under(directory: Path) -> list[Node]:
    """`directory` itself when processes have run in it, else those of its children."""
    if _has_run(directory):
        return [Node(directory.name, directory)]
    try:
        children = sorted(child for child in directory.iterdir() if child.is_dir())
    except OSError:
        return []
    return [Node(child.name, child) for child in children if _has_run(child)]


def _has_run(directory: Path) -> bool:
    try:
        return any(
            (directory / f"{process}{suffix}").exists()
            for process in PROCESSES
            for suffix in (".sock", ".lock")
        )
    except OSError:  # a bpffs beside the nodes refuses to be asked for names with a dot
        return False


def ask(
    nodes: Iterable[Node], processes: Sequence[str], command: str, **arguments: object
) -> list[Answer]:
    """Every process of every node, asked side by side: one that hangs does not delay the rest."""

    def one(target: tuple[Node, str]) -> Answer:
        node, process = target
        client = AdminClient(node.run_dir / f"{process}.sock", TIMEOUT_S)
        try:
            return Answer(node.id, process, client.call(command, **arguments))
        except BgfError as problem:
            return Answer(node.id, process, None, str(problem), problem.code)

    targets = [(node, process) for node in nodes for process in processes]
    with ThreadPoolExecutor(max_workers=min(ASKED_AT_ONCE_MAX, max(1, len(targets)))) as pool:
        return list(pool.map(one, targets))


def table(value: object) -> Json:
    """`value` when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> list[Json]:
    """The objects in `value` when it is a list."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def several(value: object) -> list[Any]:
    """What is in `value` when it is a list."""
    return value if isinstance(value, list) else []


def number(value: object) -> int:
    """A count: whole numbers only, anything else is 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def count(value: object) -> int:
    """How many: a list's length, or a count."""
    return len(value) if isinstance(value, list) else number(value)


def text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def attachments(gateway: Json) -> dict[str, tuple[str, str]]:
    """Realm -> (mode, why it is not native), whether told as an object or as a bare mode."""
    return {
        name: (text(table(told).get("mode")), text(table(told).get("reason")))
        if isinstance(told, dict)
        else (text(told), "")
        for name, told in sorted(table(gateway.get("attachments")).items())
    }


def drops(gateway: Json) -> int:
    return sum(number(v) for k, v in table(gateway.get("drops")).items() if k not in NOT_DROPS)


def cluster(nodes: Sequence[Node], answers: Sequence[Answer]) -> Json:
    """Everything the processes said, the groups as seen from all of them, and what is wrong."""
    by_node: dict[str, dict[str, Answer]] = {node.id: {} for node in nodes}
    for answer in answers:
        by_node[answer.node][answer.process] = answer
    problems = [line for node in nodes for line in _complaints(node, by_node[node.id])]
    groups, disputes = _groups(by_node)
    return {
        "ready": not problems and not disputes,
        "nodes": [
            {
                "node": node.id,
                "run_dir": str(node.run_dir),
                "ready": all(a.ready for a in by_node[node.id].values()),
                "processes": {p: a.as_json() for p, a in by_node[node.id].items()},
            }
            for node in nodes
        ],
        "groups": groups,
        "problems": problems + disputes,
        "warnings": _said(answers, "warnings"),
        "conditions": _conditions(answers),
    }


def _said(answers: Sequence[Answer], key: str) -> list[str]:
    """Lines that the failover processes say, each once."""
    lines: dict[str, None] = {}
    for answer in answers:
        said = (answer.value or {}).get(key) if answer.process == "failover" else None
        lines.update(dict.fromkeys(text(line) for line in said) if isinstance(said, list) else {})
    return list(lines)


def _conditions(answers: Sequence[Answer]) -> Json:
    """Node -> state -> {sentence, seen by}: what is wrong with it, as each other node has it."""
    found: Json = {}
    for answer in answers:
        if answer.process != "failover":
            continue
        for node, said in table((answer.value or {}).get("conditions")).items():
            state, sentence = (text(table(said).get(key)) for key in ("state", "sentence"))
            one = found.setdefault(node, {}).setdefault(state, {"sentence": sentence, "by": []})
            one["by"].append(answer.node)
    return found


def _complaints(node: Node, answers: Mapping[str, Answer]) -> list[str]:
    """A line per process that is not ready; one for all when the whole node is silent."""
    if answers and all(a.code == "unreachable" for a in answers.values()):
        return [f"{node.id}: none of its processes answers in {node.run_dir}"]
    return [
        f"{node.id} {process}: {a.error}"
        if a.value is None
        else f"{node.id} {process}: not ready: {text(a.value.get('why')) or 'it does not say why'}"
        for process, a in answers.items()
        if not a.ready
    ]


def _leases(by_node: Mapping[str, Mapping[str, Answer]]) -> dict[str, int]:
    """Node -> how long its lease is by the record of it that was read last, in ms. Only those who
    reach the registry know."""
    found: dict[str, int] = {}
    for answers in by_node.values():
        value = answers["failover"].value if "failover" in answers else None
        if value is not None and value.get("registry") == "ok":
            for node, member in table(value.get("members")).items():
                left_ms = number(table(member).get("lease_left_ms"))
                found[node] = max(found.get(node, 0), left_ms)
    return found


def _groups(by_node: dict[str, dict[str, Answer]]) -> tuple[list[Json], list[str]]:
    """The groups as those see them who were asked, and what is wrong with them. Of an owner that
    was not asked, nobody knows here whether it serves."""
    owners: dict[str, dict[str, tuple[int, str]]] = {}  # group -> observer -> (epoch, owner)
    roles: dict[str, dict[str, Json]] = {}  # group -> node -> what its gateway says
    for node, answers in by_node.items():
        for process, answer in answers.items():
            value = answer.value or {}
            if process == "failover":
                for group, owner in table(value.get("owners")).items():
                    said = (number(table(owner).get("epoch")), text(table(owner).get("node")))
                    owners.setdefault(group, {})[node] = said
            elif process == "gateway":
                for group, role in table(value.get("groups")).items():
                    roles.setdefault(group, {})[node] = table(role)
    leases = _leases(by_node)
    found, disputes = [], []
    for group in sorted(owners.keys() | roles.keys()):
        seen = owners.get(group, {})
        epoch, owner = max(seen.values(), default=(0, ""))
        if len({o for e, o in seen.values() if e == epoch}) > 1:
            views = ", ".join(f"{n} says {o or 'nobody'}" for n, (_, o) in sorted(seen.items()))
            disputes.append(f"group {group}: the nodes disagree on its owner: {views}")
        mine = roles.get(group, {})
        active = sorted(n for n, role in mine.items() if role.get("role") == "active")
        if len(active) > 1:
            disputes.append(f"group {group}: active on {' and '.join(active)} at once")
        if not owner:
            disputes.append(f"group {group}: nobody owns it")
        elif owner in by_node:
            if owner not in active and seen:
                disputes.append(f"group {group}: its owner {owner} is not serving it")
        elif leases and not leases.get(owner):
            disputes.append(f"group {group}: its owner {owner} has no lease")
        carrier = mine.get(owner) or (mine[active[0]] if active else {})
        found.append(
            {
                "group": group,
                "owner": owner,
                "epoch": epoch,
                "active": active,
                "standby": {
                    n: count(role.get("flows"))
                    for n, role in sorted(mine.items())
                    if role.get("role") == "standby"
                },
                "sessions": count(carrier.get("sessions")),
                "hanging": count(carrier.get("hanging")),
                "flows": count(carrier.get("flows")),
                "pending": count(carrier.get("pending")),
                "restored_in_ms": carrier.get("restored_in_ms") or 0,
            }
        )
    return found, disputes
