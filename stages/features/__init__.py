"""Features out: the hidden states of a cache, for people who only want these in a tool of their own."""
