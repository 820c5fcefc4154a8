"""Options of `serve` for the sampling of requests that leave it out, with llama-server's flags."""

from typing import Any

import click

_OF_FILE = "[default: the model file's, or"

SAMPLING_OPTIONS = (
    click.option("--temperature", "--temp", "temperature", type=click.FloatRange(0), metavar="T", help=(
        f"Temperature for requests without one.  {_OF_FILE} llama-server's 0.8]"
    )),
    click.option("--top-k", type=click.IntRange(0), metavar="K", help=(
        f"top_k for requests without one; 0: off.  {_OF_FILE} llama-server's 40]"
    )),
    click.option("--top-p", type=click.FloatRange(0, 1), metavar="P", help=(
        f"top_p for requests without one; 1: off.  {_OF_FILE} llama-server's 0.95]"
    )),
    click.option("--min-p", type=click.FloatRange(0, 1), metavar="P", help=(
        f"min_p for requests without one; 0: off.  {_OF_FILE} llama-server's 0.05]"
    )),
    click.option("--typical-p", "--typical", "typical_p", type=click.FloatRange(0, 1), metavar="P",
                 help="typical_p for requests without one; 1: off.  [default: 1]"),
    click.option("--top-n-sigma", "--top-nsigma", "top_n_sigma", type=click.FloatRange(-1), metavar="N",
                 help="top_n_sigma for requests without one; -1: off.  [default: -1]"),
    click.option("--xtc-probability", type=click.FloatRange(0, 1), metavar="P", help=(
        f"xtc_probability for requests without one; 0: off.  {_OF_FILE} 0]"
    )),
    click.option("--xtc-threshold", type=click.FloatRange(0, 1), metavar="P", help=(
        f"xtc_threshold for requests without one.  {_OF_FILE} 0.1]"
    )),
    click.option("--repeat-penalty", type=click.FloatRange(0, 2, min_open=True), metavar="PENALTY", help=(
        f"repeat_penalty for requests without one; 1: off.  {_OF_FILE} 1]"
    )),
    click.option("--repeat-last-n", type=click.IntRange(-1), metavar="N", help=(
        f"repeat_last_n for requests without one; -1: the whole context.  {_OF_FILE} 1024]"
    )),
    click.option("--presence-penalty", type=click.FloatRange(-100, 100), metavar="PENALTY",
                 help="presence_penalty for requests without one; 0: off.  [default: 0]"),
    click.option("--frequency-penalty", type=click.FloatRange(-100, 100), metavar="PENALTY",
                 help="frequency_penalty for requests without one; 0: off.  [default: 0]"),
    click.option("--dry-multiplier", type=click.FloatRange(0, 100), metavar="N",
                 help="dry_multiplier for requests without one; 0: off.  [default: 0]"),
    click.option("--dry-base", type=click.FloatRange(1, 100), metavar="N",
                 help="dry_base for requests without one.  [default: 1.75]"),
    click.option("--dry-allowed-length", type=click.IntRange(0), metavar="N",
                 help="dry_allowed_length for requests without one.  [default: 2]"),
    click.option("--dry-penalty-last-n", type=click.IntRange(-1), metavar="N",
                 help="dry_penalty_last_n for requests without one; -1: the whole context.  [default: -1]"),
    click.option("--mirostat", type=click.IntRange(0, 2), metavar="VERSION", help=(
        f"mirostat for requests without one; 0: off.  {_OF_FILE} 0]"
    )),
    click.option("--mirostat-ent", "mirostat_tau", type=click.FloatRange(0, 100), metavar="TAU", help=(
        f"mirostat_tau for requests without one.  {_OF_FILE} 5]"
    )),
    click.option("--mirostat-lr", "mirostat_eta", type=click.FloatRange(0, 1), metavar="ETA", help=(
        f"mirostat_eta for requests without one.  {_OF_FILE} 0.1]"
    )),
    click.option("--dynatemp-range", type=click.FloatRange(0, 100), metavar="RANGE", help=(
        "dynatemp_range for requests without one: how far the temperature may be from --temperature, by the "
        "entropy of the row; 0: not at all.  [default: 0]"
    )),
    click.option("--dynatemp-exp", "dynatemp_exponent", type=click.FloatRange(0, 100), metavar="N",
                 help="dynatemp_exponent for requests without one.  [default: 1]"),
    click.option("--seed", "-s", type=int, metavar="SEED", help=(
        "Seed for requests without one; -1: random.  [default: random]"
    )),
)  # fmt: skip

SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold",
    "repeat_penalty", "repeat_last_n", "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "mirostat", "mirostat_tau", "mirostat_eta",
    "dynatemp_range", "dynatemp_exponent", "seed",
)  # fmt: skip
"""The parameters of the options, which are fields of SamplingParams."""


def take_sampling(options: dict[str, Any]) -> dict[str, float | int]:
    """Take the options out of `options`, and return those that are given, as SamplingParams fields."""
    given = {name: options.pop(name) for name in SAMPLING}
    if given["seed"] == -1:
        given["seed"] = None
    return {name: value for name, value in given.items() if value is not None}
