"""Plans, comparisons and downloads."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.errors import (
    BadPlan,
    BadSplit,
    DoesNotFit,
    EngineDied,
    ModelFileError,
    ModelRefused,
    NotBuilt,
)
from vram_llm.machine.disk_store import with_disk
from vram_llm.machine.host import largest_process
from vram_llm.model.draft_compatibility import facts_of, head_refusal, mismatch
from vram_llm.model.file_identity import FileIdentity
from vram_llm.model.header import Header
from vram_llm.model.header_reader import read_header
from vram_llm.model.metadata_overrides import unknown_keys, with_overrides
from vram_llm.model.profile import ModelProfile, profile, with_adapters, with_control_vectors
from vram_llm.model.projector import read_projector
from vram_llm.planner.draft_speed import WORTH_DRAFTING, drafting_gain, gain_text
from vram_llm.planner.mtp import (
    AUTO,
    MTP,
    NO_DRAFT,
    head_costs_room,
    llama_refusal,
    most_drafted,
    mtp_refusal,
)
from vram_llm.planner.rope import with_rope
from vram_llm.planner.types import HOST, CompanionKind
from vram_llm.units import format_bytes
from vram_llm.workflows.argument_types import check_field_types, check_type
from vram_llm.workflows.detection import analyze
from vram_llm.workflows.model_names import resolve
from vram_llm.workflows.nearby_files import nearby_files
from vram_llm.workflows.tuning.kept import kept_plan

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.machine.types import Device, Machine
    from vram_llm.planner.companions import UnplacedCompanion
    from vram_llm.planner.compare import ComparisonRow
    from vram_llm.planner.types import Context, Meter, Plan, Workload

_HOPELESS_CONTEXT_RATIO = 4  # a context of more than four times all memory is refused without a dry run


def dry_run() -> "DryRun":
    """A context manager that starts llama.cpp in a process for `plan`, and ends the process."""
    from vram_llm.llama.dryrun.client import DryRun

    return DryRun()


def plan(
    model: str,
    machine: "Machine",
    workload: "Workload | None" = None,
    dry: "DryRun | None" = None,
    *,
    compares: bool = True,
) -> "Plan":
    """The plan for running `model` on `machine`, confirmed by llama.cpp's own dry run.

    A `workload` of None means all defaults. Several plans may share `dry`; without it, the plan starts its
    own dry run. If the dry run fails, the plan has the analytic meter's figures, and a note says why. A
    plan that `tune` keeps for this model, machine and workload is taken if it still fits. Without `compares`
    the plan has no alternatives, and is made in less than half of the time. Raises the errors of `analyze`,
    TypeError, DoesNotFit, BadSplit, BadPlan, and ModelRefused if llama.cpp does not know the
    model.
    """
    from vram_llm.machine.types import Machine
    from vram_llm.planner.types import Workload

    workload = Workload() if workload is None else workload
    check_type("model", model, str)
    check_type("machine", machine, Machine)
    check_type("workload", workload, Workload)
    check_field_types(workload)
    with nullcontext(dry) if dry is not None else dry_run() as asked:
        files = PlannedFiles.read(model, without_auto(workload))
        if workload.draft == MTP and (reason := _head_refusal(files.model, files.profile, asked)) is not None:
            raise BadPlan(reason)
        if isinstance(files.model.path, Path):
            machine = with_disk(machine, files.model.path)
        kept = kept_plan(files.identities, files.profile, machine, workload)
        if kept is not None and kept.workload is not None:
            try:
                noted = dataclasses.replace(machine, notes=(kept.note, *machine.notes))
                own = PlannedFiles.read(model, kept.workload)  # perhaps without the draft model
                return _plan_with_found_files(own, noted, kept.workload, asked, compares=compares)
            except (DoesNotFit, BadPlan, BadSplit, ModelRefused, NotBuilt, EngineDied) as error:
                why = str(error).partition(";")[0]
                machine = _with_notes(machine, f"the plan tuned on {kept.tuned_on} is not used: {why}")
        elif kept is not None:
            machine = _with_notes(machine, kept.note)
        if workload.draft == AUTO:
            untuned = dataclasses.replace(workload, use_tuned=False)
            return _plan_with_auto_draft(model, machine, untuned, asked, compares=compares)
        try:
            return _plan_with_found_files(files, machine, workload, asked, compares=compares)
        except (NotBuilt, EngineDied) as error:
            noted = _with_notes(machine, f"no dry run: {error}")
            return _plan_with_found_files(files, noted, workload, None, compares=compares)
        except DoesNotFit as error:
            if not machine.host.what_if and error.host_is_short and (holder := largest_process()) is not None:
                raise error.with_remark(f"of the other programs {holder}") from None
            raise


def without_auto(workload: "Workload") -> "Workload":
    """`workload` without drafts if the planner chooses them."""
    return dataclasses.replace(workload, draft=None) if workload.draft == AUTO else workload


def _plan_with_auto_draft(
    model: str, machine: "Machine", workload: "Workload", dry: "DryRun", *, compares: bool
) -> "Plan":
    """The plan with the model's own MTP head if that pays; else without it. A note says why."""
    without = without_auto(workload)
    plain = plan(model, machine, without, dry, compares=compares)

    def noted(chosen: "Plan", note: str) -> "Plan":
        return dataclasses.replace(chosen, notes=(*chosen.notes, note))

    header = read_header(resolve(model))
    own = profile(header)
    if plain.context.pooling is not None or workload.from_disk:
        return noted(plain, "no drafts: they are for models in memory that generate text")
    if (reason := _head_refusal(header, own, dry)) is not None:
        return noted(plain, f"no drafts: {reason}")
    gain = drafting_gain(own, machine, without, plain)
    if gain < WORTH_DRAFTING:
        return noted(plain, f"no drafts: the MTP head makes the model {gain_text(gain)}")
    wish = dataclasses.replace(without, draft=MTP, n_ctx=plain.context.n_ctx, largest_ctx=False)
    with contextlib.suppress(DoesNotFit):
        drafting = plan(model, machine, wish, dry, compares=compares)
        if not head_costs_room(plain, drafting):
            return drafting
    return noted(plain, "no drafts: the model's MTP head would move weights to the host")


