"""Ground truths to evaluate on: benchmarks from their own annotation files, and a user's own COCO JSON."""

from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS, PAPER, Benchmark
from cuts3d_cli.evaluation.datasets.loading import (
    Availability,
    Dataset,
    list_datasets,
    open_benchmark,
    open_own,
)

__all__ = [
    "BENCHMARKS",
    "PAPER",
    "Availability",
    "Benchmark",
    "Dataset",
    "list_datasets",
    "open_benchmark",
    "open_own",
]
