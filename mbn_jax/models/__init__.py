"""Backbones and the re-identification network."""
