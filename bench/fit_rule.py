"""Compare our plan with the placements of llama.cpp's --fit and of --n-cpu-moe, on virtual cards.

    python -m bench.fit_rule [--case NAME] [--n-ctx 32768] [--depth 1024]
    python -m bench.fit_rule --model FILE --rig "RTX 3090 + RTX 3060 on 128GiB DDR4-3200 2ch"

For each model and rig it prints placements that have the same context and keep 1 GiB of each card free:

our plan       `vram-llm plan`, as it is, and with --no-op-offload
--fit          llama-server's own choice with its default options: its function, asked on virtual devices
               (bench/llama_fit.py); once with the same context, once with the context that it chooses
--n-cpu-moe    the first N layers' experts on the CPU, layers over the cards in proportion to their free
               memory: with the smallest N that fits, and with as many experts on the CPU as our plan has

Bytes are those of llama.cpp's dry run and, on a card, of its driver's overhead (planner/overhead.py), in GiB;
in brackets is what a plan may use. Speeds are this project's predictions for each placement, in
tokens per second: decode with --depth tokens of context, and prompts of as many tokens. "over" is what a load
would lack. "sent" means that prompts over weights on the host are computed on the first card (op_offload).
Below each table are the layers whose experts are not with the layer.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bench.llama_fit import fit, placement_on_all, start
from bench.server_log import runs
from tests.zoo import Model, as_q4_k_m, glm_45_air, gpt_oss, qwen3_235b, write
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.types import Machine
from vram_llm.model.header import Header
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.model.strip import write_stripped
from vram_llm.model.tensors import LayerPart, Role
from vram_llm.planner.estimates import DeviceEstimate, Estimate, HostEstimate
from vram_llm.planner.memory.moved_weights import moved_by_layer
from vram_llm.planner.overhead import overhead_bytes
from vram_llm.planner.overrides import Override
from vram_llm.planner.search.candidate import Candidate, expected_speed
from vram_llm.planner.types import HOST, Context, Placement, SpeedEstimate, Workload
from vram_llm.text.names import short_name
from vram_llm.units import GIB
from vram_llm.workflows import detection, planning

CASES: dict[str, tuple[Callable[[], Model], str, str]] = {
    "gpt-oss-120b": (gpt_oss, "Q8_0", "RTX 4080 Laptop + 2x RTX 3090 Ti on 64GiB DDR5-5600 2ch"),
    "qwen3-235b": (lambda: as_q4_k_m(qwen3_235b()), "Q4_K", "RTX 3090 + RTX 3060 on 128GiB DDR5-5600 2ch"),
    "glm-4.5-air": (lambda: as_q4_k_m(glm_45_air()), "Q4_K", "RTX 4090 on 64GiB DDR5-5600 2ch"),
}


@dataclass(frozen=True, slots=True)
class Way:
    """A placement and what is known of it."""

    name: str
    context: Context
    placement: Placement
    estimate: Estimate
    speed: SpeedEstimate


class Comparison:
    """The placements of one model on one machine."""

    def __init__(self, path: Path, machine: Machine, workload: Workload, dry: DryRun, folder: Path) -> None:
        self._path, self._machine, self._workload, self._dry = path, machine, workload, dry
        self._header: Header = read_header(path)
        self._stripped = write_stripped(self._header, folder / f"{path.stem}.stripped.gguf")
        self.profile: ModelProfile = profile(self._header)
        self._ids = [device.id for device in machine.devices]
        # what is free after a process has opened the card
        self._free = [device.free_bytes - overhead_bytes(device) for device in machine.devices]

    @cached_property
    def ours(self) -> Way:
        """This project's plan."""
        return self._planned("our plan", self._workload)

    @cached_property
    def ours_without_copies(self) -> Way:
        """This project's plan with --no-op-offload."""
        return self._planned("our plan, --no-op-offload", replace(self._workload, op_offload=False))

    def _planned(self, name: str, workload: Workload) -> Way:
        plan = planning.plan(str(self._path), self._machine, workload, self._dry)
        assert plan.speed is not None
        return Way(name, plan.context, plan.placement, plan.estimate, plan.speed)

    @cached_property
    def _servers_context(self) -> Context:
        """llama-server's defaults, with the plan's number of tokens."""
        return replace(
            self.ours.context, n_batch=Workload.DEFAULT_N_BATCH, n_ubatch=Workload.DEFAULT_N_UBATCH,
            n_outputs_max=self.ours.context.parallel, op_offload=True, kv_offload=True, pipeline_copies=True,
            backend_sampling=False,
        )  # fmt: skip

    def fitted(self, *, keeps_ctx: bool) -> Way:
        """The placement of --fit; without `keeps_ctx`, it chooses the length of the context too."""
        found = fit(
            self._stripped, self.profile, self._servers_context, self._machine.devices, self._free,
            self._workload.reserve_bytes, keeps_ctx=keeps_ctx,
        )  # fmt: skip
        name = "--fit" if keeps_ctx else f"--fit, {found.n_ctx:,} tokens"
        return self._way(name + ("" if found.fits else ", gave up"), found.placement, found.n_ctx)

    def smallest_n_cpu_moe(self) -> Way:
        """--n-cpu-moe with the smallest N that fits all cards; with all layers if none does."""
        low, high = 0, self.profile.n_layers  # of layers; `high` fits, or is all
        while low < high:
            middle = (low + high) // 2
            if any(each.over_bytes > 0 for each in self._with_n_cpu_moe(middle).estimate.devices):
                low = middle + 1
            else:
                high = middle
        return self._with_n_cpu_moe(high)

    def n_cpu_moe_like_ours(self) -> Way:
        """--n-cpu-moe with as many bytes of experts on the CPU as our plan has."""
        wanted = self.expert_bytes_on_host(self.ours.placement)
        total = n = 0
        for layer in self.profile.layers:
            if total >= wanted:
                break
            total, n = total + layer.expert_bytes, layer.index + 1
        return self._with_n_cpu_moe(n)

    def _with_n_cpu_moe(self, n: int) -> Way:
        moved = (Override.of(LayerPart.EXPERTS, range(n), HOST),) if n else ()
        placement = placement_on_all(self.profile, self._ids, -1, self._free, moved)
        return self._way(f"--n-cpu-moe {n}", placement, self.ours.context.n_ctx)

    def _way(self, name: str, placement: Placement, n_ctx: int) -> Way:
        context = replace(self._servers_context, n_ctx=n_ctx)
        estimate = self._meter(context)(placement)
        candidate = Candidate(context, placement, estimate)
        speed = expected_speed(self.profile, self._machine, self._workload, candidate)
        return Way(name, context, placement, estimate, speed)

    def _meter(self, context: Context) -> Callable[[Placement], Estimate]:
        machine, reserve = self._machine, self._workload.reserve_bytes
        return self._dry.meter(self._header, context, machine.devices, machine.host, reserve)

    def expert_bytes_on_host(self, placement: Placement) -> int:
        """Bytes of routed experts on the host."""
        return sum(self._experts_on_host(placement).values())

    def _experts_on_host(self, placement: Placement) -> dict[int, int]:
        """Bytes of routed experts on the host, by layer."""
        layers = self.profile.layers
        found = {
            layer.index: layer.expert_bytes
            for layer in layers[: placement.cpu_layers]
            if layer.expert_bytes and not layer.is_draft
        }
        for part in moved_by_layer(self.profile, placement):
            n_bytes = sum(tensor.n_bytes for tensor in part.tensors if tensor.role is Role.EXPERT)
            if part.device == HOST and n_bytes:
                found[part.layer] = n_bytes
        return found

    def experts_in_words(self, placement: Placement) -> str:
        """ "12 of 36, part of 1": layers with experts on the host."""
        found = self._experts_on_host(placement)
        n_all = sum(layer.expert_bytes > 0 and not layer.is_draft for layer in self.profile.layers)
        n_whole = sum(n_bytes == self.profile.layers[i].expert_bytes for i, n_bytes in found.items())
        return f"{n_whole} of {n_all}" + (f", part of {len(found) - n_whole}" if n_whole < len(found) else "")

    def moved_in_words(self, placement: Placement) -> str:
        """ "20-22 on host, 6 on host in part": layers with weights on another device than the layer."""
        found: dict[str, list[int]] = {}
        for part in moved_by_layer(self.profile, placement):
            experts = sum(tensor.n_bytes for tensor in part.tensors if tensor.role is Role.EXPERT)
            is_whole = experts == self.profile.layers[part.layer].expert_bytes
            found.setdefault(part.device + ("" if is_whole else " in part"), []).append(part.layer)
        return "; ".join(f"{runs(layers)} on {place}" for place, layers in found.items()) or "nothing moved"

    def rows(self, ways: list[Way]) -> Iterator[list[str]]:
        """A head, and a row for each way."""
        budgets = {use.id: use.budget_bytes for use in self.ours.estimate.devices}
        names = {device.id: short_name(device.name) for device in self._machine.devices}
        yield [
            "",
            *(f"{name} ({budgets[id] / GIB:.1f})" for id, name in names.items()),
            f"host ({self.ours.estimate.host.budget_bytes / GIB:.1f})",
            "layers on host", "experts on host", "ubatch", "decode", "prompt",
        ]  # fmt: skip
        for way in ways:
            uses = {use.id: use for use in way.estimate.devices}
            counts = dict(zip(way.placement.device_order, way.placement.layers_per_device, strict=True))
            cells = [_bytes(uses[id], counts[id]) if id in uses else "-" for id in self._ids]
            assert way.speed.prompt_tokens_per_s is not None
            yield [
                way.name, *cells, _bytes(way.estimate.host), str(way.placement.cpu_layers),
                self.experts_in_words(way.placement),
                f"{way.context.n_ubatch}{', sent' if way.context.op_offload else ''}",
                f"{way.speed.tokens_per_s:.1f}", f"{way.speed.prompt_tokens_per_s:.0f}",
            ]  # fmt: skip


