"""The reasons why tests fail here that llama-server passes, by the test's id with or without parameters."""

from collections.abc import Mapping

_UNIT = "unit/test_"
REASONS: Mapping[str, str] = {
    f"{_UNIT}basic.py::test_server_model_aliases_and_tags": (
        "/v1/models lists each alias as a model, so that a client finds the name it is set to."
    ),
    f"{_UNIT}chat_completion.py::test_chat_completion[None-Book-What is the best book-8-^ blue-23-8-length-"
    "True-This is not a chat template, it is]": (
        "A chat template that leaves out the messages is refused at the start: no message is lost in silence."
    ),
    f"{_UNIT}chat_completion.py::test_context_size_exceeded": (
        "The error has OpenAI's type and code, invalid_request_error and context_length_exceeded; "
        "n_prompt_tokens and n_ctx are in it."
    ),
    f"{_UNIT}chat_completion.py::test_context_size_exceeded_stream": "As test_context_size_exceeded.",
    f"{_UNIT}compat_anthropic.py::test_anthropic_tool_result_with_image": (
        "An image for a model that takes none is the request's fault: 400, where llama-server says 500."
    ),
    f"{_UNIT}compat_anthropic.py::test_anthropic_vision_format_accepted": (
        "As test_anthropic_tool_result_with_image."
    ),
    f"{_UNIT}embedding.py::test_embedding_mixed_input[-False]": (
        "An empty text is refused, as OpenAI refuses it: there is nothing to embed."
    ),
    f"{_UNIT}compat_gcp.py::test_gcp_predict_camel_case": "Vertex AI (AIP_PREDICT_ROUTE) has no route.",
    f"{_UNIT}compat_gcp.py::test_gcp_predict_multiple_instances": "As test_gcp_predict_camel_case.",
    f"{_UNIT}ctx_shift.py::test_ctx_shift_disabled_long_prompt": (
        "The error has the number of tokens and the context, in other words than the test looks for."
    ),
    f"{_UNIT}kv_keep_only_active.py::test_clear_and_restore": (
        "The test looks for a mark in llama-server's own log; idle slots go to host memory here too."
    ),
    f"{_UNIT}metrics.py::test_metrics_disabled": "GET /metrics is always there; keys with scopes guard it.",
    f"{_UNIT}metrics.py::test_metrics_prometheus_format": (
        "llamacpp:n_tokens_max is a maximum, so a gauge; a counter's name would end in _total."
    ),
    f"{_UNIT}proxy.py::test_mcp_no_proxy": "There is no proxy for MCP servers, so its route is unknown: 404.",
    f"{_UNIT}router.py::test_router_props": (
        "No model is installed for the tests, so the built-in one is served, and there is no router."
    ),
    f"{_UNIT}router.py::test_router_chat_completion_stream": "As test_router_props; it answers by any name.",
    f"{_UNIT}router.py::test_router_reload_models": (
        "Models of presets are fetched before the start; a preset that changes is read by the next start."
    ),
    f"{_UNIT}router.py::test_router_delete_model": "No route deletes files of models.",
    f"{_UNIT}sleep.py::test_server_sleep_read_only_endpoints": (
        "A model that is unloaded when idle is served like several, whose metrics are labelled by model."
    ),
    f"{_UNIT}sleep.py::test_server_sleep_metrics_buckets": "As test_server_sleep_read_only_endpoints.",
    f"{_UNIT}security.py::test_incorrect_api_key": (
        "A wrong key is OpenAI's error: type invalid_request_error, code invalid_api_key."
    ),
    f"{_UNIT}security.py::test_cors_options[origin-Access-Control-Allow-Credentials-true]": (
        "Keys are sent in a header, never as a cookie: other origins get no credentials."
    ),
    f"{_UNIT}security.py::test_cors_options[web.mydomain.fr-Access-Control-Allow-Headers-*]": (
        "The reply names the headers that are asked for, since * leaves Authorization out in browsers."
    ),
    f"{_UNIT}security.py::test_local_media_file[../../../tools-file:////mtmd//test-1.jpeg-True]": (
        "The path of a file:// URL is relative to --image-dir; one that begins with slashes is refused."
    ),
    f"{_UNIT}slot_save.py::test_slot_restore_media_file_without_mmproj": (
        "The refusal names the projector in other words than the test looks for."
    ),
    f"{_UNIT}vision_api.py::test_vision_embeddings[What is this: <__media__>\\n-IMG_BASE64_0-True]": (
        "--embeddings alone leaves the pooling to the file; a model whose file names none writes text."
    ),
    f"{_UNIT}vision_api.py::test_vision_embeddings[What is this: <__media__>\\n-IMG_BASE64_1-True]": (
        "As with the other picture."
    ),
}


def reason(test: str) -> str | None:
    """The reason why a test fails here; None: unknown."""
    return REASONS.get(test) or REASONS.get(test.partition("[")[0])
