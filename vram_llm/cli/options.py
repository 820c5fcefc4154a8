"""Options that `plan` and `serve` share, and how they become a Machine's and a Workload's fields."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from vram_llm.model.pooling import Pooling
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.types import BackendSampling, FlashAttention, Lora, Objective, Serving, Workload
from vram_llm.units import MIB, parse_bytes, parse_count

if TYPE_CHECKING:
    from vram_llm.planner.types import Plan

_F = TypeVar("_F", bound=Callable[..., Any])
_DEFAULT = Workload()
_SERVING = Serving()
LARGEST = "max"


class Count(click.ParamType[int]):
    """A number of tokens: "4096", "32k"."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            count = parse_count(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 0 < count <= 2**31:
            self.fail(f"{value} is not between 1 and 2,147,483,648", param, ctx)
        return count


class Ctx(Count):
    """A number of tokens, or "max"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return LARGEST if value == LARGEST else super().convert(value, param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes: "0", "4GiB"."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Shares(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them: "0.35,0.45,0.20" or "32,33,16"."""

    name = "shares"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers; write it like 0.35,0.45,0.20", param, ctx)


class LoraFile(click.ParamType[Lora]):
    """An adapter's file and, after a colon, its scale."""

    name = "adapter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Lora:
        if isinstance(value, Lora):
            return value
        path, colon, scale = str(value).rpartition(":")
        try:
            return Lora(path, float(scale)) if colon and math.isfinite(float(scale)) else Lora(str(value))
        except ValueError:
            return Lora(str(value))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the shared options said."""

    gpus: tuple[str, ...]
    rpc: tuple[str, ...]
    workload: Workload
    given: tuple[str, ...]  # the flags that were on the command line

    def refuse_beside_a_saved_plan(self, but: tuple[str, ...] = ()) -> None:
        """Raises UsageError for flags that a saved plan has decided already, other than those in `but`."""
        if idle := [flag for flag in self.given if flag not in but]:
            raise click.UsageError(f"the saved plan has decided {', '.join(idle)}; plan again to change that")


_OPTIONS = (
    click.option("--gpu", "gpus", multiple=True, metavar="CARD", help=(
        'Plan for this card instead of the local ones: "RTX 4080 Laptop", "2x RTX 3090 Ti", 24GiB, '
        "24GiB@1008GB/s. Repeat for more."
    )),
    click.option("--rpc", multiple=True, metavar="HOST:PORT[@SIZE]", help=(
        "Use the worker that listens there, at most SIZE of each of its devices. Repeat for more."
    )),
    click.option("--n-ctx", type=Ctx(), metavar="TOKENS", help=(
        "Context of all sequences together: 4096, 32k, or max: what fits without more layers on the CPU.  "
        f"[default: {_DEFAULT.DEFAULT_N_CTX}, or what the model was trained on if that is less]"
    )),
    click.option("--parallel", type=click.IntRange(1, 256), default=_DEFAULT.parallel, show_default=True,
                 help="Sequences served at the same time."),
    click.option("--kv-type", type=click.Choice(sorted(KV_TYPES)), default=_DEFAULT.kv_type_k,
                 show_default=True, help="What the KV cache is stored as."),
    click.option("--n-batch", type=click.IntRange(1), default=_DEFAULT.n_batch, show_default=True,
                 help="Most tokens computed in one step."),
    click.option("--n-ubatch", type=click.IntRange(1), default=_DEFAULT.n_ubatch, show_default=True,
                 help="Most tokens computed at a time; compute buffers grow with it."),
    click.option("--kv-unified/--no-kv-unified", default=_DEFAULT.kv_unified, show_default=True, help=(
        "One KV cache that all sequences share, any of which may use it all; or one for each, with its share "
        "of --n-ctx (rounded up to 256), where a request reuses only what one idle sequence holds."
    )),
    click.option("--swa-full", is_flag=True, default=_DEFAULT.swa_full, help=(
        "Keep all of the context in layers with a sliding window too, not only the window."
    )),
    click.option("--flash-attn", type=click.Choice([each.value for each in FlashAttention]),
                 default=_DEFAULT.flash_attn.value, show_default=True, help=(
        "Flash attention. auto: where every device has a kernel for the model; off costs memory with every "
        "token of context, and takes no quantised KV cache."
    )),
    click.option("--n-outputs-max", type=click.IntRange(1), metavar="N", help=(
        "Rows of logits a step may ask for; each takes memory on the output's device.  "
        "[default: one for each sequence, and at least 8]"
    )),
    click.option("--pipeline/--no-pipeline", default=_DEFAULT.pipeline_copies, show_default=True,
                 help="Copies of compute buffers that let several devices work at the same time."),
    click.option("--reserve-mib", type=click.IntRange(0), default=_DEFAULT.reserve_bytes // MIB,
                 show_default=True, help="Memory to leave free on every device."),
    click.option("--n-gpu-layers", type=int, metavar="N", help=(
        "Layers to put on devices, as llama.cpp counts them (the output is one).  [default: as many as fit]"
    )),
    click.option("--tensor-split", type=Shares(), metavar="SHARES", help=(
        'Dictate the split over the devices, in their order: "0.35,0.45,0.20".'
    )),
    click.option("--mmproj", metavar="FILE", help=(
        "The model's multimodal projector, whole on one device: requests may hold images."
    )),
    click.option("--lora", "loras", multiple=True, type=LoraFile(), metavar="FILE[:SCALE]", help=(
        "Run with this LoRA adapter, applied at SCALE. Repeat for more.  [default scale: 1]"
    )),
    click.option("--draft", metavar="MODEL", help=(
        "Let this smaller model of the same vocabulary guess tokens for it to check; the card that would "
        "idle takes it, else the one with most room. Its context is as long."
    )),
    click.option("--threads", type=click.IntRange(1), metavar="N",
                 help="Processor threads.  [default: as many as cores]"),
    click.option("--threads-batch", type=click.IntRange(1), metavar="N",
                 help="Processor threads for steps of several tokens.  [default: as --threads]"),
    click.option("--backend-sampling", type=click.Choice([each.value for each in BackendSampling]),
                 default=_DEFAULT.backend_sampling.value, show_default=True, help=(
        "Choose tokens on the output's device, where a request allows it, rather than on the host. auto: "
        "where every device is a GPU of this computer."
    )),
    click.option("--itl-target-ms", type=click.FloatRange(1), default=_SERVING.itl_target_ms,
                 show_default=True, help="How long prompts may make the wait for another's next token."),
    click.option("--cache-reuse", type=click.IntRange(0), default=_SERVING.cache_reuse, show_default=True,
                 metavar="TOKENS", help="Shortest beginning that requests share; 0: none."),
    click.option("--slots-ram", type=Size(), metavar="SIZE", help=(
        "Host memory for what leaves the KV cache and may come back, 0 for none.  "
        "[default: a quarter of what is left, at most 2 GiB; none with workers]"
    )),
    click.option("--slots-disk", type=Size(), default=_SERVING.slots_disk_bytes, metavar="SIZE",
                 help="The same on disk, for what leaves that.  [default: none]"),
    click.option("--objective", type=click.Choice([each.value for each in Objective]),
                 default=_DEFAULT.objective.value, show_default=True, help=(
        "What the placement is to be best at: latency (the shortest step: fastest cards first, a slow one "
        "may be left idle), throughput (prompts: no stage slower than it must be), context (as much as "
        "fits), balance (memory spread evenly)."
    )),
    click.option("--expect-depth", type=Count(), metavar="TOKENS", help=(
        "Tokens a sequence has behind it, as speed is predicted.  "
        f"[default: {_DEFAULT.DEFAULT_DEPTH}, or half the context if that is less]"
    )),
    click.option("--expect-streams", type=click.IntRange(1, 256), default=_DEFAULT.expect_streams,
                 show_default=True, help="Sequences that decode at the same time, as the objective sees it."),
    click.option("--pooling", type=click.Choice([each.value for each in Pooling]), help=(
        "Make embeddings, in place of text: the mean of a text's tokens, the first (cls), the last; or rank: "
        "score documents.  [default: as the model's file says; it writes text where that says nothing]"
    )),
    click.option("--mmap/--no-mmap", default=_DEFAULT.use_mmap, show_default=True,
                 help="Map the file, or read it into memory."),
)  # fmt: skip


_NAMES = frozenset(
    {
        "gpus", "rpc", "n_ctx", "parallel", "kv_type", "n_batch", "n_ubatch", "kv_unified", "swa_full",
        "flash_attn", "n_outputs_max", "pipeline", "reserve_mib", "n_gpu_layers", "tensor_split", "mmproj",
        "loras", "draft", "threads", "threads_batch", "backend_sampling", "itl_target_ms", "cache_reuse",
        "slots_ram", "slots_disk",
        "objective", "expect_depth", "expect_streams", "pooling", "mmap",
    }
)  # fmt: skip


def wishes(function: _F) -> _F:
    """Add the shared options; the command gets them as one argument `wishes`."""

    def collect(**options: Any) -> Any:
        given = _given()
        kv_type, n_ctx = options.pop("kv_type"), options.pop("n_ctx")
        workload = Workload(
            n_ctx=None if n_ctx == LARGEST else n_ctx,
            largest_ctx=n_ctx == LARGEST,
            n_batch=options.pop("n_batch"),
            n_ubatch=options.pop("n_ubatch"),
            n_outputs_max=options.pop("n_outputs_max"),
            flash_attn=FlashAttention(options.pop("flash_attn")),
            swa_full=options.pop("swa_full"),
            kv_unified=options.pop("kv_unified"),
            pipeline_copies=options.pop("pipeline"),
            parallel=options.pop("parallel"),
            kv_type_k=kv_type,
            kv_type_v=kv_type,
            reserve_bytes=options.pop("reserve_mib") * MIB,
            n_gpu_layers=options.pop("n_gpu_layers"),
            tensor_split=options.pop("tensor_split"),
            mmproj=options.pop("mmproj"),
            loras=options.pop("loras"),
            draft=options.pop("draft"),
            pooling=None if (pooling := options.pop("pooling")) is None else Pooling(pooling),
            use_mmap=options.pop("mmap"),
            n_threads=options.pop("threads"),
            n_threads_batch=options.pop("threads_batch"),
            backend_sampling=BackendSampling(options.pop("backend_sampling")),
            serving=Serving(
                itl_target_ms=options.pop("itl_target_ms"),
                cache_reuse=options.pop("cache_reuse"),
                slots_ram_bytes=options.pop("slots_ram"),
                slots_disk_bytes=options.pop("slots_disk"),
            ),
            objective=Objective(options.pop("objective")),
            expect_depth=options.pop("expect_depth"),
            expect_streams=options.pop("expect_streams"),
        )
        asked = Wishes(gpus=options.pop("gpus"), rpc=options.pop("rpc"), workload=workload, given=given)
        return function(wishes=asked, **options)

    collect.__doc__ = function.__doc__
    for option in reversed(_OPTIONS):
        collect = option(collect)
    for param in getattr(function, "__click_params__", []):
        collect.__click_params__.append(param)  # type: ignore[attr-defined]  # click's own way to stack decorators
    return collect  # type: ignore[return-value]


def saved_plan(path: str, wishes: Wishes) -> "Plan":
    """The plan in a file, once it is known to fit the machine as it is now. Raises what `check` raises."""
    from vram_llm.planner.recheck import worker_limits
    from vram_llm.workflows import saved_plans

    wishes.refuse_beside_a_saved_plan()
    plan = saved_plans.load_plan(path)
    workers = (
        endpoint if limit is None else f"{endpoint}@{limit}"
        for endpoint, limit in worker_limits(plan).items()
    )
    saved_plans.check(plan, rpc=tuple(workers), host_reserve_bytes=wishes.workload.reserve_bytes)
    return plan


def _given() -> tuple[str, ...]:
    """Which of the shared flags were on the command line of the command that runs."""
    ctx = click.get_current_context()
    return tuple(
        param.opts[0]
        for param in ctx.command.params
        if param.name in _NAMES and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    )


def one_model(argument: str | None, option: str | None) -> str | None:
    """The model, given as an argument or as --model. Raises UsageError where both are."""
    if argument is not None and option is not None:
        raise click.UsageError("name the model once: as an argument or with --model")
    return argument if argument is not None else option


def built_in(doing: str) -> str:
    """The built-in model, where none was named; says so."""
    from vram_llm.workflows import model_names

    click.echo(f"no model named: {doing} the built-in one, {model_names.DEMO}", err=True)
    return model_names.DEMO
