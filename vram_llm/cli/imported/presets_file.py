"""llama-server's model presets, the INI file of --models-preset, and its folders of --models-dir.

Form: parse_ini_from_file and load_from_ini in common/preset.cpp. A key is a flag without dashes, or a
variable. Values of "[*]" hold for models that do not set them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from vram_llm.cli.imported.imported_fleet import ImportedFleet
from vram_llm.cli.imported.imported_model import ImportedModel, imported_model
from vram_llm.cli.llama_server_line.flag import Flag, ValueKind
from vram_llm.cli.llama_server_line.model_rules import repository
from vram_llm.cli.llama_server_line.read_line import FALSE_WORDS, TRUE_WORDS
from vram_llm.cli.llama_server_line.table import ALL_FLAGS, variables_of
from vram_llm.errors import BadConfig

_ALL = "*"
_DEFAULT = "default"  # keys before the first section
_HEAD = re.compile(r"\[\s*([^\]]*?)\s*\]\s*(?:[;#].*)?")
_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(.*?)\s*(?:[;#].*)?")
_PRELOAD = "load-on-startup"
_PRESETS_ALONE = (_PRELOAD, "stop-timeout", "dedup-cache-models")


def read_presets(path: Path) -> ImportedFleet:
    """The models of an INI file. Raises BadConfig."""
    sections = _sections(path)
    shared = sections.pop(_ALL, {})
    return ImportedFleet(
        models=tuple(
            _model(path, name, {**shared, **values})
            for name, values in sections.items()
            if name != _DEFAULT or values.keys() - {"version"}
        )
    )


def models_in(folder: Path) -> Iterator[ImportedModel]:
    """The models below a folder, by the name of their file, or of the subfolder that holds nothing else.

    Raises ModelNotFound.
    """
    from vram_llm.model.library import models_below
    from vram_llm.workflows.model_names import served_name

    found = models_below(folder)
    subfolders = Counter(name.partition("/")[0] for name in found)
    for name, file in found.items():
        subfolder, is_below, _ = name.partition("/")
        own_name = subfolder if is_below and subfolders[subfolder] == 1 else served_name(str(file))
        yield ImportedModel(name=own_name, source=str(file.absolute()), values={})


def _sections(path: Path) -> dict[str, dict[str, str]]:
    """The keys of each section, as written. Raises BadConfig."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise BadConfig(f"the presets {path} cannot be read: they are no text in UTF-8") from None
    except OSError as error:
        raise BadConfig(f"the presets {path} cannot be read: {error.strerror}") from None
    found: dict[str, dict[str, str]] = {}
    section = found.setdefault(_DEFAULT, {})
    for number, text in enumerate(map(str.strip, lines), 1):
        if not text or text[0] in ";#":
            continue
        if head := _HEAD.fullmatch(text):
            section = found.setdefault(head[1], {})
        elif pair := _KEY.fullmatch(text):
            section[pair[1]] = pair[2]
        else:
            raise BadConfig(f"{path}:{number}: this is neither [NAME] nor KEY = VALUE")
    return found


def _model(path: Path, name: str, values: Mapping[str, str]) -> ImportedModel:
    given: dict[Flag, list[str]] = {}  # a flag of the section replaces that of "[*]" by any of its names
    remarks: list[str] = []
    for key, value in values.items():
        if key in _PRESETS_ALONE or key == "version":
            if key not in (_PRELOAD, "version"):
                remarks.append(f"not taken: {key} = {value}")
            continue
        if key not in _KEYS:
            raise BadConfig(f"{path}: llama-server has no flag {key}, in [{name}]")
        given[_KEYS[key]] = list(_words(_KEYS[key], key, value))
    source = repository(name) if re.fullmatch(r"[^/\s]+/[^/\s]+", name) else None
    words = [word for of_flag in given.values() for word in of_flag]
    model = imported_model(name, words, source=source)
    own = {"preload": True} if values.get(_PRELOAD) in TRUE_WORDS else {}
    return replace(model, values={**model.values, **own}, remarks=(*model.remarks, *remarks))


def _words(flag: Flag, key: str, value: str) -> Iterator[str]:
    """The flag on a command line. A switch that is off, or an empty value, gives nothing."""
    if flag.kind is ValueKind.ON_OFF:
        is_negative = any(name.lstrip("-") == key for name in flag.negative)
        is_on = (value in TRUE_WORDS) != is_negative
        yield flag.names[-1] if is_on else flag.negative[-1]
    elif flag.kind is ValueKind.SWITCH:
        if value not in FALSE_WORDS:
            yield flag.names[-1]
    else:
        yield from (flag.names[-1], value)


_KEYS: Mapping[str, Flag] = {
    **{variable: flag for flag in ALL_FLAGS for variable in variables_of(flag)},
    **{name.lstrip("-"): flag for flag in ALL_FLAGS for name in (*flag.names, *flag.negative)},
}
