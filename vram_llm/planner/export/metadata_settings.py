"""Overrides of a model file's metadata as llama-server's flag, and as lines of a Python script."""

import csv
import io
from collections.abc import Sequence

from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.planner.export.setting import Setting

_FIELDS = {"bool": "val_bool", "int": "val_i64", "float": "val_f64", "str": "val_str"}
_LINES = """\
changes = {changes}
kv_overrides = (C.llama_model_kv_override * (len(changes) + 1))()
for entry, (key, type, field, value) in zip(kv_overrides, changes):
    entry.key, entry.tag = key, type
    setattr(entry.value, field, value)
params.kv_overrides = kv_overrides
"""


def metadata_settings(overrides: Sequence[MetadataOverride]) -> tuple[Setting, ...]:
    """One flag with a row of CSV, which parse_csv_row of common/arg.cpp reads; it has no variable."""
    if not overrides:
        return ()
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(map(str, overrides))
    return (Setting("--override-kv", row.getvalue(), None),)


def metadata_lines(overrides: Sequence[MetadataOverride]) -> str:
    """Lines that set llama_model_params.kv_overrides; empty without overrides."""
    if not overrides:
        return ""
    changes = ", ".join(
        f"({each.key.encode()!r}, C.LLAMA_KV_OVERRIDE_TYPE_{each.type_name.upper()}, "
        f"{_FIELDS[each.type_name]!r}, {_bytes_or_number(each.value)!r})"
        for each in overrides
    )
    return _LINES.format(changes=f"[{changes}]")


def _bytes_or_number(value: bool | float | str) -> bool | float | bytes:
    return value.encode() if isinstance(value, str) else value
