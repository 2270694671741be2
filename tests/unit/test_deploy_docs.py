"""The pages on deploying: their commands are commands, their units, paths and targets are there.

`make image-test` runs the blocks that say `on a node`; what needs a cluster is checked here as far
as a command can be without one: known by the program, with options that it has.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from bgf.ctl.main import bgfctl
from bgf.runtime.journald import FIELDS
from bgf.runtime.main import main as bgf

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/deploy-bare.md", ROOT / "docs/deploy-image.md"]
BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```", re.M | re.S)
PROGRAMS: dict[str, click.Command] = {"bgfctl": bgfctl, "bgf": bgf}


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every command line of the pages' blocks."""
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text()):
            for line in match[2].replace("\\\n", " ").splitlines():
                words = shlex.split(line)
                if words:
                    yield page.name, words[1:] if words[0] == "sudo" else words


def test_the_pages_have_commands() -> None:
    found = [words[0] for _, words in commands()]
    assert {"bgfctl", "systemctl", "journalctl", "make", "apt-get"} <= set(found)


def test_our_programs_know_what_the_pages_type() -> None:
    for page, words in commands():
        if words[0] in PROGRAMS:
            # help is shown only when everything before it is known
            done = CliRunner().invoke(PROGRAMS[words[0]], [*words[1:], "--help"])
            assert done.exit_code == 0, f"{page}: {shlex.join(words)}: {done.output[-200:]}"
            assert done.output.startswith("Usage: ")


def test_a_command_that_is_none_would_be_found() -> None:
    for words in (["switchover", "g1", "--two", "n2"], ["swithcover", "g1"]):
        assert CliRunner().invoke(bgfctl, [*words, "--help"]).exit_code


def test_units_targets_and_fields_are_there() -> None:
    units = {path.name for path in (ROOT / "packaging/units").iterdir()}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page, words in commands():
        for word in words[1:]:
            if words[0] == "systemctl" and word.startswith("bgf"):
                assert word in units or f"{word}.service" in units, (page, word)
            if words[0] == "make":
                assert word in targets, (page, word)
            for field in re.findall(r"BGF_(\w+)", word):
                assert field.lower() in FIELDS, (page, word)


def test_the_pages_name_settings_that_are_there() -> None:
    image = ROOT / "deploy/image/files"
    assert (image / "etc/systemd/network/60-bgf-virtio.link").exists()
    text = (image / "etc/systemd/logind.conf.d/10-bgf.conf").read_text()
    assert "RemoveIPC=no" in text
    settings = "".join(
        path.read_text()
        for path in [*image.glob("etc/sysctl.d/*"), ROOT / "packaging/etc/sysctl.conf"]
    )
    for name in ("kernel.panic = 10", "vm.swappiness = 1", "net.core.rmem_max", "gc_thresh3"):
        assert name in settings
