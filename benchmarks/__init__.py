"""What figures come from: `python -m benchmarks.NAME`. docs/ quotes none that does not come from here or a bundle."""