def _head_refusal(header: Header, own: ModelProfile, dry: "DryRun") -> str | None:
    """Why the MTP head of a model, whose profile is `own`, cannot draft; None if it can."""
    if (reason := mtp_refusal(own)) is not None:
        return reason
    try:
        return llama_refusal(own, lambda: dry.head_refusal(header, most_drafted(own)))
    except NotBuilt:
        return llama_refusal(own, None)


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedFiles:
    """The headers of a model and its companions: adapters, projector, draft model."""

    model: Header
    profile: ModelProfile
    loras: tuple[Header, ...]
    mmproj: Header | None
    draft: Header | None
    control_vectors: tuple[Header, ...] = ()
    has_found_mmproj: bool = False  # in the model's folder, not given
    notes: tuple[str, ...] = ()

    @property
    def identities(self) -> tuple[FileIdentity, ...]:
        """The files of the model, then those of its companions."""
        others = (each for each in (self.mmproj, self.draft) if each is not None)
        companions = (*self.loras, *self.control_vectors, *others)
        return (*self.profile.files, *(file for header in companions for file in header.files))

    @classmethod
    def read(cls, model: str, workload: "Workload") -> "PlannedFiles":
        """Raises the errors of `analyze`, which name the file."""
        if workload.draft == AUTO:
            raise BadPlan("--draft auto is for a single model; name a draft model, or mtp for its own head")
        header = with_overrides(read_header(resolve(model)), workload.kv_overrides)
        loras = tuple(read_header(lora.path) for lora in workload.loras)
        vectors = tuple(read_header(vector.path) for vector in workload.control_vectors)
        base = profile(header)
        if base.draft_head is not None:
            raise ModelFileError(
                f"{header.path.name} is {base.draft_head}, which only drafts for its model; give the model's "
                "own file"
            )
        own = with_control_vectors(with_adapters(base, loras), vectors)
        own = with_rope(own, workload.rope)
        nearby = nearby_files(header, own, workload)
        draft = None if workload.draft in (None, MTP, NO_DRAFT) else read_header(resolve(workload.draft))
        if draft is not None and (reason := head_refusal(draft)) is not None:
            raise BadPlan(reason)
        slow = () if draft is None else _slow_draft(profile(draft), own)
        return cls(
            header,
            own,
            loras,
            nearby.mmproj if workload.mmproj is None else read_header(workload.mmproj),
            draft,
            vectors,
            nearby.mmproj is not None,
            (*nearby.notes, *slow, *_unknown_overrides(header)),
        )


