"""onnxruntime sessions on a chosen execution provider, with no silent step down to the CPU."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import onnxruntime

from ssd_graph.cli import InputError, reason_of
from ssd_graph.cores import has_bf16

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

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
"""What the numbers of a model that are not in 8 bits can be computed in, and OpenVINO's names of it."""

_PRECISIONS_OF = {"cpu": ("fp32",), "cuda": ("fp32",), "openvino": tuple(PRECISIONS)}
"""Of providers that can be told, or have no choice."""

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


def open_session(
    model: bytes, provider: str, *, threads: int, optimization: str, precision: str | None = None
) -> Session:
    """Load a serialised model on `provider`, a key of PROVIDERS, or on the first of AUTO that starts.

    `precision` is a key of PRECISIONS; None leaves it to the model and the provider.

    Raises:
        InputError: the provider is not installed, does not start, leaves the convolutions to another, or does not
            compute in this precision.
        Exception: onnxruntime cannot load the model; its exceptions share no base class but this one.
    """
    if provider != "auto":
        return _open(model, provider, threads, optimization, precision)
    for name in AUTO[:-1]:
        if PROVIDERS[name][0] in onnxruntime.get_available_providers():
            try:
                return _open(model, name, threads, optimization, precision)
            except InputError as error:
                print(f"--provider auto: {error}")
    return _open(model, AUTO[-1], threads, optimization, precision)


def _open(model: bytes, provider: str, threads: int, optimization: str, precision: str | None) -> Session:
    name, package = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise InputError(
            f"this onnxruntime has no {name}: `pip uninstall onnxruntime; pip install {package}`, "
            "or choose another --provider"
        )
    if precision and precision not in _PRECISIONS_OF.get(provider, ()):
        raise InputError(
            f"--precision {precision}: provider {provider} has no choice; leave it out, or try --provider openvino"
        )
    if precision == "bf16" and not has_bf16():
        raise InputError("--precision bf16: this processor has no instructions for it; leave it out")
    onnxruntime.set_default_logger_severity(4)  # what goes wrong is raised
    try:
        session = onnxruntime.InferenceSession(
            model,
            _options(threads, optimization),
            providers=[(name, _own_options(provider, threads, precision)), *_BEHIND.get(provider, [_CPU])],
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


def _own_options(provider: str, threads: int, precision: str | None) -> dict[str, str]:
    """What a provider must be told itself; OpenVINO has threads of its own."""
    if provider == "cuda" and precision == "fp32":
        return {"use_tf32": "0"}  # else convolutions in float32 keep 10 bits of their factors, on cards since Ampere
    if provider != "openvino":
        return {}
    options = {"num_of_threads": str(threads)}
    if precision:
        options["load_config"] = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": PRECISIONS[precision]}})
    return options


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
