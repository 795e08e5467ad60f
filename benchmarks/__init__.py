"""`python -m benchmarks.NAME`: each compares with a peer in the same run."""
