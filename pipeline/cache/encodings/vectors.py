"""Residual and product vector quantization: three bytes per 32 features, for caches where size matters most.

A frame minus the layer's mean is stored as the number of its nearest centroid. The remainder is stored the same way
by a second stage. What then remains is rotated onto its principal axes, split into groups that need equally many
bits, and stored as one number per group. The whole-frame stages capture the clusters of frames, which no rotation
can, and the groups spend the other bytes where the variance is. Everything is learned from a sample of the layer's
frames by k-means.

The groups are the parametric ones of optimized product quantization (Ge et al., CVPR 2013, section 4.1), balanced by
the bits of reverse water-filling (Cover and Thomas, section 10.3.3).

Axes: B batch, T frames, D features, K centroids, S whole-frame stages, M groups, G components per group, W = S + M.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from gdist.pipeline.cache.encodings.base import LAYERS, Encoding, Part, Stored, Tables
from gdist.pipeline.cache.layout import CHUNK_FRAMES

FILL = CENTROIDS = 255  # centroids are numbered 0 … 254, so 255 is free to mark missing rows
STAGES = 2
GROUP = 6  # at most this many components per group; those left out have hardly any variance
BLOCKS = 32  # of 128 frames, encoded at once on a GPU; their scores take 300 MB for 768 features
ITERATIONS = 10  # 15 more lower the error by 0.5 %


class ResidualVectors(Encoding):
    """Three bytes per 32 features; each is the nearest of 255 learned centroids, for the frame or its remainder."""

    name, bytes_per_value, relative_error = "rvq", 3 / 32, 0.19
    largest = 2.0**64  # a frame far from the sample is stored as its nearest centroids
    calibrated = True

    def parts(self, dim: int) -> dict[str, Part]:
        return {LAYERS: Part(max(STAGES + 1, dim * 3 // 32), "uint8", FILL)}

    def encode(self, hidden_BTD: Tensor, num_frames_B: Tensor, tables: Tables) -> Stored:
        batch, frames, dim = hidden_BTD.shape
        # The last bits of a matrix product depend on the matrices' shapes. On a CPU, blocks of one shape, each from
        # one utterance, give an utterance the same bytes in any batch. A GPU's hidden states depend on the batch
        # anyway, and a block at a time would leave it idle.
        blocks_NTD = pad(hidden_BTD, (0, 0, 0, -frames % CHUNK_FRAMES)).reshape(-1, CHUNK_FRAMES, dim)
        at_once = 1 if hidden_BTD.device.type == "cpu" else BLOCKS
        code_NW = self.encode_blocks(blocks_NTD, at_once, tables)
        return {LAYERS: code_NW.view(batch, -1, code_NW.shape[1])[:, :frames]}

    def encode_blocks(self, blocks_NTD: Tensor, at_once: int, tables: Tables) -> Tensor:
        """[N, 128, D] → codes [N · 128, W], from products of ``at_once`` blocks each."""
        mean_D, scale, frames_SKD, axes_CD, groups_MKG = _unpacked(tables)
        scores_S = [_scores(frames_KD[None, :CENTROIDS]) for frames_KD in frames_SKD]
        scores = _scores(groups_MKG[:, :CENTROIDS])
        codes = []
        for some_NTD in torch.split(blocks_NTD, at_once):
            rest_TD, code = (some_NTD.flatten(0, 1) - mean_D) / scale, []
            for stage, frames_KD in enumerate(frames_SKD):
                code.append(_nearest(rest_TD[None], scores_S[stage]))
                rest_TD = rest_TD - frames_KD[code[-1][:, 0]]
            code.append(_nearest(_grouped(rest_TD @ axes_CD.T, len(groups_MKG)), scores))
            codes.append(torch.cat(code, dim=1))
        return torch.cat(codes).to(torch.uint8)

    def decode(self, stored: Stored, chunk_T: Tensor, tables: Tables) -> Tensor:
        code_TW = stored[LAYERS].int()
        mean_D, scale, frames_SKD, axes_CD, groups_MKG = _unpacked(tables)
        (groups, rows, _), stages = groups_MKG.shape, len(frames_SKD)
        first_M = torch.arange(0, groups * rows, rows, dtype=torch.int32, device=code_TW.device)
        row_TM = code_TW[:, stages:] + first_M
        components = groups_MKG.flatten(0, 1).index_select(0, row_TM.flatten()).view(len(code_TW), len(axes_CD))
        hidden_TD = components @ axes_CD
        for stage in range(stages):
            hidden_TD += frames_SKD[stage].index_select(0, code_TW[:, stage])
        return hidden_TD.mul_(scale).add_(mean_D)

    def check_tables(self, dim: int, tables: Tables) -> None:
        groups = self.parts(dim)[LAYERS].width - STAGES
        size = min(GROUP, dim // groups)
        half, rows = torch.float16, CENTROIDS + 1
        for name, shape, dtype in (
            ("mean", (dim,), torch.float32),
            ("scale", (1,), torch.float32),
            ("frames", (STAGES, rows, dim), half),
            ("axes", (groups * size, dim), half),
            ("groups", (groups, rows, size), half),
        ):
            table = tables.get(name)
            if table is None or tuple(table.shape) != shape or table.dtype != dtype:
                found = "absent" if table is None else f"{list(table.shape)} of {table.dtype}"
                raise ValueError(f"{name} is {found}; it must be {list(shape)} of {dtype}")
            coded = name in ("frames", "groups")  # their last row stands for what was never written
            if not (table[:, :CENTROIDS] if coded else table).isfinite().all():
                raise ValueError(f"{name} has values that are not finite")
            if coded and not table[:, CENTROIDS].isnan().all():
                raise ValueError(f"the last row of {name} must be NaN")

    def calibrate(self, hidden_TD: Tensor) -> dict[str, Tensor]:
        """Return half-precision tables in units of ``scale`` [1], relative to ``mean`` [D]; these two are float32.

        ``frames`` [S, 256, D]: the centroids of whole frames. ``axes`` [M · G, D]: the principal axes of their
        remainder, group after group. ``groups`` [M, 256, G]: the groups' centroids. Row 255 is NaN.
        """
        dim = hidden_TD.shape[1]
        groups = self.parts(dim)[LAYERS].width - STAGES
        rest_TD = hidden_TD.cpu().double()
        mean_D = rest_TD.mean(0)
        scale = (rest_TD - mean_D).abs().max().clamp_min(1e-12)
        rest_TD = (rest_TD - mean_D) / scale
        _, turn_DD = _principal_axes(rest_TD)
        rest_TD = rest_TD @ turn_DD  # k-means starts from the first axis
        stages = []
        for _ in range(STAGES):
            points = rest_TD.float()[None]
            stages.append(_k_means(points))
            rest_TD = rest_TD - stages[-1][0].double()[_nearest_in_blocks(points, stages[-1])[:, 0]]
        variance_D, axes_DD = _principal_axes(rest_TD)
        axes_DC = axes_DD[:, _split_into_groups(variance_D, groups, min(GROUP, dim // groups))]
        groups_MKG = _k_means(_grouped((rest_TD @ axes_DC).float(), groups))
        frames_SKD = torch.cat(stages).double() @ turn_DD.T
        return {
            "mean": mean_D.float(),
            "scale": scale.float()[None],
            "frames": pad(frames_SKD, (0, 0, 0, 1), value=torch.nan).half(),
            "axes": (turn_DD @ axes_DC).T.half().contiguous(),
            "groups": pad(groups_MKG, (0, 0, 0, 1), value=torch.nan).half(),
        }


def _unpacked(tables: Tables) -> list[Tensor]:
    return [tables[name].float() for name in ("mean", "scale", "frames", "axes", "groups")]


def _grouped(components_TC: Tensor, groups: int) -> Tensor:
    """[T, M · G] → [M, T, G]."""
    return components_TC.reshape(len(components_TC), groups, -1).transpose(0, 1)


def _scores(centroids_MKG: Tensor) -> Tensor:
    """[M, G + 1, K], for :func:`_nearest`: ‖p − c‖² is smallest where p · c − ‖c‖² / 2 is largest."""
    return torch.cat([centroids_MKG, (centroids_MKG**2).sum(2, keepdim=True) / -2], dim=2).transpose(1, 2)


def _nearest(points_MTG: Tensor, scores: Tensor) -> Tensor:
    """The number of each point's nearest centroid, [T, M]."""
    return torch.bmm(pad(points_MTG, (0, 1), value=1.0), scores).max(dim=2).indices.T  # argmax takes longer


