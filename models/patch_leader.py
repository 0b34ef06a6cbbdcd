"""LEADER's graph, written anew from its published weights: same minutiae, a third of the time. Never run in a lane.

Published, the graph is what a converter made of its training framework: layer norms and GELUs in eight to eleven passes
over memory each, dilated convolutions as rearranged batches, channel counts that no blocked kernel takes. Here:

* a norm and a GELU are one operation each, channels last, with matrix products around them;
* what follows a bottleneck's expansion is linear, so its reduction and adjustment are one product;
* the heads double the picture's size by repetition, which commutes with all that looks at one place alone: they double
  it last, as the four phases of a 3 x 3 convolution instead of one 5 x 5;
* direction and kind are asked for at the minutiae alone, from 9 x 9 places around each;
* channels are filled up to multiples of 16 with zeros.

The products are sums, so they are added one after the other: the same bytes on every machine (models/patch.py).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from models.manifest import PatchError

Doubles = npt.NDArray[np.float64]
Filters = tuple[Doubles, Doubles]
"""A convolution's weights (out, in, height, width) and bias (out)."""

OPSET = 20
"""The first with GELU as one operation."""
SCORE_MIN = 0.6
"""Below this a peak is no minutia: the network's own post-processing, as published."""
MINUTIAE_MAX = 255
"""The surest are described: a template holds no more, and noise shall not cost seconds."""
REACH = 4
"""A head's 5 x 5 at full size and its 7 x 7 at half size look so far, in places at half size."""
EPSILON = 1e-3
BLOCK = 16
BLUR = "functional_1/nms_Gaussian_blur_1/convolution/ReadVariableOp:0"


@dataclass(frozen=True)
class Published:
    """The weights by the names of the layers they belong to."""

    weights: dict[str, npt.NDArray[Any]]
    made_by: dict[str, Any]
    convolutions: dict[str, Any]

    @classmethod
    def of(cls, graph: Any) -> "Published":
        return cls(
            {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer},
            {node.output[0]: node for node in graph.node},
            {node.input[1]: node for node in graph.node if node.op_type == "Conv"},
        )

    def convolution(self, layer: str) -> Filters:
        name = f"functional_1/{layer}_1/convolution/ReadVariableOp:0"
        inputs = self.convolutions[name].input
        bias = self.weights[inputs[2]] if len(inputs) > 2 else self._constant(f"functional_1/{layer}_1/BiasAdd:0")
        return self.weights[name].astype(np.float64), bias.astype(np.float64).ravel()

    def depthwise(self, layer: str, part: str = "") -> Doubles:
        return self.weights[self.made_by[f"functional_1/{layer}_1/{part}depthwise:0"].input[1]].astype(np.float64)

    def separable(self, layer: str) -> tuple[Doubles, Doubles, Doubles]:
        """Depthwise weights, pointwise weights, bias."""
        pointwise = self.weights[f"functional_1/{layer}_1/separable_conv2d/ReadVariableOp_1:0"].astype(np.float64)
        bias = self.weights[f"functional_1/{layer}_1/Squeeze:0"].astype(np.float64)
        return self.depthwise(layer, "separable_conv2d/"), pointwise, bias

    def norm(self, layer: str) -> tuple[Doubles, Doubles]:
        """Scale and shift of a layer norm."""
        scale = self.weights[f"functional_1/{layer}_1/Reshape:0"]
        shift = self._constant(f"functional_1/{layer}_1/add_1:0")
        return scale.astype(np.float64).ravel(), shift.astype(np.float64).ravel()

    def _constant(self, made: str) -> npt.NDArray[Any]:
        """The one weight among the inputs of the node that makes `made`."""
        (name,) = (name for name in self.made_by[made].input if name in self.weights)
        return self.weights[name]


@dataclass(frozen=True)
class Channels:
    """Where published channels lie. Place i holds channel `order[i]`; places from `len(order)` to `width` are zero."""

    order: list[int]
    width: int


