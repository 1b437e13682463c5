"""Class-agnostic AP and AR as COCO defines them, and recall, precision and mean best IoU.

All figures are in [0, 1], or None where they are undefined: an AP without instances (of that size), a precision without
predictions.

**AP and AR** are those of pycocotools' COCOeval with one category, at most 1, 10 and 100 predictions an image, and IoU
thresholds 0.50, 0.55, ..., 0.95 (the columns of the paper's Table 12). `averages` computes them image by image, in
little memory; tests hold them against pycocotools and against detectron2's COCOEvaluator. Crowd regions are honoured:
a prediction inside one is not a false positive. The size of an instance is its annotation's area, by boxes and by masks
(small under 32^2, large over 96^2 pixels); that of a prediction is the area of its box or of its mask.

**Equal scores.** COCOeval judges predictions of equal score in the order of its input, and prefers the later of two
instances that overlap a prediction equally. Here the order is always made from the content: images by id; predictions
of an image by score (highest first), then area of the mask (largest first; of the box where there is no mask), box,
run-length code; instances by crowd (last), area, box, run-length code. So the results do not depend on the order of
annotations, images or predictions, nor on the ids of annotations. They do depend on image ids where scores are equal
across images, since a precision-recall curve has to begin with one of them.

**Recall and precision at IoU 0.5** count matches regardless of scores and without a limit on predictions. Pairs of a
prediction and an instance (no crowd region) are matched one to one, largest IoU first, as long as their IoU is at least
0.5. Recall is matches / instances. Precision is matches / (predictions - ignored); a prediction is ignored if it
matches no instance and at least half of it lies in a single crowd region.

**Mean best IoU** is the mean over the instances (no crowd regions) of the best IoU with any prediction of the image, 0
where there is none. One prediction may be the best of several instances.
"""

from cuts3d_cli.evaluation.metrics.evaluator import COLUMNS, STATS, Evaluator, KindMetrics, Metrics, evaluate
from cuts3d_cli.evaluation.metrics.judging import Judgement, judge
from cuts3d_cli.evaluation.metrics.objects import (
    Box,
    Instance,
    Kind,
    Prediction,
    area_of,
    shape_of,
    sort_instances,
    sort_predictions,
)

__all__ = [
    "COLUMNS",
    "STATS",
    "Box",
    "Evaluator",
    "Instance",
    "Judgement",
    "Kind",
    "KindMetrics",
    "Metrics",
    "Prediction",
    "area_of",
    "evaluate",
    "judge",
    "shape_of",
    "sort_instances",
    "sort_predictions",
]
