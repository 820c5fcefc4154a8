"""The draft model, and the kinds of drafts."""

from collections.abc import Callable, Mapping

import click

from vram_llm.cli.llama_server_line.model_rules import repository
from vram_llm.cli.llama_server_line.read_line import Given
from vram_llm.cli.llama_server_line.translation import Translation
from vram_llm.planner.types import HOST

_MTP, _SIMPLE, _NONE = "draft-mtp", "draft-simple", "none"


def _draft(found: Translation, given: Given) -> None:
    path, repo = found.line.last("-md"), found.line.last("-hfd")
    if repo is not None:
        if given.flag is repo.flag:
            found.add("--draft", repository(str(repo.value), None if path is None else str(path.value)))
    else:
        found.add("--draft", str(given.value))


def _spec_type(found: Translation, given: Given) -> None:
    has_draft = _has_draft(found)
    for name in str(given.value).split(","):
        if name == _MTP and not has_draft:
            if "mtp" not in found.words:
                found.add("--draft", "mtp")
        elif name.startswith("ngram-"):
            found.always.append(
                f"always so: {given.name} {name}: drafts from the text itself are always tried"
            )
        elif name not in (_SIMPLE, _NONE, _MTP):
            raise click.UsageError(
                f"{given.name} {name}: drafts come from a smaller model, the model's own MTP head, or "
                "the text itself"
            )


_ONE = "a draft model is on one device, which the plan chooses if -devd does not"


def _has_draft(found: Translation) -> bool:
    return found.line.last("-md") is not None or found.line.last("-hfd") is not None


def _draft_layers(found: Translation, given: Given) -> None:
    """All layers are on the draft model's device, or none."""
    if str(given.value) == "0" and _has_draft(found):
        found.add("--draft-device", HOST)
    else:
        found.ignored.append(f"ignored: {given}: {_ONE}")


def _draft_device(found: Translation, given: Given) -> None:
    layers, names = found.line.last("-ngld"), str(given.value).split(",")
    if len(names) > 1 or not _has_draft(found):
        found.ignored.append(f"ignored: {given}: {_ONE}")
    elif layers is None or str(layers.value) != "0":
        found.add("--draft-device", HOST if names == [_NONE] else found.devices.id_of(names[0].strip()))


DRAFT_RULES: Mapping[str, Callable[[Translation, Given], None]] = {
    "draft": _draft,
    "spec_type": _spec_type,
    "draft_layers": _draft_layers,
    "draft_device": _draft_device,
}
