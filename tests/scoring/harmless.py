"""Random changes of an annotation file that must not change a score, and the detections that go with them."""

import copy

import numpy as np

from ssd_graph.scoring.detections import DetectionRows

LARGEST = 2**63 - 1


def changed(rng, content, rows):
    """A changed copy of COCO content, and `rows` with the image ids that it has now.

    Changed are ids of images and annotations, the order of all lists and keys, keys that nobody reads, and file names.
    """
    content = copy.deepcopy(content)
    content["annotations"] = [a for a in content["annotations"] if "bbox" in a]
    ids = _new_image_ids(rng, [image["id"] for image in content["images"]])
    for image in content["images"]:
        image["id"] = _written(rng, ids[image["id"]])
    for annotation in content["annotations"]:
        annotation["image_id"] = _written(rng, ids[annotation["image_id"]])
    _new_annotation_ids(rng, content["annotations"])
    if rng.random() < 0.5:
        for n, image in enumerate(content["images"]):
            image["file_name"] = f"{rng.integers(10**6)}/{n}.{('jpg', 'PNG', 'webp')[n % 3]}"
    for name in ("images", "annotations", "categories"):
        entries = [_shuffled_keys(rng, entry) for entry in content[name]]
        content[name] = [entries[i] for i in rng.permutation(len(entries))]
    image_ids = np.array([ids[i] for i in rows.image_ids.tolist()])
    return _shuffled_keys(rng, content), DetectionRows(image_ids, *rows[1:])


def _new_image_ids(rng, ids):
    """Other ids for all, or none."""
    kind = rng.choice(["same", "small", "any", "above 2**53", "negative", "times"])
    low, high = {
        "small": (0, 10 * len(ids)),
        "any": (-LARGEST, LARGEST),
        "above 2**53": (2**53, 2**53 + 4 * len(ids)),
        "negative": (-4 * len(ids), 1),
        "times": (1_700_000_000_000_000_000, 1_700_000_000_000_000_000 + 4 * len(ids)),
    }.get(kind, (0, 0))
    if kind == "same":
        return {i: i for i in ids}
    new = set()
    while len(new) < len(ids):
        new.add(int(rng.integers(low, high)))
    new = list(new)
    return dict(zip(ids, (new[i] for i in rng.permutation(len(new))), strict=True))


def _written(rng, number):
    """A whole number as files write it, now and then."""
    if rng.random() < 0.9:
        return number
    return str(number) if rng.random() < 0.5 or abs(number) >= 2**53 else float(number)


def _new_annotation_ids(rng, annotations):
    kind = rng.choice(["same", "none", "some", "zero", "repeated", "huge", "negative", "anything"])
    for n, annotation in enumerate(annotations):
        new = {
            "none": None,
            "some": annotation.get("id") if rng.random() < 0.5 else None,
            "zero": 0,
            "repeated": n % 7,
            "huge": 2**60 + n // 3,
            "negative": -n,
            "anything": ["x", -1.5, True, [], {}, 2**70][n % 6],
        }.get(kind, annotation.get("id"))
        annotation.pop("id", None)
        if new is not None:
            annotation["id"] = new


def _shuffled_keys(rng, entry):
    if rng.random() < 0.3:
        entry = {**entry, f"extra {rng.integers(9)}": (None, "text", [1], {"id": 7}, float("nan"))[rng.integers(5)]}
    names = list(entry)
    return {names[i]: entry[names[i]] for i in rng.permutation(len(names))}
