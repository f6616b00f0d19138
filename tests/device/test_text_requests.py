"""Requests about texts, on real brokers: what comes back, what is refused, what goes together."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgewise.common.errors import EdgewiseError
from edgewise.device.errors import DeviceError, RequestFailedError
from edgewise.device.requester import Requester
from edgewise.device.worker import JUDGED_AT_ONCE, JUDGED_TOGETHER
from edgewise.runtime.backends.fake_bundle import write_fake_bundle, write_fake_encoder_bundle
from edgewise.runtime.judging import judge
from edgewise.runtime.loading import load

LABELS = tuple(f"label {number}" for number in range(7))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("bundles") / "classifier"
    with load(
        write_fake_encoder_bundle(folder, tasks=("classify", "embed"), labels=LABELS)
    ) as model:
        yield model


@pytest.fixture(scope="module")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with load(write_fake_encoder_bundle(tmp_path_factory.mktemp("bundles") / "g")) as model:
        yield model


@dataclass
class ScriptedJudge:
    """Classifies: each text is its own label.

    ``block`` waits for ``release``, ``hold`` for ``let_go``; ``refuse`` and ``crash`` raise.
    """

    calls: list[list[Any]] = field(default_factory=list)
    running: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    manifest: Any = field(
        default_factory=lambda: SimpleNamespace(model_id="scripted", tasks=("classify", "embed"))
    )

    def classify(self, texts: list[Any]) -> list[dict[str, float]]:
        self.calls.append(list(texts))
        if "block" in texts:
            self.running.set()
            self.release.wait(10)
        if "hold" in texts:
            self.holding.set()
            self.let_go.wait(10)
        if "refuse" in texts:
            raise EdgewiseError("the text has 9000 tokens, this model reads 512")
        if "crash" in texts:
            raise ZeroDivisionError("secret /home/someone/model.bin")
        return [{str(text): 1.0} for text in texts]


@pytest.fixture
def scripted() -> Iterator[ScriptedJudge]:
    model = ScriptedJudge()
    yield model
    model.release.set()
    model.let_go.set()


def label(reply: dict[str, Any], place: int = 0) -> str:
    return str(reply["results"][place]["labels"][0]["label"])


def test_labels_come_after_the_word_that_it_was_accepted(
    broker: Any, converse: Any, classifier: Any
) -> None:
    talk = converse(broker, answering=classifier)
    talk.put("classify", "q", texts=["one", ["two", "three"]], top=3)
    end = talk.probe.wait_for_end("q")
    accepted, last = talk.probe.replies("q")
    assert accepted == {"v": 1, "id": "q", "fin": False, "status": "accepted", "queue_depth": 0}
    assert last == end
    assert list(end) == ["v", "id", "fin", "status", "results", "usage"]
    assert (end["fin"], end["status"]) == (True, "ok")
    assert end["results"] == judge(classifier, "classify", ["one", ("two", "three")], top=3)
    assert set(end["usage"]) == {"queue_ms", "total_ms", "peak_rss_bytes"}


def test_every_question_of_the_requester(broker: Any, converse: Any, guesser: Any) -> None:
    talk = converse(broker, answering=guesser)
    with Requester(broker.url, client="reader", protocol=broker.protocol) as requester:
        vectors = requester.embed(talk.device, ["one", "two"])
        assert vectors == [result["vector"] for result in judge(guesser, "embed", ["one", "two"])]
        (masks,) = requester.fill(talk.device, ["a[MASK]b[MASK]"], top=2)
        expected = guesser.fill_mask("a[MASK]b[MASK]", count=2)
        assert [[vars(word) for word in words] for words in masks] == [
            [guess._asdict() for guess in guesses] for guesses in expected
        ]


def test_labelled_parts_of_texts(mosquitto_5: Any, converse: Any, tmp_path: Path) -> None:
    labels = ("O", "B-PER", "I-PER")
    folder = write_fake_encoder_bundle(tmp_path / "b", tasks=("token-classify",), labels=labels)
    with load(folder) as model, Requester(mosquitto_5.url, client="reader") as requester:
        talk = converse(mosquitto_5, answering=model)
        (found,) = requester.tokens(talk.device, ["Ada met Bo in Rome"])
        (expected,) = model.token_classify(["Ada met Bo in Rome"])
        talk.agent.stop()
    assert len(found) > 0
    assert [vars(span) for span in found] == [vars(span) for span in expected]


def test_scores_of_a_verifier(mosquitto_5: Any, converse: Any, tmp_path: Path) -> None:
    folder = write_fake_bundle(tmp_path / "b", scores=("wrong", "right"))
    with load(folder) as model, Requester(mosquitto_5.url, client="reader") as requester:
        talk = converse(mosquitto_5, answering=model)
        found = requester.score(talk.device, ["2 + 2 = 4", "x"])
        assert found == [model.score("2 + 2 = 4"), model.score("x")]
        talk.agent.stop()


def test_the_requester_classifies(mosquitto_5: Any, converse: Any, classifier: Any) -> None:
    talk = converse(mosquitto_5, answering=classifier)
    texts = [f"text {number}" for number in range(20)]
    with Requester(mosquitto_5.url, client="reader") as requester:
        found = requester.classify(talk.device, texts, top=7, priority=9, deadline_seconds=20)
        assert found == [pytest.approx(dict(labels)) for labels in classifier.classify(texts)]
        assert len(requester.classify(talk.device, ["x"])[0]) == 5
        with pytest.raises(DeviceError, match="The verb is 'generate'; accepted: classify, fill"):
            requester.judge(talk.device, "generate", ["x"])
        with pytest.raises(DeviceError, match="1 to 64 items"):
            requester.classify(talk.device, ["x"] * 65)
        with pytest.raises(DeviceError, match="one text; give a list"):
            requester.classify(talk.device, "text")
        with pytest.raises(DeviceError, match="surrogate"):
            requester.classify(talk.device, ["\ud800"])


def test_a_verb_of_another_model_is_refused_with_those_there_are(
    mosquitto_5: Any, converse: Any, classifier: Any, tmp_path: Path
) -> None:
    talk = converse(mosquitto_5, answering=classifier)
    talk.ask("a")
    end = talk.probe.wait_for_end("a")
    assert end["code"] == 501
    assert end["message"] == (
        "This agent cannot be asked to generate, which is none of its model's; it can be asked to: "
        "classify, embed, cancel."
    )
    talk.put("dance", "b")
    assert "to dance, which is unknown; it" in talk.probe.wait_for_end("b")["message"]
    with load(write_fake_bundle(tmp_path / "b")) as decoder:
        other = converse(mosquitto_5, answering=decoder)
        with (
            Requester(mosquitto_5.url, client="reader") as requester,
            pytest.raises(RequestFailedError, match="asked to: generate, cancel") as caught,
        ):
            requester.embed(other.device, ["x"])
    assert caught.value.code == 501


def test_the_info_lists_verbs_tasks_labels_and_limits(
    mosquitto_5: Any, converse: Any, classifier: Any, new_probe: Any
) -> None:
    talk = converse(mosquitto_5, answering=classifier)
    probe = new_probe(mosquitto_5)
    probe.subscribe(f"edgewise/{talk.device}/info")
    (message, *_) = probe.wait_for(lambda one: one.topic.endswith("/info"))
    info = json.loads(message.payload)
    assert info["verbs"] == ["classify", "embed", "cancel"]
    assert info["model"]["tasks"] == ["classify", "embed"]
    assert info["model"]["family"] == "encoder"
    assert info["model"]["labels"] == list(LABELS)
    assert (info["limits"]["texts"], info["limits"]["top"]) == (64, 1000)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "no field 'texts'"),
        ({"texts": []}, "a list of 1 to 64 items"),
        ({"texts": ["x"] * 65}, "a list of 1 to 64 items"),
        ({"texts": "x"}, "a list of 1 to 64 items"),
        ({"texts": [7]}, "a string, or a list of two strings"),
        ({"texts": [["x"]]}, "a string, or a list of two strings"),
        ({"texts": [["x", "y", "z"]]}, "a string, or a list of two strings"),
        ({"texts": [["x", None]]}, "a string, or a list of two strings"),
        ({"texts": ["x"], "top": 0}, "a whole number from 1 to 1000"),
        ({"texts": ["x"], "prompt": "x"}, "unknown fields: 'prompt'"),
        ({"texts": ["x" * 131_072]}, "bytes, at most 131072 are taken"),
        ({"texts": ["y", "x" * 63]}, "has 65 tokens, this model reads at most 64"),
    ],
)
def test_what_breaks_the_rules_is_explained(
    mosquitto_5: Any, converse: Any, classifier: Any, fields: dict[str, Any], reason: str
) -> None:
    talk = converse(mosquitto_5, answering=classifier)
    talk.put("classify", "q", **fields)
    too_large = "bytes" in reason
    end = talk.probe.wait_for_end("unreadable" if too_large else "q")
    assert reason in end["message"]
    assert end["code"] == (413 if too_large else 400)


def test_pairs_are_refused_where_they_mean_nothing(
    mosquitto_5: Any, converse: Any, classifier: Any
) -> None:
    talk = converse(mosquitto_5, answering=classifier)
    talk.put("embed", "q", texts=[["x", "y"]])
    end = talk.probe.wait_for_end("q")
    assert (end["code"], end["message"]) == (
        400,
        "the task embed takes texts one by one; a pair was given",
    )


def test_without_streaming_the_results_are_the_only_reply(
    mosquitto_5: Any, converse: Any, scripted: Any
) -> None:
    talk = converse(mosquitto_5, answering=scripted)
    talk.put("classify", "q", texts=["x"], stream=False)
    talk.probe.wait_for_end("q")
    assert len(talk.probe.replies("q")) == 1


def wait_behind(talk: Any, scripted: ScriptedJudge, *requests: dict[str, Any]) -> None:
    """Let requests wait while the model is held, then let it go on."""
    talk.put("classify", "block", texts=["block"])
    assert scripted.running.wait(10)
    for number, request in enumerate(requests):
        talk.put(request.pop("verb", "classify"), f"q{number}", **request)
        talk.probe.wait_for(lambda message, n=number: message.topic.endswith(f"/q{n}"))
    scripted.release.set()


def test_small_requests_that_wait_go_through_the_model_together(
    broker: Any, converse: Any, scripted: Any
) -> None:
    talk = converse(broker, answering=scripted)
    requests = [
        {"texts": ["a"]},
        {"texts": ["b", "c"], "top": 3},
        {"texts": ["d", "e"]},
        {"texts": ["f"], "priority": 9},
        {"texts": ["g"], "top": 3},
    ]
    wait_behind(talk, scripted, *requests)
    ends = [talk.probe.wait_for_end(f"q{number}") for number in range(5)]
    assert scripted.calls == [["block"], ["f", "a", "d", "e"], ["b", "c", "g"]]
    assert [[label(end, place) for place in range(len(end["results"]))] for end in ends] == [
        ["a"],
        ["b", "c"],
        ["d", "e"],
        ["f"],
        ["g"],
    ]
    for end in ends:
        assert end["usage"]["queue_ms"] > 0


def test_no_more_go_together_than_there_is_room_for(
    mosquitto_5: Any, converse: Any, scripted: Any
) -> None:
    talk = converse(mosquitto_5, answering=scripted)
    texts = [[f"{number}.{place}" for place in range(12)] for number in range(4)]
    wait_behind(talk, scripted, *({"texts": some} for some in texts))
    for number in range(4):
        end = talk.probe.wait_for_end(f"q{number}")
        assert [label(end, place) for place in range(12)] == texts[number]
    # Two requests of 12 texts fit into a turn, in calls of 8 texts.
    assert (JUDGED_TOGETHER, JUDGED_AT_ONCE) == (32, 8)
    assert [len(call) for call in scripted.calls] == [1, 8, 8, 8, 8, 8, 8]
    assert [text for call in scripted.calls[1:4] for text in call] == [*texts[0], *texts[1]]


def test_who_is_at_fault_does_not_spoil_it_for_the_others(
    mosquitto_5: Any, converse: Any, scripted: Any
) -> None:
    talk = converse(mosquitto_5, answering=scripted)
    wait_behind(talk, scripted, {"texts": ["a"]}, {"texts": ["refuse"]}, {"texts": ["b"]})
    assert label(talk.probe.wait_for_end("q0")) == "a"
    assert label(talk.probe.wait_for_end("q2")) == "b"
    refused = talk.probe.wait_for_end("q1")
    assert (refused["code"], refused["message"]) == (
        400,
        "the text has 9000 tokens, this model reads 512",
    )


def test_a_fault_of_the_model_ends_the_request_and_tells_no_secrets(
    broker: Any, converse: Any, scripted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "edgewise.device.worker")
    talk = converse(broker, answering=scripted)
    talk.put("classify", "q", texts=["crash"])
    end = talk.probe.wait_for_end("q")
    assert (end["code"], end["message"]) == (
        500,
        "The model failed on the device; its log says why.",
    )
    talk.put("classify", "r", texts=["x"])
    assert label(talk.probe.wait_for_end("r")) == "x"


def test_what_waits_can_be_cancelled_and_what_runs_is_left(
    mosquitto_5: Any, converse: Any, scripted: Any
) -> None:
    talk = converse(mosquitto_5, answering=scripted)
    texts = ["block", *(f"text {number}" for number in range(20))]
    talk.put("classify", "runs", texts=texts)
    assert scripted.running.wait(10)
    talk.put("classify", "waits", texts=["never"])
    talk.probe.wait_for(lambda message: message.topic.endswith("/waits"))
    for name in ("waits", "runs"):
        talk.cancel(name)
        end = talk.probe.wait_for_end(name)
        assert (end["status"], end["text"]) == ("cancelled", "")
    scripted.release.set()
    talk.put("classify", "next", texts=["x"])
    assert label(talk.probe.wait_for_end("next")) == "x"
    assert [len(call) for call in scripted.calls] == [8, 1]


def test_a_deadline_ends_it(mosquitto_5: Any, converse: Any, scripted: Any) -> None:
    talk = converse(mosquitto_5, answering=scripted)
    talk.put("classify", "q", texts=["block"], deadline_ms=100)
    end = talk.probe.wait_for_end("q")
    assert end["status"] == "timeout"
    with (
        Requester(mosquitto_5.url, client="reader") as requester,
        pytest.raises(RequestFailedError, match="ended the answer early: timeout"),
    ):
        requester.classify(talk.device, ["x"], deadline_seconds=0.1)  # the model is still held


def test_a_repeat_gives_the_same_results_and_another_verb_is_a_conflict(
    mosquitto_5: Any, converse: Any, scripted: Any
) -> None:
    talk = converse(mosquitto_5, answering=scripted)
    for count in (1, 2):
        talk.put("classify", "q", texts=["x"])
        talk.probe.wait_for_end("q", count=count)
    first, second = talk.probe.ends("q")
    assert first == second
    assert scripted.calls == [["x"]]
    talk.put("embed", "q", texts=["x"])
    assert talk.probe.wait_for_end("q", count=3)["code"] == 409


def test_stopping_interrupts_those_that_run_together(
    mosquitto_5: Any, converse: Any, scripted: Any
) -> None:
    talk = converse(mosquitto_5, answering=scripted, stop_grace_seconds=0.1)
    wait_behind(talk, scripted, {"texts": ["hold"]}, {"texts": ["also"]})
    assert scripted.holding.wait(10)
    talk.agent.stop()
    for name in ("q0", "q1"):
        end = talk.probe.wait_for_end(name)
        assert (end["status"], end["text"]) == ("interrupted", "")
    assert scripted.calls == [["block"], ["hold", "also"]]


def test_results_the_broker_does_not_take_are_an_error(
    new_mosquitto: Any, converse: Any, classifier: Any
) -> None:
    broker = new_mosquitto("allow_anonymous true", "max_packet_size 4000")
    running = SimpleNamespace(url=f"mqtt://127.0.0.1:{broker.port}", port=broker.port, protocol="5")
    talk = converse(running, answering=classifier)
    talk.put("embed", "q", texts=["x"] * 64)
    end = talk.probe.wait_for_end("q")
    assert (end["code"], end["message"]) == (
        413,
        "The answer is larger than the broker takes; ask for fewer tokens or texts.",
    )
    talk.put("embed", "r", texts=["x"])
    assert len(talk.probe.wait_for_end("r")["results"]) == 1
