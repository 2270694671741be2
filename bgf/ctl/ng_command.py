"""`bgfctl ng`: one control command, over any transport, from where it is typed.

Knows click and the `ng` client. Must not know gateways' insides: it asks as a proxy does, so it has
to be run where a peer is.
"""

from __future__ import annotations

import click

from bgf.control.client import TIMEOUT_S, TRIES, NgClient
from bgf.control.frames import Codec
from bgf.control.links import Transport
from bgf.ctl.cli import FAILED, OK, as_json, examples, show
from bgf.ctl.render import plain
from bgf.errors import EnvironmentProblem, Malformed
from bgf.model import Address

PAIRS_MAX = 32


@click.command(
    epilog=examples(
        "bgfctl ng udp:10.30.0.101:2223 ping",
        "bgfctl ng tcp:[fd00:c::101]:2223 query call-id=1-4242@10.10.0.2 --codec json",
    )
)
@click.argument("target")
@click.argument("command")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--codec", type=click.Choice([codec.value for codec in Codec]), default=Codec.BENCODE.value,
    show_default=True, help="How the dictionary is written.",
)  # fmt: skip
@click.option(
    "--tries", type=click.IntRange(1, 60), default=TRIES, show_default=True,
    help="How often to ask, a second each.",
)  # fmt: skip
@as_json
def ng(
    *, target: str, command: str, pairs: tuple[str, ...], codec: str, tries: int, as_json: bool
) -> int:
    """Send one control command as a proxy would, and show the reply.

    TARGET is TRANSPORT:ADDRESS:PORT, with udp, tcp, http or ws. Whoever runs it must be one of
    `control.peers`. Exit code 1 when the result is an error, or nobody answers.
    """
    name, _, where = target.partition(":")
    known = [transport.value for transport in Transport]
    if name not in known:
        raise Malformed(f"'{target[:64]}' does not begin with one of {', '.join(known)} and ':'")
    request: dict[str, str] = {"command": command.replace("_", " ")}
    for pair in pairs[:PAIRS_MAX]:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Malformed(f"'{pair[:64]}' is not KEY=VALUE")
        request[key] = value
    address = Address.parse(where)
    try:
        client = NgClient(address, TIMEOUT_S, tries, transport=Transport(name), codec=Codec(codec))
    except OSError as error:
        raise EnvironmentProblem(f"{target}: {error.strerror}") from None
    with client:
        reply = client.call(request)
    show(reply, plain(f"{command} to {address}", reply), as_json)
    return FAILED if reply.get("result") == "error" else OK
