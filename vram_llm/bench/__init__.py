"""The load benchmark: requests to an OpenAI endpoint at a known load, their latencies and throughput."""
