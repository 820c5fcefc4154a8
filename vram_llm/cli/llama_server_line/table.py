"""Every flag of llama-server, by name and by variable."""

from collections.abc import Mapping

from vram_llm.cli.llama_server_line.draft_flags import DRAFT_FLAGS
from vram_llm.cli.llama_server_line.flag import Flag, ValueKind
from vram_llm.cli.llama_server_line.model_flags import MODEL_FLAGS
from vram_llm.cli.llama_server_line.older_flags import OLDER_FLAGS
from vram_llm.cli.llama_server_line.placement_flags import PLACEMENT_FLAGS
from vram_llm.cli.llama_server_line.sampling_flags import SAMPLING_FLAGS
from vram_llm.cli.llama_server_line.server_flags import SERVER_FLAGS

FLAGS = (*MODEL_FLAGS, *PLACEMENT_FLAGS, *DRAFT_FLAGS, *SAMPLING_FLAGS, *SERVER_FLAGS)

ALL_FLAGS = (*FLAGS, *OLDER_FLAGS)

BY_NAME: Mapping[str, Flag] = {name: flag for flag in ALL_FLAGS for name in (*flag.names, *flag.negative)}


def variables_of(flag: Flag) -> tuple[str, ...]:
    """The environment variables of a flag; of an ON_OFF flag, the negative one is first."""
    if flag.variable is None:
        return ()
    negative = flag.variable.replace("LLAMA_ARG_", "LLAMA_ARG_NO_", 1)
    return (negative, flag.variable) if flag.kind is ValueKind.ON_OFF and flag.negative else (flag.variable,)
