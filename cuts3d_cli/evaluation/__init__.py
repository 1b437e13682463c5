"""How good masks are: COCO's class-agnostic AP and AR, recall, precision and mean best IoU against a ground truth.

`coco` reads a ground truth, `segmentation` its masks, `pairing` finds its images among those of shards, `metrics`
compares, `matching` counts what was found.
"""
