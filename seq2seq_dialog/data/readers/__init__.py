"""Readers of dialogues, a format a module; `formats.READERS` lists them."""
