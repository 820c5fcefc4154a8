"""Whether a tuned plan is kept for a model, machine and workload, and why one that is kept is not used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vram_llm.errors import BadSplit
from vram_llm.machine import json_store
from vram_llm.machine.calibration_store import device_key
from vram_llm.machine.types import Machine
from vram_llm.model.file_identity import FileIdentity
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.mtp import AUTO
from vram_llm.planner.tuning.choice import renamed, workload_of
from vram_llm.planner.types import PLAN_VERSION, Workload
from vram_llm.workflows.tuning import store


@dataclass(frozen=True, slots=True)
class KeptPlan:
    """The workload that leads to the tuned plan, and a note; without a workload, why it is not used."""

    workload: Workload | None
    note: str
    tuned_on: str = ""


def kept_plan(
    files: Sequence[FileIdentity], profile: ModelProfile, machine: Machine, workload: Workload
) -> KeptPlan | None:
    """The tuned plan for this model, machine and workload; None if nothing is kept that concerns them."""
    if not workload.use_tuned or machine.is_what_if or not files:
        return None
    records, notes = store.read()
    if notes:
        return KeptPlan(None, notes[0])
    done = [each for each in records.values() if each.choice is not None]
    concerned = [each for each in done if _has_path(each, files) or each.content == store.content_of(files)]
    asked = [each for each in concerned if each.wish == store.wish_of(workload)]
    if not asked:
        return None
    undrafted = replace(workload, draft=None) if workload.draft == AUTO else workload
    n_ctx = resolve_context(profile, machine, undrafted).n_ctx
    valid = [each for each in asked if change_since(each, files, machine) is None]
    covering = [each for each in valid if covers(each, workload, n_ctx)]
    if covering:
        best = max(covering, key=lambda each: (_has_path(each, files), each.tuned_at))
        return _used(best, machine, workload, n_ctx)
    if valid:
        return None  # it is of another context, and does not speak of this one
    newest = max(asked, key=lambda each: each.tuned_at)
    change = change_since(newest, files, machine)
    return KeptPlan(None, f"the plan tuned on {newest.tuned_at[:10]} is not used: {change}; tune again")


def find_record(records: Iterable[store.TunedRecord], like: store.TunedRecord) -> store.TunedRecord | None:
    """The record of the same model, rig, workload and context as `like`."""
    return next((each for each in records if store.key_of(each) == store.key_of(like)), None)


def covers(record: store.TunedRecord, workload: Workload, n_ctx: int) -> bool:
    """Whether a record's context covers the one that is asked for, `n_ctx` tokens if the user gives it.

    A context that the planner chooses is covered by one that it chose in the same way. A given context is
    covered by a tuned one of its length up to twice of it: with a shorter one, more layers would fit.
    """
    wanted = store.ctx_of(workload)
    if wanted != "given":
        return record.ctx == wanted
    return record.n_ctx <= 2 * n_ctx and n_ctx <= record.n_ctx


def change_since(record: store.TunedRecord, files: Sequence[FileIdentity], machine: Machine) -> str | None:
    """The change since the plan was tuned that makes it invalid, in words; None: there is none."""
    if record.content != store.content_of(files):
        return f"{record.path} has changed since"
    before = {each.key: each for each in record.devices}
    now = {each.key: each for each in store.rig_of(machine)}
    if gone := [each.id for key, each in before.items() if key not in now]:
        return f"{gone[0]} of that time is not among the devices"
    if new := [each.id for key, each in now.items() if key not in before]:
        return f"{new[0]} was not among the devices"
    for key, device in now.items():
        if device.total_bytes != before[key].total_bytes:
            return f"{device.id} has another size of memory"
        if device.driver != before[key].driver:
            return f"{device.id} has another driver"
    if record.host != (device_key(machine.host) or machine.host.name):
        return "it was another computer"
    if record.llama_cpp_python != json_store.llama_cpp_version():
        return "llama-cpp-python is another version"
    return None if record.plan_version == PLAN_VERSION else "it is a plan of another version"


def sentence(record: store.TunedRecord) -> str:
    """ "tuned on 2026-11-30, 23.4 tok/s, 6% over the prediction's choice"."""
    speed = f"tuned on {record.tuned_at[:10]}, {record.tokens_per_s or 0:.3g} tok/s"
    if record.gain is None or record.margin is None:
        return f"{speed}, the prediction's choice"
    return f"{speed}, {record.gain:.0%} over the prediction's choice (+-{record.margin:.0%})"


def _used(record: store.TunedRecord, machine: Machine, workload: Workload, n_ctx: int) -> KeptPlan:
    assert record.choice is not None
    now = {each.key: each.id for each in store.rig_of(machine)}
    ids = {each.id: now[each.key] for each in record.devices}
    length = n_ctx if store.ctx_of(workload) == "given" else record.n_ctx
    try:
        dictated = workload_of(workload, renamed(record.choice, ids), length)
    except BadSplit as error:
        return KeptPlan(None, f"the plan tuned on {record.tuned_at[:10]} is damaged and not used: {error}")
    return KeptPlan(dictated, sentence(record), record.tuned_at[:10])


def _has_path(record: store.TunedRecord, files: Sequence[FileIdentity]) -> bool:
    return any(each.path == record.path for each in files)
