"""Fetch COCO 2017; `--help` and ssd_graph/commands/download_coco.py tell the flags."""

from ssd_graph.commands.download_coco import main

if __name__ == "__main__":
    main()
