"""Models and dialogues to the Hugging Face Hub."""
