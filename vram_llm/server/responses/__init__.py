"""POST /v1/responses: OpenAI's newer endpoint. A reply is a list of items; later requests can continue it."""
