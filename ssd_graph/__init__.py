"""SSD-ResNet34 300x300 whose whole training step is one static graph.

Importing the package pulls in nothing heavy. Its folders are wings, each of which imports only from those below it in
`README.md`'s table.
"""

import os

__version__ = "0.1.0"

# With torch_npu installed but CANN absent, a plain `import torch` fails while torch auto-loads the plug-in.
# Nothing here needs that: backend.py imports torch_npu itself, only when an NPU is asked for.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
