"""Fetching from a real server of files that does everything wrong: counted, resumed, proven, or refused by name."""

import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gated.sync.fetch import CUTS_MAX, Fetcher, Server
from gated.sync.refused import SyncRefused, Why
from tests.broker import Pki, free_port
from tests.hw_sim import website as w

SIZE = 300_000
DATA = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(SIZE // 32 + 1))[:SIZE]
HASH = hashlib.sha256(DATA).digest()
FILE = "data/people/1/segments/0/7.seg"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[w.Website]:
    folder = tmp_path / "hq"
    (folder / FILE).parent.mkdir(parents=True)
    (folder / FILE).write_bytes(DATA)
    (folder / "small.json").write_bytes(b'{"a":1}')
    with w.Website(folder) as running:
        yield running


@pytest.fixture
def server(site: w.Website) -> Server:
    return Server(site.url, connect_s_max=2, read_s_max=0.4)


@pytest.fixture
def fetcher(server: Server) -> Iterator[Fetcher]:
    made = Fetcher(server)
    yield made
    made.close()


@pytest.fixture
def to(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool" / "7.seg"


def part(to: Path) -> Path:
    return to.with_name(to.name + ".part")


def test_a_file_comes_whole_and_is_not_fetched_again(site: w.Website, fetcher: Fetcher, to: Path) -> None:
    seen: list[tuple[int, int]] = []
    fetcher.file(FILE, to, SIZE, HASH, lambda have, of: seen.append((have, of)))
    assert to.read_bytes() == DATA and not part(to).exists()
    assert seen[-1] == (SIZE, SIZE) and seen == sorted(seen)
    fetcher.file(FILE, to, SIZE, HASH)
    assert len(site.asked) == 1


def test_a_file_that_was_altered_on_this_disk_is_fetched_again(site: w.Website, fetcher: Fetcher, to: Path) -> None:
    to.write_bytes(DATA[:-1] + b"x")
    fetcher.file(FILE, to, SIZE, HASH)
    assert to.read_bytes() == DATA and len(site.asked) == 1


@pytest.mark.parametrize("cut", [0, 1, 1000, SIZE - 1])
def test_what_lies_there_is_gone_on_with(site: w.Website, fetcher: Fetcher, to: Path, cut: int) -> None:
    part(to).write_bytes(DATA[:cut])
    fetcher.file(FILE, to, SIZE, HASH)
    assert to.read_bytes() == DATA
    assert [each.range for each in site.asked] == [f"bytes={cut}-" if cut else ""]
    assert site.sent == SIZE - cut


def test_a_whole_part_needs_no_server(tmp_path: Path, to: Path) -> None:
    part(to).write_bytes(DATA)
    Fetcher(Server(f"http://127.0.0.1:{free_port()}")).file(FILE, to, SIZE, HASH)
    assert to.read_bytes() == DATA


@pytest.mark.parametrize("size", [1000, SIZE, SIZE + 5])
def test_a_part_that_this_disk_altered_is_thrown_away_once(fetcher: Fetcher, to: Path, size: int) -> None:
    part(to).write_bytes((b"x" + DATA[1:] + b"longer")[:size])
    fetcher.file(FILE, to, SIZE, HASH)
    assert to.read_bytes() == DATA


def test_what_the_server_altered_is_not_asked_for_twice(site: w.Website, fetcher: Fetcher, to: Path) -> None:
    site.fault(FILE, w.Flip(5))
    with pytest.raises(SyncRefused, match="altered"):
        fetcher.file(FILE, to, SIZE, HASH)
    assert len(site.asked) == 1 and not part(to).exists()
    part(to).write_bytes(DATA[:1000])
    site.fault(FILE, w.Flip(5000))
    with pytest.raises(SyncRefused, match="altered"):
        fetcher.file(FILE, to, SIZE, HASH)
    assert [each.range for each in site.asked[1:]] == ["bytes=1000-", ""], "the part found here may have been at fault"


def test_a_cut_connection_is_gone_on_with(site: w.Website, fetcher: Fetcher, to: Path) -> None:
    site.fault(FILE, w.Cut(100_000), times=2)
    fetcher.file(FILE, to, SIZE, HASH)
    assert to.read_bytes() == DATA
    assert [each.range for each in site.asked] == ["", "bytes=100000-", "bytes=200000-"]


def test_after_too_many_cuts_the_rest_waits_for_the_next_time(site: w.Website, fetcher: Fetcher, to: Path) -> None:
    site.fault(FILE, w.Cut(10))
    with pytest.raises(SyncRefused) as refused:
        fetcher.file(FILE, to, SIZE, HASH)
    assert refused.value.why is Why.TRUNCATED and len(site.asked) == CUTS_MAX + 1
    assert not to.exists() and part(to).read_bytes() == DATA[: 10 * (CUTS_MAX + 1)]
    site.well()
    fetcher.file(FILE, to, SIZE, HASH)
    assert to.read_bytes() == DATA


def test_a_server_that_knows_no_range_begins_anew(site: w.Website, fetcher: Fetcher, to: Path) -> None:
    part(to).write_bytes(b"other bytes" * 9)
    site.fault(FILE, w.NoRange())
    fetcher.file(FILE, to, SIZE, HASH)
    assert to.read_bytes() == DATA and len(site.asked) == 1


FILE_FAULTS = {
    "fewer bytes": (w.Truncate(SIZE - 1), Why.TRUNCATED),
    "no bytes": (w.Truncate(0), Why.TRUNCATED),
    "a bit flipped": (w.Flip(12_345), Why.ALTERED),
    "endless, unannounced": (w.Endless(), Why.ENDLESS),
    "endless, announced": (w.Endless(honest=True), Why.ENDLESS),
    "a byte at a time": (w.Drip(), Why.SLOW),
    "the head a byte at a time": (w.Drip(head=True), Why.SLOW),
    "nothing any more": (w.Stall(1000), Why.UNREACHABLE),
    "not even a head": (w.Cut(0), Why.UNREACHABLE),
    "another file": (w.Swap("small.json"), Why.TRUNCATED),
    "not there": (w.Status(404), Why.MISSING),
    "a store of objects says so": (w.Status(403), Why.MISSING),
    "an error": (w.Status(500), Why.UNREACHABLE),
    "elsewhere": (w.Redirect("http://127.0.0.1:1/evil"), Why.UNREACHABLE),
    "compressed": (w.Header("Content-Encoding", "gzip"), Why.MALFORMED),
}


@pytest.mark.parametrize(("fault", "why"), FILE_FAULTS.values(), ids=list(FILE_FAULTS))
def test_a_file_is_refused_by_name_and_comes_when_all_is_well(
    site: w.Website, fetcher: Fetcher, to: Path, fault: w.Fault, why: Why
) -> None:
    site.fault(FILE, fault)
    with pytest.raises(SyncRefused) as refused:
        fetcher.file(FILE, to, SIZE, HASH)
    assert (refused.value.why, refused.value.what) == (why, FILE) and refused.value.advice
    assert not to.exists()
    assert not part(to).exists() or part(to).stat().st_size <= SIZE
    site.well()
    fetcher.file(FILE, to, SIZE, HASH)
    assert to.read_bytes() == DATA


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (w.Header("Content-Range", f"bytes 5-{SIZE - 1}/{SIZE}"), Why.MALFORMED),
        (w.Header("Content-Range", "nonsense"), Why.MALFORMED),
        (w.Header("Content-Range", f"bytes 1000-{SIZE - 2}/{SIZE - 1}"), Why.TRUNCATED),
        (w.Header("Content-Range", f"bytes 1000-{SIZE}/{SIZE + 1}"), Why.ENDLESS),
        (w.Truncate(900), Why.TRUNCATED),
    ],
)
def test_another_range_than_asked_for_is_refused(
    site: w.Website, fetcher: Fetcher, to: Path, header: w.Fault, why: Why
) -> None:
    part(to).write_bytes(DATA[:1000])
    site.fault(FILE, header)
    with pytest.raises(SyncRefused) as refused:
        fetcher.file(FILE, to, SIZE, HASH)
    assert refused.value.why is why
    assert part(to).read_bytes() == DATA[:1000], "what is here stays, and is gone on with"