def _unknown_overrides(header: Header) -> tuple[str, ...]:
    """A note on overrides of metadata that the file does not have."""
    return tuple(
        f"the file has no {key}: its override does nothing unless llama.cpp knows the key"
        for key in unknown_keys(header)
    )


def _slow_draft(draft: ModelProfile, model: ModelProfile) -> tuple[str, ...]:
    """A note on a draft model that takes more time than it can save."""
    if draft.active_bytes_per_token < model.active_bytes_per_token:
        return ()
    reads = format_bytes(draft.active_bytes_per_token)
    return (
        f"the draft model {draft.name} reads {reads} for a token, no less than the model "
        f"({format_bytes(model.active_bytes_per_token)}), and can only slow it down: take a smaller one",
    )


def _plan_with_found_files(
    files: PlannedFiles, machine: "Machine", workload: "Workload", dry: "DryRun | None", *, compares: bool
) -> "Plan":
    """The plan; without the projector from the model's folder if that does not fit or cannot be used."""
    noted = _with_notes(machine, *files.notes)
    if not files.has_found_mmproj or files.mmproj is None:
        return _plan(files, noted, workload, dry, compares=compares)
    try:
        return _plan(files, noted, workload, dry, compares=compares)
    except (DoesNotFit, ModelRefused, ModelFileError) as error:
        why = "does not fit with the model" if isinstance(error, DoesNotFit) else "cannot be used"
        note = f"{files.mmproj.path.name} in the model's folder is left out: it {why}"
        bare = dataclasses.replace(files, mmproj=None, has_found_mmproj=False)
        return _plan(bare, _with_notes(machine, note), workload, dry, compares=compares)


def _with_notes(machine: "Machine", *notes: str) -> "Machine":
    return dataclasses.replace(machine, notes=(*machine.notes, *notes))


def _plan(
    files: PlannedFiles, machine: "Machine", workload: "Workload", dry: "DryRun | None", *, compares: bool
) -> "Plan":
    """The plan by the dry run; if `dry` is None, by the analytic meter."""
    from vram_llm.planner.companions import counting, place_companions
    from vram_llm.planner.memory.analytic_meter import AnalyticMeter
    from vram_llm.planner.plan_model import plan_model
    from vram_llm.planner.search.idle_devices import idle_without_companions
    from vram_llm.workflows.published_speeds import with_published

    reserve = workload.reserve_bytes
    candidates = unplaced_companions(files, machine, workload, dry)
    idle = (
        idle_without_companions(files.profile, machine, workload) if files.draft is not None else frozenset()
    )

    def planned(allowed: Collection[str] | None) -> "Plan":
        companions, rig = place_companions(machine, candidates, reserve, allowed, idle)

        def exact(context: "Context") -> "Meter":
            assert dry is not None
            rough = AnalyticMeter(files.profile, context, rig.devices, rig.host, reserve)
            if _is_far_too_long(rough.context_bytes, rig):
                return rough
            scales = (lora.scale for lora in workload.loras)
            adapters = tuple(zip(files.loras, scales, strict=True))
            meter = dry.meter(files.model, context, rig.devices, rig.host, reserve, adapters=adapters)
            return counting(meter, files.profile, rig)

        return plan_model(files.profile, rig, workload, exact if dry else None, companions, compares=compares)

    wished = {each.kind for each in candidates if each.wished_device is not None}
    plan, allowed = planned(None), {device.id for device in machine.devices}
    while misplaced := {
        companion.device
        for companion in plan.companions
        if companion.device not in (None, HOST, *plan.placement.device_order)
        and not (companion.kind is CompanionKind.DRAFT and companion.device in idle)
        and companion.kind not in wished
    }:
        allowed -= misplaced  # no companion goes on a device without layers of the model
        plan = planned(allowed)
    plan = with_published(_with_companions_files(plan, files), files.profile, machine, workload)
    if not plan.context.n_mtp:
        return plan
    gain = drafting_gain(files.profile, machine, workload, plan)
    return dataclasses.replace(plan, notes=(*plan.notes, f"the model's MTP head drafts: {gain_text(gain)}"))


