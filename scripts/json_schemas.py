"""Write vram_llm/schemas, a JSON schema for the output of each --json, from the types of the output.

python -m scripts.json_schemas
"""

import json
import sys
from pathlib import Path

from vram_llm.cli.json_types import DOCUMENTS, schema

FOLDER = Path(__file__).resolve().parent.parent / "vram_llm" / "schemas"


def schema_text(name: str) -> str:
    """The text of a schema's file."""
    return json.dumps(schema(name), indent=2) + "\n"


def main() -> None:
    """Write all schemas."""
    FOLDER.mkdir(exist_ok=True)
    for name in DOCUMENTS:
        path = FOLDER / f"{name}.json"
        path.write_text(schema_text(name), encoding="utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
