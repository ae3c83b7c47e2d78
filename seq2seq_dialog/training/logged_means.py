"""Means of figures of the training, over all processes, from one log to the next."""

import math

import torch


class LoggedMeans:
    """Sums on the device, which are read only when a log is written."""

    def __init__(self):
        self._sums: dict[str, tuple[torch.Tensor, torch.Tensor | int]] = {}

    def add(self, name: str, values: torch.Tensor, count: torch.Tensor | int | None = None) -> None:
        """Add `values`, in which what does not count is 0; by default all of them count.

        Under a name in `_rms` values are squares, and the root of their mean is logged.
        """
        total, before = self._sums.get(name, (0, 0))
        count = values.numel() if count is None else count
        self._sums[name] = (total + values.detach().float().sum(), before + count)

    def take(self, accelerator) -> dict[str, float]:
        """Return the means by name, and begin anew; all processes call it together."""
        means = {}
        for name, (total, count) in sorted(self._sums.items()):
            sums = torch.tensor([float(total), float(count)], device=accelerator.device)
            total, count = accelerator.reduce(sums, "sum").tolist()
            mean = total / max(1, count)
            means[name] = math.sqrt(mean) if name.endswith("_rms") else mean
        self._sums = {}
        return means
