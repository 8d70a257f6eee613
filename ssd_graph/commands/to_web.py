"""Make a web page of an exported model, which finds objects in the browser; torch is not needed.

    python export/to_web.py model.onnx --out web --runtime package/dist
    python -m http.server -d web                                         # then open http://localhost:8000

--runtime is the dist/ folder of npm's package onnxruntime-web, of which two files are copied. Without it the page
loads them from a public server.
"""

import shlex
from pathlib import Path

from ssd_graph.cli import command, command_parser


@command
def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("model", type=Path, help="model that export/to_onnx.py wrote")
    parser.add_argument("--out", type=Path, default=Path("web"), help="folder (default: %(default)s)")
    parser.add_argument("--runtime", type=Path, metavar="DIR", help="folder of onnxruntime-web's files, to be copied")
    args = parser.parse_args()
    from ssd_graph.onnx_model.web import CDN, write_page

    page = write_page(args.model, args.out, args.runtime)
    print(f"{args.out}: {page.num_files} files, {page.num_bytes:,} bytes; finds {page.num_categories} kinds of objects")
    if not args.runtime:
        print(f"the page loads onnxruntime-web from {CDN}; --runtime makes it do without another server")
    print(f"serve it with `python -m http.server -d {shlex.quote(str(args.out))}` and open http://localhost:8000")
