"""The facts of several engines of one model as those of one engine."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import reduce

import msgspec

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.bucket_counts import BucketCounts
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.recent_load import RecentRates
from vram_llm.engine.request_metrics import RequestHistograms
from vram_llm.engine.stats import EngineStats
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.types import Plan


def joint_info(infos: Sequence[ModelInfo]) -> ModelInfo:
    """The facts about a model loaded several times. Every replica takes a prompt of `n_ctx` tokens."""
    first, *_ = infos
    known_bytes = [info.max_prompt_bytes for info in infos if info.max_prompt_bytes is not None]
    return replace(
        first,
        n_ctx=min(info.n_ctx for info in infos),
        parallel=sum(info.parallel for info in infos),
        created=min(info.created for info in infos),
        memory=_sums(info.memory for info in infos),
        draft_memory=_sums(info.draft_memory for info in infos),
        max_prompt_bytes=min(known_bytes, default=None),
    )


def joint_plan(plans: Sequence[Plan]) -> Plan:
    """A plan with the devices and slots of all replicas, for reports. It is never loaded.

    Its layers are on the devices of the first one.
    """
    first, *_ = plans
    order = dict.fromkeys(device for plan in plans for device in plan.placement.device_order)
    n_layers = first.placement.layers_per_device
    devices = {device.id: device for plan in reversed(plans) for device in plan.devices}
    estimates = {estimate.id: estimate for plan in reversed(plans) for estimate in plan.estimate.devices}
    return replace(
        first,
        devices=tuple(reversed(devices.values())),
        placement=replace(
            first.placement,
            device_order=tuple(order),
            layers_per_device=(*n_layers, *(0 for _ in range(len(order) - len(n_layers)))),
        ),
        estimate=replace(first.estimate, devices=tuple(reversed(estimates.values()))),
        context=replace(
            first.context,
            n_ctx=sum(plan.context.n_ctx for plan in plans),
            parallel=sum(plan.context.parallel for plan in plans),
        ),
    )


def joint_activity(activities: Sequence[EngineActivity]) -> EngineActivity:
    """The sum of several engines' activity. The process is the first that runs."""
    requests = [request for activity in activities for request in activity.requests]
    return EngineActivity(
        plan=joint_plan([activity.plan for activity in activities]),
        pid=next((activity.pid for activity in activities if activity.pid is not None), None),
        n_restarts=sum(activity.n_restarts for activity in activities),
        uptime_s=max((a.uptime_s for a in activities if a.uptime_s is not None), default=None),
        totals=joint_stats(activity.totals for activity in activities),
        recent=_joint_rates([activity.recent for activity in activities]),
        requests=tuple(sorted(requests, key=lambda request: -request.age_s)),
        histograms=joint_histograms(activity.histograms for activity in activities),
        endings=sum((Counter(activity.endings) for activity in activities), Counter[str]()),
        longest=max(activity.longest for activity in activities),
    )


def joint_histograms(several: Iterable[RequestHistograms]) -> RequestHistograms:
    """The sums of all buckets."""
    sums = RequestHistograms(0)
    for histograms in several:
        for field in fields(RequestHistograms):
            theirs = getattr(histograms, field.name)
            if isinstance(theirs, BucketCounts):
                getattr(sums, field.name).add(theirs)
    return sums


def joint_stats(several: Iterable[EngineStats]) -> EngineStats:
    """The sums of all counts and states."""

    def add(one: EngineStats, other: EngineStats) -> EngineStats:
        sums = {
            name: getattr(one, name) + getattr(other, name)
            for name in EngineStats.__struct_fields__
            if name != "steps_by_tokens"
        }
        pairs = zip(one.steps_by_tokens, other.steps_by_tokens, strict=True)
        return msgspec.structs.replace(one, **sums, steps_by_tokens=tuple(a + b for a, b in pairs))

    return reduce(add, several, EngineStats())


def _sums(several: Iterable[Mapping[str, MemoryUse]]) -> dict[str, MemoryUse]:
    found: dict[str, MemoryUse] = {}
    for uses in several:
        for device, use in uses.items():
            found[device] = found.get(device, MemoryUse()) + use
    return found


def _joint_rates(rates: Sequence[RecentRates]) -> RecentRates:
    """Rates are added; times are the averages over all tokens."""
    n_first, n_later = sum(rate.n_first for rate in rates), sum(rate.n_later for rate in rates)
    first_s = sum(rate.n_first * (rate.time_to_first_token_s or 0.0) for rate in rates)
    later_s = sum(rate.n_later * (rate.inter_token_latency_s or 0.0) for rate in rates)
    return RecentRates(
        sum(rate.prompt_tokens_per_s for rate in rates),
        sum(rate.generation_tokens_per_s for rate in rates),
        first_s / n_first if n_first else None,
        later_s / n_later if n_later else None,
        n_first,
        n_later,
    )
