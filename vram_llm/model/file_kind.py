"""Kinds of GGUF files other than models, and the option that takes each.

llama.cpp's converters write `general.type` (gguf-py/gguf/constants.py, GGUFType); older files are recognised
by their architecture or their tensors.
"""

from enum import Enum

from vram_llm.model.header import Header


class FileKind(Enum):
    """The value continues a sentence that begins with the file's name and "is"."""

    MODEL = "a model: give it as MODEL"
    ADAPTER = "a LoRA adapter, not a model: give it with --lora, and the model it was made for as MODEL"
    PROJECTOR = "a multimodal projector, not a model: give it with --mmproj, and its model as MODEL"
    CONTROL_VECTOR = "a control vector, not a model; control vectors are not applied here"
    IMATRIX = "an importance matrix for quantising, not a model"
    VOCABULARY = "a vocabulary without weights, not a model"


def kind_of(header: Header) -> FileKind:
    """The kind of the file that `header` was read from."""
    architecture, kind = header.metadata.get("general.architecture"), header.metadata.get("general.type")
    if kind == "adapter" or "adapter.type" in header.metadata:
        is_vector = header.metadata.get("adapter.type") == "control_vector"
        return FileKind.CONTROL_VECTOR if is_vector else FileKind.ADAPTER
    if kind == "mmproj" or architecture == "clip":
        return FileKind.PROJECTOR
    if architecture == "controlvector":
        return FileKind.CONTROL_VECTOR
    if kind == "imatrix":
        return FileKind.IMATRIX
    return FileKind.MODEL if header.tensors else FileKind.VOCABULARY


_HEADS = {
    "eagle3": "an EAGLE-3 head",
    "dflash": "a DFlash head",
    "gemma4-assistant": "a Gemma 4 assistant head",
}  # general.architecture of drafts that read the model's hidden states


def draft_head_of(header: Header) -> str | None:
    """The kind of a file with a draft head alone, which reads a model's hidden states; None: another file."""
    architecture = header.metadata.get("general.architecture")
    names = {tensor.name for tensor in header.tensors}
    if architecture == "dflash" and "markov_w1.weight" in names:
        return "a DSpark head"  # common_speculative_types_from_gguf of common/speculative.cpp
    if isinstance(architecture, str) and architecture in _HEADS:
        return _HEADS[architecture]
    has_block = any(".nextn." in name for name in names)
    return "an MTP head without its model" if has_block and "blk.0.attn_norm.weight" not in names else None
