"""From a frame to a decision, by part, beside OpenCV's FaceDetectorYN and FaceRecognizerSF on the same frames.

Both engines get the same pictures and the same number of threads, in turns, so that a busy machine is busy for both.
The physical limit is the networks' multiplications at the speed of this machine's matrix product.

    python -m benchmarks.bench_face [--rounds N] [--threads 1 2] [--picture FILE] [--from FILE] [--json]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime

from gated.biometrics.face import Image, OnnxFaceEngine, template_of
from gated.biometrics.laboratory import read_picture
from models.loader import CACHE
from models.obtain import obtain, published

FRAMES = ((640, 480), (1280, 720), (1200, 1600))
FACE_PART = 0.35
"""The face takes this part of the frame's shorter side: a person about a metre from the camera."""
STARTUP = """
import json, sys, time
started = time.perf_counter()
def resident_mb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
import numpy, cv2, onnxruntime
imported, bare = time.perf_counter() - started, resident_mb()
from pathlib import Path
from gated.biometrics.face import OnnxFaceEngine
engine = OnnxFaceEngine(Path(sys.argv[1]), threads=int(sys.argv[2]))
loaded = time.perf_counter() - started
image = numpy.ascontiguousarray(cv2.imread(sys.argv[3]))
look = engine.look(image)
engine.embed(image, look)
first = time.perf_counter() - started
for _ in range(5):
    engine.embed(image, engine.look(image))
print(json.dumps({"imports_s": imported, "ready_s": loaded, "first_decision_s": first,
                  "resident_imports_mb": bare, "resident_mb": resident_mb()}))
"""

Timings = dict[str, list[float]]


def frame(picture: Image, box: np.ndarray[Any, Any], width: int, height: int) -> Image:
    """A frame of a camera that sees the face of `picture` in its middle, `FACE_PART` of the shorter side wide."""
    scale = FACE_PART * min(width, height) / float(box[2])
    middle = box[:2] + box[2:] / 2
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=way)
    shift = np.array([width, height]) / 2 - middle * scale
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    made: Image = cv2.warpAffine(scaled, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    return made


class Ours:
    """`OnnxFaceEngine`, part by part."""

    def __init__(self, models: Path, threads: int, image: Image) -> None:
        self._engine = OnnxFaceEngine(models, threads=threads)
        self._template = template_of(self._engine.embed(image, self._engine.look(image)))
        assert self._engine.look(image).face is not None, "the benchmark's frame shows a face"

    def round(self, image: Image, into: Timings) -> float:
        clock = time.perf_counter
        marks = [clock()]
        found = self._engine.faces(image)
        marks.append(clock())
        look = self._engine.judge(image, found)
        marks.append(clock())
        embedding = self._engine.embed(image, look)
        marks.append(clock())
        score = self._engine.score(embedding, self._template)
        marks.append(clock())
        _note(into, ("detect", "points, align, quality", "embed", "compare"), marks)
        return score


class OpenCv:
    """FaceDetectorYN and FaceRecognizerSF over the published files, on the same detection width."""

    def __init__(self, folder: Path, threads: int, image: Image, detection_width: int = 640) -> None:
        cv2.setNumThreads(threads)
        self._width = detection_width
        self._detector = cv2.FaceDetectorYN.create(str(folder / "yunet.onnx"), "", (320, 320), 0.6, 0.3, 500)
        self._recogniser = cv2.FaceRecognizerSF.create(str(folder / "sface.onnx"), "")
        self._template: Any = np.zeros((1, 128), np.float32)
        self._feature: Any = self._template
        self.round(image, {})
        self._template = self._feature.copy()

    def round(self, image: Image, into: Timings) -> float:
        clock = time.perf_counter
        marks = [clock()]
        factor = max(image.shape[1] / self._width, 1.0)
        size = (round(image.shape[1] / factor), round(image.shape[0] / factor))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if factor > 1 else image
        self._detector.setInputSize(size)
        found = self._detector.detect(small)[1]
        marks.append(clock())
        face = found[0].copy()
        face[:14] *= factor
        crop = self._recogniser.alignCrop(image, face)
        marks.append(clock())
        self._feature = self._recogniser.feature(crop)
        marks.append(clock())
        score = self._recogniser.match(self._feature, self._template, cv2.FaceRecognizerSF_FR_COSINE)
        marks.append(clock())
        _note(into, ("detect", "points, align, quality", "embed", "compare"), marks)
        return float(score)


def _note(into: Timings, parts: tuple[str, ...], marks: list[float]) -> None:
    for part, start, end in zip(parts, marks, marks[1:], strict=False):
        into.setdefault(part, []).append(1000 * (end - start))
    into.setdefault("frame to decision", []).append(1000 * (marks[-1] - marks[0]))


def compare_engines(models: Path, publishing: Path, picture: Image, threads: int, rounds: int) -> dict[str, Any]:
    """Median and 95th percentile in milliseconds, by frame size, engine and part."""
    box = OnnxFaceEngine(models, threads=threads).faces(picture)[0].box
    told: dict[str, Any] = {}
    for width, height in FRAMES:
        image = frame(picture, box, width, height)
        ours, theirs = Ours(models, threads, image), OpenCv(publishing, threads, image)
        timings: tuple[Timings, Timings] = ({}, {})
        for number in range(rounds + 3):
            if number == 3:  # the first rounds warm caches and clocks
                timings = ({}, {})
            for run, into in zip((ours.round, theirs.round), timings, strict=True):
                assert run(image, into) > 0.9, "both engines must recognise the frame they enrolled"
        told[f"{width}x{height}"] = {"gated": _summary(timings[0]), "opencv": _summary(timings[1])}
    return told


def _summary(timings: Timings) -> dict[str, dict[str, float]]:
    return {
        part: {"median_ms": float(np.median(taken)), "p95_ms": float(np.percentile(taken, 95))}
        for part, taken in timings.items()
    }


def multiplications(content: bytes) -> tuple[int, int]:
    """Multiply-accumulates of one run of a published graph, and the pixels of its fixed input."""
    network = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    graph = network.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output, *graph.input)
    }
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += int(np.prod(shapes[node.output[0]]) * np.prod(weights[node.input[1]][1:]))
        elif node.op_type == "Gemm":
            total += int(np.prod(weights[node.input[1]]))
    pixels = shapes[graph.input[0].name]
    return total, int(pixels[2] * pixels[3])


