"""Compare predictions with published measurements, row by row of a CSV file.

    python -m bench.corpus FILE.csv [--zoo FOLDER] [--out FILE] [--only host|cards] [--half 0|1]
                           [--no-backend] [--rows]

FILE's columns are described in bench/corpus_rows.py; FOLDER holds the builders of the models' headers (see
bench/corpus_models.py), by default the file's own folder. For each row with layers or experts on the host it
prints the plan that was asked for, the measured and the predicted speed; rows that no plan can express are
named with the reason. Rows on cards alone are asked as `vram-llm plan` would be, with the back end of AMD's
cards ("R9700@Vulkan"), and summed up by class. Those of tensor splits are printed as well; there are more of
them, with the same models by layers, in bench/tensor_rows.csv.
A ratio is predicted / measured: above 1 is too fast. The error is the median of |ln ratio|.

"in" is the share of rows within the range that the prediction gives for nine of ten, "near" that of rows
within 20 % for decode, 35 % for prompts.

decode   at depth + half of the generated tokens; of n streams, all have their own cache of that depth
prompt   pp tokens at depth 0; at depth d: pp / (seconds of d + pp tokens - seconds of d tokens)
"""

import argparse
import csv
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.corpus_models import Shapes
from bench.corpus_rows import (
    Unasked,
    asked,
    check_askable,
    is_on_cards_alone,
    machine_of,
    shares_tensors,
    sums_of,
)
from vram_llm.errors import VramLLMError
from vram_llm.machine.assumed_speed import device_speed
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.search.candidate import expected_speed
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.speed import Predictor
from vram_llm.planner.speed_error import Width
from vram_llm.planner.speed_range import SpeedRange
from vram_llm.planner.tensor_speed import TensorPredictor
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import FlashAttention, Placement, SpeedEstimate, Workload

_NEAR_DECODE, _NEAR_PROMPT = 0.20, 0.35
_HOST_OFFLOADS = True  # llama.cpp's default: prompts with host weights are computed on the first device


@dataclass(slots=True)
class Result:
    """A row with its predictions, in tokens per second, or the reason why there are none."""

    row: dict[str, str]
    decode: float | None = None
    prompt: float | None = None
    decode_width: Width | None = None  # of the predicted range
    prompt_width: Width | None = None
    words: str = ""
    trouble: str = ""

    @property
    def decode_ratio(self) -> float | None:
        """Predicted over measured."""
        return _ratio(self.decode, self.row["tg_tok_s"])

    @property
    def prompt_ratio(self) -> float | None:
        """Predicted over measured."""
        return _ratio(self.prompt, self.row["pp_tok_s"])


def _ratio(predicted: float | None, measured: str) -> float | None:
    return predicted / float(measured) if predicted and measured else None


def predicted(row: dict[str, str], shapes: Shapes) -> Result:
    """The predictions for a row."""
    result = Result(row)
    try:
        check_askable(row)
        zoo_id = shapes.zoo_id(row)
        if zoo_id is None:
            raise Unasked(f"the shape of {row['model']} is unknown here")
        model = shapes.profile(zoo_id)
        if is_on_cards_alone(row):
            machine = machine_of(row)
            result.words = f'--gpu "{row["gpus"]}"'
            speed = (_by_tensors if shares_tensors(row) else _planned)(row, model, machine)
        else:
            ask = asked(row, model)
            machine, result.words = ask.machine, ask.words
            speed = _dictated(model, machine, ask.placement)
        result.decode, result.decode_width = _decode(row, speed)
        result.prompt, result.prompt_width = _prompt(row, speed)
    except (Unasked, VramLLMError, ValueError) as error:
        result.trouble = str(error)
    return result


Ask = Callable[[Workload], SpeedEstimate]


def _planned(row: dict[str, str], model: ModelProfile, machine: Machine) -> Ask:
    split = TensorSplit(tuple(map(float, row["split"].split(",")))) if row["split"] else None

    def ask(wish: Workload) -> SpeedEstimate:
        wish = dataclasses.replace(wish, tensor_split=split)
        found = plan_placement(model, machine, wish)
        if not found.estimate.fits:
            raise Unasked("does not fit, says the planner")
        if found.placement.cpu_layers:
            raise Unasked(f"the planner puts {found.placement.cpu_layers} layers on the host")
        return expected_speed(model, machine, wish, found)

    return ask


def _by_tensors(row: dict[str, str], model: ModelProfile, machine: Machine) -> Ask:
    """By equal shares, unless the row says others; the first is the fastest card's, as CUDA counts."""
    machine = sums_of(row, machine)
    cards = sorted(machine.devices, key=lambda card: -device_speed(card).read_bytes_per_s.value)
    ids = tuple(card.id for card in cards)
    shares = tuple(map(float, row["split"].split(","))) if row["split"] else (1.0,) * len(ids)

    def ask(wish: Workload) -> SpeedEstimate:
        predictor = TensorPredictor(model, resolve_context(model, machine, wish), machine, wish)
        return predictor.of_shares(ids, [share / sum(shares) for share in shares])

    return ask


