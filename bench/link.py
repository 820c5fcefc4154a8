"""A shaped link on one computer: a network namespace behind a pair of TUN devices, delayed in between.

It replaces `tc netem`, which some kernels lack: every packet is delayed by its share of the bandwidth and by
the latency, each way. It needs root on Linux, with iproute2.
"""

import contextlib
import fcntl
import heapq
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.rig import require

BITS_PER_S, LATENCY_S = 1e9, 2e-3  # each way
_MTU = 9000
_NAMESPACE = "vram-llm-bench"
_HERE, _THERE = "10.213.7.1", "10.213.7.2"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@dataclass(frozen=True)
class Far:
    """The other side: its address, and the prefix of a command to run there."""

    address: str
    inside: tuple[str, ...]


@contextmanager
def shaped_link() -> Iterator[Far]:
    """A namespace behind a link of `BITS_PER_S` and `LATENCY_S`; both are gone after the block."""
    require("ip")
    _ip("netns", "add", _NAMESPACE)
    try:
        with subprocess.Popen([sys.executable, "-m", "bench.link"], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != b"ready\n":
                    raise SystemExit("the link cannot be made: are there TUN devices, and is this root?")
                yield Far(_THERE, ("ip", "netns", "exec", _NAMESPACE))
            finally:
                process.kill()
    finally:
        _ip("netns", "delete", _NAMESPACE)


def main() -> None:
    """Make both ends, and forward packets until killed."""
    here, there = _tun("vlbench0"), _tun("vlbench1")
    _ip("link", "set", "vlbench1", "netns", _NAMESPACE)
    inside = ("netns", "exec", _NAMESPACE, "ip")
    for prefix, name, own, other in (((), "vlbench0", _HERE, _THERE), (inside, "vlbench1", _THERE, _HERE)):
        _ip(*prefix, "address", "add", own, "peer", other, "dev", name)
        _ip(*prefix, "link", "set", name, "mtu", str(_MTU), "txqueuelen", "10000", "up")
    _ip(*inside, "link", "set", "lo", "up")
    print("ready", flush=True)
    _hand_on({here: there, there: here})


def _hand_on(ways: dict[int, int]) -> None:
    """Forward every packet from one end to the other at its time of arrival."""
    waiting: list[tuple[float, int, int, bytes]] = []  # due, number, end, packet
    free_at = dict.fromkeys(ways, 0.0)
    number = 0
    while True:
        now = time.perf_counter()
        while waiting and waiting[0][0] <= now:
            _, _, end, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # the end is closing
                os.write(end, packet)
        timeout = max(waiting[0][0] - now, 0) if waiting else None
        readable, _, _ = select.select(list(ways), [], [], timeout)
        for end in readable:
            packet = os.read(end, _MTU + 100)
            sent = max(free_at[end], time.perf_counter()) + len(packet) * 8 / BITS_PER_S
            free_at[end] = sent
            heapq.heappush(waiting, (sent + LATENCY_S, number, ways[end], packet))
            number += 1


def _tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    main()