SMALL_FAULTS = {
    "endless, unannounced": (w.Endless(), Why.ENDLESS),
    "endless, announced": (w.Endless(honest=True), Why.ENDLESS),
    "too long": (w.Swap(FILE), Why.ENDLESS),
    "a byte at a time": (w.Drip(0.2), Why.SLOW),
    "nothing": (w.Stall(), Why.UNREACHABLE),
    "always cut": (w.Cut(3), Why.TRUNCATED),
    "not there": (w.Status(404), Why.MISSING),
    "an error": (w.Status(503), Why.UNREACHABLE),
    "elsewhere": (w.Redirect("/small.json"), Why.UNREACHABLE),
}


@pytest.mark.parametrize(("fault", "why"), SMALL_FAULTS.values(), ids=list(SMALL_FAULTS))
def test_a_small_file_is_bounded(site: w.Website, fetcher: Fetcher, fault: w.Fault, why: Why) -> None:
    site.fault("small.json", fault)
    with pytest.raises(SyncRefused) as refused:
        fetcher.small("small.json", 1000)
    assert (refused.value.why, refused.value.what) == (why, "small.json") and refused.value.advice
    assert site.sent < 20 << 20
    site.well()
    assert fetcher.small("small.json", 1000) == b'{"a":1}'


def test_a_small_file_of_just_the_limit(site: w.Website, fetcher: Fetcher) -> None:
    assert fetcher.small("small.json", 7) == b'{"a":1}'
    with pytest.raises(SyncRefused, match="endless"):
        fetcher.small("small.json", 6)


