"""Recipes that come with DeepRock (*.toml); the manifests that a user makes lie beside them, ignored by git."""
