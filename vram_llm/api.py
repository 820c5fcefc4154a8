"""The front door: what `import vram_llm` offers, and what the commands and POST /plan call.

Longer than other files: each way through the floors is here, and here alone.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.errors import BadPlan, DoesNotFit, EngineDied, NotBuilt, VramLLMError
from vram_llm.machine.host import largest_process
from vram_llm.model import drafts
from vram_llm.model.header import Header, read_header
from vram_llm.model.location import HUB, is_kept, is_remote
from vram_llm.model.profile import ModelProfile, profile, with_adapters
from vram_llm.model.projector import read_projector
from vram_llm.plan.types import HOST, CompanionKind

if TYPE_CHECKING:
    from vram_llm.engine.client import EngineClient
    from vram_llm.engine.info import ModelInfo
    from vram_llm.llama.dryrun import DryRun
    from vram_llm.machine.speeds import Kept
    from vram_llm.machine.types import Device, Host, Machine
    from vram_llm.plan.certificate import Certificate
    from vram_llm.plan.check import Room
    from vram_llm.plan.companions import Candidate
    from vram_llm.plan.compare import Compared
    from vram_llm.plan.measured import MeasuredSpeed
    from vram_llm.plan.types import Context, Meter, Plan, SpeedEstimate, Workload
    from vram_llm.server.config import ServerConfig

DEMO = "demo"
MTP = "mtp"  # what is written for a model's own head elsewhere
_MAX_PLAN_BYTES = 16 * 2**20
_MOST_TRIED = 8  # headers fetched to find a model that fits


def analyze(model: str) -> ModelProfile:
    """What the model `model` holds, layer by layer.

    A GGUF file, any shard of a split one, a name that `vram-llm models` lists, "https://..." or
    "hf:org/repo:Q4_K_M" (only its header is fetched), or "demo", the built-in model. Raises ModelNotFound, or
    ModelFileError and those below it.
    """
    return profile(read_header(_resolve(model)))


def detect(gpus: Sequence[str] = (), rpc: Sequence[str] = ()) -> "Machine":
    """The machine to plan for: local cards, or the what-if cards `gpus` in their place; then RPC workers.

    `gpus` are specs like "2x RTX 3090 Ti", `rpc` addresses like "10.0.0.2:50052@8GiB". Raises UnknownDevice,
    WorkerUnreachable.
    """
    from vram_llm.machine import detect as machines
    from vram_llm.machine import learned, speeds

    machine = machines.what_if(gpus) if gpus else learned.with_overheads(machines.detect())
    if rpc:
        from vram_llm.llama import rpc as workers

        machine = dataclasses.replace(machine, devices=machine.devices + workers.devices(tuple(rpc)))
    return speeds.with_speeds(machine)


def dry_run() -> "DryRun":
    """llama.cpp in a process that warms up meanwhile, for `plan`; a context manager, which ends it."""
    from vram_llm.llama.dryrun import DryRun

    return DryRun()


def plan(model: str, machine: "Machine", workload: "Workload", dry: "DryRun | None" = None) -> "Plan":
    """The plan for running `model` on `machine`, confirmed by llama.cpp's own dry run.

    By `dry`, which several plans may share, or one of its own. Where this llama.cpp cannot be asked, the
    analytic meter's figures stand, and a note says why. Raises what `analyze` raises, DoesNotFit, BadSplit,
    BadPlan, and ModelRefused where llama.cpp does not know the model.
    """
    with nullcontext(dry) if dry is not None else dry_run() as asked:
        files = _Files.read(model, workload)
        try:
            return _plan(files, machine, workload, asked)
        except (NotBuilt, EngineDied) as error:
            noted = dataclasses.replace(machine, notes=(*machine.notes, f"no dry run: {error}"))
            return _plan(files, noted, workload, None)
        except DoesNotFit as error:
            if error.host_is_short and (holder := largest_process()) is not None:
                raise DoesNotFit(f"{error}; of the other programs {holder}", host_is_short=True) from None
            raise


@dataclasses.dataclass(frozen=True, slots=True)
class _Files:
    """The headers of a model and of what is to stand beside it."""

    model: Header
    profile: ModelProfile
    loras: tuple[Header, ...]
    mmproj: Header | None
    draft: Header | None

    @classmethod
    def read(cls, model: str, workload: "Workload") -> "_Files":
        """Raises what `analyze` raises, naming the file."""
        if workload.draft == MTP and not Path(MTP).exists():
            raise BadPlan("a model's own MTP head is not used for drafts yet; --draft takes a smaller model")
        header = read_header(_resolve(model))
        loras = tuple(read_header(lora.path) for lora in workload.loras)
        return cls(
            header,
            with_adapters(profile(header), loras),
            loras,
            None if workload.mmproj is None else read_header(workload.mmproj),
            None if workload.draft is None else read_header(_resolve(workload.draft)),
        )


def _plan(files: _Files, machine: "Machine", workload: "Workload", dry: "DryRun | None") -> "Plan":
    """The plan by the dry run, or without one by the analytic meter."""
    from vram_llm.plan.companions import counting, settle
    from vram_llm.plan.idle import left_alone
    from vram_llm.plan.planner import make_plan

    reserve = workload.reserve_bytes
    candidates = _candidates(files, machine, workload, dry)
    idle = left_alone(files.profile, machine, workload) if files.draft is not None else frozenset()

    def planned(allowed: Collection[str] | None) -> "Plan":
        companions, rig = settle(machine, candidates, reserve, allowed, idle)

        def exact(context: "Context") -> "Meter":
            assert dry is not None
            scales = (lora.scale for lora in workload.loras)
            adapters = tuple(zip(files.loras, scales, strict=True))
            meter = dry.meter(files.model, context, rig.devices, rig.host, reserve, adapters=adapters)
            return counting(meter, files.profile, rig)

        return make_plan(files.profile, rig, workload, exact if dry else None, companions)

    plan, allowed = planned(None), {device.id for device in machine.devices}
    while strays := {
        each.device
        for each in plan.companions
        if each.device not in (None, HOST, *plan.placement.device_order)
        and not (each.kind is CompanionKind.DRAFT and each.device in idle)
    }:
        allowed -= strays  # a device that the model leaves alone is none to keep a companion on
        plan = planned(allowed)
    return plan


def _candidates(
    files: _Files, machine: "Machine", workload: "Workload", dry: "DryRun | None"
) -> "list[Candidate]":
    """The projector and the draft model, each with what it would hold on a device."""
    from vram_llm.plan import beside
    from vram_llm.plan.context import resolve_context

    found, context = [], resolve_context(files.profile, machine, workload)
    if (header := files.mmproj) is not None:

        def projector_use(device: "Device | None") -> tuple[int, int]:
            assert dry is not None
            said = dry.projector(header, device, context.flash_attn)
            return sum(use.compute_bytes for use in said.devices), said.host.compute_bytes

        found.append(beside.projector(read_projector(header), machine.host, projector_use if dry else None))
    if (drafting := files.draft) is not None:
        small = _profile_of_draft(files.model, drafting, files.profile)

        def draft_meter(own: "Context", devices: "Sequence[Device]") -> "Meter":
            assert dry is not None
            return dry.meter(drafting, own, devices, machine.host, 0)

        found.append(beside.draft(small, str(drafting.path), context, machine, draft_meter if dry else None))
    return found


def _profile_of_draft(model: Header, draft: Header, of: ModelProfile) -> ModelProfile:
    """The profile of a draft model. Raises BadPlan where it cannot guess for the model."""
    small = profile(draft)
    said = drafts.difference(model, draft)
    if said is None and not (small.can_rewind and small.has_memory):
        said = "it cannot take its guesses back"
    if said is not None:
        raise BadPlan(
            f"{small.name} cannot draft for {of.name}: {said}; take a smaller model of the same family"
        )
    return small


def compare(
    model: str, machine: "Machine", workload: "Workload", rig: str, dry: "DryRun | None" = None
) -> "Compared":
    """`model` on `machine`, called `rig`, as one line of a comparison; that it does not fit is no error.

    Raises what `plan` raises, but for DoesNotFit.
    """
    from vram_llm.plan.compare import Compared, compared

    try:
        return compared(plan(model, machine, workload, dry), rig)
    except DoesNotFit as error:
        return Compared(model=analyze(model).name, rig=rig, fits=False, refusal=str(error))


def pull(model: str, on_bytes: Callable[[int, int], None] = lambda _done, _total: None) -> Path:
    """Download the model an `hf:` name stands for, unless it is here; its file, of a split one the first.

    `on_bytes` is told how many bytes are here, and of how many. Raises what `analyze` raises, DiskFull.
    """
    from vram_llm.model import fetch

    shards = read_header(_resolve(model)).shards
    first = shards[0].path
    return first if isinstance(first, Path) else fetch.download([str(one.path) for one in shards], on_bytes)


def that_fits(model: str, machine: "Machine", workload: "Workload") -> str | None:
    """The largest smaller model beside the one an `hf:` name stands for that `machine` can hold."""
    from vram_llm.model import hub
    from vram_llm.model.web import Web

    header = read_header(model)
    n_bytes = sum(shard.n_bytes for shard in header.shards)
    access = hub.access()
    with Web(access) as web:
        sizes = hub.models(model, access, web)
    smaller = sorted((name for name in sizes if sizes[name] < n_bytes), key=lambda name: -sizes[name])
    with dry_run() as dry:
        for name in smaller[:_MOST_TRIED]:
            try:
                plan(name, machine, workload, dry)
            except VramLLMError:
                continue
            return name
    return None


def load_plan(path: str) -> "Plan":
    """A plan saved with `vram-llm plan --json`, as it was; `check` holds it against today. Raises BadPlan."""
    from vram_llm.plan.emit import from_json

    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_PLAN_BYTES + 1)
    except OSError as error:
        raise BadPlan(f"the plan {path} cannot be read: {error.strerror or error}") from error
    if data.startswith(b"GGUF"):
        raise BadPlan(f"{path} is a model and not a plan; leave --plan out, or plan it first")
    if len(data) > _MAX_PLAN_BYTES:
        raise BadPlan(f"{path} is larger than {_MAX_PLAN_BYTES:,} bytes, which no plan is")
    return from_json(data, path)


def check(
    plan: "Plan", *, gpus: Sequence[str] = (), rpc: Sequence[str] = (), host_reserve_bytes: int
) -> "tuple[Room, ...]":
    """What a saved plan needs on each device, and what is free there now.

    `gpus` and `rpc` are as for `detect`. Raises DoesNotFit naming each device that is short, BadPlan where
    one is gone or the model has changed.
    """
    from vram_llm.plan import check as checking

    checking.check_model(plan, analyze(plan.model.path))
    for companion in plan.companions:
        tensors = read_header(_resolve(companion.path)).tensors
        checking.check_companion(companion, sum(tensor.n_bytes for tensor in tensors))
    return checking.check(plan, detect(gpus, rpc), host_reserve_bytes)


def verify(plan: "Plan", *, on_state: "Callable[[EngineClient], None]" = lambda _: None) -> "Certificate":
    """Load `plan` in an engine process, run a prompt and a decode, and compare what it takes with the plan.

    What NVML shows outside llama.cpp's buffers is kept for later plans on the same card; the built-in model's
    is not, being too small to show what others take. Raises ModelRefused, BadPlan, EngineDied, NotBuilt.
    """
    import asyncio

    from vram_llm.engine import trial
    from vram_llm.machine import nvml
    from vram_llm.plan.certificate import certify, readings

    _check_loadable(plan)
    before = nvml.usage()
    info, after = asyncio.run(trial.run(plan, nvml.usage, on_state))
    if not info.memory:
        raise NotBuilt(
            "this build of llama.cpp does not tell what it holds, so no plan can be verified with it"
        )
    found = readings(plan, (*info.memory, *info.draft_memory), before.cards, after.cards, after.process)
    certificate = certify(plan, info.memory, found, info.draft_memory)
    notes = _keep_overheads(plan, certificate, after.driver_version)
    return dataclasses.replace(certificate, notes=notes)


def calibrate(
    machine: "Machine",
    *,
    seconds: float | None = None,
    on_progress: "Callable[[str, float], None]" = lambda _name, _share: None,
) -> "Iterator[Kept]":
    """Run llama.cpp on the host and on each device of `machine` alone, for `seconds` each, or for some.

    Every measurement is kept as soon as it is made, and `detect` hands it to the same device from then on.
    `on_progress` is told the name it is kept under and the share done. A device that cannot be found again (a
    card of `--gpu`) is passed over. Raises WorkerUnreachable, ModelRefused, EngineDied, NotBuilt.
    """
    from vram_llm.llama.calibrate import calibrate as measure
    from vram_llm.machine import speeds

    for device in (None, *machine.devices):
        measured: Device | Host = device or machine.host
        name = speeds.key(measured)
        if name is None:
            continue
        found = measure(device, machine.host, functools.partial(on_progress, name), seconds)
        yield speeds.keep(name, speeds.record(measured, found.speed, found.link, found.residual))


def bench_model(
    plan: "Plan",
    *,
    n_prompt: int = 512,
    n_gen: int = 128,
    repeats: int = 5,
    on_progress: "Callable[[float], None]" = lambda _: None,
) -> "tuple[MeasuredSpeed, ...]":
    """Load `plan` and measure a prompt, and decoding of one stream and of all, beside what is expected.

    The engine is not asked: no server, no scheduler, no sampling. Raises BadPlan where the context is too
    small, ModelRefused, WorkerUnreachable, EngineDied, NotBuilt.
    """
    from vram_llm.llama.rates import beside, rates
    from vram_llm.llama.rates_wire import Load
    from vram_llm.machine import speeds
    from vram_llm.machine.host import read_host
    from vram_llm.machine.types import Machine
    from vram_llm.plan.planner import expected_speed
    from vram_llm.plan.types import Workload

    _check_loadable(plan)
    if plan.context.pooling is not None:
        raise BadPlan(f"{plan.model.name} makes embeddings, and the bench measures text being written")
    streams = plan.context.parallel
    _check_room(plan, n_prompt, (n_gen + 2) * streams)
    loads = [Load(prompt=n_prompt), Load(decode=n_gen)]
    loads += [Load(decode=n_gen, streams=streams)] if streams > 1 else []
    (found,) = rates([plan], loads, repeats, on_progress)
    machine = speeds.with_speeds(Machine(devices=plan.devices, host=read_host()))
    model = analyze(plan.model.path)

    def expected(depth: int) -> "SpeedEstimate | None":
        return expected_speed(model, machine, Workload(expect_depth=depth), plan)

    return beside(loads, found, expected(n_prompt), expected(max(n_gen // 2, 1)))


def serve(
    plan: "Plan",
    config: "ServerConfig | None" = None,
    *,
    on_state: "Callable[[EngineClient], None]" = lambda _: None,
    on_ready: "Callable[[ModelInfo, int], None]" = lambda _info, _port: None,
) -> None:
    """Load `plan` in an engine process and serve it over HTTP until SIGINT or SIGTERM.

    `config` of None is all defaults. `on_state` is told of every change while loading, `on_ready` of the
    first load's end, and of the port. Raises PortInUse, ModelRefused, BadPlan, EngineDied, BrokenTemplate,
    RequestError for `config.chat_template_kwargs`.
    """
    import asyncio
    import contextlib

    from vram_llm.chat.template import check_template
    from vram_llm.engine.client import EngineClient
    from vram_llm.server import run
    from vram_llm.server.config import ServerConfig
    from vram_llm.server.template_variables import check_variables

    _check_loadable(plan)
    config = config or ServerConfig()
    check_variables(config.chat_template_kwargs)
    if config.chat_template is not None:
        check_template(config.chat_template, "the chat template")
    socks = run.listen_all(config.host, config.port)

    async def main() -> None:
        engine = EngineClient(plan, config.model_name or served_name(plan.model.path), on_state)
        listening_on: int = socks[0].getsockname()[1]
        await run.serve(engine, socks, config, on_ready=lambda info: on_ready(info, listening_on))

    with contextlib.ExitStack() as stack, asyncio.Runner(loop_factory=run.new_event_loop) as runner:
        for sock in socks:
            stack.enter_context(sock)
        runner.run(main())


def served_name(path: str) -> str:
    """What clients call the model in `path`: the file's name without suffix and shard number."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", Path(path).stem)


