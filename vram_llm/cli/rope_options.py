"""The options for contexts beyond a model's training, with llama-server's flags."""

import click

from vram_llm.cli.plan_option import PlanOption, choice_of
from vram_llm.planner.rope import RopeScaling

_POSITIVE = click.FloatRange(0, min_open=True)
_OF_FILE = "[default: the model file's]"

ROPE_OPTIONS = (
    PlanOption(flags="--rope-scaling", fields=("rope.scaling",), type=choice_of(RopeScaling),
               to_field=RopeScaling, has_default=False, help=(
        f"How the model's positions are scaled beyond its training.  {_OF_FILE}"
    )),
    PlanOption(flags="--rope-scale", fields=("rope.freq_scale",), type=_POSITIVE, metavar="FACTOR",
               to_field=lambda factor: 1 / factor, has_default=False, help=(
        "Extend the trained context by this factor: `--n-ctx 0`, auto and max then mean the extended one."
    )),
    PlanOption(flags="--rope-freq-scale", fields=("rope.freq_scale",), type=_POSITIVE, metavar="SCALE",
               has_default=False, help=f"The same as its inverse: 1 / FACTOR.  {_OF_FILE}"),
    PlanOption(flags="--rope-freq-base", fields=("rope.freq_base",), type=_POSITIVE, metavar="BASE",
               has_default=False, help=f"Base frequency of positions, for NTK-aware scaling.  {_OF_FILE}"),
    PlanOption(flags="--yarn-orig-ctx", fields=("rope.yarn_orig_ctx",), type=click.IntRange(1),
               metavar="TOKENS", has_default=False, help=(
        f"YaRN: context that the model was trained on before any scaling.  {_OF_FILE}"
    )),
    PlanOption(flags="--yarn-ext-factor", fields=("rope.yarn_ext_factor",), type=click.FloatRange(0),
               metavar="FACTOR", has_default=False, help=(
        "YaRN: share of extrapolation; 0: interpolation alone.  [default: 1 with YaRN]"
    )),
    PlanOption(flags="--yarn-attn-factor", fields=("rope.yarn_attn_factor",), type=click.FloatRange(0),
               metavar="FACTOR", has_default=False, help=(
        "YaRN: factor of the attention's magnitude; llama.cpp uses it with --yarn-ext-factor 0 alone.  "
        f"{_OF_FILE}"
    )),
    PlanOption(flags="--yarn-beta-slow", fields=("rope.yarn_beta_slow",), type=click.FloatRange(0),
               metavar="BETA", has_default=False, help=f"YaRN: high correction dimension.  {_OF_FILE}"),
    PlanOption(flags="--yarn-beta-fast", fields=("rope.yarn_beta_fast",), type=click.FloatRange(0),
               metavar="BETA", has_default=False, help=f"YaRN: low correction dimension.  {_OF_FILE}"),
)  # fmt: skip