def _nearest_in_blocks(points_MTG: Tensor, centroids_MKG: Tensor) -> Tensor:
    scores = _scores(centroids_MKG)
    return torch.cat([_nearest(block, scores) for block in torch.split(points_MTG, CHUNK_FRAMES, dim=1)])


def _principal_axes(points_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Variances in descending order [D], and the axes as columns [D, D], each with its largest entry positive."""
    variance_D, axes_DD = torch.linalg.eigh(points_TD.T @ points_TD / len(points_TD))
    axes_DD = axes_DD * axes_DD.gather(0, axes_DD.abs().argmax(0, keepdim=True)).sign()
    return variance_D.flip(0), axes_DD.flip(1)


def _split_into_groups(variance_D: Tensor, groups: int, size: int) -> Tensor:
    """Which components (of variances in descending order) each group takes, group after group."""
    bits = _bits(variance_D, 8.0 * groups)
    taken: list[list[int]] = [[] for _ in range(groups)]
    load = [0.0] * groups
    for component in range(groups * size):
        group = min((m for m in range(groups) if len(taken[m]) < size), key=lambda m: (load[m], len(taken[m])))
        taken[group].append(component)
        load[group] += bits[component]
    return torch.tensor(taken).flatten()


def _bits(variance_D: Tensor, total: float) -> list[float]:
    """Bits of each component by reverse water-filling: ½ log₂(variance / level) above the level, none below.

    Example: 6 bits for variances 64, 16, 4, 1 are 3, 2, 1 and 0, with the level at 1.
    """
    log_D = variance_D.clamp_min(max(float(variance_D.max()) * 1e-12, 1e-60)).log2() / 2
    low, high = float(log_D.min()) - total, float(log_D.max())
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if float((log_D - level).clamp_min(0).sum()) > total else (low, level)
    bits: list[float] = (log_D - high).clamp_min(0).tolist()
    return bits


def _k_means(points_MTG: Tensor) -> Tensor:
    """[M, T, G] → [M, 255, G]. It is deterministic: it starts from points spread evenly along the first component."""
    groups, frames, size = points_MTG.shape
    bins = groups * CENTROIDS
    spread = (torch.arange(CENTROIDS) * 2 + 1) * frames // (2 * CENTROIDS)
    start_MK = points_MTG[..., 0].argsort(dim=1, stable=True)[:, spread]
    centroids_MKG = points_MTG.gather(1, start_MK[..., None].expand(-1, -1, size)).contiguous()
    offset_M = torch.arange(groups) * CENTROIDS
    flat = points_MTG.reshape(-1, size).T.double().contiguous().numpy()
    for _ in range(ITERATIONS):
        bin_N = (_nearest_in_blocks(points_MTG, centroids_MKG) + offset_M).T.flatten().numpy()
        # bincount adds sequentially, so its sums do not depend on the number of threads.
        sums = np.stack([np.bincount(bin_N, feature, bins) for feature in flat], axis=1)
        counts = np.bincount(bin_N, minlength=bins)[:, None]
        moved = torch.from_numpy(sums / np.maximum(counts, 1)).float().view_as(centroids_MKG)
        used = torch.from_numpy(counts > 0).view(groups, CENTROIDS, 1)
        centroids_MKG = torch.where(used, moved, centroids_MKG)  # a centroid with no points stays where it is
    return centroids_MKG
