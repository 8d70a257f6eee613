"""Annotation files to score against: the published cases, and small ones that a test makes up."""

import json

from ssd_graph.scoring.detections_file import load_detections

FIELDS = ("image_id", "category_id", "bbox", "iscrowd")
PETS = ((3, "cat"), (4, "dog"))


def golden(shared, case):
    """Annotation file, detections, and what is known of a case that public evaluators have numbers for."""
    folder = shared / "golden"
    known = json.loads((folder / "expected.json").read_text())[case]
    return folder / known["ground_truth"], load_detections(folder / known["detections"]), known


def write_truth(folder, *objects, image_ids=(5, 8), categories=PETS):
    """An annotation file of objects given as (image id, category id, xywh) and perhaps whether each is a crowd."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in image_ids],
        "annotations": [{"id": n, **dict(zip(FIELDS, o, strict=False))} for n, o in enumerate(objects, start=1)],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"
