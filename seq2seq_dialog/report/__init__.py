"""What people read of a run: console, page, cards, comparisons, pictures."""