def _dictated(model: ModelProfile, machine: Machine, placement: Placement) -> Ask:
    def ask(wish: Workload) -> SpeedEstimate:
        context = resolve_context(model, machine, wish)
        context = dataclasses.replace(context, op_offload=_HOST_OFFLOADS and bool(machine.devices))
        return Predictor(model, context, machine, wish)(placement, pipelined=False)

    return ask


Predicted = tuple[float | None, Width | None]  # tokens per second, and the width of its range


def _width(tokens_per_s: float | None, likely: SpeedRange | None) -> Width:
    assert likely is not None
    assert tokens_per_s is not None
    return Width(math.log(tokens_per_s / likely.low), math.log(likely.high / tokens_per_s))


def _decode(row: dict[str, str], speed: Ask) -> Predicted:
    if not row["tg_tok_s"]:
        return None, None
    n_streams, generated = int(row["streams"]), int(row["gen_tokens"] or 0)
    depth = max(int(row["depth"] or 0) + generated // 2, 1)
    cells = max(_padded(depth + generated // 2 + 1), 512)
    wish = dataclasses.replace(
        _wish(row), n_ctx=cells * n_streams, parallel=n_streams, expect_depth=depth,
        expect_streams=n_streams, kv_unified=n_streams == 1,
    )  # fmt: skip
    found = speed(wish)
    if n_streams > 1:
        return found.streams_tokens_per_s, _width(
            found.streams_tokens_per_s, found.streams_tokens_per_s_range
        )
    return found.tokens_per_s, _width(found.tokens_per_s, found.tokens_per_s_range)


def _prompt(row: dict[str, str], speed: Ask) -> Predicted:
    if not row["pp_tok_s"]:
        return None, None
    n_tokens, depth = int(row["pp_tokens"]), int(row["depth"] or 0)
    n_ubatch = int(row["n_ubatch"])

    def seconds(up_to: int) -> tuple[float, Width]:
        wish = dataclasses.replace(
            _wish(row), n_ctx=max(_padded(depth + n_tokens), 512), parallel=1, n_ubatch=n_ubatch,
            n_batch=max(2048, n_ubatch), expect_depth=up_to,
        )  # fmt: skip
        found = speed(wish)
        assert found.prompt_s is not None
        return found.prompt_s, _width(found.prompt_tokens_per_s, found.prompt_tokens_per_s_range)

    whole, width = seconds(depth + n_tokens)
    return n_tokens / (whole - (seconds(depth)[0] if depth else 0.0)), width


def _wish(row: dict[str, str]) -> Workload:
    flash = row["flash_attn"] if row["flash_attn"] in ("on", "off") else "auto"
    return Workload(
        kv_type_k=row["kv_type"], kv_type_v=row["kv_type"], reserve_bytes=0, flash_attn=FlashAttention(flash)
    )


def _padded(n: int) -> int:
    return math.ceil(n / 256) * 256


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _figures(found: Sequence[tuple[float, Width]], near: float) -> str:
    """Of pairs of a ratio and the width of its range."""
    if not found:
        return f"{0:5}" + " " * 51
    ratios = [ratio for ratio, _ in found]
    worst = max(ratios, key=lambda ratio: abs(math.log(ratio)))
    errors = [abs(math.log(ratio)) for ratio in ratios]
    quantiles = "  ".join(f"{_quantile(ratios, share):5.2f}" for share in (0.5, 0.1, 0.9))
    is_near = sum(error <= math.log(1 + near) for error in errors) / len(found)
    is_in = sum(-width.high <= math.log(ratio) <= width.low for ratio, width in found) / len(found)
    shares = f"{is_near:5.0%}  {is_in:5.0%}"
    return f"{len(found):5}  {quantiles}  {worst:6.2f}  {100 * median(errors):5.1f} %  {shares}"


def _depth(row: dict[str, str]) -> str:
    depth = int(row["depth"] or 0)
    return next((f"below {limit}k" for limit in (1, 8, 20) if depth < limit * 1024), "20k and more")


def _era(row: dict[str, str]) -> str:
    return "builds of 2024" if row["date"].startswith("2024") else "builds of 2025-26"


_GROUPS: dict[str, Callable[[dict[str, str]], str]] = {
    "build": _era,
    "generation": lambda row: row["generation"],
    "kind": lambda row: f"{row['backend']} {row['kind']}",
    "model": lambda row: row["kind"],
    "quantisation": lambda row: row["quant"],
    "cards": lambda row: row["n_cards"],
    "depth": _depth,
    "host": lambda row: row["host_cpu"] or "unknown",
    "streams": lambda row: row["streams"],
    "split": lambda row: "by tensors" if shares_tensors(row) else "by layers",
}


def _print_table(results: Iterable[Result]) -> None:
    chosen = [result for result in results if result.decode or result.prompt]
    head = f"{'med':>5}  {'P10':>5}  {'P90':>5}  {'worst':>6}  {'error':>7}  {'near':>5}  {'in':>5}"
    print(f"{'':28}{'decode':>5}{head}   {'prompt':>5}{head}")

    def line(name: str, some: Sequence[Result]) -> None:
        decode = [(each.decode_ratio, each.decode_width) for each in some]
        prompt = [(each.prompt_ratio, each.prompt_width) for each in some]
        figures = (
            _figures([(ratio, width) for ratio, width in pairs if ratio and width], near)
            for pairs, near in ((decode, _NEAR_DECODE), (prompt, _NEAR_PROMPT))
        )
        print(f"{name:28}{'   '.join(figures)}")

    line("all", chosen)
    for title, key in _GROUPS.items():
        values: dict[str, list[Result]] = {}
        for result in chosen:
            values.setdefault(key(result.row), []).append(result)
        for value in sorted(values):
            line(f"  {title}: {value}"[:28], values[value])


def _print_row(result: Result) -> None:
    row = result.row
    what = f"{row['model']} {row['quant']}, depth {row['depth']}, {row['streams']} streams"
    print(f"{row['id']}  {what}  [{row['placement']}]")
    words = result.words if len(result.words) < 200 else result.words[:190] + "..."
    print(f"       asked: {words}" if words else f"       left out: {result.trouble}")
    if result.trouble and words:
        print(f"       left out: {result.trouble}")
    for name, ratio, found, measured in (
        ("decode", result.decode_ratio, result.decode, row["tg_tok_s"]),
        ("prompt", result.prompt_ratio, result.prompt, row["pp_tok_s"]),
    ):
        if ratio and found:
            print(f"       {name} {float(measured):8.2f} measured, {found:8.2f} predicted: {ratio:.2f}")


def _write(results: Sequence[Result], path: Path) -> None:
    columns = ("id", "gpus", "host_cpu", "model", "quant", "placement", "depth", "streams")
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            [*columns, "asked", "tg", "tg_pred", "tg_ratio", "pp", "pp_pred", "pp_ratio", "left_out"]
        )
        for result in results:
            row = result.row
            figures = (
                *(row["tg_tok_s"], result.decode, result.decode_ratio),
                *(row["pp_tok_s"], result.prompt, result.prompt_ratio),
            )
            rounded = [f"{figure:.4g}" if isinstance(figure, float) else figure for figure in figures]
            writer.writerow([*(row[name] for name in columns), result.words, *rounded, result.trouble])


def main() -> None:
    """Read the file, ask for all rows, print."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--zoo", type=Path, help="folder of zoo_extra.py; default: the file's")
    parser.add_argument("--out", type=Path, help="write all predictions to this CSV file")
    parser.add_argument("--only", choices=("host", "cards"))
    parser.add_argument(
        "--rows", action="store_true", help="print every row, not only those of tensor splits"
    )
    parser.add_argument("--half", type=int, choices=(0, 1), help="every second row of either kind")
    parser.add_argument("--no-backend", action="store_true", help="do not say whether ROCm or Vulkan")
    options = parser.parse_args()
    with options.file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    if options.no_backend:
        rows = [row | {"backend": ""} for row in rows]
    shapes = Shapes(options.zoo or options.file.parent, Path(tempfile.gettempdir()) / "vram-llm-corpus-zoo")
    on_cards = [row for row in rows if is_on_cards_alone(row)]
    on_host = [row for row in rows if not is_on_cards_alone(row)]
    if options.half is not None:
        on_cards, on_host = on_cards[options.half :: 2], on_host[options.half :: 2]
    results = []
    if options.only != "cards":
        results += (hosted := [predicted(row, shapes) for row in on_host])
        for result in hosted:
            _print_row(result)
        print("\n== layers or experts on the host, or no card")
        _print_table(hosted)
    if options.only != "host":
        results += (others := [predicted(row, shapes) for row in on_cards])
        print("\n== on cards alone")
        _print_table(others)
        print("\n== on cards alone, builds of 2025-26")
        _print_table([result for result in others if _era(result.row) != "builds of 2024"])
        for result in others:
            if result.trouble:
                print(f"left out: {result.row['id']}  {result.trouble}")
            elif shares_tensors(result.row) or options.rows:
                _print_row(result)
    if options.out:
        _write(results, options.out)


if __name__ == "__main__":
    main()
