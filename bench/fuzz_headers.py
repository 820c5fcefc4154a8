"""Look for headers that crash the reader or the profile, guided by coverage, for some seconds.

    pip install atheris
    python -m bench.fuzz_headers -max_total_time=120 [more options of libFuzzer]

It begins with the models of bench.headers. An error that is not the project's ends it, and libFuzzer writes
the file that caused it.
"""

import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vram_llm.model"]):
    from vram_llm.errors import MissingShard, VramLLMError
    from vram_llm.model import gguf, header_file, profile
    from vram_llm.model.header import join_shards

from tests.model.header_drafts import seeds


def try_bytes(data: bytes) -> None:
    """Parse a header and work out its profile."""
    path = Path("m.gguf")
    try:
        size = len(data) + 2**40  # the tensor data, which the header alone does not have
        first = header_file.ReadFile(gguf.parse(data, size, path.name), size)
        profile.profile(join_shards(path, first, _no_parts))
    except VramLLMError:
        pass


def _no_parts(paths: list[Path]) -> Generator[header_file.ReadFile, None, None]:
    raise MissingShard(f"{len(paths)} parts are missing")
    yield


def main() -> None:
    """Write the first inputs and run libFuzzer."""
    with tempfile.TemporaryDirectory() as folder:
        for i, drafts in enumerate(seeds()):
            for j, draft in enumerate(drafts):
                draft.keeps_hole = False
                draft.write(Path(folder) / f"{i}-{j}")
        atheris.Setup([*sys.argv, "-max_len=65536", folder], try_bytes)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
