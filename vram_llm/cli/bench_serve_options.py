"""Options of `bench serve`: those of `vllm bench serve`, by the same names, and a few of ours."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from vram_llm.bench.arrivals import LoadShape
from vram_llm.bench.file_prompts import PromptFile
from vram_llm.bench.load_test import LoadTest
from vram_llm.bench.metrics import LATENCY_NAMES, LatencyName
from vram_llm.bench.random_prompts import RandomPrompts
from vram_llm.cli.key_options import METAVAR, VARIABLE, read_key
from vram_llm.cli.server_address import root_url
from vram_llm.cli.server_options import JsonObjectType
from vram_llm.server.config import ServerConfig

_F = TypeVar("_F", bound=Callable[..., Any])
_TARGETS = ("ttft", "tpot", "itl", "e2el")
_CHAT = "openai-chat"
_SEVERAL = ("--goodput", "--metadata", "--header")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty")


class SeveralValuesCommand(click.Command):
    """A command without arguments. Some options take several values: `--goodput ttft:500 tpot:50`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        repeated: list[str] = []
        flag, n_values = None, 0
        for arg in args:
            if arg.startswith("-"):
                flag, n_values = (arg if arg in _SEVERAL else None), 0
            elif flag is not None:
                n_values += 1
                if n_values > 1:
                    repeated.append(flag)
            repeated.append(arg)
        return super().parse_args(ctx, repeated)


class TargetType(click.ParamType[tuple[str, float]]):
    """A latency and the most milliseconds of it: "ttft:500"."""

    name = "target"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, _, number = str(value).partition(":")
        try:
            most_ms = float(number)
        except ValueError:
            most_ms = -1.0
        if name not in _TARGETS or not 0 <= most_ms < math.inf:
            self.fail(
                f"{value!r} is not a latency and its most milliseconds; write it like ttft:500, with "
                f"{', '.join(_TARGETS[:-1])} or {_TARGETS[-1]}", param, ctx,
            )  # fmt: skip
        return name, most_ms


class PairType(click.ParamType[tuple[str, str]]):
    """KEY=VALUE."""

    name = "pair"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key.strip() or not equals:
            self.fail(f"{value!r} has no = between a key and a value; write it like version=0.3", param, ctx)
        return key.strip(), text.strip()


class PercentilesType(click.ParamType[tuple[float, ...]]):
    """Percentiles with commas between: "50,90,99"."""

    name = "percentiles"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(float(each) for each in str(value).split(","))
        except ValueError:
            found = (-1.0,)
        if not all(0 <= percent <= 100 for percent in found):
            self.fail(f"{value!r} are not percentiles from 0 to 100; write them like 50,90,99", param, ctx)
        return found