def matrix_speed(threads: int, side: int = 1024) -> float:
    """Multiply-accumulates a second of the runtime's own matrix product, the best of several."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [value("a", 1, (side, side)), value("b", 1, (side, side))],
        [value("c", 1, (side, side))],
    )
    network = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {name: np.random.default_rng(0).random((side, side), np.float32) for name in ("a", "b")}
    return side**3 / _best(lambda: session.run(None, inputs), 12)


def _best(run: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


def startup(models: Path, threads: int, picture: Path) -> dict[str, float]:
    """Seconds and resident megabytes of a process of its own; its file cache is warm."""
    command = [sys.executable, "-c", STARTUP, str(models), str(threads), str(picture)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(3)]
    best: dict[str, float] = min((json.loads(run) for run in runs), key=lambda run: run["first_decision_s"])
    return best


def measure(picture_path: Path, threads: list[int], rounds: int, given: list[Path]) -> dict[str, Any]:
    say = lambda line: print(line, file=sys.stderr)  # noqa: E731
    obtain(CACHE, given, say=say)
    picture = read_picture(picture_path)
    told: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "architecture": platform.machine(), "load_before": os.getloadavg()[0]},
        "versions": {"onnxruntime": onnxruntime.__version__, "opencv": cv2.__version__},
        "threads": {},
    }
    with tempfile.TemporaryDirectory(prefix="gated-bench-") as scratch:
        folder = Path(scratch)
        contents = {name: published(name, given, say) for name in ("yunet", "sface")}
        for name, content in contents.items():
            (folder / f"{name}.onnx").write_bytes(content)
        small = folder / "frame.png"
        cv2.imwrite(str(small), frame(picture, OnnxFaceEngine(CACHE).faces(picture)[0].box, *FRAMES[0]))
        detection, pixels = multiplications(contents["yunet"])
        work = {
            "detect": detection * FRAMES[0][0] * FRAMES[0][1] / pixels,
            "embed": multiplications(contents["sface"])[0],
        }
        for count in threads:
            speed = matrix_speed(count)
            told["threads"][str(count)] = {
                "frames": compare_engines(CACHE, folder, picture, count, rounds),
                "matrix_product_gmac_s": speed / 1e9,
                "limit_ms": {part: 1000 * macs / speed for part, macs in work.items()},
                "startup": startup(CACHE, count, small),
            }
        told["million_macs"] = {part: macs / 1e6 for part, macs in work.items()}
    told["machine"]["load_after"] = os.getloadavg()[0]
    return told


def table(told: dict[str, Any]) -> str:
    lines = [f"load {told['machine']['load_before']:.1f} before, {told['machine']['load_after']:.1f} after"]
    for count, entry in told["threads"].items():
        for size, engines in entry["frames"].items():
            lines.append(f"\n{size}, {count} thread(s)         gated: median    p95    OpenCV: median    p95   ms")
            for part, ours in engines["gated"].items():
                theirs = engines["opencv"][part]
                lines.append(
                    f"  {part:28}{ours['median_ms']:14.2f}{ours['p95_ms']:7.2f}"
                    f"{theirs['median_ms']:18.2f}{theirs['p95_ms']:7.2f}"
                )
        limit, start = entry["limit_ms"], entry["startup"]
        lines.append(
            f"\n{count} thread(s): physical limit at {entry['matrix_product_gmac_s']:.0f} GMAC/s: "
            f"detect 640x480 {limit['detect']:.2f} ms, embed {limit['embed']:.2f} ms"
        )
        lines.append(
            f"start-up: imports {start['imports_s']:.2f} s, ready {start['ready_s']:.2f} s, first decision "
            f"{start['first_decision_s']:.2f} s; resident {start['resident_mb']:.0f} MB "
            f"({start['resident_imports_mb']:.0f} MB of it imports)"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--picture", type=Path, help="a portrait; a public-domain one is obtained when left out")
    parser.add_argument("--from", dest="given", type=Path, action="append", default=[], help="as in models.obtain")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    picture = options.picture
    if picture is None:
        from tests.hw_sim import portraits

        picture = portraits.obtain(say=lambda line: print(line, file=sys.stderr))["obama"][0]
    told = measure(picture, options.threads, options.rounds, options.given)
    print(json.dumps(told, indent=2) if options.json else table(told))


if __name__ == "__main__":
    main()
