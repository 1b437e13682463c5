"""Stress tests: damaged input, killed runs, and records of output. `bash scripts/stress.sh --help` lists them."""
