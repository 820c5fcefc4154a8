"""The reasons for a plan, in sentences."""

from collections.abc import Sequence

from vram_llm.machine.types import Device
from vram_llm.planner.placed_parts import EXPERTS, in_words, listed, on_host
from vram_llm.planner.report.figures import rate
from vram_llm.planner.report.from_disk import why_from_disk
from vram_llm.planner.report.idle import price_of_using
from vram_llm.planner.report.prompts import why_prompts
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import HOST, Objective, Placement, Plan
from vram_llm.text.names import short_name
from vram_llm.units import format_bytes

_BEST = {
    Objective.LATENCY: "no cut within the budgets has a shorter decode step",
    Objective.THROUGHPUT: "no cut within the budgets has a faster slowest stage",
    Objective.CONTEXT: "no cut in this order leaves the fullest less full",
    Objective.BALANCE: "no cut in this order leaves the fullest less full",
}
_CPU = {HOST: "the CPU"}
_UNEVEN = 1.2  # ratio of the bytes per layer of two devices; from there on a sentence mentions it


def why(plan: Plan) -> tuple[str, ...]:
    """Sentences: what forced the split, why devices idle or layers stay on the CPU, what limits the speed."""
    return (
        *_split(plan),
        *_layers(plan),
        *_cpu(plan),
        *why_prompts(plan),
        *_idle(plan),
        *(why_from_disk(plan) or _limit(plan)),
        *_by_free_memory(plan),
    )


def _split(plan: Plan) -> tuple[str, ...]:
    uses = plan.estimate.devices
    if not uses:
        return ()
    fullest = max(uses, key=lambda use: use.total_bytes / max(use.budget_bytes, 1))
    share = fullest.total_bytes / max(fullest.budget_bytes, 1)
    full = f"the fullest device, {fullest.id}, is at {share:.0%} of what may be used"
    best = "the split was dictated" if plan.dictated else _BEST[plan.objective]
    return (f"Split: {_cut(plan.placement)}; {full}, and {best}.",)


def _layers(plan: Plan) -> tuple[str, ...]:
    if plan.placement.overrides or plan.placement.split_mode is SplitMode.TENSOR:
        return ()
    counts = zip(plan.estimate.devices, plan.placement.layers_per_device, strict=True)
    of_layer = {use.id: use.weights_bytes // count for use, count in counts if count}
    if not of_layer or max(of_layer.values()) <= _UNEVEN * min(of_layer.values()):
        return ()
    heavy, light = max(of_layer, key=of_layer.__getitem__), min(of_layer, key=of_layer.__getitem__)
    return (
        f"Layers are not alike: {heavy} gets {format_bytes(of_layer[heavy])} with each of its layers, "
        f"{light} {format_bytes(of_layer[light])}; equal counts would not be equal bytes.",
    )


def _cpu(plan: Plan) -> tuple[str, ...]:
    n_cpu, held = plan.placement.cpu_layers, on_host(plan.placement)
    if not held.n_with_weights or not plan.estimate.devices or plan.dictated:
        return ()
    if held.parts:
        short = f"CPU: {listed(held.phrases(plan.model.n_layers))} have no room on the devices"
        if any(part.kind == EXPERTS for part in held.parts):
            return (f"{short}; a token reads few of the experts, and all else that it needs stays there.",)
        return (f"{short}; attention and KV cache stay there.",)
    return (f"CPU: with fewer than {n_cpu} layers there, no order of the devices in use takes the rest.",)


def _idle(plan: Plan) -> tuple[str, ...]:
    """A sentence for each idle device whose price is known."""
    devices = {device.id: device for device in plan.devices}
    used = [devices[each] for each in plan.placement.device_order]
    sentences = []
    for device in plan.devices:
        price = price_of_using(plan, device)
        if device.id in plan.used or price is None:
            continue
        cost = f"a step would take {price:.0%} longer" if price >= 0.005 else "a step would not get shorter"
        sentences.append(
            f"{device.id} ({short_name(device.name)}) idles: with it {cost}, {_because(device, used)}."
        )
    return tuple(sentences)


def _because(device: Device, used: Sequence[Device]) -> str:
    slower = [
        each
        for each in used
        if each.speed is not None
        and device.speed is not None
        and device.speed.read_bytes_per_s.value < each.speed.read_bytes_per_s.value
    ]
    if not slower:
        return "for each device more is one more wait"
    assert device.speed is not None
    fast = max(slower, key=lambda each: each.speed.read_bytes_per_s.value if each.speed else 0)
    return f"for it reads {_reads(device)} and {fast.id} {_reads(fast)}"


def _limit(plan: Plan) -> tuple[str, ...]:
    """The device that takes most of a decode step."""
    if plan.speed is None or plan.context.pooling is not None or not plan.speed.devices:
        return ()
    slowest = max(plan.speed.devices, key=lambda each: each.seconds)
    step = f"a token takes {plan.speed.step_s * 1e3:,.0f} ms"
    if slowest.id == HOST:
        return (
            f"Speed: {step}, {slowest.share:.0%} of it on the CPU, which reads its weights from main memory.",
        )
    device = next(device for device in plan.devices if device.id == slowest.id)
    reads = f", which reads {_reads(device)}" if device.speed is not None else ""
    if len(plan.speed.devices) == 1:
        return (f"Speed: {step} on {slowest.id}{reads}.",)
    if (sums := plan.speed.sums) is not None:
        waits = f"{sums.count * sums.seconds / plan.speed.step_s:.0%} of it for {sums.count} sums"
        return (
            f"Speed: devices compute at the same time; {step}, {waits}; the slowest is {slowest.id}{reads}.",
        )
    return (
        f"Speed: devices compute one after the other; {step}, {slowest.share:.0%} of it on "
        f"{slowest.id}{reads}.",
    )


def _reads(device: Device) -> str:
    assert device.speed is not None
    fact = device.speed.read_bytes_per_s
    return f"{fact.value / 1e9:,.0f} GB/s ({fact.source})"


def _by_free_memory(plan: Plan) -> tuple[str, ...]:
    """llama.cpp's own split, if it differs."""
    other = plan.by_free_memory
    if other is None or other.placement == plan.placement:
        return ()
    split = f"llama.cpp's own split by free memory, {_cut(other.placement)}"
    if not other.fits:
        short = [
            f"{device_id} {format_bytes(n_bytes)} short"
            for device_id, n_bytes in other.estimate.short_devices
        ]
        return (f"{split}, would not fit: {', '.join(short) or 'the computer is short of memory'}.",)
    if other.speed is None or plan.context.pooling is not None:
        return (f"{split}, would fit too.",)
    return (f"{split}, would fit too, at {rate(other.speed.tokens_per_s)} tok/s.",)


def _cut(placement: Placement) -> str:
    """ "25 layers on GPU1, 46 and the output on GPU2"."""
    if placement.split_mode is SplitMode.TENSOR:
        shares = zip(placement.device_order, placement.tensor_split, strict=True)
        whole = sum(placement.tensor_split)
        return ", ".join(f"{share / whole:.0%} of every layer on {device}" for device, share in shares)
    parts = [f"{placement.cpu_layers} layers on the CPU"] if placement.cpu_layers else []
    for device_id, count in zip(placement.device_order, placement.layers_per_device, strict=True):
        has_output = placement.output_device == device_id
        what = f"{count} layers" if count else ""
        what += (" and the output" if what else "the output") if has_output else ""
        parts.append(f"{what} on {device_id}" if what else "")
    parts += [f"{in_words(each)} on {_CPU.get(each.device, each.device)}" for each in placement.overrides]
    return ", ".join(part for part in parts if part)
