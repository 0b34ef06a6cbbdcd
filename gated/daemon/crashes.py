"""What may be logged of an exception that nobody expected: its type and where it came from.

Never its words: a `KeyError` quotes the key, which may be somebody's document number. The journal tells the rest to
who holds its key."""

import traceback
from pathlib import Path

FRAMES = 6
"""The innermost ones are shown."""


def told(error: BaseException) -> list[str]:
    """One line for an exception; for a group, one for each that it holds."""
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in told(each)]
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    where = " > ".join(f"{'/'.join(Path(f.filename).parts[-3:])}:{f.lineno} {f.name}" for f in frames)
    return [f"{type(error).__name__} at {where or 'nowhere'}"]
