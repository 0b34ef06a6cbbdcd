"""lane.toml: what is accepted, and that every error names file, line, section and option."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from gated.cli.check import read_all
from gated.config import Config, ConfigError, load, signers_of
from gated.toml import locate

SHARED = """\
[lane]
id = "tpe-t1-07"
site = "tpe"

[keys]
cache = "credential:cache.key"
journal = "keys/journal.key"
hq_public = "/etc/gated/hq.pub"
orders_public = "/etc/gated/orders.pub"
receipts_public = "/etc/gated/receipts.pub"

[uplink]
host = "broker.example"
"""
HERE = Path("/somewhere/lane.toml")


def test_signers_are_one_or_while_the_key_is_changed_two(tmp_path: Path) -> None:
    file = tmp_path / "receipts.pub"
    conf = Config(SHARED.replace("/etc/gated/receipts.pub", str(file)), HERE)
    old, new = bytes(range(100, 132)), bytes(range(200, 232))
    for content, found in ((old, (old,)), (old + new, (old, new))):
        file.write_bytes(content)
        assert signers_of(conf, "receipts_public") == found
    for bad, said in (
        (b"", "must be 32 bytes, or 64 while the key is changed; found 0"),
        (old[:-1], "found 31"),
        (old + new[:-1], "found 63"),
        (3 * old, "found 96"),
        (old.hex().encode(), "is text"),
    ):
        file.write_bytes(bad)
        with pytest.raises(ConfigError, match=rf"\[keys\] receipts_public: {file} .*{said}"):
            signers_of(conf, "receipts_public")
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        signers_of(conf, "receipts_public")


def config(extra: str = "") -> Config:
    return Config(SHARED + extra, HERE)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Wire:
    pin: int | str
    active_low: bool = False


@dataclass(frozen=True)
class Thing:
    name: str
    count: int
    speed_m_s: float = 1.0
    on: bool = True
    file: Path | None = None
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] = "slow"
    sizes: tuple[int, ...] = ()
    pair: tuple[float, str] = (0.0, "")
    names: frozenset[str] = frozenset()
    wires: dict[str, Wire] = field(default_factory=dict)
    wire: Wire | None = None
    secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count must be at least 1")
        if self.wire and self.sizes:
            raise ValueError("one of them is too many")


GOOD = """
[thing] # a comment with = and [brackets]
name = "a # no comment"
count = 3
speed_m_s = 2
on = false
file = "x/y"
colour = "blue"
mode = "fast"
sizes = [
  1, # one
  2,
]
pair = [1.5, "b"]
names = ["x", "x"]
wires = {a = {pin = 4}, b = {pin = "GPIO5", active_low = true}}
[thing.wire]
pin = 9
"""


def test_shared_sections() -> None:
    c = config()
    assert (c.identity.id, c.identity.site) == ("tpe-t1-07", "tpe")
    assert c.keys.journal == Path("/somewhere/keys/journal.key")
    assert c.uplink.port == 8883 and c.uplink.tls
    assert c.store.dir == Path("/var/lib/gated")
    c.finish()


def test_credentials_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    assert config().keys.cache == Path("/run/credentials/x/cache.key")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert config().keys.cache == Path("/run/credentials/gated-lane.service/cache.key")
    with pytest.raises(ConfigError, match=r"lane.toml:6: \[keys\] cache: .*plain file name"):
        Config(SHARED.replace("credential:cache.key", "credential:../x"), HERE)


def test_every_type() -> None:
    c = config(GOOD.replace("sizes = [\n  1, # one\n  2,\n]\n", ""))
    thing = c.section("thing").into(Thing)
    assert thing == Thing(
        "a # no comment",
        3,
        2.0,
        False,
        Path("/somewhere/x/y"),
        Colour.BLUE,
        "fast",
        (),
        (1.5, "b"),
        frozenset({"x"}),
        {"a": Wire(4), "b": Wire("GPIO5", True)},
        Wire(9),
    )
    assert type(thing.speed_m_s) is float
    c.finish()


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("count = 3", "count = 3.5", 17, "[thing] count: is 3.5, must be a whole number"),
        ("count = 3", "count = true", 17, "[thing] count: is true, must be a whole number"),
        ("count = 3", "count = 0", 17, "[thing] count: count must be at least 1"),
        ("count = 3\n", "", 15, "[thing] count: is missing: a whole number is needed"),
        ("speed_m_s = 2", "speed_m_s = nan", 18, "[thing] speed_m_s: is nan, must be a number"),
        ("on = false", "on = 0", 19, "[thing] on: is 0, must be true or false"),
        ("on = false", "onn = false", 19, "[thing] onn: is not a known option; did you mean 'on'?"),
        ("on = false", "zzzz = 1", 19, "[thing] zzzz: is not a known option; known here: colour, count"),
        ('file = "x/y"', 'file = ""', 20, '[thing] file: is "", must be a path'),
        ('"blue"', '"Blue"', 21, '[thing] colour: is "Blue", must be one of "red", "blue"'),
        ('"fast"', '"medium"', 22, '[thing] mode: is "medium", must be one of "fast", "slow"'),
        ("  2,", '  "2",', 23, '[thing] sizes: is "2", must be a whole number'),
        ('[1.5, "b"]', "[1.5]", 27, "[thing] pair: is [1.5], must be a list of 2: [a number, text]"),
        ("names = [", "names = [1, ", 28, "[thing] names: is 1, must be text"),
        ("pin = 4", "pin = 4.5", 29, "[thing] wires.a.pin: is 4.5, must be a whole number or text"),
        ("{pin = 4}", "4", 29, "[thing] wires.a: is 4, must be a table {pin = ..., active_low = ...}"),
        ("active_low", "activelow", 29, "[thing] wires.b.activelow: is not a known option; did you mean 'active_low'?"),
        ("pin = 9", "pin = [9]", 31, "[thing] wire.pin: is [9], must be a whole number or text"),
        ("pin = 9", "pinn = 9", 31, "[thing] wire.pinn: is not a known option; did you mean 'pin'?"),
        ("pin = 9", "pin = 9", 15, "[thing]: one of them is too many"),
        ("on = false", "secret = 12345", 19, "[thing] secret: must be text"),
    ],
)
def test_errors_name_the_place(old: str, new: str, line: int, says: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        config(GOOD.replace(old, new, 1)).section("thing").into(Thing)
    assert str(caught.value).startswith(f"{HERE}:{line}: {says}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SHARED + "[thing\n", ":14: is not valid TOML: "),
        ("top = 1\n" + SHARED, ":1: [top]: stands outside of any section"),
        (SHARED.replace('id = "tpe-t1-07"', 'id = "TPE/7"'), ":2: [lane] id: id must be 1 to 32 lower-case"),
        (SHARED.replace('host = "broker.example"\n', ""), ":12: [uplink] host: is missing: text is needed"),
        (SHARED[: SHARED.index("[uplink]")], ": [uplink] host: is missing"),
        (SHARED + "port = 0\n", ":14: [uplink] port: port must be 1 to 65535, not 0"),
        (SHARED + 'key = "k"\n', ":12: [uplink] certificate: certificate and key belong together"),
        (SHARED + "prot = 1\n", ":14: [uplink] prot: is not a known option; did you mean 'port'?"),
        (SHARED + '[log]\nlevel = "loud"\n', ':15: [log] level: is "loud", must be one of "debug", "info"'),
        (SHARED + "[models]\nthreads = 0\n", ":15: [models] threads: threads must be 1 to 64"),
    ],
)
def test_errors_at_load(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(text, HERE)
    assert f"{HERE}{says}" in str(caught.value)


def test_nothing_may_stay_unread() -> None:
    with pytest.raises(ConfigError, match=r":14: \[uplnk\]: is not a known section; did you mean 'uplink'"):
        config("[uplnk]\nx = 1\n").finish()
    c = config("[thing]\nname = 'n'\ncount = 1\nother = 2\n")
    c.section("thing").take(Thing)
    with pytest.raises(ConfigError, match=r":17: \[thing\] other: is not a known option"):
        c.finish()


def test_a_section_with_two_readers() -> None:
    c = config("[passport]\ndriver = 'lines'\npin = 3\nname = 'n'\ncount = 1\n")
    section = c.section("passport")
    assert section.text("driver") == "lines"
    assert section.take(Wire) == Wire(3)
    assert section.into(Thing) == Thing("n", 1)
    with pytest.raises(ConfigError, match=r":14: \[passport\] port: is missing: text is needed"):
        section.text("port")


def test_paths_do_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lane.toml").write_text(SHARED)
    monkeypatch.chdir(tmp_path)
    assert load("lane.toml").keys.journal == tmp_path / "keys/journal.key"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load(tmp_path / "nowhere.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"[a]\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"binary\.toml:2: is not UTF-8 text"):
        load(binary)


def test_a_type_that_no_option_can_have_is_our_fault() -> None:
    @dataclass(frozen=True)
    class Odd:
        name: complex

    with pytest.raises(TypeError, match="complex"):
        config("[thing]\nname = 1\n").section("thing").into(Odd)


def test_lines_are_not_fooled() -> None:
    text = '''\
a = """
[not] a = "header"
b = 1
"""
"quoted key" = 2
c.d = 'x = 1'
[[many]]
e = [
  {f = 1},
  {f = 2, g = "]"},
]
[t."u v"]
h = {i = [1, {j = 2}], k = 3}
l = 4
'''
    assert locate(text) == {
        ("a",): 1,
        ("quoted key",): 5,
        ("c", "d"): 6,
        ("many",): 7,
        ("many", "e"): 8,
        ("many", "e", "f"): 9,
        ("many", "e", "g"): 10,
        ("t", "u v"): 12,
        ("t", "u v", "h"): 13,
        ("t", "u v", "h", "i"): 13,
        ("t", "u v", "h", "i", "j"): 13,
        ("t", "u v", "h", "k"): 13,
        ("t", "u v", "l"): 14,
    }


ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted((ROOT / "config").glob("*.toml")) + sorted((ROOT / "config/examples").glob("*.toml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_configuration_is_complete(file: Path) -> None:
    """Filled as the daemon does it, drivers' settings and policy included; no option stays unread."""
    _, devices = read_all(load(file))
    assert {"passport", "camera", "door"} <= devices.keys()


def test_a_lane_of_each_shape_is_shipped() -> None:
    shapes = {load(file).section("lane").text("topology") for file in SHIPPED}
    assert shapes == {"mantrap", "single", "bidirectional"}
