"""The broker's URL and the TLS files."""

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.device.broker_address import BrokerAddress, TlsFiles
from edgewise.device.errors import DeviceError

words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF), min_size=1, max_size=20)


@settings(deadline=None)
@given(words, words, st.integers(1, 65535))
def test_login_and_port_are_read_back(user: str, password: str, port: int) -> None:
    url = f"mqtts://{quote(user, safe='')}:{quote(password, safe='')}@Example.org:{port}"
    address = BrokerAddress.parse(url)
    assert address == BrokerAddress("example.org", port, tls=True, user=user, password=password)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://pi", BrokerAddress("pi", 1883)),
        ("mqtt://pi/", BrokerAddress("pi", 1883)),
        ("mqtts://pi", BrokerAddress("pi", 8883, tls=True)),
        ("mqtt://10.0.0.7:9000", BrokerAddress("10.0.0.7", 9000)),
        ("mqtt://[::1]:1884", BrokerAddress("::1", 1884)),
        ("mqtt://u@pi", BrokerAddress("pi", 1883, user="u")),
        ("mqtt://u:@pi", BrokerAddress("pi", 1883, user="u", password="")),
    ],
)
def test_urls(url: str, expected: BrokerAddress) -> None:
    assert BrokerAddress.parse(url) == expected
    assert BrokerAddress.parse(str(expected)).host == expected.host


@pytest.mark.parametrize(
    "url",
    [
        *("", "pi", "pi:1883", "http://pi", "ws://pi", "mqtt://", "mqtt://:1883", "mqtt://pi:x"),
        *("mqtt://pi:0", "mqtt://pi:65536", "mqtt://pi/topic", "mqtt://pi?x=1", "mqtt://[::1"),
    ],
)
def test_what_is_no_broker_url_is_refused_with_the_form(url: str) -> None:
    with pytest.raises(DeviceError, match="mqtt://"):
        BrokerAddress.parse(url)


def test_the_password_shows_nowhere() -> None:
    address = BrokerAddress.parse("mqtt://u:hunter2@pi")
    assert "hunter2" not in f"{address!r} {address}"
    with pytest.raises(DeviceError) as caught:
        BrokerAddress.parse("http://u:hunter2@pi")
    assert "hunter2" not in str(caught.value)


def test_a_tls_context_always_verifies() -> None:
    context = TlsFiles().context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    rubbish = tmp_path / "ca.pem"
    rubbish.write_text("no certificate")
    for files in (
        TlsFiles(authority=tmp_path / "absent.pem"),
        TlsFiles(authority=rubbish),
        TlsFiles(certificate=rubbish),
    ):
        with pytest.raises(DeviceError, match="PEM"):
            files.context()


def test_a_key_that_does_not_fit_is_refused(
    tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    for name in ("a", "b"):
        subprocess.run(
            [
                *(need_tool("openssl"), "req", "-x509", "-nodes", "-subj", "/CN=x"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.crt"),
            ],
            check=True,
            capture_output=True,
        )
    with pytest.raises(DeviceError, match="TLS files"):
        TlsFiles(certificate=tmp_path / "a.crt", key=tmp_path / "b.key").context()
