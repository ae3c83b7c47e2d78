"""From dialogues to batches."""
