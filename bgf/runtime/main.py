"""`bgf state|gateway|failover|monitor --config FILE`: the processes of a node, one command each."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from bgf import __version__, config, preflight
from bgf.ctl.client import find_nodes
from bgf.errors import BgfError, ConfigError, EnvironmentProblem, Misuse, PeerError
from bgf.model import Address
from bgf.runtime.process import only_one, set_up_logging

EXIT_FAILED, EXIT_USAGE, EXIT_ENVIRONMENT = 1, 2, 3

Run = Callable[[config.NodeConfig], Coroutine[Any, Any, None]]
Check = Callable[[config.NodeConfig], list[preflight.Problem]]


def _run(process: str, config_file: Path, main: Run, check: Check) -> None:
    try:
        node = config.load(config_file)
        set_up_logging(process, node.node.id)
        preflight.require(check(node))
        with only_one(node.node.run_dir, process):
            asyncio.run(main(node))
    except ConfigError as error:
        _die(process, error, EXIT_USAGE)
    except (EnvironmentProblem, PermissionError) as error:
        _die(process, error, EXIT_ENVIRONMENT)
    except (BgfError, OSError) as error:
        _die(process, error, EXIT_FAILED)


def _die(process: str, error: Exception, code: int) -> None:
    print(f"bgf {process}: {error}", file=sys.stderr)
    sys.exit(code)


CONFIG = click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(path_type=Path),
    help="The node's TOML file.",
)


@click.group(
    epilog="Example: bgf gateway --config /etc/bgf/node.toml",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="bgf")
def main() -> None:
    """The processes of a border gateway node. They log to standard error and end on SIGTERM.

    Exit codes: 0 asked to stop, 1 failed, 2 configuration, 3 this machine lacks something.
    """


@main.command()
@CONFIG
def state(config_file: Path) -> None:
    """Keep the state segment: create it, expire items, free what dead writers held."""
    from bgf.runtime import state_process

    _run("state", config_file, state_process.run, lambda node: [])


@main.command()
@CONFIG
def gateway(config_file: Path) -> None:
    """Answer control (ng) for owned groups; keep every group's pinholes in the packet path."""
    from bgf.runtime import gateway_process

    _run(
        "gateway",
        config_file,
        gateway_process.run,
        lambda node: preflight.node(node, binds_control=True),
    )


@main.group("config")
def config_group() -> None:
    """Check a node's file, and what may stand in it."""


@config_group.command("check", epilog="Example: bgf config check /etc/bgf/node.toml")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def config_check(files: tuple[Path, ...]) -> None:
    """What is wrong with each of FILES, one line each: FILE:LINE:COLUMN: what.

    Exits with 2 when there is anything.
    """
    from bgf.config_check import check

    bad = 0
    for file in files:
        try:
            lines = [str(finding) for finding in check(file)]
        except ConfigError as error:
            lines = [str(error)]
        bad += len(lines)
        for line in lines:
            print(line)
        if not lines:
            print(f"{file}: well")
    sys.exit(EXIT_USAGE if bad else 0)


@config_group.command("schema", epilog="Example: bgf config schema > node.schema.json")
def config_schema() -> None:
    """The JSON Schema of the file, for editors."""
    from bgf.config_reference import json_schema

    print(json.dumps(json_schema(), indent=2))


@config_group.command("reference", epilog="Example: bgf config reference > configuration.md")
def config_reference() -> None:
    """The reference of the file, as Markdown."""
    from bgf.config_reference import markdown

    print(markdown(), end="")


@main.command(
    epilog="Examples: bgf monitor --config /etc/bgf/node.toml; for a lab: "
    "bgf monitor --run-dir /run/bgf-lab --listen 127.0.0.1:9401"
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="The node's TOML file, with a [monitor] section.",
)
@click.option(
    "--run-dir",
    "run_dir",
    type=click.Path(path_type=Path),
    help="Instead: show the nodes whose run directories are in DIR, as a lab's are.",
)
@click.option("--listen", default="127.0.0.1:9401", show_default=True, help="With --run-dir.")
@click.option("--drills", type=click.Path(path_type=Path), help="With --run-dir: drill reports.")
def monitor(
    config_file: Path | None, run_dir: Path | None, listen: str, drills: Path | None
) -> None:
    """Show this node on the management address: /metrics for Prometheus, / for people.

    Reads the admin sockets of the other three processes and changes nothing.
    """
    from bgf.runtime import monitor_process

    if config_file is not None and run_dir is None:
        _run("monitor", config_file, monitor_process.run, lambda node: [])
        return
    if run_dir is None or config_file is not None:
        raise click.UsageError("give --config FILE, or --run-dir DIR for a lab")
    try:
        nodes = find_nodes([], [run_dir])
        section = config.MonitorSection(Address.parse(listen), drills=drills)
        set_up_logging("monitor", "lab")
        asyncio.run(monitor_process.watch(section, nodes))
    except Misuse as error:
        _die("monitor", error, EXIT_ENVIRONMENT)
    except PeerError as error:
        _die("monitor", error, EXIT_USAGE)


@main.command()
@CONFIG
def failover(config_file: Path) -> None:
    """Watch the peers, hold the lease, take groups over and announce their addresses."""
    from bgf.runtime import failover_process

    _run("failover", config_file, failover_process.run, preflight.node)
