"""What a cloud tells the machine at its first boot: a NoCloud seed with networks, keys and files.

Knows cloud-init's three files and the node's configuration: one node, its etcd outside. Must not
know how the machine is run or looked at.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any, Final

NODE: Final = "n1"
OUTSIDE: Final = {
    "mgmt": ("10.30.0.1/24",),
    "access": ("10.10.0.1/24", "fd00:a::1/64"),
    "core": ("10.20.0.1/24",),
}
"""Who lives at the other end of the machine's networks."""
GUEST: Final = "10.30.0.11"
OWN: Final = {
    "mgmt": [f"{GUEST}/24"],
    "access": ["10.10.0.11/24", "fd00:a::11/64"],
    "core": ["10.20.0.11/24"],
}
PROXY: Final = "10.30.0.1"
ETCD: Final = "http://10.30.0.1:2379"
CONTROL: Final = ("10.30.0.101", 2223)
MEDIA: Final = {"access": "10.10.0.101", "core": "10.20.0.101"}
SEED_MIB: Final = 4

FILE: Final = f"""\
[node]
id = "{NODE}"
discriminator = 1
run_dir = "/run/bgf"
[state]
address = "dal:///dev/shm/bgf/state"
size_mb = 64
[state.cluster]
listen = "{GUEST}:7400"
key_file = "/etc/bgf/cluster.key"
etcd = ["{ETCD}"]
name = "bgf"
profile = "safe"
[media]
pin_dir = "/sys/fs/bpf/bgf"
pinholes_max = 4096
[realms.access]
interface = "access"
[realms.core]
interface = "core"
[realms.mgmt]
interface = "mgmt"
media = false
[[groups]]
id = "g1"
preferred = "{NODE}"
control = "{CONTROL[0]}/24"
control_port = {CONTROL[1]}
control_realm = "mgmt"
ports = [30000, 30999]
addresses = {{ access = ["{MEDIA["access"]}/24", "fd00:a::101/64"], core = ["{MEDIA["core"]}/24"] }}
[control]
default_realms = ["access", "core"]
peers = ["{PROXY}"]
[failover]
profile = "safe"
[monitor]
listen = "{GUEST}:9401"
"""


def mac(name: str) -> str:
    return f"52:54:00:00:00:{list(OUTSIDE).index(name) + 1:02x}"


def make(work: Path, key: str) -> Path:
    """A small disk with the label that cloud-init looks for. `key`: who may log in by ssh."""
    files = (
        ("/etc/bgf/node.toml", "0644", FILE),
        ("/etc/bgf/cluster.key", "0600", f"1 {secrets.token_hex(32)}\n"),
    )
    user: dict[str, Any] = {
        "ssh_authorized_keys": [key],
        "write_files": [
            {"path": path, "permissions": mode, "content": text} for path, mode, text in files
        ],
    }
    ethernets = {
        name: {
            "match": {"macaddress": mac(name)},
            "set-name": name,
            "addresses": OWN[name],
            "dhcp4": False,
            "dhcp6": False,
        }
        for name in OUTSIDE
    }
    network = {"version": 2, "ethernets": ethernets}
    (work / "meta-data").write_text(f"instance-id: image-test\nlocal-hostname: {NODE}\n")
    (work / "user-data").write_text(f"#cloud-config\n{json.dumps(user)}\n")
    (work / "network-config").write_text(json.dumps(network))
    disk = work / "seed.img"
    disk.write_bytes(b"")
    os.truncate(disk, SEED_MIB << 20)
    parts = [work / name for name in ("meta-data", "user-data", "network-config")]
    subprocess.run(["mkfs.vfat", "-n", "CIDATA", disk], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mcopy", "-i", disk, *parts, "::"], check=True)
    return disk
