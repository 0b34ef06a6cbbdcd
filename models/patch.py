"""Graph surgery, done once when a network is obtained: same function, fewer operations. Never run in a lane.

Every patch is deterministic to the last bit (IEEE double arithmetic element by element, sums in a fixed order,
protobuf fields in their numbered order), so the manifest can name the sha256 of what comes out. docs/models.md says
what each step gains.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from models.manifest import PatchError

Weights = dict[str, npt.NDArray[Any]]

YUNET_STRIDES = (8, 16, 32)
YUNET_HEADS = ("cls", "obj", "bbox", "kps")
"""Channels 0, 1, 2-5 and 6-15 of the merged head."""


def yunet(network: Any) -> None:
    """YuNet 2023mar: any height and width (multiples of 32); the four heads of a stride become one of 16 channels.

    Published, each stride ends in four 1x1 convolutions of 1, 1, 4 and 10 channels with a depthwise 3x3 behind each:
    channel counts that no blocked kernel takes. Side by side they are 16 channels, one block. The sigmoids and the
    transposition are left to the decoder, which needs them for the few cells above its threshold alone.
    Output `stride_N`: float32 (1, 16, height / N, width / N)."""
    graph = network.graph
    weights = _weights(graph)
    made_by = {node.output[0]: node for node in graph.node}
    heads: list[Any] = []
    for stride in YUNET_STRIDES:
        pairs = [_yunet_head(made_by, f"{head}_{stride}") for head in YUNET_HEADS]
        source = {first.input[0] for first, _ in pairs}
        if len(source) != 1:
            raise PatchError(f"the heads of stride {stride} do not share one input: {sorted(source)}")
        name, features = f"stride_{stride}", source.pop()
        for position, kind in enumerate(("pointwise", "depthwise")):
            nodes = [pair[position] for pair in pairs]
            for part, index in (("weight", 1), ("bias", 2)):
                weights[f"{name}_{kind}_{part}"] = np.concatenate([weights[n.input[index]] for n in nodes])
        heads.append(_conv(f"{name}_pointwise", features, f"{name}_narrow", groups=1, kernel=1))
        heads.append(_conv(f"{name}_depthwise", f"{name}_narrow", name, groups=16, kernel=3))
    _replace(graph, [*graph.node, *heads])
    del graph.output[:]
    for stride in YUNET_STRIDES:
        shape = (1, 16, f"height_{stride}", f"width_{stride}")
        graph.output.append(helper.make_tensor_value_info(f"stride_{stride}", onnx.TensorProto.FLOAT, shape))
    _input_shape(graph, "input", (1, 3, "height", "width"))
    _without_dead_nodes(graph)
    _store(graph, weights)


def sface(network: Any) -> None:
    """SFace 2021dec: initializers out of the inputs, batch norms into the convolutions, PReLU as two convolutions.

    As published the initializers are overridable inputs, so the runtime may fold nothing. PReLU has no kernel in the
    runtime's blocked layout and runs on one thread: it took two thirds of the whole network's time."""
    graph = network.graph
    weights = _weights(graph)
    _input_shape(graph, "data", (1, 3, 112, 112))
    _without_dropout(graph)
    _fold_norms(graph, weights)
    _split_prelus(graph, weights)
    _store(graph, weights)


def leader(network: Any) -> None:
    """LEADER: written anew, see `models/patch_leader.py`."""
    from models.patch_leader import rebuilt

    rebuilt(network)


PATCHES: dict[str, Callable[[Any], None]] = {"yunet": yunet, "sface": sface, "leader": leader}


def patched(published: bytes, patch: str) -> bytes:
    """The published file with the patch of that name applied. Same input, same bytes, on every machine."""
    network = onnx.load_from_string(published)
    PATCHES[patch](network)
    onnx.checker.check_model(network)
    made: bytes = network.SerializeToString(deterministic=True)
    return made


def _weights(graph: Any) -> Weights:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _store(graph: Any, weights: Weights) -> None:
    """Write back the weights that some node still uses, sorted by name; the runtime infers the shapes."""
    used = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(weights[name]), name) for name in sorted(weights) if name in used
    )
    del graph.value_info[:]


def _input_shape(graph: Any, name: str, shape: tuple[int | str, ...]) -> None:
    """Make `name` the only input."""
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))


def _replace(graph: Any, nodes: list[Any]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _conv(name: str, source: str, target: str, groups: int, kernel: int) -> Any:
    """A convolution of stride 1 that keeps the size, over weights called `name`_weight and `name`_bias."""
    pad = kernel // 2
    return helper.make_node(
        "Conv",
        [source, f"{name}_weight", f"{name}_bias"],
        [target],
        name=name,
        dilations=[1, 1],
        group=groups,
        kernel_shape=[kernel, kernel],
        pads=[pad, pad, pad, pad],
        strides=[1, 1],
    )


def _yunet_head(made_by: dict[str, Any], output: str) -> tuple[Any, Any]:
    """The pointwise and the depthwise convolution behind one published output."""
    node = made_by[output]
    while node.op_type in ("Sigmoid", "Reshape", "Transpose"):
        node = made_by[node.input[0]]
    first = made_by.get(node.input[0])
    if node.op_type != "Conv" or first is None or first.op_type != "Conv":
        raise PatchError(f"{output} does not end in two convolutions")
    return first, node


def _without_dead_nodes(graph: Any) -> None:
    """Drop what no output needs any more."""
    needed = {output.name for output in graph.output}
    kept: list[Any] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    _replace(graph, kept[::-1])


def _without_dropout(graph: Any) -> None:
    """Dropout does nothing outside training."""
    kept: list[Any] = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Dropout":
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace(graph, kept)


def _fold_norms(graph: Any, weights: Weights) -> None:
    """Batch norm behind a convolution without bias: scale the filters, keep the shift as bias."""
    kept: list[Any] = []
    for node in graph.node:
        before = kept[-1] if kept else node
        if node.op_type != "BatchNormalization" or before.op_type != "Conv" or before.output[0] != node.input[0]:
            kept.append(node)
            continue
        if len(before.input) != 2:
            raise PatchError(f"{before.name}: a convolution with a bias before a batch norm was not foreseen")
        gamma, beta, mean, variance = (weights[name].astype(np.float64) for name in node.input[1:])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        filters, bias = before.input[1], f"{before.input[1]}_bias"
        weights[filters] = (weights[filters] * scale[:, None, None, None]).astype(np.float32)
        weights[bias] = (beta - mean * scale).astype(np.float32)
        before.input.append(bias)
        before.output[0] = node.output[0]
    _replace(graph, kept)


def _split_prelus(graph: Any, weights: Weights) -> None:
    """prelu(y) = a*y + relu((1 - a)*y) for a slope a <= 1, channel by channel: two depthwise 1x1 convolutions.

    The runtime fuses the relu into one of them and the addition into the other, and both stay in the blocked layout.
    For a > 1 the negative of that is computed, -prelu(y) = -a*y + relu((a - 1)*y), and the next convolution's filters
    for that channel change their sign."""
    nodes: list[Any] = []
    flip: npt.NDArray[np.float64] | None = None
    for node in graph.node:
        if flip is not None and (flip < 0).any():
            _flip_channels(node, weights, flip)
        flip = None
        if node.op_type != "PRelu":
            nodes.append(node)
            continue
        source, target = node.input[0], node.output[0]
        slope = weights[node.input[1]].reshape(-1).astype(np.float64)
        flip = np.where(slope > 1, -1.0, 1.0)
        for part, scale in (("line", slope * flip), ("kink", np.abs(1 - slope))):
            weights[f"{target}_{part}_weight"] = scale.astype(np.float32).reshape(-1, 1, 1, 1)
        line = _conv(f"{target}_line", source, f"{target}_line", groups=len(slope), kernel=1)
        kink = _conv(f"{target}_kink", source, f"{target}_kink", groups=len(slope), kernel=1)
        for conv in (line, kink):
            del conv.input[2]
        nodes += [
            kink,
            helper.make_node("Relu", [f"{target}_kink"], [f"{target}_bend"], name=f"{target}_bend"),
            line,
            helper.make_node("Add", [f"{target}_line", f"{target}_bend"], [target], name=target),
        ]
    _replace(graph, nodes)


def _flip_channels(node: Any, weights: Weights, flip: npt.NDArray[np.float64]) -> None:
    """Take the sign of the flipped input channels into the filters of `node`, which reads them."""
    if node.op_type != "Conv":
        raise PatchError(f"{node.op_type} after a PReLU with a slope above 1 was not foreseen")
    filters = weights[node.input[1]]
    depthwise = filters.shape[1] == 1
    signs = flip[:, None, None, None] if depthwise else flip[None, :, None, None]
    weights[node.input[1]] = (filters * signs).astype(np.float32)
