"""Damage that knows the format: weights files, ONNX models and JPEGs."""

import ast
import io
import struct
import zipfile
from pathlib import Path

import onnx
import torch
from onnx import TensorProto

from tests.fuzz import material
from tests.fuzz.mutations import HOSTILE_VALUES, damaged_bytes, damaged_tree

_BIG = (10**5, 10**6, 2**31 - 1, 2**40, 10**12)


def damaged_weights(rng, file: Path) -> bytes:
    """A weights file with other entries, with other tensors, with another pickle, or with damaged bytes."""
    way = rng.random()
    if way < 0.15:
        return damaged_bytes(rng, file.read_bytes())
    if way < 0.3:
        return _damaged_zip(rng, file)
    content = damaged_tree(rng, material.tensors(file), (*HOSTILE_VALUES, *_tensors()))
    if isinstance(content, dict) and way < 0.55:
        _damage_tensors(rng, content)
    elif isinstance(content, dict) and isinstance(config := content.get("model_config"), dict) and config:
        config[rng.choice(list(config))] = rng.choice((*_BIG, [_big(rng)] * 3, [(_big(rng), 8)] * 5, (1, 1, _big(rng))))
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _big(rng):
    return rng.choice((*_BIG, 0, -1, 0.5, "8"))


def _tensors():
    return (
        torch.zeros(0),
        torch.tensor(float("nan")),
        torch.tensor(1),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(1).expand(10**9),
        torch.empty(2, 2, device="meta"),
        torch.eye(3).to_sparse(),
        torch.zeros(4, dtype=torch.bool),
        torch.zeros(2, dtype=torch.float64),
    )


def _damage_tensors(rng, content):
    """Change the shape, type, layout or values of some tensors, or exchange two."""
    groups = [v for v in content.values() if isinstance(v, dict) and any(torch.is_tensor(t) for t in v.values())]
    named = rng.choice(groups) if groups else content
    names = [name for name, value in named.items() if torch.is_tensor(value)]
    for _ in range(rng.choice((1, 1, 3))):
        if not names:
            return
        name, other = rng.choice(names), rng.choice(names)
        change = rng.choice(_CHANGES)
        try:
            named[name] = named[other].clone() if change is None else change(named[name])
        except (RuntimeError, TypeError, AttributeError):
            named[name] = torch.zeros(1)


_CHANGES = (
    None,
    lambda t: (t.real if t.is_complex() else t).double(),
    lambda t: t.half(),
    lambda t: t.to(torch.int64),
    lambda t: t.to(torch.complex64),
    lambda t: t.bool(),
    lambda t: t[None],
    lambda t: t.reshape(-1),
    lambda t: t.reshape(-1)[:-1],
    lambda t: t.reshape(-1)[:1].expand(t.shape),
    lambda t: t.to_sparse(),
    lambda t: t.to("meta"),
    lambda t: t * float("nan"),
    lambda t: t + float("inf"),
    lambda t: torch.nn.Parameter(t),
    lambda t: t.tolist() if t.numel() < 100 else None,
)


