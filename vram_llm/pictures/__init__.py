"""Pictures, drawn with matplotlib: the extra `vram-llm[plot]`."""
