"""Where an interrupted run can go on."""

from __future__ import annotations

import json
from pathlib import Path


def last_checkpoint(output_dir: str | Path, world_size: int) -> str | None:
    """Find where a run can go on: its last checkpoint that was written whole, if any.

    A run may be killed while it writes one; Trainer writes the state of the training last, but for
    the random states of other processes. Where training is over and the model stands at the root
    of `output_dir`, that is the place.
    """
    output_dir, found = Path(output_dir), []
    for folder in (output_dir, *output_dir.glob("checkpoint-*")):
        ranks = [""] if world_size == 1 else [f"_{rank}" for rank in range(world_size)]
        random_states = [folder / f"rng_state{rank}.pth" for rank in ranks]
        try:
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if folder == output_dir:
            return str(folder)
        if all(path.exists() for path in random_states):
            found.append((state["global_step"], str(folder)))
    return max(found)[1] if found else None