def _damaged_zip(rng, file: Path) -> bytes:
    """The same zip with whole check sums, one of its members damaged, missing, renamed or there twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(buffer, "w") as new:
        infos = old.infolist()
        chosen = rng.choice([i for i in infos if i.filename.endswith(".pkl")] if rng.random() < 0.6 else infos)
        for info in infos:
            data, name = old.read(info), info.filename
            if info is chosen:
                match rng.randrange(5):
                    case 0:
                        continue
                    case 1:
                        name = rng.choice(("data.pkl", "../../x", f"{name}x", "archive/data/99"))
                    case _:
                        data = damaged_bytes(rng, data)
            new.writestr(name, data)
    return buffer.getvalue()


def damaged_onnx(rng, file: Path) -> bytes:
    """A model with other fields, or with damaged bytes."""
    if rng.random() < 0.2:
        return damaged_bytes(rng, file.read_bytes())
    model = onnx.ModelProto()
    model.CopyFrom(material.model(file))
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_ONNX_CHANGES)(rng, model)
    return model.SerializeToString()


def _metadata(rng, model):
    entry = rng.choice(model.metadata_props)
    values = [str(v).encode("utf-8", "replace").decode() for v in HOSTILE_VALUES]
    values += [rng.choice(model.metadata_props).value, "[" * 10**5, "1e400", '["x"]']
    values += ["[1, 2, 3, 4, 5, 6]", "[1,1,1,1,1,1]"]
    match rng.randrange(5):
        case 0:
            model.metadata_props.remove(entry)
        case 1:
            entry.key = rng.choice(values)[:50]
        case _:
            entry.value = rng.choice(values)


def _node(rng, model):
    nodes = model.graph.node
    node = rng.choice(nodes)
    match rng.randrange(6):
        case 0:
            node.op_type = rng.choice((rng.choice(nodes).op_type, "Nothing", "Loop", "Tile", "Expand"))
        case 1:
            node.input[:] = [rng.choice(rng.choice(nodes).output) for _ in node.input]
        case 2:
            nodes.remove(node)
        case 3:
            nodes.add().CopyFrom(node)
        case 4:
            node.domain = rng.choice(("ai.onnx.ml", "com.microsoft", "nowhere"))
        case 5:
            node.input[:] = list(node.input)[: rng.randrange(len(node.input) + 1)]


def _attribute(rng, model):
    attributes = [a for node in model.graph.node for a in node.attribute]
    attribute = rng.choice(attributes)
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice((-1, 0, 1, 7, 300, 10**4, 2**31, 2**62))
    else:
        attribute.i = rng.choice((-(2**63), -1, 0, 1, 2, 2**31, 2**62))


def _weights(rng, model):
    tensors = model.graph.initializer
    tensor, other = rng.choice(tensors), rng.choice(tensors)
    match rng.randrange(6):
        case 0:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case 1:
            tensor.dims[:] = rng.choice(([], [0], [-1], [2**31, 2**31], [2**62], [10**5, 10**5], [1, 1, 1, 1]))
        case 2:
            tensor.data_type = rng.choice((0, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.STRING, 99))
        case 3:
            tensor.raw_data = damaged_bytes(rng, tensor.raw_data)
        case 4:
            tensor.name, other.name = other.name, tensor.name
        case 5:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(("/etc/passwd", "../x", "input.onnx", "")))


def _interface(rng, model):
    value = rng.choice((model.graph.input[0], *model.graph.output))
    match rng.randrange(5):
        case 0:
            value.name = rng.choice(("x", "", model.graph.output[0].name))
        case 1:
            value.type.tensor_type.elem_type = rng.choice(
                (TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, 0, 50)
            )
        case 2:
            dims = value.type.tensor_type.shape.dim
            if dims:
                rng.choice(dims).dim_value = rng.choice((0, -1, 1, 3, 10**6, 2**40))
        case 3:
            model.ir_version = rng.choice((0, -1, 3, 99, 2**40))
        case 4:
            model.opset_import[0].version = rng.choice((0, -1, 1, 7, 99, 2**40))


_ONNX_CHANGES = (_metadata, _metadata, _node, _attribute, _attribute, _weights, _interface)


def damaged_image(rng, file: Path) -> bytes:
    """Damaged bytes, or a JPEG with a segment changed, moved, repeated or left out, or with another size."""
    content = file.read_bytes()
    if file.suffix != ".jpg" or rng.random() < 0.5:
        return damaged_bytes(rng, content)
    segments = _segments(content)
    at, other = rng.randrange(1, len(segments)), rng.randrange(1, len(segments))
    match rng.randrange(5):
        case 0:
            del segments[at]
        case 1:
            segments.insert(other, segments[at])
        case 2:
            segments[at], segments[other] = segments[other], segments[at]
        case 3:
            segments[at] = segments[at][:4] + damaged_bytes(rng, segments[at][4:])
        case 4:
            frame = next(i for i, s in enumerate(segments) if s[:2] in (b"\xff\xc0", b"\xff\xc2"))
            side = struct.pack(">H", rng.choice((0, 1, 7, 13_000, 65_535)))
            place = rng.choice((5, 7))
            segments[frame] = segments[frame][:place] + side + segments[frame][place + 2 :]
    return b"".join(segments)


def _segments(jpeg: bytes) -> list[bytes]:
    """Start of image, the segments up to the scan's header, and the rest."""
    segments, at = [jpeg[:2]], 2
    while jpeg[at : at + 2] != b"\xff\xda":
        length = 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        segments.append(jpeg[at : at + length])
        at += length
    return [*segments, jpeg[at:]]


def damaged_array(rng, file: Path) -> bytes:
    """A .npy file with another header, or with damaged bytes there or anywhere."""
    content = file.read_bytes()
    start = content.index(b"\n") + 1
    match rng.randrange(3):
        case 0:
            return damaged_bytes(rng, content)
        case 1:
            return damaged_bytes(rng, content[:start]) + content[start:]
        case _:
            fields = damaged_tree(rng, ast.literal_eval(content[10:start].decode()))
            header = f"{fields}\n".encode(errors="replace")[:65_535]
            return content[:8] + struct.pack("<H", len(header)) + header + content[start:]
