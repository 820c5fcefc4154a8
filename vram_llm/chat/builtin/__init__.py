"""The chat templates that llama.cpp has names for (src/llama-chat.cpp), as Jinja templates."""
