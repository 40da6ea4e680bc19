"""What figures come from: `python -m benchmarks NAME`; for what the model card quotes, `python -m benchmarks.NAME`."""
