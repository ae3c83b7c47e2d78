"""The files that travel with a model to the Hub: they need torch, transformers and each other."""
