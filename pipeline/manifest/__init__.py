"""The manifest: a table of utterances, its schema, and the sources it is built from."""
