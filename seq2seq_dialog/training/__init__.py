"""Training: the Trainer, its evaluations, resuming, adversarial training."""
