"""Plans in the words of other programs: llama-server, llama-cpp-python, Docker Compose."""
