"""Rendered RGB-D scenes with instance masks, for the demo, the benchmarks and the tests. Not in the paper."""
