"""The manifest: a table of utterances, what may stand in it, and what it is built from."""
