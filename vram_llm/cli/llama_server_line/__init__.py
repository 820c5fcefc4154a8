"""llama-server's command line, and the options of `serve` that stand for its flags."""
