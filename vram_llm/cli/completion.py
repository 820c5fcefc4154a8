"""vram-llm completion: a script that lets a shell complete commands, options and models."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> None:
    """Print the completions for SHELL: bash, zsh or fish.

    For bash, write `eval "$(vram-llm completion bash)"` in ~/.bashrc; for zsh, the same with zsh in ~/.zshrc;
    for fish, `vram-llm completion fish | source` in config.fish.
    """
    from vram_llm.cli.main import cli

    completion = get_completion_class(shell)
    assert completion is not None
    # BashComplete.source() asks the bash in PATH for its version, which need not be the user's
    script = completion.source_template % completion(cli, {}, "vram-llm", "_VRAM_LLM_COMPLETE").source_vars()
    click.echo(script, nl=False)
