"""Flags through the parser of the planning commands, and flags found in what they print."""

import click

from vram_llm.cli.plan_options import PlanOptions, plan_options
from vram_llm.cli.short_flags import ShortFlagsCommand
from vram_llm.cli.workload_options import WORKLOAD_OPTIONS
from vram_llm.planner.types import Workload


@click.command(cls=ShortFlagsCommand)
@plan_options
def _planning(options: PlanOptions) -> PlanOptions:
    return options


def typed(*flags: str) -> Workload:
    """The workload that flags on a command line ask for. Raises click.UsageError."""
    options: PlanOptions = _planning.main(list(flags), standalone_mode=False)
    return options.workload


def printed_flags(text: str) -> list[tuple[str, ...]]:
    """Runs of planning flags in a text, each flag with its value, as they would be copied out of it.

    Flags of a whole command, after "next: ", are left out.
    """
    takes_value = {
        name.split("/")[0]: option.type is not None
        for option in WORKLOAD_OPTIONS
        for name in option.flags.split()
    }
    switches = [name for option in WORKLOAD_OPTIONS for name in option.flags.partition(" ")[0].split("/")]
    found: list[tuple[str, ...]] = []
    run: list[str] = []
    lines = (line for line in text.splitlines() if not line.startswith("next: "))
    words = "\n".join(lines).replace("\\\n", " ").split()
    at = 0
    while at < len(words):
        word = words[at].strip("`(),;:.")
        if takes_value.get(word) and at + 1 < len(words):
            run += [word, words[at + 1].strip("`(),;:.")]
            at += 2
            continue
        if word in switches:
            run.append(word)
        elif run:
            found.append(tuple(run))
            run = []
        at += 1
    return [*found, tuple(run)] if run else found
