"""Answering: in Python, in the terminal, in the browser."""