def _check_loadable(plan: "Plan") -> None:
    kinds = {each.kind for each in plan.companions}
    if CompanionKind.MMPROJ in kinds and plan.context.pooling is not None:
        raise BadPlan("embeddings are made of text alone: plan without --mmproj, or without --pooling")
    paths = (plan.model.path, *(each.path for each in plan.companions))
    if away := [path for path in paths if is_remote(path)]:
        raise BadPlan(
            f"{away[0]} can be planned for but not loaded from there; download it first"
            + (f": vram-llm pull {away[0]}" if away[0].startswith(HUB) else "")
        )
    if absent := [device.name for device in plan.devices if device.what_if]:
        raise BadPlan(
            f"{absent[0]} is planned for but not in this machine; plan without --gpu to load it here"
        )
    if CompanionKind.DRAFT in kinds and not analyze(plan.model.path).can_rewind:
        raise BadPlan(
            f"{plan.model.name} is recurrent and cannot take drafted tokens back, so that the engine drafts "
            "nothing for it; plan without --draft to load the model here"
        )


def _check_room(plan: "Plan", *needed: int) -> None:
    if max(needed) > plan.context.n_ctx:
        raise BadPlan(
            f"the plan's context holds {plan.context.n_ctx:,} tokens and the tests need {max(needed):,}; "
            "plan with a larger --n-ctx, or measure fewer tokens or streams"
        )


