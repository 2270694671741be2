"""`bgfctl`: the commands an operator types. Options, help, exit codes and the last guard.

Knows: click, which command asks what, how an error becomes one line. Must not know how a table
is drawn (`render`), how an answer is obtained (`client`), or how the lab works (`lab_commands`).
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

import click

from bgf import __version__
from bgf.ctl import client, render
from bgf.ctl.cli import (
    ENVIRONMENT,
    FAILED,
    INTERRUPTED,
    OK,
    SETTINGS,
    USAGE,
    Commands,
    as_json,
    examples,
    show,
    warn,
)
from bgf.ctl.drill_commands import add_faults, chaos, drills
from bgf.ctl.failover_commands import drain, ready, switchover, undrain, why
from bgf.ctl.lab_commands import drill, lab, rtpload
from bgf.ctl.media_commands import capture, relatch
from bgf.ctl.ng_command import ng
from bgf.ctl.node_drill import on_node
from bgf.ctl.nodes_option import on_nodes
from bgf.ctl.openstack_commands import openstack
from bgf.ctl.reload_command import reload
from bgf.ctl.session_commands import gateways, sessions
from bgf.ctl.state_commands import state
from bgf.ctl.support_bundle import support_bundle
from bgf.ctl.upgrade_command import upgrade
from bgf.errors import BgfError, EnvironmentProblem, Malformed, Misuse
from bgf.model import Address
from bgf.preflight import PreflightFailed


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code. Whatever happens, standard error gets lines, no traceback."""
    try:
        code = bgfctl.main(
            args=list(arguments) or ["--help"], prog_name="bgfctl", standalone_mode=False
        )
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (KeyboardInterrupt, click.Abort):
        warn(["interrupted"])
        return INTERRUPTED
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        command = where.command_path if where is not None else "bgfctl"
        warn([f"{error.format_message()} (see '{command} --help')"])
        return USAGE
    except PreflightFailed as error:
        warn([problem.line for problem in error.problems])
        return ENVIRONMENT
    except (EnvironmentProblem, PermissionError) as error:
        warn([str(error)])
        return ENVIRONMENT
    except (Misuse, Malformed) as error:
        # Whatever is misused or malformed here was typed, or stands in a file that was named.
        warn([str(error)])
        return USAGE
    except BgfError as error:
        warn([str(error)])
        return FAILED
    except ImportError as error:
        warn([f"{error}: the installation is not whole; run 'make setup' or 'pip install .'"])
        return ENVIRONMENT
    except Exception as error:
        warn([f"unexpected {type(error).__name__}: {error}; traceback in {_keep_traceback()}"])
        return FAILED
    return code if isinstance(code, int) else OK


def _keep_traceback() -> str:
    try:
        handle, path = tempfile.mkstemp(prefix="bgfctl-", suffix=".log")
        with os.fdopen(handle, "w") as file:
            file.write(f"bgfctl {' '.join(sys.argv[1:])}\n{traceback.format_exc()}")
    except OSError as problem:
        return f"no file ({problem.strerror})"
    return path


def address(value: str) -> Address:
    """An option's type: 10.0.0.1:4000 or [fd00::1]:4000."""
    try:
        return Address.parse(value)
    except Malformed as error:
        raise click.BadParameter(str(error)) from None


@click.group(
    cls=Commands,
    context_settings=SETTINGS,
    epilog=examples("bgfctl lab up", "bgfctl status", "bgfctl drill power-off --calls 100"),
)
@click.version_option(__version__)
def bgfctl() -> None:
    """Ask and drill border gateways: who owns what, which calls, where a packet would go."""


@bgfctl.command(
    epilog=examples(
        "bgfctl status",
        "bgfctl status --run-dir /run/bgf-lab/n1 --json",
        "bgfctl status --config /etc/bgf/node.toml",
    )
)
@on_nodes
@as_json
def status(nodes: list[client.Node], as_json: bool) -> int:
    """Nodes and groups: who is ready, who owns what at which epoch, sessions, pinholes.

    Exits with 1 when a process does not answer or is not ready, or a group is not served by
    exactly its owner.
    """
    cluster = client.cluster(nodes, client.ask(nodes, client.PROCESSES, "status"))
    show(cluster, render.status(cluster), as_json)
    return OK if cluster["ready"] else FAILED


@bgfctl.command(
    epilog=examples(
        "bgfctl trace --from 10.20.0.2:4000 --to 10.20.0.101:30000 --realm core",
        "bgfctl trace --from [fd00:a::2]:4000 --to [fd00:a::101]:30000 --realm access --node n3",
        "bgfctl trace --from 10.20.0.2:4000 --to 10.20.0.101:30000 --realm core --payload-type 8",
    )
)
@click.option(
    "--from", "sender", required=True, type=address, metavar="ADDR", help="Source of the packet."
)
@click.option(
    "--to", "receiver", required=True, type=address, metavar="ADDR", help="Its destination."
)
@click.option("--realm", required=True, metavar="NAME", help="The realm in which it arrives.")
@click.option(
    "--payload-type", type=click.IntRange(0, 127), default=0, show_default=True,
    help="The packet is RTP of this type...",
)  # fmt: skip
@click.option("--payload", metavar="HEX", help="...unless its whole UDP payload is given.")
@on_nodes
@as_json
def trace(
    *,
    sender: Address,
    receiver: Address,
    realm: str,
    payload_type: int,
    payload: str | None,
    nodes: list[client.Node],
    as_json: bool,
) -> int:
    """Where would this UDP packet go? The live packet program of each node is asked.

    Nothing is sent. Exits with 1 when no node could tell.
    """
    question: dict[str, object] = {"from": str(sender), "to": str(receiver), "realm": realm}
    if payload is not None:
        question["payload"] = payload
    else:
        question["payload_type"] = payload_type
    answers = gateways(nodes, "trace", **question)
    found = {**question, "traces": [{"node": a.node, **a.as_json()} for a in answers]}
    show(found, render.trace(answers), as_json)
    return OK if any(a.value is not None for a in answers) else FAILED


_FAILOVER = (switchover, drain, undrain, ready, why, upgrade)
_DRILLS = (drill, drills, chaos)
_ELSEWHERE = (lab, rtpload, openstack)
for _command in (
    reload,
    support_bundle,
    sessions,
    capture,
    relatch,
    ng,
    state,
    *_ELSEWHERE,
    *_DRILLS,
    *_FAILOVER,
):
    bgfctl.add_command(_command)
add_faults(drill)
drill.add_command(on_node)


if __name__ == "__main__":
    main()
