"""The `screen` command."""
