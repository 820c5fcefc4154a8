"""<tool_call>{"name": ..., "arguments": {...}}</tool_call>: Hermes 2 and 3, Qwen 2.5 and 3, and many more.

Source: the chat templates of NousResearch/Hermes-3-Llama-3.1-8B and Qwen/Qwen3-0.6B.
"""

from vram_llm.chat.formats.json_calls import objects

OPEN, CLOSE = "<tool_call>", "</tool_call>"
hermes = objects(OPEN, closing=CLOSE)