@dataclass
class Graph:
    """Nodes and weights as they are added. Every function returns the name of what it adds."""

    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def weight(self, name: str, values: Any) -> str:
        self.weights[name] = np.ascontiguousarray(values, np.float32)
        return name

    def integers(self, *values: int) -> str:
        name = "_".join(("integers", *map(str, values)))
        self.weights[name] = np.array(values, np.int64)
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, name: str, source: str) -> list[str]:
        """The two halves of the channels."""
        parts = [f"{name}_first", f"{name}_second"]
        self.nodes.append(helper.make_node("Split", [source], parts, name=name, axis=1, num_outputs=2))
        return parts

    def convolve(
        self, name: str, source: str, filters: Any, bias: Any = None, *, dilation: int = 1, pad: int | None = None
    ) -> str:
        """Stride 1; keeps the size but with `pad`. Depthwise where filters take one channel, but the picture's."""
        side = filters.shape[-1]
        pads = dilation * (side // 2) if pad is None else pad
        inputs = [source, self.weight(f"{name}_weight", filters)]
        inputs += [] if bias is None else [self.weight(f"{name}_bias", bias)]
        return self.node(
            "Conv",
            name,
            *inputs,
            dilations=[dilation] * 2,
            group=len(filters) if filters.shape[1] == 1 and source != "picture" else 1,
            kernel_shape=[side] * 2,
            pads=[pads] * 4,
            strides=[1, 1],
        )

    def last(self, source: str) -> str:
        """Channels last."""
        return self.node("Transpose", f"{source}_last", source, perm=[0, 2, 3, 1])

    def first(self, source: str) -> str:
        """Channels first again."""
        return self.node("Transpose", f"{source}_first", source, perm=[0, 3, 1, 2])

    def product(self, name: str, source: str, matrix: Doubles, bias: Doubles | None = None) -> str:
        """`matrix` (out, in) times the last axis, plus `bias`."""
        if bias is None:
            return self.node("MatMul", name, source, self.weight(f"{name}_weight", matrix.T))
        made = self.product(f"{name}_product", source, matrix)
        return self.node("Add", name, made, self.weight(f"{name}_bias", bias))

    def norm(self, name: str, source: str, scale: Doubles, shift: Doubles) -> str:
        inputs = source, self.weight(f"{name}_scale", scale), self.weight(f"{name}_shift", shift)
        return self.node("LayerNormalization", name, *inputs, axis=-1, epsilon=EPSILON)

    def gelu(self, source: str) -> str:
        return self.node("Gelu", f"{source}_gelu", source, approximate="tanh")

    def pool(self, kind: str, source: str) -> str:
        return self.node(kind, f"{source}_half", source, kernel_shape=[2, 2], strides=[2, 2])

    def halved(self, name: str, source: str) -> str:
        """Half the size: the first half of the channels by maximum, the second by mean."""
        first, second = self.split(f"{name}_split", source)
        pooled = self.pool("MaxPool", first), self.pool("AveragePool", second)
        return self.node("Concat", f"{name}_down", *pooled, axis=1)

    def doubled(self, source: str) -> str:
        """Twice the size, by repetition."""
        scales = self.weight("twice", [1, 1, 2, 2])
        attributes = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
        return self.node("Resize", f"{source}_double", source, "", scales, **attributes)


def rebuilt(network: Any) -> None:
    """Replace the graph of LEADER as published. Raises `PatchError` for any other.

    Input `picture`: float32 (1, 1, height, width), grey 0-255, multiples of 32. Outputs, the surest minutia first, 255
    at most: `place` int64 (n, 4), of which the last two are y and x; `score` float32 (n); `direction` (n, 8): of the
    four pixels (even or odd y, even or odd x) of the place at half size, cosine and sine, not normalised; `ending`
    (n, 4): above 0 for an ending."""
    graph = Graph()
    try:
        _write(graph, Published.of(network.graph))
    except (KeyError, ValueError, IndexError) as missing:
        raise PatchError(f"this is not LEADER as published: {missing}") from missing
    describe, kind = helper.make_tensor_value_info, onnx.TensorProto
    del network.graph.node[:], network.graph.initializer[:], network.graph.value_info[:]
    del network.graph.input[:], network.graph.output[:], network.opset_import[:]
    network.opset_import.append(helper.make_opsetid("", OPSET))
    network.graph.node.extend(graph.nodes)
    weights = sorted(graph.weights.items())
    network.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights)
    network.graph.input.append(describe("picture", kind.FLOAT, (1, 1, "height", "width")))
    for name, columns in (("place", (4,)), ("score", ()), ("direction", (8,)), ("ending", (4,))):
        values = kind.INT64 if name == "place" else kind.FLOAT
        network.graph.output.append(describe(name, values, ("minutiae", *columns)))


