"""From messages to a prompt, and from a model's text to content, thinking and calls."""
