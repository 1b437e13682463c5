"""Ground truths to evaluate on: benchmarks in the formats of their authors, and a user's own COCO JSON.

`catalogue` lists the benchmarks, and `loading` opens one with its photos. A format is a module with a function that
returns a `parsed.ParsedDataset`: `coco`, `voc`, `kitti`, `open_images`. `ground_truth` reads a user's own COCO JSON.
"""
