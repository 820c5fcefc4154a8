import pytest

from scripts.json_schemas import FOLDER, NAMES, schema_text


@pytest.mark.parametrize("name", NAMES)
def test_the_schemas_are_of_this_version(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == schema_text(name), "run: python -m scripts.json_schemas"


def test_there_is_no_other_schema() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(NAMES)
