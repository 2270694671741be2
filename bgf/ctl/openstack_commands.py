"""`bgfctl openstack check|up|status|scale|upgrade|down`: a cluster in an OpenStack project.

Knows: click, which rooms of `bgf.openstack` do what. Must not know Heat, openstacksdk, ssh. What
takes long to import is imported by the command that needs it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from bgf.admin import Json
from bgf.ctl import render_openstack
from bgf.ctl.cli import FAILED, OK, SETTINGS, Commands, as_json, examples, show
from bgf.ctl.progress import Steps
from bgf.errors import BgfError, ConfigError
from bgf.openstack import findings, plan

TIMEOUT_MIN: Final = 60
NO_KEY: Final = "1 " + "0" * 64  # where only the shape of the parameters counts
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(
    cls=Commands,
    context_settings=SETTINGS,
    epilog=examples(
        "bgfctl openstack check -e voice.yaml",
        "bgfctl openstack up voice -e voice.yaml",
        "bgfctl openstack status voice",
        "bgfctl openstack scale voice --groups 4",
        "bgfctl openstack upgrade voice --image bgf-1.1",
        "bgfctl openstack down voice",
    ),
)
def openstack() -> None:
    """A cluster in an OpenStack project: Heat makes it, this looks, waits, and says why not.

    The cloud is one of clouds.yaml (--cloud, or OS_CLOUD), as for the openstack command.
    """


def _on_cloud(command: Callable[..., int]) -> Callable[..., int]:
    @click.option("--cloud", metavar="NAME", envvar="OS_CLOUD", help="Which cloud of clouds.yaml.")
    @click.option(
        "--templates", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
        help="Where cluster.yaml is. Default: where bgf is installed.",
    )  # fmt: skip
    @functools.wraps(command)
    def found(*args: Any, **more: Any) -> int:
        return command(*args, **more)

    return found


def _on_nodes(command: Callable[..., int]) -> Callable[..., int]:
    @click.option("--ssh-user", default="debian", show_default=True, help="Who logs in there.")
    @click.option(
        "--ssh", default="ssh", show_default=True, metavar="COMMAND",
        help="How nodes are reached, as in 'ssh -i KEY -J JUMPHOST'.",
    )  # fmt: skip
    @click.option("--no-nodes", is_flag=True, help="Reach no node: nothing is drained or asked.")
    @functools.wraps(command)
    def found(*args: Any, **more: Any) -> int:
        return command(*args, **more)

    return found


_environment = click.option(
    "-e", "--environment", "environment", required=True, type=FILE, metavar="FILE",
    help="Parameters: a Heat environment file; deploy/openstack/examples has some.",
)  # fmt: skip
_timeout = click.option(
    "--timeout", "timeout_min", type=click.IntRange(1, 1440), default=TIMEOUT_MIN,
    show_default=True, metavar="MINUTES", help="Heat gives a change up after so long.",
)  # fmt: skip


@openstack.command(
    epilog=examples(
        "bgfctl openstack check -e voice.yaml",
        "bgfctl openstack check -e voice.yaml --cloud site1 --json",
    )
)
@_environment
@_on_cloud
@as_json
def check(*, environment: Path, cloud: str | None, templates: Path | None, as_json: bool) -> int:
    """Could this cluster be made in this project? Nothing is made.

    Looks for image, flavour, key pair, networks and zones; quotas; Neutron's extensions, port
    security, address pairs, MTU, IPv6, distributed routers; virtio queues; hosts. Exits with 1
    when something would fail.
    """
    with Steps() as say:
        found = _look(environment, cloud, templates, say)
    show(found, render_openstack.findings(found), as_json)
    return OK if found["ready"] else FAILED


@openstack.command(
    epilog=examples(
        "bgfctl openstack up voice -e voice.yaml",
        "bgfctl openstack up voice -e voice.yaml --timeout 30 --json",
    )
)
@click.argument("name")
@_environment
@click.option("--no-check", is_flag=True, help="Do not look first.")
@_timeout
@_on_cloud
@as_json
def up(
    *, name: str, environment: Path, no_check: bool, timeout_min: int, cloud: str | None,
    templates: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Make the cluster NAME and wait until every gateway could take a group over.

    A cluster key is made unless the file gives one; Heat keeps it, hidden. Interrupting does not
    stop Heat: 'bgfctl openstack status NAME' shows how it goes.
    """
    plan.checked_name(name)
    with Steps() as say:
        if not no_check:
            found = _look(environment, cloud, templates, say)
            if not found["ready"]:
                show(found, render_openstack.findings(found), as_json)
                return FAILED
        operator = _operator(name, cloud, templates, say, timeout_min)
        parameters = _parameters(environment, templates)
        operator.up(parameters)
    return _shown(operator, None, as_json)


