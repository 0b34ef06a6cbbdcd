"""What is logged of an exception: where it came from, and neither its words nor any variable."""

import json
import subprocess
import sys
import textwrap

import pytest

from gated.logs import CHAIN_MAX, told

NUMBER, KEY = "K99887766", "c0ffee" * 8

FALL = """
import asyncio, gc, logging, sys, threading
import structlog
from gated import logs

NUMBER = "K998" + "87766"
KEY = "c0ffee" * 8

def look_up(holder):
    key = bytes.fromhex(KEY)
    shown = KEY
    return {}[holder]

def chained():
    number = NUMBER
    try:
        look_up(number)
    except KeyError as bad:
        bad.add_note("the holder was " + number)
        raise ValueError(f"{number} is not there", number) from bad
"""

WAYS = {
    "log.exception": """
        try:
            chained()
        except ValueError:
            structlog.get_logger().exception("it broke", op="status")
    """,
    "exc_info": """
        try:
            chained()
        except ValueError as bad:
            structlog.get_logger().error("it broke", exc_info=bad)
            structlog.get_logger().error("it broke", exc_info=sys.exc_info())
    """,
    "nobody": "chained()",
    "a group": """
        async def main():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.to_thread(chained))
        asyncio.run(main())
    """,
    "a thread": """
        thread = threading.Thread(target=chained, name="upkeep")
        thread.start()
        thread.join()
    """,
    "a task that nobody waits for": """
        async def main():
            task = asyncio.ensure_future(asyncio.to_thread(chained))
            await asyncio.wait([task])
            del task
            gc.collect()
        asyncio.run(main())
    """,
    "a callback": """
        async def main():
            asyncio.get_running_loop().call_soon(chained)
            await asyncio.sleep(0.05)
        asyncio.run(main())
    """,
    "a finaliser": """
        class Row:
            def __del__(self):
                chained()
        Row()
        gc.collect()
    """,
    "a library": """
        try:
            chained()
        except ValueError:
            logging.getLogger("some.library").exception("it broke")
    """,
}


def run(way: str, form: str) -> str:
    """What a process writes that falls in such a way."""
    code = f"{FALL}\nlogs.configure('info', {form!r})\n{textwrap.dedent(WAYS[way])}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("way", WAYS)
def test_neither_words_nor_variables_are_logged(way: str, form: str) -> None:
    said = run(way, form)
    assert "ValueError at " in said and "KeyError at " in said and "look_up" in said, said
    for secret in (NUMBER, KEY, "the holder", "is not there", "Traceback", "locals"):
        assert secret not in said
    if form == "json":
        assert all("exception" in json.loads(line) for line in said.splitlines())


def test_the_words_would_be_there_without_it() -> None:
    """The same fall, as Python and structlog tell it by themselves: the test above can fail."""
    code = f"{FALL}\n{textwrap.dedent(WAYS['log.exception'])}\nchained()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert NUMBER in done.stdout and KEY in done.stdout.replace("\n", ""), "structlog shows variables"
    assert NUMBER in done.stderr


def test_a_process_that_falls_still_ends_with_an_error() -> None:
    code = "from gated import logs; logs.configure(); {}['x']"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and json.loads(done.stderr)["exception"].startswith("KeyError at ")


def test_what_is_not_an_exception_is_shown_as_it_is() -> None:
    code = "from gated import logs; import structlog; logs.configure(); structlog.get_logger().info('up', lane='a')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    said = json.loads(done.stderr)
    assert (said["event"], said["lane"], said["level"]) == ("up", "a", "info") and "exception" not in said


def test_a_chain_ends() -> None:
    first: BaseException = ValueError(NUMBER)
    last = first
    for _ in range(2 * CHAIN_MAX):
        last.__cause__ = OSError(5, NUMBER)
        last = last.__cause__
    assert told(first) == ["ValueError at nowhere", *["OSError at nowhere"] * (CHAIN_MAX - 1)]
    bad = ValueError(NUMBER)
    bad.__cause__ = KeyError(NUMBER)
    bad.__cause__.__cause__ = bad
    assert told(bad) == ["ValueError at nowhere", "KeyError at nowhere"]
