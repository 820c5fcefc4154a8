"""The four agents: what each is asked, and the JSON it answers in."""

import json
from dataclasses import dataclass
from typing import Any

ROLE = (
    "You review a legacy system that is to be modernised. Only say what the material shows. Answer in JSON."
)
LONGEST = 120  # characters of a text in an answer
OF_AN_ITEM = 180  # tokens, at most: four texts, at three characters a token, and their names
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Agent:
    """One of them: its answer is a list, called `key`, of objects with these fields."""

    name: str
    task: str
    key: str
    fields: Schema

    def schema(self, answer_tokens: int) -> Schema:
        """What its answer must be, short enough for `answer_tokens`."""
        item = {
            "type": "object",
            "properties": self.fields,
            "required": list(self.fields),
            "additionalProperties": False,
        }
        most = max(1, (answer_tokens - LONGEST // 2) // OF_AN_ITEM)
        return {
            "type": "object",
            "properties": {"summary": _text(), self.key: {"type": "array", "items": item, "maxItems": most}},
            "required": ["summary", self.key],
            "additionalProperties": False,
        }


def _text() -> Schema:
    return {"type": "string", "maxLength": LONGEST}


def _one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


REVIEWERS = (
    Agent(
        "analyzer",
        "Say what this does, and name its components with their purpose and what they depend on.",
        "components",
        {"name": _text(), "purpose": _text(), "depends_on": _text()},
    ),
    Agent(
        "security",
        "Find weaknesses: injection, secrets in the code, unchecked input, unsafe calls, permissions.",
        "findings",
        {
            "where": _text(),
            "severity": _one_of("low", "medium", "high"),
            "weakness": _text(),
            "advice": _text(),
        },
    ),
    Agent(
        "modernization",
        "Propose the steps that would modernise it, the most useful first.",
        "steps",
        {"what": _text(), "why": _text(), "effort": _one_of("days", "weeks", "months")},
    ),
)
VALIDATOR = Agent(
    "validator",
    "Three reviews follow. Check their claims against the material above.",
    "verdicts",
    {"claim": _text(), "verdict": _one_of("confirmed", "doubtful", "wrong"), "reason": _text()},
)


def prompt(material: str, agent: Agent, reviews: dict[str, Any] | None = None) -> list[dict[str, str]]:
    """The chat for `agent`. All that agents have in common comes first: the server computes it once."""
    said = f"\n\nReviews:\n{json.dumps(reviews)}" if reviews else ""
    return [
        {"role": "system", "content": ROLE},
        {"role": "user", "content": f"Material:\n{material}\n\nTask: {agent.task}{said}"},
    ]
