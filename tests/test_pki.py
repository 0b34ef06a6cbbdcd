"""`gated-hq pki` and `gated-hq fence`: what is issued, taken back, refused, and what a crash leaves behind."""

import base64
import json
import os
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from gated.hq import pki as pki_module
from gated.hq.certificates import Kind, PkiFault, Wanted
from gated.hq.cli import gated_hq
from gated.hq.exporter import CERTIFICATE_METERS
from gated.hq.fence import AccessList, FenceFault, Meter
from gated.hq.pki import Pki

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
LANE = "tpe-t1/lane-07"


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.make(tmp_path / "pki", NOW)


def lane(name: str = LANE, csr: bytes | None = None, days: int = 30) -> Wanted:
    return Wanted(name, Kind.LANE, days, csr=csr)


def request(name: str | None, key: object = None) -> bytes:
    made = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    )
    signed = made.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())  # type: ignore[arg-type]  # any
    return signed.public_bytes(serialization.Encoding.PEM)


def run(*words: object) -> Result:
    return CliRunner().invoke(gated_hq, ["pki", *map(str, words)])


def revoked(pki: Pki, authority: str = "lanes") -> set[str]:
    crl = x509.load_pem_x509_crl((pki.folder / f"{authority}-ca.crl").read_bytes())
    return {f"{each.serial_number:040x}" for each in crl}


# -- what a certificate says ------------------------------------------------------------------------------------------


def test_a_lanes_certificate_says_who_it_is_and_nothing_more(pki: Pki, tmp_path: Path) -> None:
    made = pki.issue(lane(), tmp_path / "out", NOW)
    said = x509.load_pem_x509_certificate((tmp_path / "out" / "lane.crt").read_bytes())
    assert said.subject.rfc4514_string() == f"CN={LANE}"
    assert [*said.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value] == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not said.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert said.not_valid_after_utc == NOW + 30 * DAY == made.until
    assert (tmp_path / "out" / "lane.key").stat().st_mode & 0o777 == 0o600
    authority = pki.folder / "lanes-ca.crt"
    said.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.read_bytes()))
    checked = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-crl_check", "-purpose", "sslclient", "-CAfile", authority,
         "-CRLfile", pki.folder / "lanes-ca.crl", tmp_path / "out" / "lane.crt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    "name",
    ["tpe-t1/+", "+/lane-07", "#", "tpe-t1/#", "tpe-t1/lane-07/x", "tpe-t1/", "/lane-07", "tpe-t1/Lane-07", "a/b c",
     "tpe-t1/lane-07\n", "tpe-t1/-x", "tpe-t1", "", "a/" + "b" * 33, "%u/lane", "a" * 32 + "/" + "b" * 32],
)  # fmt: skip
def test_no_certificate_names_more_than_one_lane(name: str) -> None:
    with pytest.raises(PkiFault):
        lane(name)


@pytest.mark.parametrize("name", ["tpe-t1/lane-07", "+", "#", "HQ", "", "hq ingest", "x" * 33, "hq\n"])
def test_no_programs_certificate_names_a_lane(name: str) -> None:
    with pytest.raises(PkiFault):
        Wanted(name, Kind.CLIENT, 30)


def test_brokers_alone_have_host_names(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(PkiFault, match="--san"):
        Wanted("broker", Kind.SERVER, 30)
    with pytest.raises(PkiFault, match="--san"):
        Wanted("hq-ingest", Kind.CLIENT, 30, ("broker.example",))
    for bad in ("*.example", "Broker.example", "a..b", "-a.b", "http://x"):
        with pytest.raises(PkiFault, match="neither an address"):
            pki.issue(Wanted("broker", Kind.SERVER, 30, (bad,)), tmp_path / "bad", NOW)
    pki.issue(Wanted("broker", Kind.SERVER, 30, ("broker.example", "192.0.2.1", "::1")), tmp_path / "out", NOW)
    said = x509.load_pem_x509_certificate((tmp_path / "out" / "broker.crt").read_bytes())
    assert [*said.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value] == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        "broker.crt", "broker.key", "lanes-ca.crt", "hq-ca.crt",
    }  # fmt: skip


