"""A bootable disk from a directory: GPT, ext4, GRUB for BIOS and for UEFI. Usage: disk.py ROOT FILE

Knows the layout of the disk and how GRUB's stages find each other. Must not know what the tree
holds besides a kernel and GRUB's own files. Uses no loop device and mounts nothing: the file
systems are made from directories, and GRUB's first stages are written where `grub-install` would.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
SECTOR: Final = 512
DISK_MIB: Final = 2560
"""Grown by the first boot (growpart) to what the flavour gives."""
BIOS_AT_MIB, BIOS_MIB = 1, 3
ESP_AT_MIB, ESP_MIB = 4, 60
ROOT_AT_MIB: Final = 64
LABEL: Final = "bgf-root"
NAMESPACE: Final = uuid.UUID("6f0b7a0e-5d5c-4a53-9a3c-3f2f4b1d9c11")

# Of GRUB's i386-pc stages (grub-core/boot/i386/pc/boot.S, diskboot.S; util/setup.c does the same).
BOOT_KERNEL_SECTOR: Final = 0x5C
BOOT_DRIVE_CHECK: Final = 0x66
NOPS: Final = b"\x90\x90"
CORE_BLOCKLIST: Final = SECTOR - 12
CORE_SEGMENT: Final = 0x820
BOOT_CODE_BYTES: Final = 440
CORE_MODULES: Final = (
    *("biosdisk", "part_gpt", "ext2", "search", "search_fs_uuid", "configfile", "normal", "linux"),
    *("serial", "terminal", "echo", "test", "minicmd", "reboot", "halt"),
)
"""All that the first configuration says: it is read before GRUB knows where more modules are."""

COMMAND_LINE: Final = "console=tty0 console=ttyS0,115200n8 panic=10"
TYPES: Final = {
    "bios": "21686148-6449-6E6F-744E-656564454649",
    "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "root": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
}


def stable(name: str) -> uuid.UUID:
    """The same of the same sources: an image can be compared with another one."""
    return uuid.uuid5(NAMESPACE, f"{name} {os.environ.get('SOURCE_DATE_EPOCH', '')}")


def run(*argv: str | Path, **more: str | bytes) -> None:
    subprocess.run([str(one) for one in argv], check=True, **more)  # type: ignore[call-overload]


def prepare(root: Path) -> str:
    """GRUB's own directory and the first configuration; the UUID of the root file system."""
    fs = str(stable("root file system"))
    grub = root / "boot/grub"
    (grub / "i386-pc").mkdir(parents=True, exist_ok=True)
    for module in (root / "usr/lib/grub/i386-pc").iterdir():
        if module.suffix in (".mod", ".lst"):
            shutil.copy2(module, grub / "i386-pc")
    shutil.copytree(root / "usr/lib/grub/x86_64-efi", grub / "x86_64-efi", dirs_exist_ok=True)
    (grub / "grub.cfg").write_text(
        "# Of the first boot; update-grub writes it anew with the first new kernel.\n"
        "serial --unit=0 --speed=115200\n"
        "terminal_input console serial\nterminal_output console serial\n"
        "set timeout=1\nset default=0\n"
        "menuentry 'Debian 12, bgf' {\n"
        f"  search --no-floppy --fs-uuid --set=root {fs}\n"
        f"  linux /vmlinuz root=UUID={fs} ro {COMMAND_LINE}\n"
        "  initrd /initrd.img\n}\n"
    )
    (root / "etc/fstab").write_text(
        f"UUID={fs} / ext4 errors=remount-ro 0 1\n"
        "LABEL=BGF-ESP /boot/efi vfat umask=0077,nofail 0 0\n"
    )
    (root / "boot/efi").mkdir(exist_ok=True)
    return fs


def stub(fs: str) -> str:
    return f"search.fs_uuid {fs} root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n"


def make_root(root: Path, fs: str, file: Path) -> None:
    size_mib = DISK_MIB - ROOT_AT_MIB - 1
    run(
        *("mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-U", fs, "-m", "1", "-b", "4096"),
        *("-O", "^metadata_csum_seed,^orphan_file"),
        *("-E", f"hash_seed={stable('hash seed')},lazy_itable_init=0,lazy_journal_init=0"),
        *("-d", root, file, f"{size_mib}M"),
    )


