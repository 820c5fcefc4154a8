"""llama.cpp's C interface loads without the class Llama, which is there for whoever asks for it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

ASKS = """
import sys
from vram_llm.llama.dryrun import worker
from vram_llm.llama import bindings, device_samplers
from vram_llm.llama.dryrun import virtual_device
print(sorted({"numpy", "jinja2", "llama_cpp.llama"} & set(sys.modules)))
import llama_cpp
print(llama_cpp.__version__ == bindings.SUPPORTED_VERSION, llama_cpp.llama_cpp is bindings.C)
print(llama_cpp.Llama.__name__, hasattr(llama_cpp, "nothing"))
bindings.C.llama_model_load_from_file(b"/nothing.gguf", bindings.C.llama_model_default_params())
print("nothing.gguf" in bindings.last_errors())
"""


def test_a_dry_run_imports_no_more_than_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True True", "Llama False", "True"]
