"""Compare plans for a model beyond the devices' memory with llama.cpp's own --fit, and with predictions.

    python -m bench.fit [--show servers|placements] [--seconds 30] [--rounds 5] [--loads 3] [--placements 10]

The devices are two RPC workers: one has a core, the other is held to 30 % of the second core. The host
computes on the second core as well, of which another program always takes 40 % (bench/rig.py), so that it is
slower than the first worker and faster than the second. Both workers have as much memory as leaves about a
third of the experts of a random mixture-of-experts model to the host. It has 440 million weights, so that a
layer takes far longer than the millisecond for which a worker that has been idle computes at full speed.
`calibrate` measures workers and host, and the plan uses its figures.

servers     llama-server with --fit, which gets the workers in either order, llama-server with the flags of
            `plan --emit llama-server`, and this project's own server take turns. Each has two workers of its
            own, since a worker serves one client at a time; those that wait take no time
placements  the plan, and random placements of layers and experts that fit the workers' memory: predicted and
            measured time of a token. Of many placements those are taken whose predicted times are as evenly
            apart as they can be, since the order of equally fast ones is chance

Two cores are enough, and root is needed. Nothing else should run meanwhile.
"""

import argparse
import asyncio
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from bench.load import complete
from bench.rig import busy, measure_on, worker
from bench.server_log import layers, runs
from bench.servers import free_port, running
from bench.uneven import (
    FULL_CORE,
    SLOW_CORE,
    WISH,
    Effort,
    Split,
    calibrated,
    measure,
    predicted,
    print_splits,
    spearman,
)
from scripts.build_llama_server import built_programs
from tests.zoo.blocks import attention, common_keys, ends, routed
from tests.zoo.loadable import with_vocabulary, write_loadable
from tests.zoo.writer import Model
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.machine.types import Machine
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.export.device_flags import environment_variables, exported_devices
from vram_llm.planner.export.formats import to_json
from vram_llm.planner.export.llama_server import settings
from vram_llm.planner.llama_split import placement_of
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, Placement, Plan
from vram_llm.units import MIB
from vram_llm.workflows import detection, planning

_SLOW_SHARE, _BUSY_SHARE = 0.3, 0.4
_ON_HOST = 1 / 3  # of the experts, if the workers are full
_ROOM_BYTES = 48 * MIB  # of a worker's memory for context and compute
_LAYERS, _WIDTH, _FF, _EXPERTS, _USED, _HEAD, _VOCAB = 6, 1536, 1792, 8, 4, 64, 8192
_PROMPT, _ANSWER = 128, 24
_DRAWN = 6  # placements for each that is measured
_BUFFER = re.compile(r"(\S+) model buffer size = +([\d.]+) MiB")
FIT, FIT_REVERSED, PLANNED, OURS = "--fit", "--fit, slow worker first", "llama-server as planned", "vram-llm"
SERVERS = (FIT, FIT_REVERSED, PLANNED, OURS)


@dataclass
class Contender:
    """A server that takes turns: seconds of its prompts and tokens per second of its answers."""

    name: str
    command: list[str]  # without a port
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    prompts_s: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--show", choices=["servers", "placements"], action="append")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--placements", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    shows = given.show or ["placements", "servers"]
    measure_on(SLOW_CORE)  # the host of the servers computes there too
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        os.environ[DATA_DIR_VARIABLE] = name
        model = write_moe(folder / "moe.gguf")
        stack.enter_context(busy(SLOW_CORE, _BUSY_SHARE))
        pair = stack.enter_context(workers())
        limit = limit_bytes(detection.analyze(str(model)), detection.detect(rpc=pair))
        machine = calibrated([f"{each}@{limit}" for each in pair], given.seconds)
        plan = planning.plan(str(model), machine, WISH)
        print(f"limit of a worker {limit / MIB:.1f} MiB. The plan: {in_words(plan.placement)}", flush=True)
        if "placements" in shows:
            effort = Effort(given.seconds, given.loads, given.rounds, tokens=8)
            compare_placements(plan, machine, effort, Random(given.seed), given.placements)
        if "servers" in shows:
            compare_servers(plan, folder, given.rounds)


def write_moe(path: Path) -> Path:
    """A random qwen3moe. A layer takes milliseconds of a core, far above its overhead."""
    keys = common_keys(
        _LAYERS, _WIDTH, _FF, 4096, _VOCAB, attention__head_count=_WIDTH // _HEAD,
        attention__head_count_kv=4, attention__key_length=_HEAD, attention__value_length=_HEAD,
        expert_count=_EXPERTS, expert_used_count=_USED, expert_feed_forward_length=_FF,
    )  # fmt: skip
    model = Model("qwen3moe", keys)
    ends(model, _WIDTH, _VOCAB)
    for i in range(_LAYERS):
        attention(model, f"blk.{i}.", _WIDTH, _WIDTH, 4 * _HEAD)
        model.add(f"blk.{i}.", ffn_norm=_WIDTH, attn_q_norm=_HEAD, attn_k_norm=_HEAD)
        routed(model, f"blk.{i}.", _WIDTH, _FF, _EXPERTS)
    return write_loadable(with_vocabulary(model), path)


