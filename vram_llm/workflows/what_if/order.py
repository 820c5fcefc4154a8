"""An order for a what-if plan, and its answer: the placement by the analytic meter, and its speed.

Alternatives, prices of other contexts and the dry run, which `plan` adds, take seconds and are left out.
"""

import time
from functools import lru_cache

import msgspec

from vram_llm.machine import calibration_store
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Device, Host, Machine
from vram_llm.model.header_reader import read_header
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.model.metadata_overrides import with_overrides
from vram_llm.model.profile import ModelProfile, profile, with_adapters
from vram_llm.model.tensors import LayerPart, is_in_part
from vram_llm.planner.estimates import DeviceEstimate, HostEstimate
from vram_llm.planner.make_plan import choose_candidate
from vram_llm.planner.memory.moved_weights import moved_by_layer
from vram_llm.planner.rope import AS_IN_FILE, Rope, with_rope
from vram_llm.planner.search.candidate import expected_speed
from vram_llm.planner.search.search import plan_fewest_on_host
from vram_llm.planner.types import HOST, FlashAttention, Objective, Placement, Workload
from vram_llm.server.ui.plan_reply import PlanReply, WhatIfBytes, WhatIfDevice, WhatIfHostUse, WhatIfPart


class WhatIfOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A model and what to plan it for. Without `rigs`, `devices` are those to plan for."""

    model: str  # the first shard
    loras: tuple[str, ...] = ()
    rigs: tuple[str, ...] = ()
    devices: tuple[Device, ...]
    host: Host
    n_ctx: int
    parallel: int
    kv_type_k: str
    kv_type_v: str
    reserve_bytes: int
    objective: Objective
    flash_attn: FlashAttention = FlashAttention.AUTO
    swa_full: bool = False
    rope: Rope = AS_IN_FILE
    kv_overrides: tuple[MetadataOverride, ...] = ()
    kv_unified: bool = True
    notes: tuple[str, ...] = ()  # of the answer

    @property
    def machine(self) -> Machine:
        """Raises UnknownDevice, BadHost."""
        if not self.rigs:
            return Machine(devices=self.devices, host=self.host)
        return calibration_store.with_measured_speeds(what_if(self.rigs, self.host))

    @property
    def workload(self) -> Workload:
        """The workload of the plan."""
        return Workload(
            n_ctx=self.n_ctx, parallel=self.parallel, kv_type_k=self.kv_type_k, kv_type_v=self.kv_type_v,
            reserve_bytes=self.reserve_bytes, objective=self.objective, flash_attn=self.flash_attn,
            swa_full=self.swa_full, rope=self.rope, kv_unified=self.kv_unified,
            kv_overrides=self.kv_overrides,
        )  # fmt: skip


def carry_out(order: WhatIfOrder) -> PlanReply:
    """The plan. One that does not fit is an answer too.

    Raises UnknownDevice, BadHost, BadPlan, BadSplit, ModelNotFound, ModelFileError.
    """
    began = time.perf_counter()
    machine, workload = order.machine, order.workload
    model = with_rope(read_profile(order.model, order.loras, order.kv_overrides), workload.rope)
    chosen = choose_candidate(model, machine, workload, None)[0]
    fits, estimate, placement = chosen.estimate.fits, chosen.estimate, chosen.placement
    if not fits and machine.devices and estimate.host.over_bytes <= 0:
        least = plan_fewest_on_host(model, machine, workload, chosen.context)  # the host's memory is short
        estimate, placement = least.estimate, least.placement
    speed = expected_speed(model, machine, workload, chosen) if fits else None
    experts, uses = _expert_bytes(model, placement), {use.id: use for use in estimate.devices}
    return PlanReply(
        fits=fits,
        method=estimate.method,
        n_ctx=chosen.context.n_ctx,
        parallel=chosen.context.parallel,
        kv_type=chosen.context.kv_type_k,
        objective=workload.objective.value,
        n_layers=model.n_layers,
        devices=[
            _device(i, device, uses.get(device.id), order.reserve_bytes, placement, experts.get(device.id, 0))
            for i, device in enumerate(machine.devices)
        ],
        host=WhatIfHostUse(
            total_bytes=machine.host.total_bytes,
            available_bytes=machine.host.available_bytes,
            planned=_planned(estimate.host, order.reserve_bytes),
            over_bytes=max(estimate.host.over_bytes, 0),
            layers=placement.first_and_last(HOST),
            moved=_moved(placement, HOST),
            experts_bytes=experts.get(HOST, 0),
        ),
        short_bytes=estimate.short_bytes,
        tokens_per_s=None if speed is None else speed.tokens_per_s,
        tokens_per_s_range=None if speed is None else speed.tokens_per_s_range,
        prompt_tokens_per_s=None if speed is None else speed.prompt_tokens_per_s,
        basis=None if speed is None else speed.basis.value,
        depth=None if speed is None else speed.depth,
        notes=[*order.notes, *machine.notes],
        seconds=time.perf_counter() - began,
    )


@lru_cache(maxsize=2)
def read_profile(
    path: str, loras: tuple[str, ...] = (), overrides: tuple[MetadataOverride, ...] = ()
) -> ModelProfile:
    """A model's profile, from its header alone. Raises ModelNotFound, ModelFileError, BadPlan."""
    header = with_overrides(read_header(path), overrides)
    return with_adapters(profile(header), [read_header(lora) for lora in loras])


def _planned(use: DeviceEstimate | HostEstimate, reserve_bytes: int) -> WhatIfBytes:
    return WhatIfBytes(
        weights_bytes=use.weights_bytes,
        context_bytes=use.context_bytes,
        compute_bytes=use.compute_bytes,
        overhead_bytes=use.overhead_bytes if isinstance(use, DeviceEstimate) else 0,
        reserve_bytes=reserve_bytes,
        companions_bytes=use.companion_bytes,
    )


def _device(
    index: int,
    device: Device,
    use: DeviceEstimate | None,
    reserve_bytes: int,
    placement: Placement,
    experts_bytes: int,
) -> WhatIfDevice:
    """A device of the answer; `use` of None: nothing is on it."""
    idle = WhatIfBytes(
        weights_bytes=0, context_bytes=0, compute_bytes=0, reserve_bytes=reserve_bytes,
        companions_bytes=device.companion_bytes,
    )  # fmt: skip
    return WhatIfDevice(
        index=index,
        name=device.name,
        total_bytes=device.total_bytes,
        free_bytes=device.free_bytes,
        planned=idle if use is None else _planned(use, reserve_bytes),
        over_bytes=0 if use is None else max(use.over_bytes, 0),
        layers=placement.first_and_last(device.id),
        moved=_moved(placement, device.id),
        experts_bytes=experts_bytes,
    )


def _moved(placement: Placement, device_id: str) -> list[WhatIfPart]:
    return [
        WhatIfPart(part=None if each.part is None else each.part.value, layers=list(each.layers))
        for each in placement.overrides
        if each.device == device_id
    ]


def _expert_bytes(model: ModelProfile, placement: Placement) -> dict[str, int]:
    """Bytes of routed experts, by the id of the device that has them."""
    found: dict[str, int] = {}
    for layer, home in zip(model.layers, placement.layer_devices(), strict=True):
        found[home] = found.get(home, 0) + layer.expert_bytes
    for moved in moved_by_layer(model, placement):
        experts = [tensor for tensor in moved.tensors if is_in_part(LayerPart.EXPERTS, tensor.name)]
        n_bytes = sum(tensor.n_bytes for tensor in experts)
        found[moved.home] -= n_bytes
        found[moved.device] = found.get(moved.device, 0) + n_bytes
    return found
