"""TLS that verifies, and access lists that hold, on a real broker."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgewise.device.agent import Agent
from edgewise.device.broker_address import TlsFiles
from edgewise.device.errors import BrokerRefusedError, BrokerUnreachableError, DeviceError
from edgewise.device.requester import Requester


class Certificates:
    """A certificate authority of our own, and what it signs."""

    def __init__(self, folder: Path, openssl: str) -> None:
        self.folder = folder
        self._openssl = openssl
        folder.mkdir()
        self._run(
            *("req", "-x509", "-nodes", "-subj", "/CN=test authority", "-days", "2"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", self.path("ca.key"), "-out", self.path("ca.crt")),
        )

    def path(self, name: str) -> Path:
        return self.folder / name

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run([self._openssl, *arguments], check=True, capture_output=True)

    def sign(self, name: str, subject: str, alternative: str) -> None:
        extension = self.path(f"{name}.ext")
        extension.write_text(f"subjectAltName={alternative}\n")
        self._run(
            *("req", "-nodes", "-subj", f"/CN={subject}", "-out", self.path(f"{name}.csr")),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", self.path(f"{name}.key")),
        )
        self._run(
            *("x509", "-req", "-days", "2", "-in", self.path(f"{name}.csr")),
            *("-CA", self.path("ca.crt"), "-CAkey", self.path("ca.key"), "-CAcreateserial"),
            *("-extfile", extension, "-out", self.path(f"{name}.crt")),
        )

    def listener(self, name: str) -> list[str]:
        return [
            f"cafile {self.path('ca.crt')}",
            f"certfile {self.path(f'{name}.crt')}",
            f"keyfile {self.path(f'{name}.key')}",
        ]

    @property
    def authority(self) -> TlsFiles:
        return TlsFiles(authority=self.path("ca.crt"))

    def client(self, name: str) -> TlsFiles:
        return TlsFiles(self.path("ca.crt"), self.path(f"{name}.crt"), self.path(f"{name}.key"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory, need_tool: Any) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("tls") / "ca", need_tool("openssl"))
    made.sign("server", "broker", "IP:127.0.0.1,DNS:localhost")
    made.sign("elsewhere", "elsewhere", "DNS:elsewhere.example")
    made.sign("sensor", "sensor", "DNS:sensor")
    made.sign("pi", "pi", "DNS:pi")
    return made


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_request_over_verified_tls(
    new_mosquitto: Any, certificates: Certificates, model: Any, protocol: str
) -> None:
    broker = new_mosquitto("allow_anonymous true", listener=certificates.listener("server"))
    url = f"mqtts://localhost:{broker.port}"
    names: dict[str, Any] = {"protocol": protocol, "tls": certificates.authority}
    with (
        Agent(model, broker=url, device="pi", **names),
        Requester(url, client="reader", **names) as requester,
    ):
        # Long enough for one record of TLS to hold several packets, and packets several records.
        final = requester.request("pi", "count 5000")
    assert final.text == "".join(f"w{number} " for number in range(5000))


def test_an_untrusted_certificate_is_refused(
    new_mosquitto: Any, certificates: Certificates, model: Any
) -> None:
    broker = new_mosquitto("allow_anonymous true", listener=certificates.listener("server"))
    url = f"mqtts://127.0.0.1:{broker.port}"
    with pytest.raises(BrokerRefusedError, match=r"is not trusted.*authority"):
        Requester(url, client="reader").start()
    with pytest.raises(BrokerRefusedError, match="is not trusted"):
        Agent(model, broker=url, device="pi").start()


def test_a_certificate_for_another_host_is_refused(
    new_mosquitto: Any, certificates: Certificates
) -> None:
    broker = new_mosquitto("allow_anonymous true", listener=certificates.listener("elsewhere"))
    requester = Requester(
        f"mqtts://127.0.0.1:{broker.port}", client="reader", tls=certificates.authority
    )
    with pytest.raises(BrokerRefusedError, match="is not trusted"):
        requester.start()


def test_plain_and_tls_are_not_mixed_up(
    new_mosquitto: Any, mosquitto_5: Any, certificates: Certificates
) -> None:
    broker = new_mosquitto("allow_anonymous true", listener=certificates.listener("server"))
    with pytest.raises(DeviceError, match=r"mqtts://"):
        Requester(f"mqtt://127.0.0.1:{broker.port}", client="reader").start()
    with pytest.raises((BrokerRefusedError, BrokerUnreachableError), match=r"TLS|reached"):
        Requester(
            f"mqtts://127.0.0.1:{mosquitto_5.port}", client="reader", tls=certificates.authority
        ).start()


def test_client_certificates_name_the_client_and_the_access_list_holds(
    new_mosquitto: Any, certificates: Certificates, model: Any, tmp_path: Path
) -> None:
    rules = tmp_path / "acl"
    rules.write_text(
        "pattern write edgewise/+/req/%u/#\n"
        "pattern read edgewise/+/rsp/%u/#\n"
        "user pi\n"
        "topic readwrite edgewise/pi/#\n"
    )
    broker = new_mosquitto(
        "allow_anonymous false",
        listener=[
            *certificates.listener("server"),
            "require_certificate true",
            "use_identity_as_username true",
            f"acl_file {rules}",
        ],
    )
    url = f"mqtts://127.0.0.1:{broker.port}"
    with pytest.raises(DeviceError):
        Requester(url, client="sensor", tls=certificates.authority).start()
    with Agent(model, broker=url, device="pi", tls=certificates.client("pi")):
        # This client may read no status at all, and still asks.
        with Requester(url, client="sensor", tls=certificates.client("sensor")) as requester:
            assert requester.request("pi", "hello you").text == "hello you "
            assert requester.devices() == {}
        with (
            Requester(url, client="other", tls=certificates.client("sensor")) as impostor,
            pytest.raises(BrokerRefusedError, match=r"req/other/generate.*not authorized"),
        ):
            impostor.request("pi", "I am somebody else")
    assert model.prompts == ["hello you"]
