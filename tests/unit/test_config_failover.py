"""The timers of the failover process by name and by key, and the failure domains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgf import config, config_failover
from bgf.errors import ConfigError
from tests.unit.test_config import EXAMPLE


@pytest.mark.parametrize("profile", sorted(config.PROFILES))
def test_a_profile_names_all_timers_and_single_keys_override_it(profile: str) -> None:
    named = EXAMPLE.partition("[failover]")[0] + f'[failover]\nprofile = "{profile}"\n'
    named = named.replace('preferred = "n2"', "")
    assert config.parse(named).failover.timers == config.PROFILES[profile]
    lease_ms = config.PROFILES[profile].lease_ms + 1
    one = config.parse(named + f"lease_ms = {lease_ms}\n")
    assert one.failover.timers == replace(config.PROFILES[profile], lease_ms=lease_ms)
    assert config.parse(config.dump(one)) == one


def test_a_node_may_name_what_it_shares_with_others() -> None:
    text = EXAMPLE.replace("[state]", 'host = "hv-3"\nrack = "row 2, rack 7"\n[state]')
    node = config.parse(text)
    assert (node.node.host, node.node.rack) == ("hv-3", "row 2, rack 7")
    assert config.parse(config.dump(node)) == node


def test_a_realm_that_is_only_probed_has_an_interface_of_its_own() -> None:
    realms = [
        config.Realm("access", "eth0"),
        config.Realm("mgmt", "eth0", media=False),
        config.Realm("spare", "eth9", media=False),
    ]
    config_failover.check_attached("n.toml", realms, ["access", "spare"])
    with pytest.raises(ConfigError, match=r"n\.toml: .*'mgmt' is probed on interface 'eth0'"):
        config_failover.check_attached("n.toml", realms, ["access", "mgmt"])