def _write(graph: Graph, published: Published) -> None:
    coarse = _stem(graph, published, "stem0", "MaxPool")
    fine = _stem(graph, published, "stem1", "AveragePool")
    context = _context(graph, published, coarse)
    attended = graph.node("Mul", "attended", context, _attention(graph, published, context))
    refined = graph.node("Concat", "refined", attended, fine, axis=1)
    half, quarter, trunk, channels = _refinement(graph, published, refined)
    _peaks(graph, published, trunk, channels)
    patches, inside = _patches(graph, half, quarter, channels.width)
    for head, name, layer in ((1, "direction", "head_conv_dir"), (2, "ending", "head_conv_typ")):
        around = _head(graph, published, head, patches, channels, centre=True)
        known = graph.node("Mul", f"{name}_known", around, inside)
        flat = graph.node("Reshape", f"{name}_flat", known, graph.integers(-1, 36))
        filters, bias = _phases(*published.convolution(layer))
        graph.product(name, flat, filters.reshape(len(filters), 36), bias)


def _stem(graph: Graph, published: Published, stem: str, pool: str) -> str:
    plain = graph.convolve(f"{stem}_plain", "picture", *published.convolution(f"{stem}_conv"))
    dilated = graph.convolve(f"{stem}_wide", "picture", *published.convolution(f"{stem}_dilated_conv"), dilation=2)
    both = graph.node("Concat", f"{stem}_both", plain, dilated, axis=1)
    normed = graph.norm(f"{stem}_norm", graph.last(both), *published.norm(f"{stem}_ln"))
    return graph.pool(pool, graph.first(graph.gelu(normed)))


def _context(graph: Graph, published: Published, source: str) -> str:
    """The first encoder and decoder."""
    made, kept = source, []
    for level in range(4):
        made = _separable(graph, published, f"enc0_{level}", made)
        kept.append(made)
        made = graph.halved(f"enc0_{level}", made)
    for level in (3, 2, 1, 0):
        made = graph.doubled(_separable(graph, published, f"dec0_{level}", made))
        made = graph.node("Concat", f"dec0_{level}_both", made, kept[level], axis=1)
    return made


def _separable(graph: Graph, published: Published, block: str, source: str) -> str:
    depthwise, pointwise, bias = published.separable(f"{block}_conv")
    deep = graph.convolve(f"{block}_depthwise", source, depthwise)
    made = graph.convolve(f"{block}_pointwise", deep, pointwise, bias)
    return graph.first(graph.gelu(graph.norm(f"{block}_norm", graph.last(made), *published.norm(f"{block}_ln"))))


def _attention(graph: Graph, published: Published, source: str) -> str:
    seen = [
        graph.convolve(f"attention_{far}", source, *published.convolution(f"attention_conv_d{far}"), dilation=far)
        for far in (1, 3, 6)
    ]
    weighed = graph.gelu(graph.node("Concat", "attention_seen", *seen, axis=1))
    return graph.node("Sigmoid", "attention", graph.convolve("weighed", weighed, *published.convolution("attention_s")))


def _refinement(graph: Graph, published: Published, source: str) -> tuple[str, str, str, Channels]:
    """The second encoder and decoder. Its last two parts, of half and of a quarter of the picture's size, channels
    last; both together at half size, channels first; and where the published channels lie therein."""
    made, kept, widths = source, [], []
    outputs: dict[str, str] = {}
    for level in range(4):
        block = f"enc1_{level}"
        filters, bias = published.convolution(f"{block}_conv_adj")
        channels = Channels(list(range(filters.shape[1])), filters.shape[1])
        outputs[block] = _bottleneck(graph, published, block, made, channels, (filters, bias))
        kept.append(graph.first(outputs[block]))
        widths.append(len(bias))
        made = graph.halved(block, kept[-1])
    channels = Channels(list(range(widths[3])), widths[3])
    for level in (3, 2, 1, 0):
        block = f"dec1_{level}"
        filters, bias = published.convolution(f"{block}_conv_adj")
        count, empty = len(bias), -len(bias) % BLOCK
        wide = np.pad(filters, ((0, empty), (0, 0), (0, 0), (0, 0))), np.pad(bias, (0, empty))
        outputs[block] = _bottleneck(graph, published, block, made, channels, wide)
        made = graph.node("Concat", f"{block}_both", kept[level], graph.doubled(graph.first(outputs[block])), axis=1)
        order = [*range(count, count + widths[level]), *range(count)]  # published the other way round
        channels = Channels(order, widths[level] + count + empty)
    return outputs["enc1_0"], outputs["dec1_0"], made, channels


