"""Usage errors in one sentence; commands and flags of other programs lead to ours."""

import difflib
from collections.abc import Collection

import click

from vram_llm.cli.settings import place_of

# Verbs of Ollama, llama.cpp, LM Studio and vLLM.
_VERBS = {
    "run": "chat", "cli": "chat", "llama-cli": "chat", "complete": "chat", "ask": "chat",
    "list": "models", "ls": "models",
    "show": "analyze", "info": "analyze", "inspect": "analyze",
    "get": "pull", "download": "pull",
    "server": "serve", "start": "serve", "load": "serve",
    "top": "watch", "nvtop": "watch", "monitor": "watch", "status": "watch", "stats": "watch",
    "diagnose": "doctor", "diagnostics": "doctor",
    "llama-bench": "bench", "benchmark": "bench",
    "rpc-server": "worker", "fit": "plan", "fit-params": "plan", "estimate": "plan", "devices": "plan",
}  # fmt: skip
_NO_VERBS = {
    "ps": "each `vram-llm serve` runs in a terminal of its own, and nothing runs in the background",
    "stop": "Ctrl+C in its terminal ends a server",
    "rm": "`vram-llm models --json` says where each model's file is",
}
# Flags of llama-server, Ollama and vLLM.
_FLAGS = {
    "--context": "--n-ctx", "--ctx": "--n-ctx", "--context-length": "--n-ctx", "--max-model-len": "--n-ctx",
    "--num-ctx": "--n-ctx", "--num-gpu": "--n-gpu-layers", "--gpus": "--gpu",
    "--max-num-seqs": "--parallel", "--kv-cache-dtype": "--kv-type", "-mm": "--mmproj",
    "--gpu-memory-utilization": "--reserve-mib", "--fit-target": "--reserve-mib", "-fitt": "--reserve-mib",
}  # fmt: skip
_NO_FLAGS = {
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo"), "name the model as hf:ORG/REPO:Q4_K_M"),
    **dict.fromkeys(("--jinja",), "chat templates are always rendered"),
    **dict.fromkeys(("-cb", "--cont-batching"), "sequences are always batched continuously"),
    **dict.fromkeys(
        ("-ncmoe", "--n-cpu-moe", "-cmoe", "--cpu-moe", "-ot", "--override-tensor"),
        "the plan moves experts to the host where that is faster; `vram-llm plan` and `serve` take the flag",
    ),
    **dict.fromkeys(("-mg", "--main-gpu"), "the plan decides; see --tensor-split"),
}


_OF_MODELS = "model"  # the command of `bench` that takes a model
_ALIKE = 0.75  # difflib's ratio


def sentence(error: click.UsageError) -> str:
    """The error as one line: where, what, and how to get help."""
    command = error.ctx.command_path if error.ctx is not None else "vram-llm"
    return f"{command}: {reason(error)} (`{command} --help` explains)"


def reason(error: click.UsageError) -> str:
    """The error with the place of its option, without the command."""
    match error:
        case click.NoSuchCommand():
            return _unknown_command(error)
        case click.NoSuchOption():
            return _unknown_flag(error)
        case click.MissingParameter(param=click.Argument() as argument):
            return f"give a {argument.human_readable_name}"
        case click.BadParameter(param=click.Option() as option):
            return f"{place_of(error.ctx, option)}: {_plain(error.message)}"
    return _plain(error.format_message())


def _unknown_command(error: click.NoSuchCommand) -> str:
    name, commands = error.command_name, _commands(error.ctx)
    group = error.ctx.command_path if error.ctx is not None else "vram-llm"
    if _OF_MODELS in commands and not difflib.get_close_matches(name, commands, n=1):
        return f"write `{group} {_OF_MODELS} {name}`"
    if name.endswith(".gguf") or name.lower().startswith(("hf:", "https:")):
        return f"{name} is a model, not a command; write `vram-llm serve {name}`, or `plan`, or `chat`"
    if name in _NO_VERBS:
        return f"there is no command {name}; {_NO_VERBS[name]}"
    if (verb := _VERBS.get(name.lower())) not in commands:
        verb = next(iter(difflib.get_close_matches(name, commands, n=1)), None)
    if verb is not None:
        return f"there is no command {name}; did you mean `{group} {verb}`?"
    return f"there is no command {name}; there are {', '.join(commands)}"


def _commands(context: click.Context | None) -> list[str]:
    if context is None or not isinstance(context.command, click.Group):
        return []
    return context.command.list_commands(context)


def _unknown_flag(error: click.NoSuchOption) -> str:
    name = error.option_name
    if name in _NO_FLAGS:
        return f"there is no option {name}; {_NO_FLAGS[name]}"
    known = [flag for param in error.ctx.command.params for flag in param.opts] if error.ctx else []
    flag = nearest_flag(name, known)
    return f"there is no option {name}" + (f"; did you mean {flag}?" if flag else "")


def nearest_flag(flag: str, known: Collection[str]) -> str | None:
    """The known flag that is meant by a flag of another program, or that is spelled almost the same."""
    if (meant := _FLAGS.get(flag)) in known:
        return meant
    alike = difflib.get_close_matches(flag, known, n=3, cutoff=_ALIKE)
    return max(
        alike, key=lambda other: sorted(other) == sorted(flag), default=None
    )  # letters in another order


_TYPES = {  # click's words
    " is not a valid boolean": " is neither true nor false",
    " is not a valid integer": " is not a whole number",
    " is not a valid float": " is not a number",
}


def _plain(message: str) -> str:
    """One line, in plain words. Of booleans click lists all spellings, an empty one among them."""
    line = " ".join(message.split()).removesuffix(".")
    for words, plain in _TYPES.items():
        wrong, is_so, _ = line.partition(words)
        if is_so:
            return wrong + plain
    return line
