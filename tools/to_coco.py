"""Turn other layouts of data sets into COCO's; `--help` and ssd_graph/commands/to_coco.py tell the flags."""

from ssd_graph.commands.to_coco import main

if __name__ == "__main__":
    main()
