"""The pages: their commands are commands with those options, their files and links are there.

Blocks that say `runnable` are typed as they stand, against a program that stops before it acts:
`--help` is shown only when every command and option before it is known. tests/unit/test_deploy_docs
does the same for the pages on deploying. tests/integration/test_docs_typed types them for real.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bgf.ctl.main import bgfctl
from bgf.runtime.main import main as bgf

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if not path.name.startswith("deploy-"))
BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`((?:bgfctl|bgf) [a-z][^`]*)`")
PROGRAMS: dict[str, click.Command] = {"bgfctl": bgfctl, "bgf": bgf}
PLACEHOLDERS = re.compile(r"^(?:[A-Z][A-Z0-9_-]*|\{.*\}|\.\.\.|<.*>)$")
NEEDED = {
    *("quick-start.md", "configuration.md", "connect.md", "sizing.md", "security.md"),
    *("upgrade.md", "drills.md", "runbook.md", "monitoring.md", "operations.md"),
}


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    for match in BLOCK.finditer(page.read_text()):
        yield match[1], match[2].strip(), match[3]


def lines(page: Path) -> Iterator[str]:
    """Command lines of a page's runnable blocks."""
    for language, about, body in blocks(page):
        if language == "sh" and about == "runnable":
            yield from (line for line in body.replace("\\\n", " ").splitlines() if line.strip())


def test_the_pages_that_an_operator_needs_are_there() -> None:
    assert {page.name for page in PAGES} >= NEEDED


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_runnable_commands_are_known_with_their_options(page: Path) -> None:
    for line in lines(page):
        words = shlex.split(line)
        assert words[0] in PROGRAMS, f"{page.name}: {line}: only bgf and bgfctl are runnable here"
        done = CliRunner().invoke(PROGRAMS[words[0]], [*words[1:], "--help"])
        assert done.exit_code == 0 and done.output.startswith("Usage: "), f"{line}: {done.output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_are_commands(page: Path) -> None:
    """`bgfctl switchover` in a sentence: the words up to the first placeholder or option."""
    for match in INLINE.finditer(page.read_text()):
        words = match[1].replace("|", " ").split()
        command = PROGRAMS[words[0]]
        for word in words[1:]:
            if not isinstance(command, click.Group) or PLACEHOLDERS.match(word):
                break
            if word.startswith("-"):
                break
            found = command.get_command(click.Context(command), word.rstrip(",.;:"))
            assert found is not None, f"{page.name}: `{match[1]}`: no command {word!r}"
            command = found
        if isinstance(command, click.Group):
            continue  # which of its commands is meant, the reader knows
        known = {option for one in command.params for option in one.opts} | {"--help"}
        for option in re.findall(r"(?<![\w-])--[a-z-]+", match[1]):
            assert option in known, f"{page.name}: `{match[1]}`: no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    for name in re.findall(r"`((?:docs|deploy|tests|bgf|scripts)/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists(), f"{page.name}: {name}"
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for target in re.findall(r"`make ([\w-]+)", page.read_text()):
        assert target in targets, f"{page.name}: make {target}"
    for module in re.findall(r"`python -m (benchmarks\.\w+)", page.read_text()):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{page.name}: {module}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_in_the_pages_is_toml(page: Path) -> None:
    for language, _, body in blocks(page):
        if language == "toml":
            tomllib.loads(body)


def test_it_bites() -> None:
    for words in (["switchover", "g1", "--two", "n2"], ["swithcover", "g1"]):
        assert CliRunner().invoke(bgfctl, [*words, "--help"]).exit_code