@pytest.mark.parametrize("path", ["../secret", "a/../../b", "/etc/passwd", "a//b", "", "a b", "a?b", "a\r\nX: y"])
def test_no_other_path_is_ever_asked_for(site: w.Website, fetcher: Fetcher, path: str) -> None:
    with pytest.raises(SyncRefused, match="malformed"):
        fetcher.small(path, 10)
    assert site.asked == []


def test_the_environment_names_no_proxy(site: w.Website, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert Fetcher(server).small("small.json", 10) == b'{"a":1}'


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://no-such-name.invalid"])
def test_nobody_there_is_unreachable(url: str) -> None:
    with pytest.raises(SyncRefused) as refused:
        Fetcher(Server(url.format(port=free_port()), connect_s_max=2)).small("small.json", 10)
    assert refused.value.why is Why.UNREACHABLE and "[sync] url" in refused.value.advice


def test_a_port_that_takes_connections_and_says_nothing_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(SyncRefused, match="nothing comes"):
            Fetcher(Server(url, read_s_max=0.2)).small("small.json", 10)


@pytest.mark.parametrize("url", ["ftp://hq/", "hq.example", "https://user:word@hq/", "https://hq/?a=b", "https://"])
def test_no_other_url_is_taken(url: str) -> None:
    with pytest.raises(SyncRefused) as refused:
        Fetcher(Server(url))
    assert "word" not in str(refused.value)


# -- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "ca")


@pytest.fixture
def secure(site: w.Website, authority: Pki) -> Iterator[w.Website]:
    certificate, key = authority.issue("broker")
    ca = authority.lanes_ca
    with w.Website(site.folder, certificate=certificate, key=key, clients=ca) as running:
        yield running


def test_files_come_over_mutual_tls(secure: w.Website, authority: Pki, to: Path) -> None:
    certificate, key = authority.issue("site/lane")
    fetcher = Fetcher(Server(secure.url, authority.hq_ca, certificate, key))
    secure.fault(FILE, w.Cut(100_000), times=1)
    fetcher.file(FILE, to, SIZE, HASH)
    assert to.read_bytes() == DATA
    fetcher.close()
    fetcher.close()


def test_tls_holds_no_slow_server_up_either(secure: w.Website, authority: Pki) -> None:
    certificate, key = authority.issue("site/lane")
    fetcher = Fetcher(Server(secure.url, authority.hq_ca, certificate, key, read_s_max=0.4))
    secure.fault("*", w.Drip())
    with pytest.raises(SyncRefused, match="slow"):
        fetcher.small(FILE, SIZE)


@pytest.mark.parametrize("who", ["nobody", "stranger", "another server", "another name", "no system authority"])
def test_without_the_right_certificates_nothing_comes(
    tmp_path: Path, secure: w.Website, authority: Pki, who: str
) -> None:
    ca, other = authority.hq_ca, Pki(tmp_path / "other")
    certificate, key = (other if who == "stranger" else authority).issue("site/lane")
    server = Server(secure.url, ca, certificate, key)
    if who == "nobody":
        server = replace(server, certificate=None, key=None)
    elif who == "another server":
        server = replace(server, ca=other.hq_ca)
    elif who == "another name":
        server = replace(server, url=secure.url.replace("127.0.0.1", "localhost"))
    elif who == "no system authority":
        server = replace(server, ca=None)
    with pytest.raises(SyncRefused) as refused:
        Fetcher(server).small("small.json", 10)
    assert refused.value.why is Why.UNREACHABLE
    if who not in ("nobody", "stranger"):
        assert "certificate" in refused.value.advice


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "lane.crt"
    for content in (None, b"no PEM"):
        if content is not None:
            bad.write_bytes(content)
        with pytest.raises(SyncRefused) as refused:
            Fetcher(Server("https://127.0.0.1:1", certificate=bad, key=bad))
        assert refused.value.what == "lane.crt"
        with pytest.raises(SyncRefused):
            Fetcher(Server("https://127.0.0.1:1", ca=bad))


# -- the lane's own disk -------------------------------------------------------------------------------------------


def test_a_full_disk_is_named_and_the_file_comes_when_there_is_room(fetcher: Fetcher, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a full disk needs a small tmpfs, and mounting one is not permitted here: {done.stderr.strip()}")
    try:
        with pytest.raises(SyncRefused, match="disk_full"):
            fetcher.file(FILE, folder / "7.seg", SIZE, HASH)
        subprocess.run(["mount", "-o", "remount,size=1m", str(folder)], check=True)
        fetcher.file(FILE, folder / "7.seg", SIZE, HASH)
        assert (folder / "7.seg").read_bytes() == DATA
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_is_not_there_is_the_stores_fault(fetcher: Fetcher, tmp_path: Path) -> None:
    with pytest.raises(SyncRefused, match="store"):
        fetcher.file(FILE, tmp_path / "nowhere" / "7.seg", SIZE, HASH)


def test_a_link_in_the_spool_is_not_followed(fetcher: Fetcher, to: Path, tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", part(to))
    with pytest.raises(SyncRefused, match="store"):
        fetcher.file(FILE, to, SIZE, HASH)
    assert not (tmp_path / "elsewhere").exists()
