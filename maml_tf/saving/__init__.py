"""Weights and SavedModels on disk."""
