"""Programs that measure: run `python -m benchmarks NAME`, or for the model card `python -m benchmarks.NAME`."""
