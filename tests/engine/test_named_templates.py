"""A model file may carry a chat template for requests with tools."""

from pathlib import Path

import gguf
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import Start
from tests.patience import soon

pytestmark = pytest.mark.process

TEMPLATES = [
    {"name": "default", "template": "{{ messages[0].content }}"},
    {"name": "tool_use", "template": "{{ tools | length }}: {{ messages[0].content }}"},
]


async def test_the_engine_reports_both_templates(
    start: Start, plan_on_cpu: PlanOnCpu, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "named.gguf"
    source = gguf.GGUFReader(tiny_model)
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in source.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            sub_type = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type)
    writer.add_chat_template(TEMPLATES)
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    info = await soon(start(plan_on_cpu(path)).ready())
    assert [info.chat_template, info.tool_template] == [each["template"] for each in TEMPLATES]