@openstack.command(
    epilog=examples(
        "bgfctl openstack status voice",
        "bgfctl openstack status voice --ssh 'ssh -i ops.key -J jump.example.net'",
        "bgfctl openstack status --nodes nodes.toml",
    )
)
@click.argument("name", required=False)
@click.option(
    "--nodes", "node_file", type=FILE, metavar="FILE",
    help="Ask these nodes and no cloud: the stack's output bgfctl.",
)  # fmt: skip
@_on_nodes
@_on_cloud
@as_json
def status(
    *, name: str | None, node_file: Path | None, ssh_user: str, ssh: str, no_nodes: bool,
    cloud: str | None, templates: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """The stack, its servers, what each node says of itself, and the line for Kamailio.

    Exits with 1 when the stack, a server or a node is not well.
    """
    from bgf.openstack import files, hands  # noqa: PLC0415

    if node_file is not None:
        cluster, addresses, servers = files.node_list(node_file)
        reached = hands.SshNodes(addresses, ssh_user, ssh, servers)
        rows = [{"node": n, "status": "-", "address": a} for n, a in addresses.items()]
        found: Json = {"cluster": cluster, "status": "not asked", "nodes": rows, "problems": []}
        _ask_nodes(found, reached)
        show(found, render_openstack.status(found), as_json)
        return FAILED if found["problems"] else OK
    if not name:
        raise click.UsageError("give the cluster's NAME, or --nodes FILE")
    with Steps() as say:
        operator = _operator(name, cloud, templates, say)
    return _shown(operator, _hands(operator, ssh_user, ssh, no_nodes), as_json)


@openstack.command(
    epilog=examples(
        "bgfctl openstack scale voice --groups 4",
        "bgfctl openstack scale voice --standbys 2",
        "bgfctl openstack scale voice --groups 2 --standbys 1 --ssh 'ssh -i ops.key'",
    )
)
@click.argument("name")
@click.option("--groups", type=click.IntRange(*plan.GROUPS_RANGE), help="N, as it is to be.")
@click.option("--standbys", type=click.IntRange(*plan.STANDBYS_RANGE), help="k, as it is to be.")
@_timeout
@_on_nodes
@_on_cloud
@as_json
def scale(
    *, name: str, groups: int | None, standbys: int | None, timeout_min: int, ssh_user: str,
    ssh: str, no_nodes: bool, cloud: str | None, templates: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Give the cluster NAME another number of groups or standbys while calls go on.

    Gateways that go are drained first; a group goes only when its calls are over. Those that stay
    get their new file one after the other, drained meanwhile.
    """
    with Steps() as say:
        operator = _operator(name, cloud, templates, say, timeout_min)
        now = plan.size_of(operator.settled().parameters)
        after = plan.Size(groups or now.groups, standbys or now.standbys)
        operator.scale(_hands(operator, ssh_user, ssh, no_nodes), after)
    return _done(f"{name} is {after.groups}+{after.standbys}", as_json)


@openstack.command(
    epilog=examples(
        "bgfctl openstack upgrade voice --image bgf-1.1",
        "bgfctl openstack upgrade voice --rollback",
    )
)
@click.argument("name")
@click.option("--image", metavar="IMAGE", help="What the gateways are to run.")
@click.option("--rollback", is_flag=True, help="Undo an upgrade that is not finished.")
@_timeout
@_on_nodes
@_on_cloud
@as_json
def upgrade(
    *, name: str, image: str | None, rollback: bool, timeout_min: int, ssh_user: str, ssh: str,
    no_nodes: bool, cloud: str | None, templates: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Rebuild the gateways of NAME with another image, one after the other, calls going on.

    Each is drained, rebuilt with its addresses, and has to be ready before the next one's turn;
    standbys come first. Stops at the first that is not; typed again it goes on there.
    """
    if bool(image) == rollback:
        raise click.UsageError("give --image IMAGE, or --rollback")
    with Steps() as say:
        operator = _operator(name, cloud, templates, say, timeout_min)
        nodes = _hands(operator, ssh_user, ssh, no_nodes)
        if rollback:
            operator.roll_back(nodes)
        else:
            operator.upgrade(nodes, str(image))
    return _done(f"{name} is rolled back" if rollback else f"{name} runs {image}", as_json)


@openstack.command(
    epilog=examples("bgfctl openstack down voice", "bgfctl openstack down voice --yes")
)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_timeout
@_on_cloud
@as_json
def down(
    *, name: str, yes: bool, timeout_min: int, cloud: str | None, templates: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Delete the cluster NAME, its calls, its state and its addresses. Asks first."""
    with Steps() as say:
        operator = _operator(name, cloud, templates, say, timeout_min)
    if operator.cloud.stack(name) is None:
        return _done(f"there is no cluster '{name}'", as_json)
    if not yes:
        servers = ", ".join(s["server"] for s in operator.cloud.servers(name)) or "no server"
        click.confirm(f"Delete {name} ({servers}), with all calls?", abort=True, err=True)
    with Steps() as say:
        operator.say = say
        operator.down()
    return _done(f"{name} is gone", as_json)


# -- what they share -------------------------------------------------------------------------------


def _parameters(environment: Path, templates: Path | None) -> dict[str, Any]:
    """What the file gives, checked as far as it can be without a cloud. Raises ConfigError."""
    import difflib  # noqa: PLC0415

    from bgf.openstack import files  # noqa: PLC0415

    given = files.environment(environment)
    template, _ = files.templates(files.templates_at(templates))
    known = files.schema(template)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key[:64], known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"{environment}: no parameter '{key[:64]}'{hint}")
    given.setdefault("state_image", given.get("image"))
    given.setdefault("state_flavor", given.get("flavor"))
    made = ("cluster_key",)
    for key, schema in known.items():
        if "default" not in schema and key not in made and not given.get(key):
            said = str(schema.get("description", "")).split(";", maxsplit=1)[0]
            raise ConfigError(f"{environment}: parameter '{key}' is missing: {said}")
    try:
        plan.size_of(given)
    except ConfigError as error:
        raise ConfigError(f"{environment}: {error}") from None
    if problems := plan.problems_of(given):
        raise ConfigError(f"{environment}: {problems[0]}")
    return given


def _look(
    environment: Path, cloud: str | None, templates: Path | None, say: Callable[[str], None]
) -> Json:
    from bgf.openstack import files  # noqa: PLC0415
    from bgf.openstack.cloud import Cloud  # noqa: PLC0415

    parameters = _parameters(environment, templates)
    say("looking at the project")
    project = Cloud(cloud)
    facts, flavors = project.facts(parameters)
    if not facts.missing and "orchestration" in facts.services:
        say("having Heat look at the parameters")
        template, more = files.templates(files.templates_at(templates))
        given = {"cluster_key": NO_KEY, **parameters}
        facts = dataclasses.replace(facts, refused=project.against(template, more, given))
    needs = plan.needs_of(parameters, flavors["gateway"], flavors["state"])
    found = findings.examine(facts, needs)
    return {
        "ready": findings.may_begin(found),
        "findings": [finding.as_json() for finding in found],
        "needs": {"compute": dict(needs.compute), "network": dict(needs.network)},
    }


def _operator(
    name: str,
    cloud: str | None,
    templates: Path | None,
    say: Callable[[str], None],
    timeout_min: int = TIMEOUT_MIN,
) -> Any:
    from bgf.openstack import files  # noqa: PLC0415
    from bgf.openstack.cloud import Cloud  # noqa: PLC0415
    from bgf.openstack.operate import Operator  # noqa: PLC0415

    plan.checked_name(name)
    template, more = files.templates(files.templates_at(templates))
    return Operator(name, Cloud(cloud), template, more, say, timeout_min)


def _hands(operator: Any, user: str, ssh: str, no_nodes: bool) -> Any:
    from bgf.openstack import hands, operate  # noqa: PLC0415

    if no_nodes:
        return hands.NullNodes()
    stack = operator.there()
    return hands.SshNodes(operate.addresses_of(stack), user, ssh, operate.servers_of(stack))


def _ask_nodes(found: Json, nodes: Any) -> None:
    """Each node's own word, beside what the cloud says of it."""
    for row in found["nodes"]:
        node = row["node"]
        if not row.get("address") or node.startswith("state"):
            continue
        try:
            said = nodes.ask(node, "ready", node)
        except BgfError as error:
            found["problems"].append(str(error))
            row["ready"] = False
            continue
        mine = [n for n in said.get("nodes") or [] if n.get("node") == node]
        row["ready"] = "failed" not in said
        row["carries"] = mine[0].get("carries", []) if mine else []
        for why in (mine[0].get("why") or []) if mine else []:
            found["problems"].append(f"{node}: {why}")


def _shown(operator: Any, nodes: Any, as_json: bool) -> int:
    from bgf.openstack import hands, operate  # noqa: PLC0415

    stack = operator.there()
    addresses = operate.addresses_of(stack)
    rows = [
        {**server, "address": addresses.get(server["node"], "")}
        for server in operator.cloud.servers(operator.name)
    ]
    outputs = {k: v for k, v in stack.outputs.items() if k != "files"}
    if stack.status in ("CREATE_IN_PROGRESS", "CREATE_FAILED"):
        outputs = {}  # half of it would be copied
    found: Json = {
        "cluster": operator.name,
        "status": stack.status,
        "reason": stack.reason if stack.failed else "",
        "nodes": rows,
        "outputs": outputs,
        "problems": [f"{r['server']} is {r['status']}" for r in rows if r["status"] != "ACTIVE"],
    }
    if nodes is not None and not isinstance(nodes, hands.NullNodes):
        _ask_nodes(found, nodes)
    show(found, render_openstack.status(found), as_json)
    well = stack.status.endswith("_COMPLETE") and not found["problems"]
    return OK if well else FAILED


def _done(sentence: str, as_json: bool) -> int:
    found: Json = {"done": True, "sentence": sentence}
    show(found, render_openstack.outcome(found), as_json)
    return OK
