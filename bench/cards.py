"""Compare the dry run's bytes with the bytes that this machine's cards really hold.

    python -m bench.cards [--placements 12] [--seed 1] [--rpc HOST:PORT ...]

Small models with real weights (tests/zoo/loadable.py) in random placements and contexts: the dry run's
weights, context and compute of every device are compared with the bytes that llama.cpp holds after loading.
One card becomes three CUDA devices with GGML_CUDA_DEVICES=3; Mesa's software driver becomes two Vulkan
devices with GGML_VK_VISIBLE_DEVICES=0,0. Without a card, use workers (`--rpc`).
"""

import argparse
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

from tests.llama.dryrun.test_client import (
    loaded_bytes,
    nonzero_bytes,
    random_context,
    random_placement,
)
from tests.zoo.loadable import LOADABLE, write_loadable
from vram_llm.llama import rpc
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.llama.registry import RegistryRequest
from vram_llm.llama.registry_worker import list_devices
from vram_llm.machine.backend_devices import KINDS as REGISTRIES
from vram_llm.machine.backend_devices import make_device
from vram_llm.machine.host import read_host
from vram_llm.machine.types import Device
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile

KINDS = ("weights", "context", "compute")


def cards() -> list[Device]:
    """The devices that llama.cpp lists on this machine; one card may be several devices."""
    listed = list_devices(RegistryRequest(), lambda _: None).devices
    return [make_device(row, i, read_host()) for i, row in enumerate(listed) if row.registry in REGISTRIES]


def compare(dry: DryRun, name: str, devices: list[Device], n_placements: int, pick: Random) -> Counter[str]:
    """The number of devices with equal bytes, by kind. Prints the differences."""
    host = read_host()
    same: Counter[str] = Counter()
    virtual = [replace(device, endpoint=None, what_if=True) for device in devices]
    with tempfile.TemporaryDirectory() as folder:
        path = write_loadable(LOADABLE[name](), Path(folder) / f"{name}.gguf")
        header = read_header(path)
        of = profile(header)
        for _ in range(n_placements):
            placement = random_placement(pick, [device.id for device in devices], of.n_layers)
            context = random_context(pick, of)
            planned = dry.meter(header, context, virtual, host, 0)(placement)
            real = loaded_bytes(path, devices, context, planned, placement)
            for device_id, bytes_ in nonzero_bytes(planned).items():
                same["devices"] += 1
                for kind, expected, actual in zip(KINDS, bytes_, real.get(device_id, (0, 0, 0)), strict=True):
                    same[kind] += expected == actual
                    if expected != actual:
                        print(
                            f"  {name} {device_id}: {kind} {expected:,} planned, {actual:,} held; {context}"
                        )
    return same


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--placements", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rpc", action="append", default=[])
    args = parser.parse_args()
    devices = list(rpc.devices(args.rpc)) if args.rpc else cards()
    if not devices:
        raise SystemExit("llama.cpp shows no card here: is it built for one?")
    print(f"{len(devices)} devices: {', '.join(device.name for device in devices)}")
    total: Counter[str] = Counter()
    with DryRun() as dry:
        for name in LOADABLE:
            same = compare(dry, name, devices, args.placements, Random(f"{args.seed} {name}"))
            print(f"{name:<20} {_counts(same)}", flush=True)
            total += same
    print(f"{'all':<20} {_counts(total)}")


def _counts(same: Counter[str]) -> str:
    return ", ".join(f"{kind} {same[kind]}" for kind in KINDS) + f" of {same['devices']} devices the same"


if __name__ == "__main__":
    main()
