"""Make a web page of an exported model; `--help` and ssd_graph/commands/to_web.py tell the flags."""

from ssd_graph.commands.to_web import main

if __name__ == "__main__":
    main()
