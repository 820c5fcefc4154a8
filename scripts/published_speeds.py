"""Write vram_llm/machine/published_speeds.csv: the rows of published decode speeds that `plan` shows.

    python -m scripts.published_speeds FILE.csv [--zoo FOLDER]

FILE is a file of bench.corpus (docs/predictions.md). Kept are rows of one stream on equal cards of the
catalog, with the whole model on them: measured facts with their source, and the model's bytes by its shape.
"""

import argparse
import csv
import re
import tempfile
from pathlib import Path

from bench.corpus_models import Shapes
from bench.corpus_rows import Unasked, check_askable, is_on_cards_alone, machine_of
from vram_llm.errors import VramLLMError
from vram_llm.machine import catalog
from vram_llm.machine.card_generation import generation_of
from vram_llm.machine.published_speeds import FILE, PublishedRow
from vram_llm.planner.nearest_published import model_kind
from vram_llm.units import MIB


def published(row: dict[str, str], shapes: Shapes) -> PublishedRow | None:
    """The row's facts; None if it is not shown."""
    if not row["tg_tok_s"] or row["streams"] != "1" or not is_on_cards_alone(row):
        return None
    try:
        check_askable(row)
        devices = machine_of(row).devices
        names = {catalog.find_card(device.name, device.total_bytes).name for device in devices}
    except (Unasked, VramLLMError):
        return None
    zoo_id = shapes.zoo_id(row)
    if zoo_id is None or len(names) != 1 or devices[0].bandwidth_bytes_per_s is None:
        return None
    model, generation = shapes.profile(zoo_id), generation_of(devices[0])
    return PublishedRow(
        id=row["id"],
        source=re.sub(r" \(as copied in .*\)", "", row["source"]),
        date=row["date"],
        build=row["llama_cpp_build"],
        card=names.pop(),
        n_cards=len(devices),
        generation="" if generation is None else generation.value,
        bandwidth_gb_s=round(devices[0].bandwidth_bytes_per_s.value / 1e9),
        backend=row["backend"],
        model=row["model"],
        quantization=row["quant"].partition(" ")[0],
        kind=model_kind(model),
        total_mib=round(model.total_bytes / MIB),
        active_mib=round(model.active_bytes_per_token / MIB),
        depth=int(row["depth"] or 0),
        n_generated=int(row["gen_tokens"] or 0),
        tokens_per_s=float(row["tg_tok_s"]),
    )


def main() -> None:
    """Read the file, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--zoo", type=Path)
    options = parser.parse_args()
    shapes = Shapes(options.zoo or options.file.parent, Path(tempfile.gettempdir()) / "vram-llm-corpus-zoo")
    with options.file.open(newline="") as stream:
        found = [published(row, shapes) for row in csv.DictReader(stream)]
    with FILE.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(PublishedRow._fields)
        writer.writerows(row for row in found if row is not None)


if __name__ == "__main__":
    main()