def _keep_overheads(plan: "Plan", certificate: "Certificate", driver: str | None) -> tuple[str, ...]:
    """Keep what was measured outside llama.cpp's buffers on each card; what was done, in sentences."""
    from vram_llm.machine import learned
    from vram_llm.plan.certificate import OF_PROCESS

    devices = {device.id: device for device in plan.devices}
    records = {}
    for row in certificate.devices:
        overhead, device = row.overhead, devices.get(row.id)
        if overhead is None or overhead.held_bytes is None or device is None or device.uuid is None:
            continue
        if overhead.how != OF_PROCESS:  # the growth of a card is others' doing as well
            continue
        records[device.uuid] = learned.record(
            device, overhead.held_bytes, how=overhead.how, model=plan.model.name, driver=driver
        )
    if records and Path(plan.model.path) == _resolve(DEMO):
        return (
            "not kept: the built-in model is too small to show what others take outside llama.cpp's buffers",
        )
    return learned.keep(records) if records else ()


def _resolve(model: str) -> str | Path:
    """The file, or the place elsewhere, that a name stands for. Raises ModelNotFound."""
    if model.lower().startswith(HUB):
        from vram_llm.model import library

        return library.downloaded(model) or model
    if is_remote(model):
        return model
    if is_kept(model):
        from vram_llm.model import library

        return library.find(model)
    if model != DEMO or Path(model).exists():
        return Path(model)
    from vram_llm import demo

    return demo.path()
