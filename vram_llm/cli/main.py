"""`vram-llm`: finds the command, and turns every error into one sentence and an exit code."""

import gc
import importlib
import sys
from typing import NoReturn

import click

from vram_llm._version import __version__
from vram_llm.cli import terminal
from vram_llm.cli.usage_errors import sentence
from vram_llm.errors import NotBuilt, VramLLMError

_GC_THRESHOLD = 50_000  # new objects: at 700, Python's default, imports and searches take a tenth more time
EXIT_USAGE = 64  # sysexits' EX_USAGE: click's own 2 means "does not fit" here
EXIT_INTERRUPTED = 130

_COMMANDS = {
    "analyze": "Show a model file's sizes, layer by layer.",
    "bench": "Measure a plan's speed next to the expected one, or a running server under load.",
    "calibrate": "Measure how fast llama.cpp computes on each device, for later plans.",
    "tune": "Measure the best few plans on this machine, and keep the fastest for `plan` and `serve`.",
    "plan": "Show which layers go on which device, and how many bytes each device holds.",
    "serve": "Plan a model, load it, and serve it with an OpenAI endpoint.",
    "llama-server": "Serve a model by llama-server's own command line.",
    "config": "Show the options that `serve` would use and where each comes from, or a template of a file.",
    "chat": "Chat with a model at the terminal.",
    "verify": "Load a plan, and compare its memory use with the planned bytes.",
    "keys": "Make, list and remove API keys for `serve`.",
    "models": "List the models on this disk.",
    "pull": "Plan a model on a hub, and download it if it fits.",
    "watch": "Show a running server's cards, load and queue in the terminal, or this computer's cards.",
    "doctor": "Show what is on this computer, what is wrong, and what to do.",
    "worker": "Lend this machine's devices to a plan made elsewhere.",
    "completion": "Print a script for a shell that completes commands, options and models.",
}


class _LazyGroup(click.Group):
    """Imports a command's file only when the command runs: `--help` and `analyze` stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"vram_llm.cli.{name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vram-llm")
def cli() -> None:
    """Run large language models on unequal GPUs.

    MODEL is a GGUF file (any shard of a split file), a name that `vram-llm models` lists, a unique part of
    such a name ("gemma", "llama3.1:8b"), or "demo", the small built-in model. Commands that read only the
    header also take https://... and hf:org/repo:Q4_K_M.
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    gc.set_threshold(_GC_THRESHOLD)
    terminal.prepare()
    stdout = sys.stdout
    try:
        _refuse_windows()
        code = cli.main(prog_name="vram-llm", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_USAGE
    except click.UsageError as error:
        terminal.say(sentence(error), err=True)
        code = EXIT_USAGE
    except click.Abort:
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        terminal.say(f"vram-llm: {error.format_message()}", err=True)
        code = error.exit_code
    except VramLLMError as error:
        terminal.say(f"vram-llm: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:  # `vram-llm plan | head -1`
        code = _reader_gone()
    except SystemExit as error:
        # click replaces standard output if its reader has gone; rich exits as it handles the error
        if sys.stdout is stdout and not isinstance(error.__context__, BrokenPipeError):
            raise
        code = _reader_gone()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except MemoryError:
        terminal.say("vram-llm: there is too little memory for this", err=True)
        code = VramLLMError.exit_code
    except OSError as error:  # a full disk behind `> plan.json`
        terminal.say(f"vram-llm: {error}", err=True)
        code = VramLLMError.exit_code
    sys.exit(code)


def _refuse_windows() -> None:
    """Raises NotBuilt on Windows: it lacks the fork, Unix signals and file locks that the server needs."""
    if sys.platform == "win32":
        raise NotBuilt(
            "vram-llm runs on Linux and macOS; on Windows, install it inside WSL2 (`wsl --install`), where "
            "NVIDIA cards are visible too"
        )


def _reader_gone() -> int:
    terminal.drop_output()
    return 0


if __name__ == "__main__":
    main()
