"""Addresses that only this computer, or peers that WireGuard has authenticated, can reach."""

from pathlib import Path

import psutil

from vram_llm.machine.worker_spec import is_loopback

_INTERFACES = Path("/sys/class/net")


def is_private(host: str) -> bool:
    """Whether `host` is loopback, or an address of a WireGuard interface of this computer."""
    return is_loopback(host) or host.strip("[]") in wireguard_addresses()


def crosses_network(own: str, peer: str) -> bool:
    """Whether a connection between these addresses leaves this computer without being encrypted."""
    return own != peer and not is_private(own)


def wireguard_addresses(interfaces: Path = _INTERFACES) -> frozenset[str]:
    """The addresses of this computer on WireGuard interfaces, by the type that Linux gives them."""
    return frozenset(
        address.address.partition("%")[0]
        for name, addresses in psutil.net_if_addrs().items()
        if _is_wireguard(interfaces / name / "uevent")
        for address in addresses
    )


def _is_wireguard(uevent: Path) -> bool:
    try:
        return "DEVTYPE=wireguard" in uevent.read_text().splitlines()
    except OSError:
        return False
