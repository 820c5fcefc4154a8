"""Class names are unique in the package, and the script that measures the code finds what passes a limit."""

from pathlib import Path

from scripts.measure_code import PACKAGE, measures


def test_class_names_are_unique() -> None:
    """So a name in a traceback or a search means one thing."""
    shared = {each.name: each.value for each in measures(PACKAGE) if each.what == "classes of one name"}
    assert {name for name, n_classes in shared.items() if n_classes > 1} == set()


def test_what_passes_a_limit_is_found(tmp_path: Path) -> None:
    methods = "".join(f"    def m{i}(self):\n        pass\n" for i in range(21))
    parameters = ", ".join(f"p{i}" for i in range(8))
    (tmp_path / "one.py").write_text(
        f"class Twice:\n{methods}"
        f'class Excused:\n    """Methods: one for each call."""\n{methods}'
        f"class Methods:\n    def seven(self, p, {parameters[:-4]}):\n        pass\n"
        f"@click.command()\ndef command({parameters}):\n    pass\n"
        f"def wide({parameters}):\n" + "    pass\n" * 60,
        encoding="utf-8",
    )
    (tmp_path / "two.py").write_text("if True:\n    class Twice:\n        pass\n" * 1, encoding="utf-8")
    (tmp_path / "long.py").write_text("\n" * 401, encoding="utf-8")
    assert {(each.what, each.name, each.value) for each in measures(tmp_path) if each.is_over} == {
        ("classes of one name", "class Twice", 2),
        ("methods", "one.py:Twice", 21),
        ("parameters", "one.py:Methods.seven", 8),
        ("parameters", "one.py:wide", 8),
        ("function lines", "one.py:wide", 61),
        ("file lines", "long.py", 401),
    }
