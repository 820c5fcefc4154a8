"""POST /v1/responses: OpenAI's newer endpoint, where a reply is a list of items and may be built upon."""
