"""The gap of POST /infill."""

from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import Infill
from vram_llm.errors import RequestError
from vram_llm.server.errors import NoInfill
from vram_llm.server.native.fields import InfillFields

MAX_INFILL_CHARS = 2**21  # of all texts together; most of a longer one would not fit the context anyway
_UNNAMED = "tmp"  # llama-server's


def gap_of(fields: InfillFields, info: ModelInfo, *, suffix_first: bool) -> Infill:
    """The texts around the gap. Raises NoInfill for a model that was not trained for gaps, RequestError."""
    names = ("prefix", "suffix", "middle")
    missing = [name for name in names if getattr(info.fim, name) < 0]
    if missing:
        raise NoInfill(
            f"'{info.name}' cannot fill gaps: its vocabulary has no token for {' and '.join(missing)}; serve "
            "a model that was trained to, or send a prompt to /completion"
        )
    files = tuple((extra.filename or _UNNAMED, extra.text) for extra in fields.input_extra or ())
    n_chars = sum(len(name) + len(text) for name, text in files)
    n_chars += len(fields.input_prefix) + len(fields.input_suffix)
    if n_chars > MAX_INFILL_CHARS:
        raise RequestError(
            f"The texts around the gap have {n_chars:,} characters and {MAX_INFILL_CHARS:,} is the most; "
            "send fewer files in 'input_extra'",
            "input_extra",
        )
    return Infill(
        prefix=fields.input_prefix, suffix=fields.input_suffix, files=files, suffix_first=suffix_first
    )
