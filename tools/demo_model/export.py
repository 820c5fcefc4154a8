"""Write the trained model as a GGUF file, its matrices as Q8_0."""

from pathlib import Path

import gguf

from tools.demo_model.corpus import TEMPLATE
from tools.demo_model.network import Llama, Shape
from tools.demo_model.vocabulary import CONTROL, MARKS, Vocabulary

Q8_0 = gguf.GGMLQuantizationType.Q8_0


def write(path: Path, model: Llama, vocabulary: Vocabulary) -> None:
    """Write `model` to `path`."""
    writer = gguf.GGUFWriter(path, "llama")
    _write_header(writer, model.shape)
    _write_vocabulary(writer, vocabulary)
    for name, tensor in model.state_dict().items():
        weights = tensor.detach().float().numpy()
        if weights.ndim == 1:
            writer.add_tensor(name, weights)
        else:
            writer.add_tensor(name, gguf.quantize(weights, Q8_0), raw_dtype=Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_header(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("vram-llm demo")
    writer.add_description(
        "Answers some hundred questions on vram-llm, GPUs and llama.cpp; see MODEL_CARD.md."
    )
    writer.add_license("mit")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_sampling_temp(0.0)  # two million weights have one good answer, if any
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)


def _write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    kinds = {
        **dict.fromkeys(CONTROL, gguf.TokenType.CONTROL),
        **dict.fromkeys(MARKS, gguf.TokenType.USER_DEFINED),
    }
    end_of_text, _, im_end = map(vocabulary.id_of, CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in vocabulary.tokens])
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(im_end)
    writer.add_eot_token_id(im_end)
    writer.add_pad_token_id(end_of_text)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE.read_text(encoding="utf-8"))
