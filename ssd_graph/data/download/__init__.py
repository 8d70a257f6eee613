"""tools/download_coco.py: COCO from its servers, whole or not at all."""
