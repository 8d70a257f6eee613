"""The Python that inductor wrote for a GPU, loaded where there is none: kernels, and a function that launches them."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch


@contextmanager
def loaded(code: str) -> Iterator[dict[str, Any]]:
    """The code's names, kernels among them; `call(inputs)` takes tensors of the CPU for ones of the GPU."""
    from torch._C._dynamo import guards
    from torch._inductor.async_compile import AsyncCompile

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def load(compiler: object, name: str, source: str, device_str: str) -> Any:
            path = Path(folder) / f"{name}.py"
            path.write_text(source)  # Triton reads a function's source from its file
            names = {"__name__": name, "__file__": str(path)}
            exec(compile(source, path, "exec"), names)
            return names[name]

        for place, name, answer in (
            (AsyncCompile, "triton", load),
            (AsyncCompile, "wait", lambda *_: None),
            (guards, "_empty_strided_cuda", lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype)),
            (torch._C, "_cuda_getCurrentRawStream", lambda device: 0),
            (torch.cuda, "_DeviceGuard", nullcontext),
            (torch.cuda, "set_device", lambda device: None),
        ):
            stack.enter_context(patch.object(place, name, answer, create=True))
        names: dict[str, Any] = {"__name__": "inductor_code"}
        exec(code, names)
        yield names