# -- requests: the key stays in the lane ------------------------------------------------------------------------------


def test_a_requested_certificate_leaves_the_key_where_it_is(pki: Pki, tmp_path: Path) -> None:
    pki.issue(lane(csr=request(LANE)), tmp_path / "out", NOW)
    assert {each.name for each in (tmp_path / "out").iterdir()} == {"lane.crt", "hq-ca.crt"}
    pki.issue(lane("tpe-t1/lane-08", csr=request(None)), tmp_path / "out8", NOW)


def _altered() -> bytes:
    der = bytearray(x509.load_pem_x509_csr(request(LANE)).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: request("tpe-t1/lane-08"), "another name"),
        (lambda: request(LANE, rsa.generate_private_key(65537, 2048)), "P-256"),
        (lambda: request(LANE, ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (_altered, "not signed by its own key"),
        (lambda: b"noise", "no certificate request"),
        (lambda: b"", "no certificate request"),
    ],
)
def test_requests_that_are_refused(pki: Pki, tmp_path: Path, made: Callable[[], bytes], says: str) -> None:
    with pytest.raises(PkiFault, match=says):
        pki.issue(lane(csr=made()), tmp_path / "out", NOW)
    assert pki.issued() == () and not (tmp_path / "out" / "lane.crt").exists()


