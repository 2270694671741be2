"""What a node's file says of media: every key arrives, every mistake is one line."""

from __future__ import annotations

import pytest

from bgf import config
from bgf.errors import ConfigError
from bgf.model import Latch, Policer
from bgf.policy import DEFAULT_POLICY, RealmPolicy, RtpCheck, StreamRule
from tests.unit.test_config import EXAMPLE, MINIMAL

POLICIES = """
[realms.access]
interface = "eth0"
latch = "latch"
rtp_check = "payload-types"
inactivity_s = 30
[realms.access.streams.audio]
dscp = 46
sustained_bytes_s = 16000
burst_bytes = 8000
peak_bytes_s = 32000
peak_burst_bytes = 1600
[realms.access.streams.video]
sustained_bytes_s = 250000
[realms.access.streams.any]
dscp = 0
[realms.core]
interface = "eth1"
latch = "strict"
inactivity_s = 0
"""
FULL = EXAMPLE.replace(
    '[realms.access]\ninterface = "eth0"\n[realms.core]\ninterface = "eth1"\n', POLICIES.lstrip()
).replace(
    'attach = "generic"',
    'attach = "generic"\nport_quarantine_ms = 9000\nclose_hanging_s = 7\nclose_held_s = 8',
)


def test_every_key_arrives() -> None:
    node = config.parse(FULL)
    assert node.policies == {
        "access": RealmPolicy(
            Latch.LATCH,
            RtpCheck.PAYLOAD_TYPES,
            30_000,
            {
                "audio": StreamRule(Policer(16_000, 8_000, 32_000, 1_600), 46),
                "video": StreamRule(Policer(250_000, 25_000)),
                "any": StreamRule(None, 0),
            },
        ),
        "core": RealmPolicy(Latch.STRICT),
    }
    assert node.policies["access"].rule("audio").dscp == 46
    assert node.policies["access"].rule("image").dscp == 0
    assert node.policies["core"].rule("audio") == StreamRule()
    assert node.realms["mgmt"].policy == DEFAULT_POLICY
    assert (node.media.port_quarantine_ms, node.media.close_hanging_s) == (9_000, 7)
    assert node.media.close_held_s == 8


def test_without_them_nothing_latches_and_silence_is_reported_after_a_minute() -> None:
    node = config.parse(MINIMAL)
    assert node.policies == {"lan": RealmPolicy(inactivity_ms=60_000)}
    assert (node.media.port_quarantine_ms, node.media.close_hanging_s) == (5_000, 0)
    assert node.media.close_held_s == 3_600, "of no effect while close_hanging_s is 0"


def test_a_dump_reads_back_equal() -> None:
    node = config.parse(FULL)
    assert config.parse(config.dump(node)) == node


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('latch = "latch"', 'latch = "on"', "realms.access.latch = \"on\": must be one of 'off'"),
        ("rtp_check =", "rtp_chekc =", "did you mean 'rtp_check'?"),
        ('"payload-types"', '"all"', "realms.access.rtp_check = \"all\": must be one of 'off'"),
        ("inactivity_s = 30", "inactivity_s = -1", "realms.access.inactivity_s = -1: must be"),
        ("dscp = 46", "dscp = 64", "realms.access.streams.audio.dscp = 64: must be a whole"),
        ("dscp = 46", "tos = 184", "realms.access.streams.audio.tos: unknown key"),
        ("streams.audio", "streams.Audio", "realms.access.streams.Audio = a table"),
        ("sustained_bytes_s = 16000\n", "", "burst_bytes = 8000: means nothing without sustained"),
        ("peak_bytes_s = 32000\n", "", "peak_burst_bytes = 1600: means nothing without peak_"),
        ("peak_bytes_s = 32000", "peak_bytes_s = 15999", "is below sustained_bytes_s, 16000"),
        ("burst_bytes = 8000", "burst_bytes = 1", "must be a whole number from 256 to"),
        ("sustained_bytes_s = 16000", "sustained_bytes_s = 0", "must be a whole number from 1 to"),
        ("media = false", 'media = false\nlatch = "off"', 'realms.mgmt.latch = "off": means no'),
        ("port_quarantine_ms = 9000", "port_quarantine_ms = 60001", "from 0 to 60000"),
        ("close_hanging_s = 7", "close_hanging_s = 1.5", "media.close_hanging_s = 1.5: must be"),
        ("close_held_s = 8", "close_held_s = 604801", "media.close_held_s = 604801: must be"),
    ],
)
def test_a_mistake_is_one_line(old: str, new: str, says: str) -> None:
    assert old in FULL
    with pytest.raises(ConfigError) as refused:
        config.parse(FULL.replace(old, new, 1))
    line = str(refused.value)
    assert "\n" not in line
    assert says in line
