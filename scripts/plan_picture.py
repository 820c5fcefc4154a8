"""Draw docs/images/plan.svg and layers.svg: the plan of README.md, from the model's published shape.

python -m scripts.plan_picture
"""

import sys
import tempfile
from pathlib import Path

from tests import zoo
from vram_llm.pictures.draw_layers import draw_layers
from vram_llm.pictures.draw_plan import draw_plan
from vram_llm.planner.pictures import layer_picture
from vram_llm.planner.types import Workload
from vram_llm.workflows import detection, planning
from vram_llm.workflows.pictures import plan_picture

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "images"
RIG = "RTX 4080 Laptop + 2x RTX 3090 Ti on 64GiB DDR5-5600 2ch"


def draw(folder: Path, suffix: str = ".svg") -> None:
    """Write both pictures into `folder`."""
    with tempfile.TemporaryDirectory() as models, planning.dry_run() as dry:
        path = str(
            zoo.write(zoo.nemotron_49b(), Path(models) / "Llama-3_3-Nemotron-Super-49B-v1_5-Q8_0.gguf")
        )
        machine, workload = detection.detect(RIG), Workload()
        plan = planning.plan(path, machine, workload, dry)
        draw_plan(plan_picture(path, machine, workload, plan, dry), folder / f"plan{suffix}")
        draw_layers(layer_picture(detection.analyze(path), plan), folder / f"layers{suffix}")


def main() -> None:
    """Write docs/images."""
    OUTPUT.mkdir(exist_ok=True)
    draw(OUTPUT)
    sys.stdout.write(f"{OUTPUT}\n")


if __name__ == "__main__":
    main()
