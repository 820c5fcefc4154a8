"""Inputs of requests: prompts to tokenize, images to read, grammars to compile."""
