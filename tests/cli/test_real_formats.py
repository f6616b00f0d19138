"""The real SmolLM2 keeps to a schema, on the command line and over MQTT."""

import json

import pytest

from edgewise.device.agent import Agent
from edgewise.device.embedded_broker import EmbeddedBroker
from edgewise.runtime.loading import load

pytestmark = pytest.mark.real

SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"enum": ["greenhouse", "cellar", "attic"]},
        "degrees": {"type": "integer", "minimum": -40, "maximum": 99},
        "window_open": {"type": "boolean"},
    },
    "required": ["place", "degrees", "window_open"],
    "additionalProperties": False,
}
REPORT = "The cellar is at 9 degrees and its window is open. Write that as JSON."


def check(text):
    value = json.loads(text)
    assert value == {"place": "cellar", "degrees": 9, "window_open": True}


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    file = tmp_path_factory.mktemp("schema") / "reading.json"
    file.write_text(json.dumps(SCHEMA))
    return file


def test_on_the_command_line(smollm2, edgewise, schema):
    bundle = smollm2(None).bundle.path
    result = edgewise("run", bundle, REPORT, "--temperature", "0", "--schema", schema)
    check(result.out)
    asked = ("--temperature", "0", "--json", "--logprobs", "1", "--schema", schema)
    told = json.loads(edgewise("run", bundle, REPORT, *asked).out)
    check(told["text"])
    assert [one["token_id"] for one in told["logprobs"]] == told["token_ids"]


def test_over_mqtt(smollm2, edgewise, schema):
    pytest.importorskip("amqtt")
    with (
        load(smollm2(None).bundle.path) as model,
        EmbeddedBroker() as broker,
        Agent(model, broker=broker.url, device="cellar", protocol=broker.protocol),
    ):
        common = ("request", "--broker", broker.url, "--protocol", broker.protocol)
        asked = (*common, "--device", "cellar", "--temperature", "0")
        check(edgewise(*asked, "--schema", schema, REPORT).out)
        answer = edgewise(*asked, "--choice", "yes", "--choice", "no", "Is fire cold?").out
        assert answer in ("yes\n", "no\n")
        message = edgewise(*asked, "--regex", "(", REPORT).mistake()
        assert "the regex format can not be used: " in message
