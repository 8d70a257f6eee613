"""Check a COCO folder; `--help` and ssd_graph/commands/check_coco.py tell the flags."""

from ssd_graph.commands.check_coco import main

if __name__ == "__main__":
    main()
