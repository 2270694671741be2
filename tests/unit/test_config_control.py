"""What a node's file says of control: every key arrives, every mistake is one line."""

from __future__ import annotations

import pytest

from bgf import config
from bgf.config_control import ControlSection, Listen, peers_of
from bgf.errors import ConfigError
from tests.unit.test_config import EXAMPLE, MINIMAL

FULL = EXAMPLE.replace(
    'default_realms = ["access", "core"]\n',
    """default_realms = ["access", "core"]
peers = ["10.30.0.0/28", "fd00:c::5", "192.0.2.7/32"]
rate_per_peer = 500
sessions_max = 7
new_calls_per_s = 9
memory_max_mb = 300
lag_max_ms = 250
listen = { udp = false, tcp = 2223, http = 2225 }
""",
)


def test_every_key_arrives() -> None:
    assert config.parse(FULL).control == ControlSection(
        ("access", "core"),
        Listen(udp=False, tcp=2223, http=2225),
        ("10.30.0.0/28", "fd00:c::5/128", "192.0.2.7/32"),
        500,
        7,
        9,
        300,
        250,
    )


def test_a_file_of_before_listens_on_udp_and_hears_the_control_networks() -> None:
    node = config.parse(EXAMPLE)
    assert node.control == ControlSection(("access", "core"))
    assert (node.control.listen, node.control.peers) == (Listen(True, 0, 0), ())
    assert [peers_of(node.control, group) for group in node.groups] == [("10.30.0.0/24",)] * 2


def test_an_address_without_a_network_hears_everybody_as_before() -> None:
    node = config.parse(MINIMAL)
    assert peers_of(node.control, node.groups[0]) is None
    named = config.parse(MINIMAL.replace("[control]", '[control]\npeers = ["198.51.100.0/24"]'))
    assert peers_of(named.control, named.groups[0]) == ("198.51.100.0/24",)


def test_a_dump_reads_back_equal() -> None:
    for text in (FULL, EXAMPLE, MINIMAL):
        node = config.parse(text)
        assert config.parse(config.dump(node)) == node


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('peers = ["10.30.0.0/28"', "peers = [5", "control.peers = 5: must be a list of 1 to 64"),
        ('"10.30.0.0/28"', '"10.30.0.1/28"', '"10.30.0.1/28": has bits set behind its prefix'),
        ('"10.30.0.0/28"', '"kamailio"', 'control.peers = "kamailio": is no prefix; must be a li'),
        ('"10.30.0.0/28"', '"10.30.0.0/33"', 'control.peers = "10.30.0.0/33": is no prefix'),
        ('["10.30.0.0/28", "fd00:c::5", "192.0.2.7/32"]', "[]", "[]: nobody could command; with"),
        ('["10.30.0.0/28", "fd00:c::5", "192.0.2.7/32"]', '"10.0.0.0/8"', "must be a list of 1"),
        ("peers =", "peer =", "control.peer: unknown key; did you mean 'peers'?"),
        ("tcp = 2223", "tcp = 0", "control.listen.tcp = 0: must be a whole number from 1 to"),
        ("tcp = 2223", "tcp = 2225", "control.listen.http = 2225: is also listen.tcp"),
        ("tcp = 2223", "ws = 2223", "control.listen.ws: unknown key"),
        ("tcp = 2223", "tls = true, tcp = 2223", "control.listen.tls: unknown key"),
        (", tcp = 2223, http = 2225", "", "control.listen.udp = false: nobody could command"),
        ("rate_per_peer = 500", "rate_per_peer = -1", "control.rate_per_peer = -1: must be"),
        ("sessions_max = 7", "sessions_max = 0", "control.sessions_max = 0: must be a whole"),
        ("new_calls_per_s = 9", "new_calls_per_s = 0.5", "new_calls_per_s = 0.5: must be"),
        ("memory_max_mb = 300", 'memory_max_mb = "1G"', 'memory_max_mb = "1G": must be a whole'),
        ("lag_max_ms = 250", "lag_max_ms = 9", "lag_max_ms = 9: must be a whole number from 10"),
        ('["access", "core"]', '["access"]', "must be a list of two realms that carry media"),
        ('["access", "core"]', '["acces", "core"]', "did you mean 'access'?"),
    ],
)
def test_a_mistake_is_one_line(old: str, new: str, says: str) -> None:
    assert old in FULL
    with pytest.raises(ConfigError) as refused:
        config.parse(FULL.replace(old, new, 1))
    line = str(refused.value)
    assert "\n" not in line
    assert says in line
