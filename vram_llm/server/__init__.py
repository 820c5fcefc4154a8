"""The OpenAI endpoint: HTTP in front of an engine that is handed in."""