def _is_far_too_long(context_bytes: int, machine: "Machine") -> bool:
    """Whether a context cannot fit by far, so that the analytic meter's figures are enough to refuse it.

    A dry run of it would be costly: llama.cpp allocates a record for each cell, gigabytes for billions of
    cells, which takes a minute.
    """
    memory = machine.host.total_bytes + sum(device.total_bytes for device in machine.devices)
    return context_bytes > _HOPELESS_CONTEXT_RATIO * memory


def _with_companions_files(plan: "Plan", files: PlannedFiles) -> "Plan":
    """The plan with the identities of its companions' files."""
    every = (*files.loras, *files.control_vectors, files.mmproj, files.draft)
    headers = {str(header.path): header for header in every if header}
    companions = (
        dataclasses.replace(each, files=headers[each.path].files) if each.path in headers else each
        for each in plan.companions
    )
    return dataclasses.replace(plan, companions=tuple(companions))


def unplaced_companions(
    files: PlannedFiles, machine: "Machine", workload: "Workload", dry: "DryRun | None"
) -> "list[UnplacedCompanion]":
    """The projector and the draft model, each with its memory use on a device; analytic if `dry` is None."""
    devices = {CompanionKind.MMPROJ: workload.mmproj_device, CompanionKind.DRAFT: workload.draft_device}
    from vram_llm.planner import companion_candidates
    from vram_llm.planner.context import resolve_context
    from vram_llm.planner.memory.analytic_meter import AnalyticMeter

    found: list[UnplacedCompanion] = []
    context = resolve_context(files.profile, machine, workload)
    if (header := files.mmproj) is not None:
        companion_candidates.check_takes_projector(files.profile)

        def projector_use(device: "Device | None") -> tuple[int, int]:
            assert dry is not None
            memory = dry.projector(header, device, context.flash_attn)
            return sum(use.compute_bytes for use in memory.devices), memory.host.compute_bytes

        use = projector_use if dry else None
        found.append(companion_candidates.projector(read_projector(header), machine.host, use))
    if (drafting := files.draft) is not None:
        small = _profile_of_draft(files.model, drafting, files.profile)

        def draft_meter(own: "Context", devices: "Sequence[Device]") -> "Meter":
            assert dry is not None
            rough = AnalyticMeter(small, own, devices, machine.host, 0)
            if _is_far_too_long(rough.context_bytes, machine):
                return rough
            return dry.meter(drafting, own, devices, machine.host, 0)

        found.append(
            companion_candidates.draft(
                small, str(drafting.path), context, machine, draft_meter if dry else None
            )
        )
    return [dataclasses.replace(each, wished_device=devices[each.kind]) for each in found]


def _profile_of_draft(model: Header, draft: Header, of: ModelProfile) -> ModelProfile:
    """The profile of a draft model. Raises BadPlan if it cannot draft for the model."""
    small = profile(draft)
    reason = mismatch(facts_of(model, of), facts_of(draft, small))
    if reason is not None:
        raise BadPlan(f"{small.name} cannot draft for {of.name}: {reason}")
    return small


def compare(
    model: str, machine: "Machine", workload: "Workload", rig: str, dry: "DryRun | None" = None
) -> "ComparisonRow":
    """`model` on `machine`, called `rig`, as one row of a comparison. A model that does not fit is a row too.

    Raises the errors of `plan`, except DoesNotFit.
    """
    from vram_llm.planner.compare import ComparisonRow, compared

    try:
        return compared(plan(model, machine, workload, dry, compares=False), rig)
    except DoesNotFit as error:
        return ComparisonRow(model=analyze(model).name, rig=rig, fits=False, refusal=str(error))


def pull(model: str, on_bytes: Callable[[int, int], None] = lambda _done, _total: None) -> Path:
    """Download the model of an `hf:` name, unless it is on this disk. Returns its file, or its first shard.

    `on_bytes` gets the bytes on this disk and the total bytes. Raises the errors of `analyze`, DiskFull.
    """
    from vram_llm.model import fetch

    shards = read_header(resolve(model)).shards
    first = shards[0].path
    return (
        first if isinstance(first, Path) else fetch.download([str(shard.path) for shard in shards], on_bytes)
    )
