"""onnxruntime sessions on a chosen execution provider, with no silent step down to the CPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import onnxruntime

from ssd_graph.cli import InputError

_CPU = "CPUExecutionProvider"

_CUDA = "CUDAExecutionProvider"

PROVIDERS = {
    "cpu": (_CPU, "onnxruntime"),
    "cuda": (_CUDA, "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "cann": ("CANNExecutionProvider", "onnxruntime-cann"),
}
"""onnxruntime's name of each provider and the package that brings it."""

_BEHIND = {"cpu": [], "tensorrt": [_CUDA, _CPU]}
"""Who takes the nodes that a provider lacks, such as NonMaxSuppression; the CPU where nothing is said."""

AUTO = ("cann", "cuda", "openvino", "cpu")
"""The order in which `auto` tries them. TensorRT builds engines for minutes, so it is never chosen unasked."""

OPTIMIZATION_LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""`all` adds layouts that suit this machine's processor, which changes the order of sums."""


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model and where it runs."""

    run: Any
    """The onnxruntime.InferenceSession."""
    provider: str
    """A key of PROVIDERS."""
    num_nodes: dict[str, int]
    """Nodes by onnxruntime's provider name; empty where this onnxruntime does not tell."""


def open_session(model: bytes, provider: str, *, threads: int, optimization: str) -> Session:
    """Load a serialised model on `provider`, a key of PROVIDERS, or on the first of AUTO that starts.

    Raises:
        InputError: the provider is not installed, does not start, or leaves the convolutions to another.
        Exception: onnxruntime cannot load the model; its exceptions share no base class but this one.
    """
    if provider != "auto":
        return _open(model, provider, threads, optimization)
    for name in AUTO[:-1]:
        if PROVIDERS[name][0] in onnxruntime.get_available_providers():
            try:
                return _open(model, name, threads, optimization)
            except InputError as error:
                print(f"--provider auto: {error}")
    return _open(model, AUTO[-1], threads, optimization)


def _open(model: bytes, provider: str, threads: int, optimization: str) -> Session:
    name, package = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise InputError(
            f"this onnxruntime has no {name}: `pip uninstall onnxruntime; pip install {package}`, "
            "or choose another --provider"
        )
    onnxruntime.set_default_logger_severity(4)  # what goes wrong is raised
    try:
        session = onnxruntime.InferenceSession(
            model,
            _options(threads, optimization),
            providers=[(name, _own_options(provider, threads)), *_BEHIND.get(provider, [_CPU])],
            enable_fallback=0,
        )
    except Exception as error:
        if provider == "cpu":
            raise
        raise InputError(f"{name} did not start ({reason_of(error)}); mend it, or choose --provider cpu") from error
    if session.get_providers()[0] != name:
        raise InputError(
            f"{name} did not start and onnxruntime went on with the CPU: its libraries or its device are missing; "
            "mend that, or choose --provider cpu"
        )
    num_nodes, strays = _assignment(session, name)
    if strays:
        raise InputError(f"{name} left {strays} convolutions to another provider; choose --provider cpu")
    return Session(session, provider, num_nodes)


def reason_of(error: Exception) -> str:
    """The first line of an onnxruntime error, kept short."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _own_options(provider: str, threads: int) -> dict[str, str]:
    """What a provider must be told itself; OpenVINO has threads of its own."""
    return {"num_of_threads": str(threads)} if provider == "openvino" else {}


def _options(threads: int, optimization: str) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = OPTIMIZATION_LEVELS[optimization]
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # A model is one file. Weights beside it would escape its fingerprint, so they are looked for nowhere.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/dev/null/none")
    return options


def _assignment(session: Any, name: str) -> tuple[dict[str, int], int]:
    """Nodes by provider, and how many convolutions run elsewhere than on `name`."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before onnxruntime 1.24
        return {}, 0
    num_nodes: Counter[str] = Counter()
    strays = 0
    for part in session.get_provider_graph_assignment_info():
        nodes = part.get_nodes()
        num_nodes[part.ep_name] += len(nodes)
        strays += sum("Conv" in node.op_type for node in nodes if part.ep_name != name)
    return dict(num_nodes), strays
