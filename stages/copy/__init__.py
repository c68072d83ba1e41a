"""`gdist copy`: a cache at another place, whole, or with fewer layers, fewer utterances or another encoding."""
