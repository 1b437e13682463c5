"""Benchmarks of speed, quality, scale and training: `bash scripts/bench.sh --help` lists them."""
