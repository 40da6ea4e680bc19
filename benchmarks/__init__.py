"""What figures come from: `python -m benchmarks NAME`. None is written yet; docs/ quotes none that is not."""