def _bottleneck(
    graph: Graph, published: Published, block: str, source: str, channels: Channels, after: Filters, pad: int = 3
) -> str:
    """An inverse bottleneck and the 1 x 1 convolution `after` it. Channels first in, last out.

    after(x + reduce(g)) is after(x) + (after reduce)(g). `pad` 0: of patches, which 7 x 7 shrinks; x is their core."""
    count, order = len(channels.order), channels.order
    depthwise = np.zeros((channels.width, 1, 7, 7))
    depthwise[:count] = published.depthwise(f"{block}_depthwise_conv")[order]
    deep = graph.last(graph.convolve(f"{block}_depthwise", source, depthwise, pad=pad))
    if count < channels.width:
        deep = graph.node("Slice", f"{block}_filled", deep, graph.integers(0), graph.integers(count), graph.integers(3))
    scale, shift = published.norm(f"{block}_ln")
    normed = graph.norm(f"{block}_norm", deep, scale[order], shift[order])
    expand, reduce = published.convolution(f"{block}_conv_exp"), published.convolution(f"{block}_conv_red")
    wide = graph.product(f"{block}_expand", normed, expand[0][:, order, 0, 0], expand[1])
    matrix = after[0][:, :, 0, 0]
    beside = np.zeros((len(matrix), channels.width))
    beside[:, :count] = matrix[:, order]
    if not pad:
        source = _core(graph, f"{block}_core", source)
    through = graph.product(f"{block}_reduce", graph.gelu(wide), _times(matrix, reduce[0][:, :, 0, 0]))
    past = graph.product(f"{block}_past", graph.last(source), beside)
    bias = after[1] + _times(matrix, reduce[1][:, None])[:, 0]
    added = graph.node("Add", f"{block}_sum", through, past)
    return graph.node("Add", f"{block}_out", added, graph.weight(f"{block}_out_bias", bias))


def _head(
    graph: Graph, published: Published, head: int, source: str, channels: Channels, *, centre: bool = False
) -> str:
    """All of a head but its 5 x 5 convolution, at half size. `centre`: of patches, for the middle 3 x 3 places."""
    block = f"head_{head}"
    first, adjust = published.convolution(f"{block}_conv1"), published.convolution(f"{block}_ibc_conv_adj")
    matrix = first[0][:, :, 0, 0]
    joined = _times(matrix, adjust[0][:, :, 0, 0])[:, :, None, None]
    bias = _times(matrix, adjust[1][:, None])[:, 0] + first[1]
    made = _bottleneck(graph, published, f"{block}_ibc", source, channels, (joined, bias), 0 if centre else 3)
    normed = graph.norm(f"{block}_norm", made, *published.norm(f"{block}_ln"))
    filters, bias = published.convolution(f"{block}_conv2")
    return graph.first(graph.gelu(graph.product(f"{block}_mixed", normed, filters[:, :, 0, 0], bias)))


def _peaks(graph: Graph, published: Published, trunk: str, channels: Channels) -> None:
    """Outputs `score` and `place`: where a minutia is likelier than within three pixels around."""
    filters, bias = _phases(*published.convolution("head_conv_pos"))
    phases = graph.convolve("likely_phases", _head(graph, published, 0, trunk, channels), filters, bias)
    likely = graph.node("Sigmoid", "likely", phases)
    whole = graph.node("DepthToSpace", "likely_pixels", likely, blocksize=2, mode="DCR")
    smooth = graph.convolve("likely_smooth", whole, published.weights[BLUR])
    around = graph.node("MaxPool", "likely_around", smooth, kernel_shape=[7, 7], pads=[3] * 4, strides=[1, 1])
    graph.weights["score_min"] = np.array(SCORE_MIN, np.float32)
    peak = graph.node("GreaterOrEqual", "is_peak", smooth, around)
    sure = graph.node("GreaterOrEqual", "is_sure", smooth, "score_min")
    found = graph.node("NonZero", "found_columns", graph.node("And", "is_minutia", peak, sure))
    places = graph.node("Transpose", "found", found, perm=[1, 0])
    scores = graph.node("GatherND", "found_scores", smooth, places)
    count = graph.node("Min", "count", graph.node("Shape", "found_count", scores), graph.integers(MINUTIAE_MAX))
    graph.nodes.append(helper.make_node("TopK", [scores, count], ["score", "rank"], name="surest", axis=0))
    graph.node("Gather", "place", places, "rank", axis=0)


