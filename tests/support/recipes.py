"""Recipes for tests."""

from pathlib import Path

STAGED_RECIPE = Path(__file__).with_name("staged.toml")
"""A frozen phase and two sizes: what is made of stages and epochs does not hang on a shipped recipe."""
