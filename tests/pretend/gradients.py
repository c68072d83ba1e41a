"""The backward pass of a pretended GPU. torch's own engine would wait for a real one, so the graph is walked here.

It does what the engine does for gdist: no hooks, no second derivatives.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

real_backward = torch.autograd.backward


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    *rest: Any,
    **more: Any,
) -> None:
    """What ``torch.autograd.backward`` is."""
    roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if all(root.device.type != "cuda" for root in roots):
        real_backward(tensors, grad_tensors, *rest, **more)
        return
    given = [grad_tensors] if isinstance(grad_tensors, Tensor) else list(grad_tensors or [None] * len(roots))
    with torch.no_grad():
        walk = _Walk(roots)
        for root, gradient in zip(roots, given, strict=True):
            walk.give(root.grad_fn, root.output_nr, torch.ones_like(root) if gradient is None else gradient)
        walk.run()


class _Walk:
    """The nodes in an order in which every gradient is complete before it is used."""

    def __init__(self, roots: Sequence[Tensor]) -> None:
        self.received: dict[Any, dict[int, Tensor]] = {}
        self.waiting: Counter[Any] = Counter()
        seen: set[Any] = set()
        stack: list[Any] = [root.grad_fn for root in roots]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                following = [found for found, _ in node.next_functions if found is not None]
                self.waiting.update(following)
                stack += following
        self.ready = [node for node in dict.fromkeys(root.grad_fn for root in roots) if not self.waiting[node]]

    def give(self, node: Any, place: int, gradient: Tensor | None) -> None:
        """Add to the gradient of one of a node's outputs, in the shape and type of that output."""
        if gradient is None:
            return
        slots = self.received.setdefault(node, {})
        expected = getattr(node, "_input_metadata", [])
        if place < len(expected):
            gradient = _fitted(gradient, expected[place], node)
        slots[place] = gradient if place not in slots else slots[place] + gradient

    def run(self) -> None:
        """Visit every node."""
        while self.ready:
            node: Any = self.ready.pop()
            received = self.received.pop(node, {})
            if hasattr(node, "variable"):
                _accumulate(node.variable, received.get(0))
                continue
            for (following, place), gradient in zip(node.next_functions, _applied(node, received), strict=False):
                if following is None:
                    continue
                self.give(following, place, gradient)
                self.waiting[following] -= 1
                if not self.waiting[following]:
                    self.ready.append(following)


def _applied(node: Any, received: dict[int, Tensor]) -> Sequence[Tensor | None]:
    if not received:
        return [None] * len(node.next_functions)
    outputs = len(getattr(node, "_input_metadata", ())) or max(received) + 1
    found = (node if callable(node) else node.apply)(*(received.get(place) for place in range(outputs)))
    return found if isinstance(found, tuple) else (found,)


def _fitted(gradient: Tensor, expected: Any, node: Any) -> Tensor:
    """What the engine's ``validate_outputs`` does."""
    if gradient.device != expected.device:
        raise RuntimeError(f"a gradient of {node} is on {gradient.device} instead of {expected.device}")
    if gradient.shape != torch.Size(expected.shape):
        gradient = gradient.sum_to_size(expected.shape)
    return gradient.to(expected.dtype)


def _accumulate(variable: Tensor, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    assert gradient.device == variable.device and gradient.dtype == variable.dtype
    if gradient.shape != variable.shape:
        gradient = gradient.sum_to_size(variable.shape)
    if variable.grad is not None:
        variable.grad = variable.grad + gradient
    elif gradient.stride() == variable.stride():
        variable.grad = gradient.detach()
    else:  # fused optimizers rely on gradients being laid out as their parameters are
        variable.grad = torch.empty_like(variable).copy_(gradient)
