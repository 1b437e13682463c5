"""Stress tests: damaged input, killed runs, and a record of output to compare with: `bash scripts/stress.sh --help`."""
