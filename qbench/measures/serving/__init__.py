"""A cell as it is served: an OpenAI-compatible server, and a load upon it."""
