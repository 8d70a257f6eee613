"""Do two models' detections agree?"""

import numpy as np

from ssd_graph.scoring.parity import INFINITY, _distance


def largest_difference(outputs_a, outputs_b, score_threshold, tolerance):
    """Largest absolute difference between two models' detections of the same images; infinity without a counterpart.

    Each detection is held against the nearest one of its label in the other set, in scores and relative box
    coordinates. One whose score is within `tolerance` of the cut (the score threshold, or the last of a full
    list) may be missing from the other set: rounding decides there.
    """
    worst = 0.0
    for image in range(len(outputs_a[0])):
        (boxes_a, scores_a, labels_a), (boxes_b, scores_b, labels_b) = (
            tuple(field[image, : num[image]] for field in fields) for num, *fields in (outputs_a, outputs_b)
        )
        distance = _distance(boxes_a, scores_a, boxes_b, scores_b)
        distance = np.where(labels_a[:, None] == labels_b[None, :], distance, INFINITY)
        for own, nearest in (
            (scores_a, distance.min(1, initial=INFINITY)),
            (scores_b, distance.min(0, initial=INFINITY)),
        ):
            full = len(own) == outputs_a[1].shape[1]
            cut = max(score_threshold, float(own.min())) if full else score_threshold
            worst = float(np.maximum(worst, nearest[own > cut + tolerance].max(initial=0.0)))
    return worst
