"""What the identity of a cache has beside the shape of its arrays, for caches that no teacher made."""

from typing import Any

NOBODYS: dict[str, Any] = {
    "teacher": {
        "family": "nobody",
        "fingerprint": "0",
        "num_layers": 12,
        "num_params": 0,
        "do_normalize": False,
        "final_norm": False,
    },
    "manifest": "0",
    "precision": "fp32",
    "sample_rate": 16_000,
    "max_seconds": 60.0,
    "batch_seconds": 32.0,
}
ABOUT = {"gdist": "0", "teacher": "of/nobody", "device": "cpu"}
