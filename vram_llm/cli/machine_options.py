"""The options of the planning commands that describe the machine."""

from collections.abc import Callable
from typing import Any, TypeVar

from vram_llm.cli.option_types import DeviceListType
from vram_llm.cli.plan_option import PlanOption

_F = TypeVar("_F", bound=Callable[..., Any])

MACHINE_OPTIONS = (
    PlanOption(flags="--gpu", fields=("gpus",), multiple=True, metavar="RIG", help=(
        'Plan for these cards instead of the local ones: "RTX 4080 Laptop", "RTX 4090 + 2x RTX 3060", '
        '"2080 Ti 22GB", "24GB@1008GB/s" (memory and bandwidth), "RX 7900 XTX@Vulkan" (back end), "RTX 3090 '
        'on 64GiB DDR4-3200 2ch" (cards and host), "DGX Spark", "M4 Max 64GB". 24GB means 24 GiB, as on the '
        "box of a card. Repeat for more cards."
    )),
    PlanOption(flags="--ram", fields=("ram",), metavar="MEMORY", has_default=False, help=(
        'Plan for a host with this memory instead of this computer: 64GiB, "64GiB DDR5-6000 2ch" (kind, rate '
        'and channels), "2x32GB DDR4-3200", 64GiB@80GB/s (bandwidth).'
    )),
    PlanOption(flags="--cpu", fields=("cpu",), metavar="PROCESSOR", has_default=False, help=(
        'The processor of the host that --ram describes: "Ryzen 9 7950X", "2x EPYC 7763", "16 cores".  '
        "[default: 8 cores]"
    )),
    PlanOption(flags="--disk", fields=("disk",), metavar="RATE", has_default=False,
               help="How fast the host reads its disk: 7GB/s, 550MB/s."),
    PlanOption(flags="--rpc", fields=("rpc",), multiple=True, metavar="HOST:PORT[@SIZE]", help=(
        "Use the RPC worker at HOST:PORT, and at most SIZE of each of its devices. Repeat for more."
    )),
    PlanOption(flags="--ssh", fields=("ssh",), multiple=True, metavar="[USER@]HOST[:PORT][@SIZE]", help=(
        "Use the RPC worker on HOST's loopback through a tunnel of the ssh client. Repeat for more.  "
        "[default port: 50052]"
    )),
    PlanOption(flags="--start-workers", fields=("start_workers",), is_flag=True, has_default=False, help=(
        "Start `vram-llm worker` on each HOST of --ssh where none listens; it ends with this command."
    )),
    PlanOption(flags="--device -dev", fields=("device",), type=DeviceListType(), metavar="DEVICE,...",
               has_default=False, help=(
        "Use only these devices, workers' included: ids (GPU0), llama.cpp's names (CUDA0), numbers from 0 or "
        "parts of a card's name. Numbers of --tensor-split follow their order. none: the CPU alone.  "
        "[default: all]"
    )),
)  # fmt: skip

_OF_THIS_MACHINE = ("--rpc", "--ssh", "--start-workers", "--device")


def rig_options(function: _F) -> _F:
    """Add the options for cards and host that are not here."""
    for option in reversed(MACHINE_OPTIONS):
        function = option.decorator()(function) if option.flag not in _OF_THIS_MACHINE else function
    return function