def _bytes(use: DeviceEstimate | HostEstimate, n_layers: int | None = None) -> str:
    """ "21.4, 12 layers", "25.1, over by 2.6"."""
    total, over = use.total_bytes / GIB, use.over_bytes / GIB
    words = f"{total:.1f}" + ("" if n_layers is None else f", {n_layers} layers")
    return words + (f", over by {over:.1f}" if over > 0 else "")


def show(path: Path, rig: str, workload: Workload, dry: DryRun, folder: Path) -> None:
    """Print the table of one model and rig."""
    comparison = Comparison(path, detection.detect(rig), workload, dry, folder)
    ours = comparison.ours
    ways = [
        ours,
        *([comparison.ours_without_copies] if ours.context.op_offload else []),
        comparison.fitted(keeps_ctx=True),
        comparison.fitted(keeps_ctx=False),
    ]
    for way in (comparison.smallest_n_cpu_moe(), comparison.n_cpu_moe_like_ours()):
        ways += [] if way.name == ways[-1].name else [way]
    print(f"\n{comparison.profile.name} on {rig}, {ours.context.n_ctx:,} tokens")
    for row in comparison.rows(ways):
        print(" | ".join(row))
    for way in ways:
        print(f"  {way.name}: {comparison.moved_in_words(way.placement)}")


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--model", type=Path, help="a GGUF file, or its header, in place of the cases")
    parser.add_argument("--rig", help="with --model: cards and host")
    parser.add_argument("--n-ctx", type=int, default=32768)
    parser.add_argument("--depth", type=int, default=Workload.DEFAULT_DEPTH)
    given = parser.parse_args()
    if (given.model is None) != (given.rig is None):
        parser.error("--model and --rig belong together")
    workload = Workload(n_ctx=given.n_ctx, expect_depth=given.depth)
    start()
    with tempfile.TemporaryDirectory() as name, DryRun() as dry:
        folder = Path(name)
        if given.model is not None:
            show(given.model, given.rig, workload, dry, folder)
            return
        for case in given.case or CASES:
            build, common, rig = CASES[case]
            show(write(build(), folder / f"{case}.gguf", common), rig, workload, dry, folder)


if __name__ == "__main__":
    main()
