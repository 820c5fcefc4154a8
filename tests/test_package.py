"""What `import vram_llm` costs and offers."""

import subprocess
import sys

import pytest

import vram_llm


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, vram_llm; print(*(m for m in sys.modules if m.startswith('vram_llm') or m == 'numpy'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["vram_llm"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = vram_llm.nonsense
