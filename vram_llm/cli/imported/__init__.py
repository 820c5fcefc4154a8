"""Configurations of llama-swap and of llama-server's router as files for `vram-llm serve`."""
