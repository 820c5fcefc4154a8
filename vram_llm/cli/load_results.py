"""Result files of `bench serve`, with vLLM's keys."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from vram_llm.bench.arrivals import LoadShape
from vram_llm.bench.load_test import LoadResult
from vram_llm.bench.report import DETAILS, LoadReport, ResultHeading
from vram_llm.cli import terminal

_MOST_ERRORS = 10  # sentences of failed requests


def report_of(shape: LoadShape, options: dict[str, Any]) -> LoadReport:
    """The report that the options ask for, of a load of this shape."""
    return LoadReport(shape=shape, latencies=options["latencies"], percentiles=options["percentiles"])


def figures_of(report: LoadReport, result: LoadResult, options: dict[str, Any]) -> dict[str, Any]:
    """vLLM's keys of a load, with a value for each request only if they are asked for."""
    found = report.saved(result.run, result.metrics)
    if options["save_detailed"]:
        return found
    return {key: value for key, value in found.items() if key not in DETAILS}


def save_result(model: str, shape: LoadShape, found: dict[str, Any], options: dict[str, Any]) -> None:
    """Write the result file, if the options ask for one. Raises OSError."""
    if not (options["save_result"] or options["append_result"]):
        return
    heading = ResultHeading(
        model=model,
        backend=options["backend"],
        label=options["label"],
        n_prompts=options["num_prompts"],
        metadata=dict(options["metadata"]),
    )
    now = datetime.now()
    path = (options["result_dir"] or Path()) / (options["result_filename"] or heading.file_name(shape, now))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if options["append_result"] else "w", encoding="utf-8") as file:
        if options["append_result"] and file.tell():
            file.write("\n")
        json.dump(heading.keys(shape, now) | found, file)
    terminal.say(f"saved: {path}", err=True)


def say_errors(result: LoadResult) -> None:
    """Name the errors of failed requests, each once."""
    errors = dict.fromkeys(outcome.error for outcome in result.run.outcomes if outcome.error)
    for error in list(errors)[:_MOST_ERRORS]:
        terminal.say(f"failed: {error}", err=True)
