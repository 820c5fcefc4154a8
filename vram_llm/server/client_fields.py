"""Names of fields that known clients send and that have no effect here, or only with a neutral value.

Sources: the API references of OpenAI, OpenRouter, Mistral, Z.AI and Groq; llama-server's README.md and
server-schema.cpp; vLLM's and SGLang's protocol classes; LM Studio's and Ollama's API documents.
"""

from vram_llm.server.known_fields import Neutral

IGNORED = frozenset(
    {
        # OpenAI
        "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        # llama-server: options of the server decide on prompt reuse and drafting
        "id_slot", "n_keep", "n_discard", "n_cache_reuse", "backend_sampling",
        "sse_ping_interval", "reasoning_control",
        "speculative.n_max", "speculative.n_min", "speculative.p_min", "speculative.type",
        # vLLM, SGLang
        "priority", "request_id", "cache_salt", "rid", "guided_decoding_backend",
        "spaces_between_special_tokens", "stream_reasoning",
        # OpenRouter: there is one provider and one model
        "provider", "route", "models", "transforms", "trace", "session_id",
        # LM Studio, Ollama
        "ttl", "draft_model", "keep_alive", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread",
        "numa", "use_mmap", "use_mlock", "low_vram", "f16_kv", "vocab_only", "logits_all",
        "penalize_newline",
        # Z.AI, Open WebUI, text-generation-webui
        "tool_stream", "user_id", "chat_id", "conversation_id", "truncation_length",
        "t_max_prompt_ms",  # llama-server does not read it either
        # SillyTavern: for its own server
        "api_type", "api_server",
    }
)  # fmt: skip

NEUTRAL: Neutral = {
    # llama-server
    "response_fields": ([],), "grammar_lazy": (False,),
    "grammar_triggers": ([],), "preserved_tokens": ([],), "parse_tool_calls": (True,),
    "post_sampling_probs": (False,), "return_tokens": (False,), "verbose": (False,),
    "reasoning_in_content": (False,), "reasoning_budget_message": ("",),
    # vLLM, SGLang
    "use_beam_search": (False,), "length_penalty": (1,), "early_stopping": (False,),
    "include_stop_str_in_output": (False,), "prompt_logprobs": (), "allowed_token_ids": (),
    "bad_words": ([],), "truncate_prompt_tokens": (), "logits_processors": ([],), "kv_transfer_params": (),
    "vllm_xargs": ({},), "return_token_ids": (False,), "return_tokens_as_token_ids": (False,),
    "guided_whitespace_pattern": (), "mm_processor_kwargs": ({},), "media_io_kwargs": ({},),
    "no_stop_trim": (False,), "separate_reasoning": (True,),
    # OpenRouter, Mistral, Z.AI, xAI
    "plugins": ([],), "top_a": (0,), "safe_prompt": (False,), "do_sample": (True,), "deferred": (False,),
    "search_parameters": ({"mode": "off"},),
    # text-generation-webui, KoboldCpp and SillyTavern
    "skew": (0,), "max_tokens_second": (0,), "rep_pen_slope": (0, 1), "temperature_last": (True,),
    "tfs": (1,), "min_length": (0,), "add_bos_token": (True,), "ban_eos_token": (False,),
    "smoothing_factor": (0,), "smoothing_curve": (1,), "guidance_scale": (1,), "negative_prompt": ("",),
    "encoder_repetition_penalty": (1,), "no_repeat_ngram_size": (0,),
    "epsilon_cutoff": (0,), "eta_cutoff": (0,), "penalty_alpha": (0,), "num_beams": (1,), "nsigma": (0,),
    "custom_token_bans": ("",), "banned_strings": ([],),
    "banned_tokens": ([], ""), "grammar_string": ("",), "mode": ("instruct", "chat"),
    # Ollama
    "tfs_z": (1,), "raw": (False,), "template": ("",),
}  # fmt: skip

CHAT_NEUTRAL: Neutral = {
    "modalities": (["text"],), "audio": (), "prediction": (), "web_search_options": (), "echo": (False,),
    "best_of": (1,), "documents": ([],), "chat_template": (), "add_special_tokens": (False,),
    "chat_format": (),
}  # fmt: skip

MESSAGE_IGNORED = frozenset(
    {
        # fields that clients add to our answers and send back
        "refusal", "annotations", "parsed", "id", "timestamp", "created_at", "created", "model", "index",
        "finish_reason", "stop_reason", "logprobs", "usage", "metadata", "status", "object", "type",
        "provider_specific_fields", "thinking_blocks", "reasoning_details", "citations", "sender",
        "cache_control", "prefix", "weight", "_meta", "additional_kwargs", "response_metadata", "tool_plan",
        "done", "done_reason", "thinking_signature", "reasoning_signature", "encrypted_content", "phase",
        "createdAt", "recipient", "channel",
    }
)  # fmt: skip
MESSAGE_NEUTRAL: Neutral = {
    "audio": (), "images": ([],), "documents": ([],), "files": ([],), "attachments": ([],),
    "experimental_attachments": ([],), "tool_call_id": (),
}  # fmt: skip
PART_IGNORED = frozenset(
    {"cache_control", "annotations", "id", "index", "uuid", "_meta", "logprobs", "signature", "status"}
)
CALL_IGNORED = frozenset(
    {
        "index", "type", "cache_control", "provider_specific_fields", "extra_content", "_meta", "status",
        "parsed_arguments", "thought_signature", "call_id", "description", "caller",
    }
)  # fmt: skip
TOOL_IGNORED = frozenset(
    {
        "cache_control", "_meta", "annotations", "title", "output_schema", "outputSchema", "input_examples",
        "defer_loading", "eager_input_streaming", "allowed_callers", "returns", "response", "id", "icons",
        "execution", "metadata",
    }
)  # fmt: skip