def test_a_key_has_one_certificate(pki: Pki, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pki.issue(lane(csr=request(None, key)), tmp_path / "a", NOW)
    with pytest.raises(PkiFault, match=f"a key that {LANE} has"):
        pki.issue(lane("tpe-t1/lane-08", csr=request(None, key)), tmp_path / "b", NOW)
    with pytest.raises(PkiFault, match=f"a key that {LANE} has"):
        pki.rotate(lane(csr=request(None, key)), tmp_path / "c", NOW, DAY)


# -- rotation and revocation ------------------------------------------------------------------------------------------


def test_rotation_overlaps_and_then_ends(pki: Pki, tmp_path: Path) -> None:
    old = pki.issue(lane(), tmp_path / "1", NOW)
    new = pki.rotate(lane(), tmp_path / "2", NOW + DAY, 7 * DAY)
    assert [each.state(NOW + 2 * DAY) for each in pki.issued(LANE)] == ["replaced", "valid"]
    assert revoked(pki) == set()
    pki.sign_lists(NOW + 8 * DAY - timedelta(seconds=1))
    assert revoked(pki) == set()
    pki.sign_lists(NOW + 8 * DAY)
    assert revoked(pki) == {old.serial}
    third = pki.rotate(lane(), tmp_path / "3", NOW + 9 * DAY, timedelta(0))
    assert revoked(pki) == {old.serial, new.serial}
    assert [each.serial for each in pki.issued(LANE) if each.state(NOW + 9 * DAY) == "valid"] == [third.serial]


def test_a_second_rotation_puts_no_revocation_off(pki: Pki, tmp_path: Path) -> None:
    first = pki.issue(lane(), tmp_path / "1", NOW)
    pki.rotate(lane(), tmp_path / "2", NOW, DAY)
    pki.rotate(lane(), tmp_path / "3", NOW, 30 * DAY)
    pki.sign_lists(NOW + DAY)
    assert revoked(pki) == {first.serial}


def test_revoking_takes_all_of_a_name_or_one_serial(pki: Pki, tmp_path: Path) -> None:
    first = pki.issue(lane(), tmp_path / "1", NOW)
    second = pki.rotate(lane(), tmp_path / "2", NOW, DAY)
    other = pki.issue(lane("tpe-t1/lane-08"), tmp_path / "8", NOW)
    assert [each.serial for each in pki.revoke(first.serial, NOW)] == [first.serial]
    assert [each.serial for each in pki.revoke(LANE, NOW)] == [second.serial]
    assert pki.revoke(LANE, NOW) == ()
    assert revoked(pki) == {first.serial, second.serial} and revoked(pki, "hq") == set()
    pki.issue(lane(), tmp_path / "3", NOW)
    assert other.serial not in revoked(pki)
    with pytest.raises(PkiFault, match="no certificate of"):
        pki.revoke("tpe-t1/lane-99", NOW)


def test_lists_are_numbered_and_forget_what_expired(pki: Pki, tmp_path: Path) -> None:
    pki.issue(lane(days=2), tmp_path / "1", NOW)
    pki.revoke(LANE, NOW)
    assert len(revoked(pki)) == 1
    pki.sign_lists(NOW + 3 * DAY)
    crl = x509.load_pem_x509_crl((pki.folder / "lanes-ca.crl").read_bytes())
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    assert len(crl) == 0 and pki.lists_end() == NOW + 33 * DAY


# -- what must not happen ---------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(PkiFault, match="not empty"):
        Pki.make(pki.folder, NOW)
    pki.issue(lane(), tmp_path / "out", NOW)
    kept = {each: each.read_bytes() for each in (tmp_path / "out").iterdir()}
    with pytest.raises(PkiFault, match="rotate"):
        pki.issue(lane(), tmp_path / "other", NOW)
    with pytest.raises(PkiFault, match="is ever overwritten"):
        pki.rotate(lane(), tmp_path / "out", NOW, DAY)
    with pytest.raises(PkiFault, match="no valid certificate"):
        pki.rotate(lane("tpe-t1/lane-08"), tmp_path / "8", NOW, DAY)
    pki.issue(Wanted("hq-ingest", Kind.CLIENT, 30), tmp_path / "i", NOW)
    with pytest.raises(PkiFault, match="not a server"):
        pki.rotate(Wanted("hq-ingest", Kind.SERVER, 30, ("x",)), tmp_path / "j", NOW, DAY)
    assert {each: each.read_bytes() for each in (tmp_path / "out").iterdir()} == kept


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    short = Pki.make(tmp_path / "pki", NOW, days=10)
    with pytest.raises(PkiFault, match="fewer days"):
        short.issue(lane(days=11), tmp_path / "out", NOW)


def test_a_crash_leaves_nobody_with_a_certificate_that_cannot_be_revoked(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28), "disk")

    with monkeypatch.context() as broken:
        broken.setattr(pki_module, "write_new", full)
        with pytest.raises(OSError, match="No space"):
            pki.issue(lane(), tmp_path / "1", NOW)
    [lost] = pki.issued()
    with monkeypatch.context() as broken:
        broken.setattr(pki_module, "put_file", full)
        with pytest.raises(OSError, match="No space"):
            pki.revoke(LANE, NOW)
    assert pki.issued()[0].state(NOW) == "revoked" and revoked(pki) == set()
    pki.sign_lists(NOW)
    assert revoked(pki) == {lost.serial}
    pki.issue(lane(), tmp_path / "2", NOW)


def test_keys_of_the_authority_are_its_own(pki: Pki, tmp_path: Path) -> None:
    (pki.folder / "lanes-ca.key").chmod(0o644)
    with pytest.raises(PkiFault, match="chmod 600"):
        pki.issue(lane(), tmp_path / "out", NOW)
    locked = Pki.make(tmp_path / "locked", NOW, passphrase=b"correct horse")
    locked.issue(lane(), tmp_path / "1", NOW)
    assert b"ENCRYPTED" in (tmp_path / "locked" / "hq-ca.key").read_bytes()
    for passphrase, says in ((None, "--passphrase-file"), (b"wrong", "another one")):
        with pytest.raises(PkiFault, match=says):
            Pki(tmp_path / "locked", passphrase).revoke(LANE, NOW)
    (pki.folder / "lanes-ca.key").chmod(0o600)
    with pytest.raises(PkiFault, match="it has no passphrase"):
        Pki(pki.folder, b"x").sign_lists(NOW)
    with pytest.raises(PkiFault, match="pki init"):
        Pki(tmp_path, None)


