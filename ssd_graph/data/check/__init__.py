"""tools/check_coco.py: what is wrong with a COCO folder."""
