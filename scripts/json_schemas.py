"""Write vram_llm/schemas: a JSON schema for the output of each --json, and one for configuration files.

python -m scripts.json_schemas
"""

import json
import sys
from pathlib import Path

from vram_llm.cli.config_schema import CONFIG_FILE, config_file_schema
from vram_llm.cli.json_types import DOCUMENTS, schema

FOLDER = Path(__file__).resolve().parent.parent / "vram_llm" / "schemas"


NAMES = (*DOCUMENTS, CONFIG_FILE)


def schema_text(name: str) -> str:
    """The text of a schema's file."""
    content = config_file_schema() if name == CONFIG_FILE else schema(name)
    return json.dumps(content, indent=2) + "\n"


def main() -> None:
    """Write all schemas."""
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        path = FOLDER / f"{name}.json"
        path.write_text(schema_text(name), encoding="utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
