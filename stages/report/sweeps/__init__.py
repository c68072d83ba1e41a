"""The answer of a sweep: which student to take and why, for the report's page and as Markdown."""
