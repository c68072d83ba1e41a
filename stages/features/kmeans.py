"""k-means over frames: centroids from a sample, and the nearest one of each frame.

Axes: K clusters, N sampled frames, T frames, D features.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gdist.pipeline.cache.entries import Numbers
from gdist.pipeline.errors import UsageError
from gdist.stages.features.selection import Matrix, Selection

# HuBERT's settings: fairseq's simple_kmeans/learn_kmeans.py.
SETTINGS = {"max_iter": 100, "batch_size": 10_000, "max_no_improvement": 100, "n_init": 20, "reassignment_ratio": 0.0}


def sampled(selection: Selection, frames: int, seed: int, advance: Callable[[float], None]) -> Matrix:
    """Return about ``frames`` frames, [N, D]: of utterances drawn at random, the same share of each.

    Args:
        advance: called with the number of frames of each utterance that was read.
    """
    positions = selection.positions
    lengths = selection.cache.entries.numbers("num_frames")[positions].astype(np.int64)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(positions))
    drawn = order[: int(np.searchsorted(np.cumsum(lengths[order]), 4 * frames)) + 1]  # of several frames, one is kept
    share = min(frames / float(lengths[drawn].sum()), 1.0)
    kept = []
    for utterance in selection.read(selection.cache.entries.take(positions[np.sort(drawn)])):
        (matrix_TD,) = utterance.matrices.values()
        kept.append(matrix_TD[generator.random(len(matrix_TD)) < share].astype(np.float32))
        advance(len(kept[-1]))
    return np.concatenate(kept)


def fit(sample_ND: Matrix, clusters: int, seed: int) -> Matrix:
    """Fit scikit-learn's MiniBatchKMeans, and return its centroids, float32 [K, D].

    Raises:
        UsageError: there are fewer frames than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    if len(sample_ND) < clusters:
        raise UsageError(
            f"--kmeans {clusters}: there are only {len(sample_ND)} frames to fit it on",
            "choose fewer clusters, or a larger --sample-frames",
        )
    model = MiniBatchKMeans(clusters, init="k-means++", compute_labels=False, tol=0.0, random_state=seed, **SETTINGS)
    return np.ascontiguousarray(model.fit(sample_ND).cluster_centers_, np.float32)


def read_centroids(path: Path, dim: int) -> Matrix:
    """Read centroids, float32 [K, D], from a file without pickled objects.

    Raises:
        UsageError: it is no such file, or has another number of features.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = f"--centroids {path}: cannot read it as .npy: {error}"
        raise UsageError(why, "give the centroids.npy that --kmeans wrote") from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f" or not len(found):
        raise UsageError(f"--centroids {path}: it must be one matrix of numbers, a centroid in each row")
    if found.shape[1] != dim:
        raise UsageError(
            f"--centroids {path}: its centroids have {found.shape[1]} features, and the cache's states have {dim}",
            "give centroids of the same teacher and layer",
        )
    if not np.isfinite(found).all():
        raise UsageError(f"--centroids {path}: some of its numbers are not finite")
    return np.ascontiguousarray(found, np.float32)


class Nearest:
    """Finds the nearest centroid of each frame."""

    def __init__(self, centroids_KD: Numbers) -> None:
        self._centroids_DK = torch.from_numpy(centroids_KD).T.contiguous()
        self._squares_K = self._centroids_DK.square().sum(0)

    def __call__(self, matrix_TD: Matrix) -> Numbers:
        """Return the number of the nearest centroid of each frame: [T]. A tie goes to the first one."""
        states_TD = torch.from_numpy(matrix_TD).float()
        distances_TK = self._squares_K - 2 * (states_TD @ self._centroids_DK)
        return distances_TK.argmin(1).numpy()
