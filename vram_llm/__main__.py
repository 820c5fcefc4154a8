"""`python -m vram_llm` is `vram-llm`."""

from vram_llm.cli.main import main

if __name__ == "__main__":
    main()
