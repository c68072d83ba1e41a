"""Where the points of a sweep stand: what its folder records, and which is ahead; `best` and `report` share it."""