# -- as a person uses it ----------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    at = ("--pki", tmp_path / "pki")
    assert run("init", tmp_path / "pki").exit_code == 0
    done = run("lane", LANE, "--out", tmp_path / "1", *at)
    assert done.exit_code == 0 and "lane.key SECRET" in done.output
    assert run("service", "broker", "--server", "--san", "broker.example", "--out", tmp_path / "b", *at).exit_code == 0
    assert run("service", "hq-ingest", "--out", tmp_path / "i", *at).exit_code == 0
    (tmp_path / "csr").write_bytes(request(LANE))
    done = run("rotate", LANE, "--csr", tmp_path / "csr", "--out", tmp_path / "2", *at)
    assert done.exit_code == 0 and "where the request was made" in done.output
    rows = json.loads(run("list", "--json", *at).output)
    assert sorted((row["name"], row["kind"], row["state"]) for row in rows) == [
        ("broker", "server", "valid"), ("hq-ingest", "client", "valid"),
        (LANE, "lane", "replaced"), (LANE, "lane", "valid"),
    ]  # fmt: skip
    assert run("list", "--ends-within", 100, *at).output == ""
    assert run("revoke", LANE, *at).output.count("is revoked") == 2
    assert "nothing of it counted" in run("revoke", LANE, *at).output
    assert run("list", "--all", *at).output.count(" revoked ") == 2
    done = run("crl", "--days", 5, *at)
    assert done.exit_code == 0 and "refuses EVERYBODY" in done.stderr
    assert "EVERYBODY" not in run("crl", *at).stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lane", "tpe-t1/+", "--out", "x"], "no lane"),
        (["lane", "hq-ingest", "--out", "x"], "no name of a lane"),
        (["service", "a/b", "--out", "x"], "no name of a client"),
        (["revoke", "nobody"], "gated-hq pki list"),
        (["init"], "not empty"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    Pki.make(tmp_path / "pki", NOW).close()
    done = run(*words, *([tmp_path / "pki"] if words == ["init"] else ["--pki", tmp_path / "pki"]))
    assert done.exit_code == 1 and says in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "pki" / "index.db").write_bytes(b"noise" * 1000)
    done = run("list", "--pki", tmp_path / "pki")
    assert done.exit_code == 1 and "index.db cannot be used" in done.stderr


# -- the fence --------------------------------------------------------------------------------------------------------


def test_the_meter_lets_a_backlog_pass_and_finds_a_flood() -> None:
    meter = Meter(100.0)
    assert not any(meter.flooding("calm", 500, k / 100) for k in range(10_000))
    assert not any(meter.flooding("burst", 500, 0.0) for _ in range(300))
    assert meter.flooding("burst", 500, 0.0) and not meter.flooding("burst", 500, 1.0)
    found = [k for k in range(1000) if meter.flooding("fast", 500, k / 200)]
    assert found and 2.5 < found[0] / 200 < 3.5
    assert any(meter.flooding("large", 200_000, k / 20) for k in range(100))
    assert not any(meter.flooding("small", 2000, k / 20) for k in range(100))


