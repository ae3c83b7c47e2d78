"""Tokenizers, models, and what makes a saved folder load everywhere."""
