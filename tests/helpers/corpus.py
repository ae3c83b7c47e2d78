"""Where things are, and the sample corpus as dialogues and as rows."""

from pathlib import Path

from datasets import Dataset

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples" / "dialogues_text.txt"
EVERYDAY = ROOT / "samples" / "everyday"
LEGACY_PYTHON = ROOT / ".venv-legacy" / "bin" / "python"


def sample_dialogues(count: int) -> list[list[str]]:
    """The first dialogues of the sample corpus."""
    lines = SAMPLES.read_text(encoding="utf-8").split("\n")[:count]
    return [[u.strip() for u in line.split("__eou__") if u.strip()] for line in lines]


def rows_of(dialogues: list[list[str]]) -> Dataset:
    """(context, response) rows of dialogues, as the dataset script makes them."""
    return Dataset.from_list(
        [
            {"dialogue_id": str(d), "turn": t, "context": turns[:t], "response": turns[t]}
            for d, turns in enumerate(dialogues)
            for t in range(1, len(turns))
        ]
    )


# What a person says to a model.
TEXTS = ["How are you?", "Hi! __eou__ Hello. __eou__ What time is it?", "Is it far?"]