class LatenciesType(click.ParamType[tuple[LatencyName, ...]]):
    """Latencies with commas between: "ttft,itl"."""

    name = "latencies"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[LatencyName, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if unknown := [word for word in words if word not in LATENCY_NAMES]:
            self.fail(f"{unknown[0]!r} is not one of {', '.join(LATENCY_NAMES)}", param, ctx)
        return tuple(name for name in LATENCY_NAMES if name in words)


class RateType(click.ParamType[float]):
    """A number above 0, or "inf"."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            rate = float(value)
        except ValueError:
            rate = 0.0
        if not rate > 0:
            self.fail(f"{value!r} is not a number above 0, or inf", param, ctx)
        return rate


_TOKENS = click.IntRange(1)
_OPTIONS = (
    click.option("--url", "--base-url", metavar="URL", help=(
        "Server to measure; HOST:PORT is enough. --endpoint is added to it, and a /v1 at its end left out.  "
        "[default: --host and --port]"
    )),
    click.option("--host", default="127.0.0.1", show_default=True, help="Host of the server."),
    click.option("--port", type=click.IntRange(1, 65535), default=ServerConfig().port, show_default=True,
                 help="Port of the server."),
    click.option("--backend", type=click.Choice(["openai", "vllm", _CHAT]), default="openai",
                 show_default=True, help="Form of the requests: completions, or openai-chat: chats."),
    click.option("--endpoint", metavar="PATH", help=(
        "Path of the requests.  [default: /v1/completions, or /v1/chat/completions with openai-chat]"
    )),
    click.option("--model", "-m", metavar="NAME", help="Name of the model.  [default: the server's first]"),
    click.option("--served-model-name", metavar="NAME", help="Name in requests, if it is another."),
    click.option("--api-key", envvar=[VARIABLE, "OPENAI_API_KEY"], metavar=METAVAR, callback=read_key, help=(
        f"API key of the server, or @ and a file with it. Without this option ${VARIABLE} or $OPENAI_API_KEY "
        "is read."
    )),
    click.option("--header", "headers", type=PairType(), multiple=True, metavar="KEY=VALUE...",
                 help="Headers of each request."),
    click.option("--insecure", is_flag=True, help="Accept any TLS certificate."),
    click.option("--dataset-name", "dataset", default="random", show_default=True,
                 type=click.Choice(["random", "prefix_repetition", "sharegpt", "custom"]), help=(
        "Prompts: random words; random words after one of several shared prefixes; ShareGPT's JSON; JSONL "
        "with \"prompt\" or \"messages\" on each line."
    )),
    click.option("--dataset-path", type=click.Path(path_type=Path), metavar="FILE",
                 help="File of prompts, for sharegpt and custom."),
    click.option("--num-prompts", type=_TOKENS, default=1000, show_default=True, help="Requests to measure."),
    click.option("--num-warmups", type=click.IntRange(0), default=0, show_default=True,
                 help="Requests before, which are not measured. Their prompts are others."),
    click.option("--input-len", type=_TOKENS, metavar="TOKENS", help="The same as --random-input-len."),
    click.option("--output-len", type=_TOKENS, metavar="TOKENS", help=(
        "Tokens of answers, of any prompts.  [default: 128; custom: the file's \"output_tokens\", else 256; "
        "sharegpt: as long as the file's answers]"
    )),
    click.option("--random-input-len", type=_TOKENS, default=1024, show_default=True, metavar="TOKENS",
                 help="Tokens of random prompts, by the server's tokenizer."),
    click.option("--random-output-len", type=_TOKENS, default=128, show_default=True, metavar="TOKENS",
                 help="Tokens of answers to random prompts."),
    click.option("--random-range-ratio", type=click.FloatRange(0, 1, max_open=True), default=0.0,
                 show_default=True, metavar="SHARE",
                 help="Spread the lengths of random prompts and answers by this share to both sides."),
    click.option("--random-prefix-len", type=click.IntRange(0), default=0, show_default=True,
                 metavar="TOKENS", help="Tokens in front of random prompts, the same in all."),
    click.option("--prefix-repetition-prefix-len", type=_TOKENS, default=256, show_default=True,
                 metavar="TOKENS", help="Tokens of each shared prefix."),
    click.option("--prefix-repetition-suffix-len", type=_TOKENS, default=256, show_default=True,
                 metavar="TOKENS", help="Tokens after it."),
    click.option("--prefix-repetition-num-prefixes", type=_TOKENS, default=10, show_default=True, metavar="N",
                 help="Number of shared prefixes."),
    click.option("--prefix-repetition-output-len", type=_TOKENS, default=128, show_default=True,
                 metavar="TOKENS", help="Tokens of the answers."),
    click.option("--sharegpt-output-len", type=_TOKENS, metavar="TOKENS",
                 help="As --output-len, for sharegpt."),
    click.option("--custom-output-len", type=_TOKENS, metavar="TOKENS", help="As --output-len, for custom."),
    click.option("--disable-shuffle", is_flag=True, help="Take prompts of a file in its order."),
    click.option("--ignore-eos", is_flag=True,
                 help="Generate to the length asked for. Random prompts always do, where the server can."),
    click.option("--max-concurrency", type=_TOKENS, metavar="N",
                 help="Most requests at the server at a time.  [default: no limit]"),
    click.option("--request-rate", type=RateType(), default="inf", show_default=True, metavar="RATE",
                 help="Requests per second, as a Poisson process; inf: all at once."),
    click.option("--burstiness", type=RateType(), default=1.0, show_default=True, metavar="SHAPE", help=(
        "Shape of the gamma distribution of the times between requests: 1 is a Poisson process, less is "
        "burstier, inf is even."
    )),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
                 help="Seed of prompts and arrivals."),
    click.option("--temperature", type=click.FloatRange(0), help="Temperature.  [default: the server's]"),
    click.option("--top-p", type=click.FloatRange(0, 1), help="top_p.  [default: the server's]"),
    click.option("--top-k", type=click.IntRange(-1), help="top_k.  [default: the server's]"),
    click.option("--min-p", type=click.FloatRange(0, 1), help="min_p.  [default: the server's]"),
    click.option("--frequency-penalty", type=float, help="frequency_penalty.  [default: the server's]"),
    click.option("--presence-penalty", type=float, help="presence_penalty.  [default: the server's]"),
    click.option("--extra-body", type=JsonObjectType(), default="{}", metavar="JSON",
                 help="More fields of each request."),
    click.option("--goodput", "targets", type=TargetType(), multiple=True, metavar="LATENCY:MS...", help=(
        "Count the requests per second within these targets, as in ttft:500 tpot:50. Latencies: ttft, tpot, "
        "e2el, and itl, which 99% of a request's gaps must keep."
    )),
    click.option("--percentile-metrics", "latencies", type=LatenciesType(), default="ttft,tpot,itl",
                 show_default=True, metavar="NAMES", help=(
        f"Latencies to report: {', '.join(LATENCY_NAMES)}."
    )),
    click.option("--metric-percentiles", "percentiles", type=PercentilesType(), default="99",
                 show_default=True, metavar="NUMBERS", help="Percentiles to report: 50,90,99."),
    click.option("--sweep", is_flag=True, help=(
        "Find the knee: measure 1, 2, 4 ... requests at a time, to --max-concurrency or 256, with four "
        "requests for each and at most --num-prompts. With --goodput it is the most at which 90% of the "
        "requests are within the targets."
    )),
    click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=(
        "Draw TTFT and ITL against load as FILE.svg or FILE.png. Needs --sweep, and the extra vram-llm[plot]."
    )),
    click.option("--compare", metavar="URL", help=(
        "Measure the server at URL too, both in turn, and print ratios of their figures."
    )),
    click.option("--compare-model", metavar="NAME", help="Model of that server.  [default: its first]"),
    click.option("--rounds", type=_TOKENS, default=5, show_default=True, metavar="N",
                 help="Rounds of --compare, each with --num-prompts requests for either server."),
    click.option("--save-result", is_flag=True, help="Write a JSON file with vLLM's keys."),
    click.option("--save-detailed", is_flag=True, help="With lengths, times and texts of each request."),
    click.option("--append-result", is_flag=True, help="Add to the file as a further line."),
    click.option("--result-dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                 help="Folder of the file.  [default: this one]"),
    click.option("--result-filename", metavar="NAME", help=(
        "Name of the file.  [default: made of label, rate, concurrency, model and time]"
    )),
    click.option("--label", help="Label in the file and its name.  [default: the backend]"),
    click.option("--metadata", type=PairType(), multiple=True, metavar="KEY=VALUE...",
                 help="More keys of the file."),
    click.option("--disable-tqdm", is_flag=True, help="No progress bar."),
    click.option("--tokenizer", metavar="NAME", help="Not used: the server's own tokenizer counts."),
    click.option("--trust-remote-code", is_flag=True,
                 help="Not used: nothing is run of a model's repository."),
)  # fmt: skip


def bench_serve_options(function: _F) -> _F:
    """Add the options. The command gets them as one argument `options`, a dictionary."""

    def collect(**options: Any) -> Any:
        return function(options=options)

    collect.__doc__ = function.__doc__
    for option in reversed(_OPTIONS):
        collect = option(collect)
    return collect  # type: ignore[return-value]  # click reads the decorated function's own options


def server_url(options: dict[str, Any]) -> str:
    """The server's URL, without the /v1 of its API. Raises UsageError."""
    if options["url"] is None:
        host = options["host"]
        return f"http://[{host}]:{options['port']}" if ":" in host else f"http://{host}:{options['port']}"
    return checked_url(options["url"])


def checked_url(address: str) -> str:
    """A server's URL without the /v1 of its API, from HOST:PORT or a URL. Raises UsageError."""
    url = root_url(address)
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        has_host = False
    if not has_host:
        raise click.UsageError(f"{address!r} is no address of a server; write it like 127.0.0.1:8080")
    return url


def load_test(options: dict[str, Any]) -> LoadTest:
    """The test that the options ask for. Raises UsageError for options that contradict each other."""
    _check_modes(options)
    is_random = options["dataset"] in ("random", "prefix_repetition")
    sampling = {name: options[name] for name in _SAMPLING if options[name] is not None}
    is_chat = options["backend"] == _CHAT
    return LoadTest(
        dataset=_dataset(options),
        path=options["endpoint"] or ("/v1/chat/completions" if is_chat else "/v1/completions"),
        model=options["served_model_name"] or options["model"],
        n_prompts=options["num_prompts"],
        n_warmups=options["num_warmups"],
        shape=LoadShape(
            max_concurrency=options["max_concurrency"],
            request_rate=options["request_rate"],
            burstiness=options["burstiness"],
        ),
        seed=options["seed"],
        ignore_eos=options["ignore_eos"] or is_random,
        extra=sampling | options["extra_body"],
        targets_ms=dict(options["targets"]),
    )


def _check_modes(options: dict[str, Any]) -> None:
    """Raises UsageError for modes that exclude each other."""
    if options["sweep"] and options["compare"] is not None:
        raise click.UsageError("--sweep and --compare measure different things; give one of them")
    if options["plot"] is not None and not options["sweep"]:
        raise click.UsageError("--plot draws latency against load, and needs --sweep")
    if options["sweep"] and not math.isinf(options["request_rate"]):
        raise click.UsageError("--sweep varies the requests at a time; leave out --request-rate")


def _dataset(options: dict[str, Any]) -> RandomPrompts | PromptFile:
    kind, path, n_output = options["dataset"], options["dataset_path"], options["output_len"]
    if kind in ("random", "prefix_repetition") and path is not None:
        raise click.UsageError(
            f"--dataset-name {kind} reads no file; --dataset-path needs --dataset-name sharegpt or custom"
        )
    if kind == "random":
        return RandomPrompts(
            input_tokens=options["input_len"] or options["random_input_len"],
            output_tokens=n_output or options["random_output_len"],
            range_ratio=options["random_range_ratio"],
            prefix_tokens=options["random_prefix_len"],
        )
    if kind == "prefix_repetition":
        return RandomPrompts(
            input_tokens=options["prefix_repetition_suffix_len"],
            output_tokens=n_output or options["prefix_repetition_output_len"],
            prefix_tokens=options["prefix_repetition_prefix_len"],
            n_prefixes=options["prefix_repetition_num_prefixes"],
        )
    if path is None:
        raise click.UsageError(f"--dataset-name {kind} needs a file: --dataset-path FILE")
    return PromptFile(
        path=path,
        is_sharegpt=kind == "sharegpt",
        output_tokens=n_output or options[f"{kind}_output_len"],
        shuffled=not options["disable_shuffle"],
    )