def _patches(graph: Graph, half: str, quarter: str, width: int) -> tuple[str, str]:
    """The trunk's 9 x 9 places around each minutia, (n, width, 9, 9), zero outside of the picture; and, of the middle
    3 x 3, which lie inside, (n, 1, 3, 3)."""
    side = 2 * REACH + 1
    one = graph.integers(1)
    pixel = graph.node("Slice", "pixel", "place", graph.integers(2), graph.integers(4), one)
    middle = graph.node("Unsqueeze", "middle", graph.node("Div", "at_half", pixel, graph.integers(2)), one)
    window = np.arange(-REACH, REACH + 1, dtype=np.int64)
    graph.weights["window"] = np.stack(np.meshgrid(window, window, indexing="ij"), -1).reshape(1, side * side, 2)
    places = graph.node("Add", "places", middle, "window")
    parts = []
    for name, source, step in (("half", half, 1), ("quarter", quarter, 2)):
        shape = graph.node(
            "Slice", f"{name}_shape", graph.node("Shape", f"{name}_sizes", source), one, graph.integers(3)
        )
        last = graph.node("Sub", f"{name}_last_place", shape, one)
        scaled = graph.node("Div", f"{name}_scaled", places, graph.integers(step))
        above = graph.node("Max", f"{name}_above", scaled, graph.integers(0))
        within = graph.node("Min", f"{name}_within", above, last)
        flat = graph.node("Squeeze", f"{name}_flat", source, graph.integers(0))
        parts.append(graph.node("GatherND", f"{name}_taken", flat, within))
    after = graph.node("GreaterOrEqual", "after_start", places, graph.integers(0))
    before = graph.node("Less", "before_end", places, "half_shape")
    both = graph.node("Cast", "inside_both", graph.node("And", "inside_each", after, before), to=onnx.TensorProto.FLOAT)
    edges = [
        graph.node("Slice", f"inside_{name}", both, graph.integers(at), graph.integers(at + 1), graph.integers(2))
        for at, name in enumerate(("down", "across"))
    ]
    inside = graph.node("Mul", "inside", *edges)
    joined = graph.node("Mul", "taken", graph.node("Concat", "taken_all", *parts, axis=2), inside)
    turned = graph.node("Transpose", "taken_turned", joined, perm=[0, 2, 1])
    patches = graph.node("Reshape", "patches", turned, graph.integers(-1, width, side, side))
    known = graph.node("Reshape", "inside_square", inside, graph.integers(-1, 1, side, side))
    return patches, _core(graph, "inside_core", known)


def _core(graph: Graph, name: str, source: str) -> str:
    """The middle 3 x 3 of 9 x 9."""
    return graph.node("Slice", name, source, graph.integers(3, 3), graph.integers(6, 6), graph.integers(2, 3))


def _phases(filters: Doubles, bias: Doubles) -> Filters:
    """A 5 x 5 convolution after doubling by repetition, as a 3 x 3 one before it: of the output's pixels at (even or
    odd y, even or odd x) in turn, all channels."""
    made = np.zeros((2, 2, *filters.shape[:2], 3, 3))
    for down, across, y, x in np.ndindex(2, 2, 5, 5):
        made[down, across, :, :, (down + y) // 2, (across + x) // 2] += filters[:, :, y, x]
    return made.reshape(-1, filters.shape[1], 3, 3), np.tile(bias, 4)


def _times(left: Doubles, right: Doubles) -> Doubles:
    """The matrix product, its terms added in order: a library's own order differs between machines."""
    made = np.zeros((left.shape[0], right.shape[1]))
    for column, row in zip(left.T, right, strict=True):
        made += column[:, None] * row[None, :]
    return made
