"""The parts of `vram-llm watch`: what is read, what is kept of it, and how it is drawn."""
