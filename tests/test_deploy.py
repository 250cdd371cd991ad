"""Folders of a federation and of a site: keys, certificates, units, and refusals before anything starts."""

import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from fl_distill import cli
from fl_distill.deploy import certificates, federation, keys, probe, proxy, site, sites
from fl_distill.deploy.settings import read_federation, read_site
from fl_distill.errors import ConfigError, FlDistillError
from fl_distill.policy import read

from .deployed import free_port

HOSTS = ["fl.example.org", "10.0.0.5"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def fed(tmp_path: Path) -> Path:
    folder = tmp_path / "fed"
    federation.new(folder, HOSTS, superlink_port=free_port())
    return folder


@pytest.fixture
def mercy(tmp_path: Path, fed: Path) -> Path:
    site.new(tmp_path / "mercy", "mercy", "fl.example.org:9092", fed / "ca.pem")
    return tmp_path / "mercy"


def test_secrets_are_the_owners_alone(fed: Path, mercy: Path) -> None:
    secret = [fed / "ca.key", fed / "server.key", fed / "superexec.secret", mercy / "key"]
    assert {mode(path) for path in secret} == {0o600}
    assert {mode(folder) for folder in (fed, fed / "flwr", mercy, mercy / "state")} == {0o700}
    assert len((fed / "superexec.secret").read_bytes()) == 64


def test_a_secret_is_never_readable_even_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = os.open

    def watched(path: str | Path, flags: int, mode: int = 0o777) -> int:
        opened.append((Path(path).name, bool(flags & os.O_EXCL), mode))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", watched)
    federation.new(tmp_path / "fed", ["a.example"])
    assert {("ca.key", True, 0o600), ("server.key", True, 0o600), ("superexec.secret", True, 0o600)} <= {*opened}


def test_the_server_certificate_verifies_for_every_host(fed: Path) -> None:
    ca, leaf = (certificates.load(fed / name) for name in ("ca.pem", "server.pem"))
    for host in ("fl.example.org", "localhost"):
        verifier = PolicyBuilder().store(Store([ca])).build_server_verifier(x509.DNSName(host))
        assert verifier.verify(leaf, []) == [leaf, ca]
    with pytest.raises(x509.verification.VerificationError):
        PolicyBuilder().store(Store([ca])).build_server_verifier(x509.DNSName("other.example")).verify(leaf, [])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5", "127.0.0.1"]


def test_certificates_may_do_only_what_they_are_for(fed: Path) -> None:
    ca, leaf = (certificates.load(fed / name).extensions for name in ("ca.pem", "server.pem"))
    constraints = [found.get_extension_for_class(x509.BasicConstraints) for found in (ca, leaf)]
    assert [(c.critical, c.value.ca, c.value.path_length) for c in constraints] == [
        (True, True, 0),
        (True, False, None),
    ]
    usage = [found.get_extension_for_class(x509.KeyUsage).value for found in (ca, leaf)]
    assert [(u.key_cert_sign, u.crl_sign, u.digital_signature) for u in usage] == [
        (True, True, False),
        (False, False, True),
    ]
    assert list(leaf.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_days_say_how_long_certificates_hold(tmp_path: Path) -> None:
    federation.new(tmp_path / "fed", ["a.example"], days=30, ca_days=60)
    ends = [certificates.load(tmp_path / "fed" / f"{n}.pem").not_valid_after_utc for n in ("server", "ca")]
    assert [round((end - datetime.now(UTC)) / timedelta(days=1)) for end in ends] == [30, 60]
    federation.renew(tmp_path / "fed", days=500)  # never longer than its authority
    assert certificates.load(tmp_path / "fed" / "server.pem").not_valid_after_utc <= ends[1]


def test_renewing_keeps_the_authority(fed: Path) -> None:
    before = {name: (fed / name).read_bytes() for name in ("ca.pem", "server.pem", "server.key")}
    federation.renew(fed, ["new.example"])
    assert [(fed / name).read_bytes() == old for name, old in before.items()] == [True, False, False]
    assert mode(fed / "server.key") == 0o600
    assert certificates.pair_faults(fed / "server.pem", fed / "server.key", fed / "ca.pem") == []


@pytest.mark.parametrize("side", ["federation", "site"])
def test_a_second_new_changes_nothing(side: str, fed: Path, mercy: Path) -> None:
    folder = fed if side == "federation" else mercy
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="not empty.*nothing was changed"):
        federation.new(folder, HOSTS) if side == "federation" else site.new(folder, "m", "a:1", fed / "ca.pem")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"hosts": ["fl.example.org:9092"]}, "without a port"),
        ({"hosts": ["-x.example"]}, "expected a DNS name"),
        ({"hosts": ["a b;"]}, "expected a DNS name"),
        ({"hosts": HOSTS, "name": "My Lab"}, "name .*'My Lab'"),
        ({"hosts": HOSTS, "port": 0}, "--port must be a port"),
        ({"hosts": HOSTS, "port": 9093}, "are both 9093"),
        ({"hosts": HOSTS, "days": 0}, "--days must be at least 1"),
    ],
)
def test_what_makes_no_federation_is_said(arguments: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        federation.new(tmp_path / "fed", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "fed").exists()


def test_a_sites_key_is_of_the_kind_that_flower_takes(mercy: Path) -> None:
    private = load_ssh_private_key((mercy / "key").read_bytes(), None)
    assert getattr(private, "curve", None) is not None
    assert keys.public_of(mercy / "key") == keys.public_key(mercy / "key.pub")
    if shutil.which("ssh-keygen"):
        shown = subprocess.run(["ssh-keygen", "-lf", mercy / "key.pub"], capture_output=True, text=True, check=True)
        assert shown.stdout.split()[1] == keys.fingerprint(keys.public_key(mercy / "key.pub"))


def test_only_a_sites_public_key_can_be_registered(fed: Path, mercy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"private key, which must never leave its site: register key\.pub"):
        sites.register(fed, mercy / "key", "mercy")
    other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (tmp_path / "other.pub").write_bytes(other)
    with pytest.raises(ConfigError, match="no key on a NIST curve"):
        sites.register(fed, tmp_path / "other.pub", "mercy")
    with pytest.raises(ConfigError, match="no OpenSSH public key"):
        sites.register(fed, fed / "ca.pem", "mercy")


def test_a_key_is_shown_before_it_is_admitted_and_compared_where_asked(
    fed: Path, mercy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = keys.fingerprint(keys.public_key(mercy / "key.pub"))
    words = ["federation", "register", str(fed), str(mercy / "key.pub"), "--name", "mercy"]
    assert cli.run([*words, "--fingerprint", "SHA256:other"]) == 2
    shown = capsys.readouterr()
    assert f"key.pub holds key {mark}" in shown.out
    assert "not SHA256:other: do not admit it" in shown.err
    with pytest.raises(FlDistillError, match="no SuperLink runs"):
        sites.register(fed, mercy / "key.pub", "mercy", mark)


def test_commands_say_that_no_superlink_runs(fed: Path, mercy: Path) -> None:
    with pytest.raises(FlDistillError, match="no SuperLink runs on 127.0.0.1.*federation start"):
        sites.register(fed, mercy / "key.pub", "mercy")
    assert (fed / "sites.json").read_text(encoding="utf-8") == "{}\n"


def test_a_list_of_sites_that_is_gone_is_not_begun_anew_by_itself(fed: Path, mercy: Path) -> None:
    (fed / "sites.json").unlink()
    with pytest.raises(ConfigError, match=r"sites\.json cannot be read .* restore it"):
        sites.register(fed, mercy / "key.pub", "mercy")
    assert not (fed / "sites.json").exists()


def test_two_who_change_the_list_of_sites_at_once_lose_nothing(
    fed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(at: object, verb: str, *arguments: str) -> dict[str, str]:
        time.sleep(0.2)
        return {"node-id": arguments[-1][-1]}

    monkeypatch.setattr(sites, "_flwr", slow)
    names = [f"site-{number}" for number in range(4)]
    for name in names:
        site.new(tmp_path / name, name, "fl.example.org:9092", fed / "ca.pem")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: sites.register(fed, tmp_path / name / "key.pub", name), names))
    known = json.loads((fed / "sites.json").read_text(encoding="utf-8"))
    assert {name: entry["node_id"] for name, entry in known.items()} == {name: name[-1] for name in names}


# ------------------------------------------------------------ before a start


def test_a_superlink_needs_its_files_and_its_port(fed: Path) -> None:
    at = read_federation(fed)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", at.superlink_port))
        taken.listen()
        with pytest.raises(ConfigError, match=f"127.0.0.1:{at.superlink_port} cannot be listened on"):
            federation.start(fed)
    (fed / "server.key").chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644.*chmod 600"):
        federation.start(fed)
    (fed / "server.key").unlink()
    with pytest.raises(ConfigError, match="server.key does not exist"):
        federation.start(fed)


def test_a_superlink_refuses_an_expired_certificate_and_anothers_key(fed: Path, tmp_path: Path) -> None:
    ca = certificates.load_signed(fed / "ca.pem", fed / "ca.key")
    old = certificates.server(ca, HOSTS, 1, datetime.now(UTC) - timedelta(days=3))
    good = (fed / "server.pem").read_bytes()
    (fed / "server.pem").write_bytes(old.pem)
    with pytest.raises(ConfigError, match=r"expired on .* federation renew(.|\n)*is not the key of"):
        federation.start(fed)
    (fed / "server.pem").write_bytes(good)
    federation.new(tmp_path / "other", HOSTS)
    shutil.copy(tmp_path / "other" / "ca.pem", fed / "ca.pem")
    with pytest.raises(ConfigError, match="was not signed by"):
        federation.start(fed)


def test_a_superlink_asks_for_authentication_and_installs_nothing(fed: Path) -> None:
    command = federation.superlink_command(read_federation(fed))
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= {*command}
    assert "--insecure" not in command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--superexec-auth-secret-file" not in command
    text = (fed / "federation.yaml").read_text(encoding="utf-8")
    (fed / "federation.yaml").write_text(text.replace("isolation: subprocess", "isolation: process"), encoding="utf-8")
    assert "--superexec-auth-secret-file" in federation.superlink_command(read_federation(fed))


def test_a_site_guards_its_key(mercy: Path) -> None:
    (mercy / "key").chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640, others can reach this secret: chmod 600"):
        site.start(mercy)
    (mercy / "key").chmod(0o600)
    (mercy / "key").write_text("nonsense", encoding="utf-8")
    with pytest.raises(ConfigError, match="no unencrypted OpenSSH private key"):
        site.start(mercy)
    (mercy / "ca.pem").unlink()
    with pytest.raises(ConfigError, match="ca.pem does not exist"):
        site.start(mercy)


def test_a_site_refuses_an_expired_authority(mercy: Path, tmp_path: Path) -> None:
    old = certificates.authority("old", 1, datetime.now(UTC) - timedelta(days=3))
    (mercy / "ca.pem").write_bytes(old.pem)
    with pytest.raises(ConfigError, match="ca.pem expired on .* ask the operator"):
        site.start(mercy)
    with pytest.raises(ConfigError, match="expired on"):
        site.new(tmp_path / "late", "late", "fl.example.org:9092", mercy / "ca.pem")


def test_the_settings_of_a_site_may_hold_keys_of_others(mercy: Path) -> None:
    found = read_site(mercy)
    assert (found.name, found.address) == ("mercy", "fl.example.org:9092")
    assert (found.ca, found.key) == (mercy / "ca.pem", mercy / "key")
    raw = yaml.safe_load((mercy / "site.yaml").read_text(encoding="utf-8"))
    assert raw["policy"] == {
        "may_leave": ["logits"],
        "strategies": ["fedmd", "dsfl"],
        "min_examples": 20,
        "largest_message": "20MB",
    }
    assert site.node_command(found)[-1] == str(mercy)
    assert read(mercy / "site.yaml").policy.may_leave == ["logits"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "is no YAML"),
        ("- a", "must hold settings"),
        ("name: mercy", "federation must hold address, ca and key"),
        ("name: M y\nfederation: {address: x, ca: 3, key: key}", "name must be"),
        ("name: m\nfederation: {address: 'https://x:1', ca: ca.pem, key: key}", "must be host:port"),
    ],
)
def test_faults_of_settings_are_said(text: str, said: str, mercy: Path) -> None:
    (mercy / "site.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_site(mercy)


# ------------------------------------------------------------ who answers


@contextmanager
def answering(signed: certificates.Signed | None, date: datetime | None, folder: Path) -> Iterator[str]:
    """A server of a few connections, with TLS if it has a certificate."""
    context = None
    if signed:
        (folder / "answering.pem").write_bytes(signed.pem + signed.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "answering.pem")
    said = f"{date or datetime.now(UTC):%a, %d %b %Y %H:%M:%S} GMT"

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    secure = context.wrap_socket(connection, server_side=True) if context else connection
                    secure.recv(4096)
                    secure.sendall(f"HTTP/1.1 404 Not Found\r\nDate: {said}\r\nContent-Length: 0\r\n\r\n".encode())
                    secure.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_the_right_authority_is_accepted(fed: Path, tmp_path: Path) -> None:
    signed = certificates.load_signed(fed / "server.pem", fed / "server.key")
    with answering(signed, None, tmp_path) as address:
        assert probe.refusals(address, fed / "ca.pem") == ([], [])
        other = certificates.authority("other")
        (tmp_path / "other.pem").write_bytes(other.pem)
        ((said,), _) = probe.refusals(address, tmp_path / "other.pem")
    assert "other.pem did not sign" in said
    assert "ask the operator for ca.pem" in said


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("expired", "has expired: its operator runs `fl-distill federation renew`"),
        ("name", "is for other names"),
        ("plain", "does not speak TLS"),
        ("behind", "clock is 3[0-9]+ s behind"),
        ("ahead", "clock is [0-9]+ s ahead of"),
    ],
)
def test_a_refusal_names_its_cause(
    case: str, said: str, fed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, now = certificates.load_signed(fed / "ca.pem", fed / "ca.key"), datetime.now(UTC)
    signed: certificates.Signed | None = certificates.server(ca, ["a.example"])
    if case == "expired":
        signed = certificates.server(ca, ["a.example"], 1, now - timedelta(days=3))
    elif case == "name":
        monkeypatch.setattr(certificates, "ALWAYS", ())
        signed = certificates.server(ca, ["a.example"])
    elif case == "plain":
        signed = None
    date = {"behind": now + timedelta(seconds=390), "ahead": now - timedelta(seconds=60)}.get(case)
    with answering(signed, date, tmp_path) as address:
        refused, waiting = probe.refusals(address, fed / "ca.pem")
    assert waiting == []
    assert len(refused) == 1
    assert re.search(said, refused[0]), refused


def test_a_federation_that_is_down_is_waited_for(fed: Path) -> None:
    refused, waiting = probe.refusals(f"127.0.0.1:{free_port()}", fed / "ca.pem")
    assert refused == []
    assert "nothing answers at" in waiting[0]


def test_a_handshake_that_is_cut_off_is_waited_for(fed: Path) -> None:
    """As where a proxy restarts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)

        thread = threading.Thread(target=cut)
        thread.start()
        refused, waiting = probe.refusals(f"127.0.0.1:{listener.getsockname()[1]}", fed / "ca.pem")
        thread.join(5)
    assert refused == []
    assert "ended the handshake" in waiting[0]


# ------------------------------------------------------------ files for other programs


def test_compose_publishes_the_proxy_alone(fed: Path) -> None:
    services = yaml.safe_load((fed / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services["superlink"]["ports"] == ["9092:9092"]
    assert services["superlink"]["command"] == ["fl-distill", "federation", "start", "/federation"]
    assert services["proxy"]["network_mode"] == "service:superlink"
    mounted = {volume.split(":")[0].removeprefix("./") for volume in services["proxy"]["volumes"]}
    assert mounted == {"nginx.conf", "ca.pem", "server.pem", "server.key", "nginx"}
    assert all((fed / name).exists() for name in mounted)
    assert all(service["cap_drop"] == ["ALL"] for service in services.values())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_units_are_ones_that_systemd_takes(fed: Path, mercy: Path, tmp_path: Path) -> None:
    federation.new(tmp_path / "two words 5%", HOSTS, name="other")
    units = (fed / "superlink.service", mercy / "supernode.service", tmp_path / "two words 5%" / "superlink.service")
    for unit in units:
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert unit.name not in done.stderr, done.stderr
        assert "\nNoNewPrivileges=yes\n" in unit.read_text(encoding="utf-8")


@pytest.mark.skipif(not shutil.which("nginx", path="/usr/sbin:/usr/bin"), reason="nginx is not installed")
def test_nginx_takes_the_configuration(fed: Path) -> None:
    nginx = str(shutil.which("nginx", path="/usr/sbin:/usr/bin"))
    command = [nginx, "-t", "-e", "stderr", "-p", str(fed), "-c", "nginx.conf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_proxy_knows_every_call_of_a_registered_supernode() -> None:
    flower = find_spec("flwr")
    assert flower is not None
    assert flower.origin is not None
    text = (Path(flower.origin).parent / "supernode" / "fleet_http_client.py").read_text(encoding="utf-8")
    called = {line.split('"/v1/fleet/')[1].split('"')[0] for line in text.splitlines() if '"/v1/fleet/' in line}
    assert called - {*proxy.CALLS} == {"register-node", "unregister-node"}


# ------------------------------------------------------------ the command line


def test_the_command_makes_both_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fed, mercy = str(tmp_path / "fed"), str(tmp_path / "mercy")
    assert cli.run(["federation", "new", fed, "--host", "fl.example.org"]) == 0
    made = ["site", "new", mercy, "--name", "mercy", "--federation", "fl.example.org:9092", "--ca", f"{fed}/ca.pem"]
    assert cli.run(made) == 0
    shown = capsys.readouterr().out
    assert "key.pub to the operator" in shown
    assert "PRIVATE KEY" not in shown
    assert (Path(fed) / "superexec.secret").read_text(encoding="utf-8") not in shown
    assert cli.run(made) == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["federation", "federation new", "federation register", "site", "site start"])
def test_every_command_has_help(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run([*words.split(), "--help"])
    assert ended.value.code == 0
    assert f"usage: fl-distill {words}" in capsys.readouterr().out
