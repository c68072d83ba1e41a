"""The cache: its plan, its layout, its bytes, and how they are checked."""
