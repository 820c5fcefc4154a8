"""Addresses that need no tunnel."""

from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from vram_llm.machine.private_networks import crosses_network, is_private, wireguard_addresses


class Address(NamedTuple):
    """The field of psutil's addresses that is read."""

    address: str


def test_wireguard_is_known_by_the_type_of_its_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"wg0": [Address("10.8.0.2"), Address("fe80::1%wg0")], "eth0": [Address("192.168.1.4")]}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    for name, kind in (("wg0", "DEVTYPE=wireguard\n"), ("eth0", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "uevent").write_text(f"{kind}INTERFACE={name}\nIFINDEX=5\n")
    assert wireguard_addresses(tmp_path) == {"10.8.0.2", "fe80::1"}


def test_connections_in_the_clear() -> None:
    assert crosses_network("192.0.2.7", "192.0.2.8")
    assert not crosses_network("192.0.2.7", "192.0.2.7")  # to this computer
    assert not crosses_network("127.0.0.1", "127.0.0.2")


def test_this_computers_addresses() -> None:
    assert is_private("127.0.0.1")
    assert not is_private("0.0.0.0")
    assert not is_private("192.0.2.7")
