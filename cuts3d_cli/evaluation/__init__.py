"""How good masks and detectors are: class-agnostic AP and AR as COCO defines them, recall, precision, mean best IoU.

`metrics` compares predictions with a ground truth; `datasets` reads ground truths, and opens benchmarks with their
photos. `shards` evaluates the masks in shards, whose photos `pairing` finds in the ground truth. `benchmark` evaluates
a detector on datasets: `benchmark_photos` runs it, `journal` keeps its detections, and `report` makes tables, beside
the figures in `published`.
"""
