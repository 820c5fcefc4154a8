"""llama-server's native routes: POST /completion, /completions without /v1, and /infill."""