@contextmanager
def workers() -> Iterator[tuple[str, str]]:
    """The addresses of a worker at full speed and a slow one."""
    with worker(FULL_CORE) as full, worker(SLOW_CORE, _SLOW_SHARE) as slow:
        yield full, slow


def limit_bytes(model: ModelProfile, machine: Machine) -> int:
    """The memory of each worker. What it leaves free is a whole number of MiB, as --fit-target takes it."""
    experts = sum(layer.expert_bytes for layer in model.layers)
    weights = sum(layer.bytes for layer in model.layers) + sum(t.n_bytes for t in model.output_tensors)
    wanted = (weights - _ON_HOST * experts) / len(machine.devices) + _ROOM_BYTES
    (all_bytes,) = {device.total_bytes for device in machine.devices}
    assert all_bytes is not None
    return int(all_bytes - (all_bytes - wanted) // MIB * MIB)


def in_words(placement: Placement) -> str:
    """ "2 layers on host, 4 on RPC0; experts of 1 on host"."""
    counts = zip(placement.device_order, placement.layers_per_device, strict=True)
    places = [(HOST, placement.cpu_layers), *counts]
    moved = [f"{each.part} of {runs(each.layers)} on {each.device}" for each in placement.overrides]
    return ", ".join([*(f"{device}:{count}" for device, count in places if count), *moved])


def compare_placements(plan: Plan, machine: Machine, effort: Effort, pick: Random, n: int) -> None:
    """Measure the plan and `n` random placements, and print how far predictions are off."""
    placements = (plan.placement, *random_placements(plan, machine, pick, _DRAWN * n))
    chosen, *others = [Split(in_words(each), each, predicted(plan, machine, each)) for each in placements]
    splits = [chosen, *evenly_spaced(others, n)]
    measure(plan, splits, effort)
    print_splits(splits)
    off = [abs(split.measured_s / split.predicted_s - 1) for split in splits]
    faster = sum(split.measured_s < splits[0].measured_s for split in splits[1:])
    print(f"predicted tokens per second        median {statistics.median(off):.1%} off, worst {max(off):.1%}")
    print(f"rank correlation                   {spearman(splits[1:]):.3f}")
    print(f"rank correlation with the plan     {spearman(splits):.3f}")
    print(f"faster than the plan               {faster} of {n}", flush=True)


def random_placements(plan: Plan, machine: Machine, pick: Random, n: int) -> list[Placement]:
    """Different placements that fit, by llama.cpp's dry run."""
    found: list[Placement] = [plan.placement]
    with DryRun() as dry:
        header = read_header(plan.model.path)
        meter = dry.meter(header, plan.context, machine.devices, machine.host, WISH.reserve_bytes)
        while len(found) <= n:
            placement = drawn(pick, plan.model.n_layers, [device.id for device in machine.devices])
            if placement not in found and meter(placement).fits:
                found.append(placement)
    return found[1:]


def evenly_spaced(splits: Sequence[Split], n: int) -> list[Split]:
    """`n` of the splits, from the fastest to the slowest, in equal steps of predicted time."""
    left = sorted(splits, key=lambda split: split.predicted_s)
    first, last = left[0].predicted_s, left[-1].predicted_s
    found = []
    for number in range(n):
        wanted_s = first + (last - first) * number / max(n - 1, 1)
        found.append(min(left, key=lambda split: abs(split.predicted_s - wanted_s)))
        left.remove(found[-1])
    return found


def drawn(pick: Random, n_layers: int, ids: Sequence[str]) -> Placement:
    """Runs of layers on the host and the devices in either order, and experts of some layers elsewhere."""
    order = pick.sample(ids, len(ids))
    cuts = sorted(pick.randint(0, n_layers) for _ in order)
    assignment = [sum(cut <= layer for cut in cuts) - 1 for layer in range(n_layers)]
    last = max(assignment[-1], 0)  # the output needs a device
    share, moved = pick.random(), dict[str, list[int]]()
    for layer in range(n_layers):
        if pick.random() < share:
            moved.setdefault(pick.choice([*ids, HOST]), []).append(layer)
    overrides = [Override.of(LayerPart.EXPERTS, numbers, place) for place, numbers in moved.items()]
    return placement_of(order, [*assignment, last], tuple(overrides))


def compare_servers(plan: Plan, folder: Path, rounds: int) -> None:
    """Let the servers take turns, and print their figures, and ratios to those with --fit."""
    with ExitStack() as stack:
        contenders = []
        for name in SERVERS:
            pair = stack.enter_context(workers())
            fitted = name in (FIT, FIT_REVERSED)
            contender = as_fitted(name, plan, pair) if fitted else as_planned(name, plan, pair, folder)
            log, environment = folder / f"{name}.log", os.environ | contender.environment
            command = [*contender.command, "--port", str(contender.port)]
            stack.enter_context(running(command, contender.port, log, environment=environment))
            if name != OURS:
                print(f"{name:26} {placed(log)}", flush=True)
            contenders.append(contender)
        for number in range(rounds + 1):
            for contender in contenders if number % 2 else contenders[::-1]:
                asyncio.run(ask(contender, Random(number)))
    for contender in contenders:
        del contender.prompts_s[0], contender.tokens_per_s[0]  # the first round warms up
    print_servers(contenders, plan)


def as_fitted(name: str, plan: Plan, pair: tuple[str, str]) -> Contender:
    """llama-server with --fit, in the plan's context."""
    order = pair[::-1] if name == FIT_REVERSED else pair
    kept_free = [(device.total_bytes or 0) - device.free_bytes for device in plan.devices]
    options = {
        "--model": plan.model.path,
        "--rpc": ",".join(order),
        "--fit": "on",
        "--fit-target": ",".join(str(each // MIB) for each in kept_free),
        "--ctx-size": str(plan.context.n_ctx),
        "--parallel": str(plan.context.parallel),
        "--threads": str(plan.context.n_threads),
        "--cache-ram": "0",
        "--verbosity": "5",
    }
    program = str(built_programs() / "llama-server")
    return Contender(name, [program, *(word for option in options.items() for word in option)])


def as_planned(name: str, plan: Plan, pair: tuple[str, str], folder: Path) -> Contender:
    """llama-server with the plan's flags, or this project's server."""
    devices = tuple(replace(d, endpoint=where) for d, where in zip(plan.devices, pair, strict=True))
    plan = replace(plan, devices=devices)
    if name == OURS:
        file = folder / "plan.json"
        file.write_bytes(to_json(plan))
        return Contender(name, [sys.executable, "-m", "vram_llm", "serve", "--plan", str(file)])
    exported = exported_devices(plan)
    words = [word for setting in settings(plan, exported) for word in setting.arguments]
    program = str(built_programs() / "llama-server")
    return Contender(name, [program, *words, "--verbosity", "5"], dict(environment_variables(plan, exported)))


def placed(log: Path) -> str:
    """The layers and the weights in MiB of each worker, by llama-server's log; --fit loads several times."""
    text = log.read_text(errors="replace")
    text = text[text.rindex("load_tensors: layer   0 assigned") :]
    held = dict(_BUFFER.findall(text))
    weights = [
        f"{name.partition('[')[0]} {size} MiB" for name, size in held.items() if name.startswith("RPC")
    ]
    went = [f"{device} {runs(numbers)}" for device, numbers in layers(text).items()]
    return f"layers {', '.join(went)}; weights {', '.join(weights)}"


async def ask(contender: Contender, pick: Random) -> None:
    """A new prompt of _PROMPT tokens and an answer of _ANSWER tokens."""
    prompt = [pick.randrange(259, _VOCAB) for _ in range(_PROMPT)]
    stream = await complete(contender.port, prompt, _ANSWER)
    contender.prompts_s.append(stream.ttft_s)
    contender.tokens_per_s.append((_ANSWER - 1) / (stream.chunks[-1] - stream.chunks[0]))


def print_servers(contenders: Sequence[Contender], plan: Plan) -> None:
    """Print each server's figures, and the plan's ratios to each --fit, round by round."""
    for contender in contenders:
        rates, prompts = contender.tokens_per_s, contender.prompts_s
        print(
            f"{contender.name:26} {statistics.median(rates):6.1f} tok/s "
            f"({min(rates):.1f} to {max(rates):.1f}), "
            f"prompts {_PROMPT / statistics.median(prompts):.0f} tok/s"
        )
    fits = [contender for contender in contenders if contender.name.startswith("--fit")]
    for contender in contenders[len(fits) :]:
        for fit in fits:
            decode = [a / b for a, b in zip(contender.tokens_per_s, fit.tokens_per_s, strict=True)]
            prompt = [b / a for a, b in zip(contender.prompts_s, fit.prompts_s, strict=True)]
            print(
                f"{contender.name} to {fit.name}: decode {statistics.median(decode):.2f} times, prompts "
                f"{statistics.median(prompt):.2f} times as fast"
            )
    assert plan.speed is not None
    print(f"predicted: {plan.speed.tokens_per_s:.1f} tok/s")


if __name__ == "__main__":
    main()
