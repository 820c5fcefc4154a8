"""The figures of pictures: bytes of layers, and what a plan holds, costs and is expected to do."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from vram_llm.machine.types import Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import Role
from vram_llm.planner.floor import FloorRow, MemoryFloor
from vram_llm.planner.overrides import overriding_device
from vram_llm.planner.report.device_table import device_uses
from vram_llm.planner.search.candidate import expected_speed
from vram_llm.planner.types import HOST, Plan, Workload
from vram_llm.text.names import short_name

ROLES = (Role.ATTENTION, Role.RECURRENT, Role.FFN, Role.EXPERT, Role.OTHER)
KINDS = ("weights", "KV cache", "compute", "overhead", "companions")
_N_DEPTHS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleBytes:
    """Bytes of one role in a layer. `device` is its id, or "host"; None: nothing is planned."""

    role: Role
    device: str | None
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBar:
    """A layer, or what is before and after the layers. Parts are in the order of ROLES."""

    label: str
    parts: tuple[RoleBytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPicture:
    """The layers of a model from the embedding to the output. `devices` are names by id, in their order."""

    title: str
    bars: tuple[LayerBar, ...]
    devices: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardBar:
    """A device or the host. `bytes_by_kind` are planned, by KINDS; bytes in `others_bytes` are not free."""

    name: str
    layers: str  # "0-24 +out"; "": none
    bytes_by_kind: dict[str, int]
    reserve_bytes: int
    others_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedCurve:
    """Predicted tokens per second of `streams` together, by the depth of each."""

    streams: int
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPicture:
    """A plan in figures.

    `limits` are what the first card, the first two, and so on may hold. `curves` are the bytes of everything
    on the cards, by KV type: context and bytes. Without a memory floor (the plan has companions, or its split
    is dictated) `curves`, `limits` and `steps` are empty.
    """

    title: str
    cards: tuple[CardBar, ...]
    n_ctx: int
    kv_type: str
    curves: dict[str, tuple[tuple[int, int], ...]]
    limits: tuple[tuple[str, int], ...]
    steps: tuple[FloorRow, ...]
    speeds: tuple[SpeedCurve, ...]
    basis: Source | None


def layer_picture(profile: ModelProfile, plan: Plan | None = None) -> LayerPicture:
    """The layers of `profile`, with the devices of `plan` if there is one."""
    homes: Sequence[str | None] = [None] * profile.n_layers
    output, names = None, {}
    if plan is not None:
        homes, output = plan.placement.layer_devices(), plan.placement.output_device
        names = {device.id: short_name(device.name) for device in plan.devices if device.id in plan.used}
        names[HOST] = "host"
    bars = [_bar("in", {(Role.OTHER, HOST if plan else None): profile.token_embd_bytes})]
    for layer, home in zip(profile.layers, homes, strict=False):
        held: Counter[tuple[Role, str | None]] = Counter()
        for tensor in layer.tensors:
            moved = None if plan is None else overriding_device(plan.placement.overrides, tensor.name)
            held[tensor.role, moved or home] += tensor.n_bytes
        bars.append(_bar(str(layer.index), held))
    if not profile.tied_output:
        bars.append(_bar("out", {(Role.OTHER, output): profile.output_bytes}))
    return LayerPicture(title=f"{profile.name} {profile.quantization}", bars=tuple(bars), devices=names)


def _bar(label: str, held: "dict[tuple[Role, str | None], int]") -> LayerBar:
    parts = (
        RoleBytes(role=role, device=device, n_bytes=n_bytes)
        for (role, device), n_bytes in held.items()
        if n_bytes
    )
    return LayerBar(label=label, parts=tuple(sorted(parts, key=lambda part: ROLES.index(part.role))))


def plan_picture(
    profile: ModelProfile, machine: Machine, workload: Workload, plan: Plan, floor: MemoryFloor | None
) -> PlanPicture:
    """The picture of `plan`, which was made of the others. `floor` is that of its context."""
    curves: dict[str, tuple[tuple[int, int], ...]] = {}
    for row in floor.on_cards if floor is not None and floor.has_cards else ():
        curves[row.kv_type] = (*curves.get(row.kv_type, ()), (row.n_ctx, row.vram_bytes))
    one, many = 1, plan.context.parallel
    speeds = [_speeds(profile, machine, workload, plan, streams) for streams in sorted({one, many})]
    return PlanPicture(
        title=f"{plan.model.name} {plan.model.quantization}",
        cards=tuple(_cards(plan)),
        n_ctx=plan.context.n_ctx,
        kv_type=plan.context.kv_type_k,
        curves=curves,
        limits=_limits(plan) if curves else (),
        steps=() if floor is None else floor.steps,
        speeds=tuple(speeds) if plan.context.pooling is None else (),
        basis=None if plan.speed is None else plan.speed.basis,
    )


def _cards(plan: Plan) -> Iterator[CardBar]:
    """The devices of the plan, idle ones too, and the host if it holds something worth showing."""
    layers = {use.id: use.layers for use in device_uses(plan)}
    held = {use.id: use for use in plan.estimate.devices}
    for device in plan.devices:
        use = held.get(device.id)
        kinds = dict.fromkeys(KINDS, 0)
        if use is not None and device.id in plan.used:
            amounts = (
                use.weights_bytes, use.context_bytes, use.compute_bytes, use.overhead_bytes,
                use.companion_bytes,
            )  # fmt: skip
            kinds = dict(zip(KINDS, amounts, strict=True))
        yield CardBar(
            name=short_name(device.name),
            layers=layers.get(device.id, ""),
            bytes_by_kind=kinds,
            reserve_bytes=min(device.reserve_bytes, device.free_bytes),
            others_bytes=device.total_bytes - device.free_bytes,
            total_bytes=device.total_bytes,
        )
    if HOST not in layers or plan.host is None:
        return
    own = plan.estimate.host
    amounts = (
        own.weights_bytes - own.disk_bytes, own.context_bytes, own.compute_bytes, 0, own.companion_bytes,
    )  # fmt: skip
    yield CardBar(
        name="host",
        layers=layers[HOST],
        bytes_by_kind=dict(zip(KINDS, amounts, strict=True)),
        reserve_bytes=max(plan.host.available_bytes - own.budget_bytes, 0),
        others_bytes=plan.host.in_use_bytes,
        total_bytes=plan.host.total_bytes,
    )


def _limits(plan: Plan) -> tuple[tuple[str, int], ...]:
    """Names and sums of the budgets of the first card, the first two, ..., in the order of their use."""
    by_id = {device.id: device for device in plan.devices}
    order = (*plan.placement.device_order, *(id for id in by_id if id not in plan.placement.device_order))
    cards = [by_id[id] for id in order]
    budgets = accumulate(card.budget_bytes(card.reserve_bytes) for card in cards)
    names = [short_name(card.name) for card in cards]
    return tuple(
        (("+ " if i else "") + name, n) for i, (name, n) in enumerate(zip(names, budgets, strict=True))
    )


def _speeds(
    profile: ModelProfile, machine: Machine, workload: Workload, plan: Plan, streams: int
) -> SpeedCurve:
    """The speed of the plan's placement by depth, up to the depth that all streams have room for."""
    context = plan.context
    deepest = context.n_ctx // streams if context.kv_unified else context.n_ctx_seq
    points = []
    for i in range(_N_DEPTHS + 1):
        depth = max(deepest * i // _N_DEPTHS, 1)
        asked = replace(workload, expect_depth=depth, expect_streams=streams)
        speed = expected_speed(profile, machine, asked, plan)
        rate = speed.tokens_per_s if streams == 1 else speed.streams_tokens_per_s
        if rate is not None:
            points.append((depth, rate))
    return SpeedCurve(streams=streams, points=tuple(points))
