"""tools/to_coco.py: other people's data sets as COCO folders."""
