"""The exported model: making it, running it, scoring it. Only `export`, `translate` and `graph` need torch."""
