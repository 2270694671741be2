"""The command blocks of docs/deploy-openstack.md, by section, as a reader would copy them.

Knows the page's markdown. Must not know who types the commands.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deploy-openstack.md"
IMAGE_PAGE = ROOT / "docs" / "deploy-image.md"
_BLOCK = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.M | re.S)


def sections(text: str | None = None) -> dict[str, list[str]]:
    """Section -> its commands, one a line, in the page's order; only sections that have some."""
    found: dict[str, list[str]] = {}
    text = PAGE.read_text() if text is None else text
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        title, _, body = part.partition("\n")
        lines = [
            line
            for match in _BLOCK.finditer(body)
            for line in textwrap.dedent(match[2]).replace("\\\n", " ").splitlines()
            if line.strip()
        ]
        if lines:
            found[title.strip()] = lines
    return found
