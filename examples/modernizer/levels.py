"""From parts to modules to the system: four agents on each, then on what they said, until one is left."""

import asyncio
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from examples.modernizer.agents import REVIEWERS, VALIDATOR
from examples.modernizer.client import Client
from examples.modernizer.code_base import Count
from examples.modernizer.parts import Part, together

SYSTEM = "system"
Report = dict[str, Any]


async def review(client: Client, part: Part) -> Report:
    """Three agents side by side on one part, which they share as a prompt's beginning; then the validator."""
    said = await asyncio.gather(*(client.answer(agent, part.text) for agent in REVIEWERS))
    reviews = {agent.name: answer for agent, answer in zip(REVIEWERS, said, strict=True)}
    verdict = await client.answer(VALIDATOR, part.text, reviews)
    return {"name": part.name, "within": part.within, **reviews, VALIDATOR.name: verdict}


async def review_all(client: Client, parts: Sequence[Part], budget: int, count: Count) -> Report:
    """Reports of all parts, of each module and of the system."""
    found = await asyncio.gather(*(review(client, part) for part in parts))
    modules = {}
    for module, reports in groupby(found, key=lambda report: report["within"]):
        modules[module] = await _condensed(client, list(reports), module, budget, count)
    system = await _condensed(client, list(modules.values()), SYSTEM, budget, count)
    return {"parts": found, "modules": modules, SYSTEM: system}


async def _condensed(client: Client, reports: list[Report], name: str, budget: int, count: Count) -> Report:
    """One report on several, in as many rounds as it takes. Raises ValueError where no two fit the budget."""
    while len(reports) > 1:
        texts = [(report["name"], _as_material(report)) for report in reports]
        parts = together(texts, name, budget, count)
        if len(parts) == len(reports):
            raise ValueError(f"no two reports on {name} fit {budget} tokens; give a longer --context")
        reports = list(await asyncio.gather(*(review(client, part) for part in parts)))
    return {**reports[0], "name": name, "within": SYSTEM}


def _as_material(report: Report) -> str:
    """What the next level reads of a report: what was said, without the checking of it."""
    said = {agent.name: report[agent.name] for agent in REVIEWERS}
    return f"=== review of {report['name']}\n{json.dumps(said)}"
