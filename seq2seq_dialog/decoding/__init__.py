"""From a model to replies."""
