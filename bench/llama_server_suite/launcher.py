"""Start one of the two servers from llama-server's command line in the tests.

The tests start `python -m bench.llama_server_suite.launcher ARGUMENTS` by a script. Both servers get files in
place of the hub's models, and the other arguments unchanged: this server by `vram-llm llama-server`. Through
`vram-llm serve` it gets its own options, and an argument without an equal option is left out with a line on
stderr.

Environment: SUITE_SERVER ("llama-server" or "vram-llm"), SUITE_THROUGH ("llama-server" or "serve"),
SUITE_LLAMA_SERVER (the program), SUITE_MODELS (the folder of the substitutes), SUITE_TEST (the test's id).
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.llama_server_suite.substitutes import Substitute, substitute

_TEMPLATES = Path(__file__).parent / "templates"
# Options of llama-server that take a value and have an equal here.
_RENAMED = {
    "--port": "--port",
    "--host": "--host",
    "--temp": "--temperature",
    "--seed": "--seed",
    "--ctx-size": "--n-ctx",
    "--parallel": "--parallel",
    "--batch-size": "--n-batch",
    "--ubatch-size": "--n-ubatch",
    "--threads": "--threads",
    "--n-gpu-layers": "--n-gpu-layers",
    "-ctk": "--kv-type",
    "-fa": "--flash-attn",
    "--pooling": "--pooling",
    "--api-key": "--api-key",
    "--lora": "--lora",
    "--reasoning": "--reasoning",
    "--chat-template-file": "--chat-template-file",
    "--media-path": "--image-dir",
    "--cors-origins": "--cors-origin",
    "--model": "--model",
}
# Options with a value that this server lacks. Only two of them change an answer: --n-predict
# (requests name max_tokens) and -ctv (the tests give it with -ctk).
_VALUES_LEFT_OUT = (
    "--tags", "--n-predict", "-ctv", "--cache-ram", "--sleep-idle-seconds", "--slot-save-path",
    "--grp-attn-n", "--grp-attn-w", "--spec-type", "--spec-draft-n-max", "--spec-draft-n-min",
    "--spec-synth-len", "--spec-synth-rates", "--reasoning-format", "--tools", "--tools-runtime",
    "--mcp-servers-config", "--mcp-servers-json", "--model-url", "--mmproj-url",
    "--models-max", "--models-preset", "--models-dir",
)  # fmt: skip
_HUB = ("--hf-repo", "--hf-file", "--model-draft")


def main(arguments: Sequence[str]) -> None:
    """Replace this process by the server."""
    models = Path(os.environ["SUITE_MODELS"])
    if os.environ["SUITE_SERVER"] == "llama-server":
        program = os.environ["SUITE_LLAMA_SERVER"]
        os.execv(program, [program, *control_arguments(arguments, models)])
    through = os.environ["SUITE_THROUGH"]
    own = own_arguments(arguments, models) if through == "serve" else same_arguments(arguments, models)
    os.execv(sys.executable, [sys.executable, "-m", "vram_llm", through, *own])


def control_arguments(arguments: Sequence[str], models: Path) -> list[str]:
    """The command line with local files in place of the hub's models."""
    found, rest = _without_hub(arguments, models)
    if found is None:
        return [*rest, "--no-mmproj"] if "--no-mmproj" not in rest else rest
    projector = [] if found.projector is None or "--no-mmproj" in rest else ["--mmproj", str(found.projector)]
    return ["--model", str(found.model), *projector, *rest]


def same_arguments(arguments: Sequence[str], models: Path) -> list[str]:
    """The control's command line; the substitute's projector also replaces one that the line names."""
    line = control_arguments(arguments, models)
    if "--mmproj-url" not in line:
        return line
    place = line.index("--mmproj-url")
    return [*line[:place], *line[place + 2 :]]


def own_arguments(arguments: Sequence[str], models: Path) -> list[str]:
    """This server's options. Without a model, for which llama-server is a router, the built-in model."""
    found, rest = _without_hub(arguments, models)
    own = ["--reserve-mib", "0"]
    if found is not None:
        own += ["--model", str(found.model)]
        if found.projector is not None and "--no-mmproj" not in rest:
            own += ["--mmproj", str(found.projector)]
    if "--kv-unified" not in rest and "--parallel" in rest:
        own.append("--no-kv-unified")  # llama-server's default once --parallel is given
    if "--cors-origins" not in rest:
        own += ["--cors-origin", "*"]  # llama-server's default
    for option, value in _pairs(rest):
        own += _translated(option, value)
    return own


def _translated(option: str, value: str | None) -> list[str]:
    if option in _RENAMED and value is not None:
        return [_RENAMED[option], value]
    if option == "--alias" and value is not None:
        name, *others = sorted(value.split(","))
        return ["--served-model-name", name, *(part for other in others for part in ("--alias", other))]
    if option == "--chat-template" and value is not None:
        return ["--chat-template-file", str(_template_file(value))]
    if option in ("--kv-unified", "--swa-full", "--verbose"):
        return [option]
    print(f"launcher: {option} has no equal, left out", file=sys.stderr)
    return []


def _template_file(template: str) -> Path:
    """The file of a template that the option gives by llama-server's name or as text."""
    named = _TEMPLATES / f"{template}.jinja"
    if "/" not in template and named.exists():
        return named
    with tempfile.NamedTemporaryFile("w", suffix=".jinja", delete=False) as file:
        file.write(template)
    return Path(file.name)


def _without_hub(arguments: Sequence[str], models: Path) -> tuple[Substitute | None, list[str]]:
    """The substitute for the hub's model on the command line, and the rest of the line."""
    named = dict.fromkeys(_HUB, "")
    rest = []
    for option, value in _pairs(arguments):
        if option in named:
            named[option] = value or ""
        elif option != "--offline":
            rest += [option] if value is None else [option, value]
    if not named["--hf-repo"]:
        return None, rest
    template = rest[rest.index("--chat-template-file") + 1] if "--chat-template-file" in rest else ""
    test = os.environ["SUITE_TEST"]
    return substitute(
        models, named["--hf-repo"], named["--hf-file"] or None, test=test, template=template
    ), rest


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each option with its value; None: a switch."""
    with_value = {*_RENAMED, *_VALUES_LEFT_OUT, *_HUB, "--alias", "--chat-template"}
    left = iter(arguments)
    for option in left:
        yield option, next(left, None) if option in with_value else None


if __name__ == "__main__":
    main(sys.argv[1:])
