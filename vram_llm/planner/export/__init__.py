"""Plans as input for other programs: llama-server, llama-cpp-python, Docker Compose."""
