"""Opens a network of the manifest for inference on the CPU, and no file but the one named there. No network access."""

import hashlib
import os
from pathlib import Path

# Its wheel has an upload address built in; a gate reports to nobody but HQ. It is read when the library is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from models.manifest import MANIFEST, Model, ModelError, model

CACHE = Path(__file__).with_name("cache")
"""Where `python -m models.obtain` puts the networks of a checkout."""


def load(name: str, folder: Path = CACHE, threads: int = 1, manifest: Path = MANIFEST) -> onnxruntime.InferenceSession:
    """A session over the network called `name` from `folder`, computing with `threads` threads.

    The bytes that are hashed are the bytes that are loaded: the file is read once. Raises `ModelError` where the file
    is missing, unreadable or does not have the manifest's sha256."""
    entry = model(name, manifest)
    return _session(verified(entry, folder), entry, threads)


def verified(entry: Model, folder: Path) -> bytes:
    """The file's bytes. Raises `ModelError` naming the file, what was expected and what was found."""
    path = folder / entry.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot read the network {entry.name} from {path} ({error.strerror}): "
            f"run `python -m models.obtain --dir {folder}`"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise ModelError(
            f"{path} is not the network {entry.name} of the manifest: expected sha256 {entry.sha256}, found {found}; "
            f"it is not loaded. Remove it and run `python -m models.obtain --dir {folder}`"
        )
    return content


def _session(content: bytes, entry: Model, threads: int) -> onnxruntime.InferenceSession:
    if threads < 1:
        raise ValueError(f"a session needs at least one thread, not {threads}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors; warnings speak of the graph, which the hash has settled
    # A lane computes in bursts and has other work on the same cores: threads that wait must sleep, not spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no public base
        raise ModelError(f"the runtime cannot open the network {entry.name}: {error}") from error