def make_esp(root: Path, fs: str, file: Path, work: Path) -> None:
    """The removable path, signed: firmware finds it without a boot entry."""
    file.write_bytes(b"")
    os.truncate(file, ESP_MIB * MIB)
    run("mkfs.vfat", "--invariant", "-F", "32", "-n", "BGF-ESP", file)
    efi = work / "EFI"
    (efi / "BOOT").mkdir(parents=True)
    (efi / "debian").mkdir()
    shutil.copy(root / "usr/lib/shim/shimx64.efi.signed", efi / "BOOT/BOOTX64.EFI")
    signed = root / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
    shutil.copy(signed, efi / "BOOT/grubx64.efi")
    (efi / "debian/grub.cfg").write_text(stub(fs))
    run("mcopy", "-s", "-i", file, efi, "::/")


def make_core(root: Path, fs: str, work: Path) -> bytes:
    """GRUB's core for a BIOS, its list of blocks filled in."""
    early = root / "tmp/early.cfg"
    early.write_text(stub(fs))
    run(
        *("chroot", root, "grub-mkimage", "-O", "i386-pc", "-o", "/tmp/core.img"),
        *("-p", "/boot/grub", "-c", "/tmp/early.cfg", *CORE_MODULES),
    )
    made = root / "tmp/core.img"
    core = bytearray(made.read_bytes())
    made.unlink()
    early.unlink()
    core += bytes(-len(core) % SECTOR)
    first = BIOS_AT_MIB * MIB // SECTOR
    rest = len(core) // SECTOR - 1
    struct.pack_into("<QHH", core, CORE_BLOCKLIST, first + 1, rest, CORE_SEGMENT)
    if len(core) > BIOS_MIB * MIB:
        raise SystemExit(f"disk.py: GRUB's core has {len(core)} bytes: BIOS_MIB is too small")
    return bytes(core)


def make_boot(root: Path) -> bytes:
    """The code of the first sector: it loads the first sector of the core."""
    boot = bytearray((root / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:BOOT_CODE_BYTES])
    struct.pack_into("<Q", boot, BOOT_KERNEL_SECTOR, BIOS_AT_MIB * MIB // SECTOR)
    boot[BOOT_DRIVE_CHECK : BOOT_DRIVE_CHECK + len(NOPS)] = NOPS
    return bytes(boot)


def table() -> str:
    """For sfdisk. The root partition is the last on the disk, and number 1: it grows."""

    def line(number: int, kind: str, at_mib: int, size: str) -> str:
        start, unique = at_mib * MIB // SECTOR, stable(f"partition {kind}")
        return f"{number}: start={start}, {size}type={TYPES[kind]}, uuid={unique}, name={kind}\n"

    root_size = f"size={(DISK_MIB - ROOT_AT_MIB - 1) * MIB // SECTOR}, "
    return (
        f"label: gpt\nlabel-id: {stable('disk')}\n"
        + line(1, "root", ROOT_AT_MIB, root_size)
        + line(14, "bios", BIOS_AT_MIB, f"size={BIOS_MIB * MIB // SECTOR}, ")
        + line(15, "esp", ESP_AT_MIB, f"size={ESP_MIB * MIB // SECTOR}, ")
    )


def put(disk: Path, at: int, source: Path | bytes) -> None:
    if isinstance(source, bytes):
        with disk.open("r+b") as out:
            out.seek(at)
            out.write(source)
        return
    run(
        *("dd", f"if={source}", f"of={disk}", "bs=1M", f"seek={at // MIB}"),
        *("conv=notrunc,sparse", "status=none"),
    )


def main(root: Path, disk: Path) -> None:
    with tempfile.TemporaryDirectory(dir=disk.parent) as directory:
        work = Path(directory)
        fs = prepare(root)
        core, boot = make_core(root, fs, work), make_boot(root)
        disk.write_bytes(b"")
        os.truncate(disk, DISK_MIB * MIB)
        run("sfdisk", "--quiet", disk, input=table().encode())
        make_esp(root, fs, work / "esp", work)
        make_root(root, fs, work / "root")
        put(disk, ESP_AT_MIB * MIB, work / "esp")
        put(disk, ROOT_AT_MIB * MIB, work / "root")
        put(disk, BIOS_AT_MIB * MIB, core)
        put(disk, 0, boot)


main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