def test_the_broker_reloads_though_the_list_keeps_not_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`install -o mosquitto` leaves the group root's, and the broker's user cannot give that back."""

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    (tmp_path / "acl").write_text("user hq-ingest\ntopic read x\n")
    with subprocess.Popen(["sleep", "60"]) as process:  # SIGHUP ends it
        (tmp_path / "pid").write_text(f"{process.pid}\n")
        AccessList(tmp_path / "acl", tmp_path / "pid").block("tpe-t1/lane-07")
        assert process.wait(5) == -1


def test_the_access_list_keeps_what_a_person_wrote(tmp_path: Path) -> None:
    acl, pid = tmp_path / "acl", tmp_path / "pid"
    acl.write_text("user hq-ingest\ntopic read x\n")
    acl.chmod(0o640)
    listed = AccessList(acl, pid)
    with pytest.raises(FenceFault, match="reload mosquitto yourself"):
        listed.block("tpe-t1/lane-07")
    with subprocess.Popen(["sleep", "60"]) as process:  # SIGHUP ends it
        pid.write_text(f"{process.pid}\n")
        listed.block("tpe-t1/lane-08")
        assert process.wait(5) == -1
    assert listed.fenced() == ("tpe-t1/lane-07", "tpe-t1/lane-08")
    assert acl.read_text().startswith("user hq-ingest\ntopic read x\n") and acl.stat().st_mode & 0o777 == 0o640
    assert "user tpe-t1/lane-07\ntopic deny gate/v1/tpe-t1/lane-07/#\n" in acl.read_text()
    pid.write_text("noise")
    for name in ("tpe-t1/lane-07", "tpe-t1/lane-08"):
        with pytest.raises(FenceFault, match="holds no number"):
            listed.lift(name)
    assert acl.read_text() == "user hq-ingest\ntopic read x\n"
    with pytest.raises(FenceFault, match="not fenced off"):
        listed.lift("tpe-t1/lane-07")
    for name in ("tpe-t1/+", "#", "tpe-t1/lane-07\nuser hq-ingest"):
        with pytest.raises(ValueError, match="site and lane"):
            listed.block(name)
    done = CliRunner().invoke(gated_hq, ["fence", "block", "+/+", "--acl", str(acl), "--pid-file", str(pid)])
    assert done.exit_code == 2 and "SITE/LANE" in done.stderr
    assert acl.read_text() == "user hq-ingest\ntopic read x\n"


def _samples(page: Path) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(page.read_text()) for sample in family.samples]


def test_what_ends_soon_is_told_without_the_authority(tmp_path: Path) -> None:
    at = ("--pki", tmp_path / "pki")
    assert run("init", tmp_path / "pki").exit_code == 0
    assert run("service", "broker", "--server", "--san", "b.example", "--days", 20, "--out", tmp_path / "b", *at)
    files = [tmp_path / "b/broker.crt", tmp_path / "b/lanes-ca.crt", *(tmp_path / "pki").glob("*.crl")]
    assert len(files) == 4
    done = run("check", *files)
    assert done.exit_code == 0 and done.output.count(": until ") == 4
    done = run("check", "--within", 21, *files)
    assert done.exit_code == 1 and "within 21 days: broker.crt;" in done.stderr
    assert run("crl", "--days", 5, *at).exit_code == 0
    done = run("check", *files)
    assert done.exit_code == 1 and "lanes-ca.crl" in done.stderr and "broker.crt," not in done.stderr
    both = tmp_path / "both.crt"
    both.write_bytes(files[1].read_bytes() + files[0].read_bytes())
    assert run("check", "--within", 21, both).exit_code == 1, "the first to end counts"
    told = tmp_path / "gated-certificates.prom"
    assert run("check", "--metrics", tmp_path, *files).exit_code == 1
    series = {s.labels["file"]: s.value for s in _samples(told) if s.name == "gated_certificates_end_timestamp_seconds"}
    assert series.keys() == {each.name for each in files}
    assert (
        timedelta(days=4) < datetime.fromtimestamp(series["lanes-ca.crl"], UTC) - datetime.now(UTC) < timedelta(days=5)
    )
    assert {s.name for s in _samples(told)} <= {meter.name for meter in CERTIFICATE_METERS}, "nothing of the process"
    assert stat.S_IMODE(told.stat().st_mode) == 0o644, "node_exporter is somebody else"
    files[0].write_bytes(b"")
    assert run("check", "--metrics", tmp_path, *files).exit_code == 1
    assert [s.value for s in _samples(told) if s.labels.get("file") == files[0].name] == [0], "also what is unreadable"
    assert run("check", "--metrics", "/proc", files[1]).exit_code == 1
    for bad in (b"", b"nothing", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"):
        both.write_bytes(bad)
        done = run("check", both)
        assert done.exit_code == 1 and "neither a certificate nor a revocation list" in done.stderr
