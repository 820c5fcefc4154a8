from scripts.cli_reference import OUTPUT, reference
from vram_llm.cli.main import _COMMANDS


def test_the_reference_is_current() -> None:
    assert OUTPUT.read_text() == reference(), "run: python -m scripts.cli_reference"


def test_every_command_is_in_it() -> None:
    sections = [line for line in reference().splitlines() if line.startswith("## vram-llm ")]
    assert {line.split()[2] for line in sections} == set(_COMMANDS)
