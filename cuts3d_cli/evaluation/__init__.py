"""How good masks are: COCO's class-agnostic AP and AR, recall, precision and mean best IoU against a ground truth.

`coco` reads a ground truth, `segmentation` its masks, `pairing` finds its images among those of shards, `datasets`
opens benchmarks with their photos. `metrics` compares: `averages` has AP and AR, `reference` the same by pycocotools,
`matching` counts what was found. `report` makes tables of several datasets, beside the figures in `published`.
"""
