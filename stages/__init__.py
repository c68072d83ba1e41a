"""The science and the commands. Stages import pipeline, never the reverse."""
