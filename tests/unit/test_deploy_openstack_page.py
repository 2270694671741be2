"""docs/deploy-openstack.md: its commands can be typed, its files and parameters are taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from bgf.ctl.main import bgfctl
from bgf.ctl.openstack_commands import _parameters
from bgf.openstack import files
from tests.openstack import page

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy-openstack.md").read_text()
EXAMPLES = sorted((ROOT / "deploy/openstack/examples").glob("*.yaml"))
SECTIONS = page.sections()
COMMANDS = [line for lines in SECTIONS.values() for line in lines]


def commands_of(epilog: str | None) -> list[str]:
    return re.findall(r"^ +(bgfctl .*)$", epilog or "", re.MULTILINE)


def typed(line: str) -> None:
    """Parse it as click would, without running it."""
    words = shlex.split(line)[1:]
    context: click.Context = bgfctl.make_context("bgfctl", words)
    command: click.Command = bgfctl
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        _, inner, rest = command.resolve_command(context, rest)
        assert inner is not None
        command, context = inner, inner.make_context(inner.name, rest, parent=context)


def test_there_are_commands_and_a_test_on_a_control_plane_types_all() -> None:
    assert len(COMMANDS) >= 12
    assert len(re.findall(r"^ *(?:bgfctl|openstack) ", PAGE, re.MULTILINE)) == len(COMMANDS)
    test = (ROOT / "tests/openstack/test_cluster.py").read_text()
    for section in SECTIONS:
        assert f'typed("{section}"' in test, section


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_can_be_typed(line: str) -> None:
    assert line.startswith(("bgfctl openstack ", "openstack "))
    if line.startswith("bgfctl "):
        typed(line)


def test_every_example_of_the_help_can_be_typed() -> None:
    group = bgfctl.commands["openstack"]
    assert isinstance(group, click.Group)
    lines = [*commands_of(group.epilog)]
    for command in group.commands.values():
        lines += commands_of(command.epilog)
    assert len(lines) > 10
    for line in lines:
        typed(line)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_taken(path: Path) -> None:
    assert _parameters(path, None)["groups"]


def test_the_parameters_that_the_page_names_exist() -> None:
    template, _ = files.templates(ROOT / "deploy" / "openstack")
    known = files.schema(template)
    for name in ("max_allowed_address_pair", "hw_vif_multiqueue_enabled"):
        assert name in PAGE
    for name in re.findall(r"`((?:access|core|management|media|control|state)_[a-z0-9_]+)`", PAGE):
        assert name in known, name
