"""A needle in a haystack: what a model finds again in a long text, by length and depth."""
