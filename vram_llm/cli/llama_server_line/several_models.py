"""Lines for several models: where each is, the plan decides."""

from dataclasses import replace

from vram_llm.cli.llama_server_line.read_line import ReadLine

_PLACEMENT = frozenset({
    "-dev", "-ngl", "-sm", "-ts", "-mg", "-ot", "-cmoe", "-ncmoe", "-ncffn", "-fit", "-fitt", "-fitc",
    "--spec-draft-device", "--spec-draft-ngl", "--spec-draft-override-tensor", "-mmdev",
})  # fmt: skip
"""First names of flags on the place of weights."""


def without_placement(line: ReadLine) -> ReadLine:
    """The line without flags on the place of weights, and a note on each."""
    placing = [given for given in line.given if given.flag.names[0] in _PLACEMENT]
    kept = tuple(given for given in line.given if given not in placing)
    notes = [f"{given}: the plan of several models decides where each is" for given in placing]
    return replace(line, given=kept, notes=(*line.notes, *notes))
