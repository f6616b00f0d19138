"""Loading: what is checked, what reaches the engine, and which model comes of which family."""

import json

import pytest

from edgewise.firmware_profiles import physical_cores
from edgewise.runtime.backends import fake_bundle as fakes
from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.bundle import BundleError, open_bundle
from edgewise.runtime.chat import ChatError
from edgewise.runtime.encoder_model import EncoderModel
from edgewise.runtime.engines import engine_factory
from edgewise.runtime.language_model import LanguageModel
from edgewise.runtime.loading import load
from edgewise.runtime.model import ModelError
from edgewise.runtime.options import OptionsError
from edgewise.runtime.sequence_model import SequenceModel
from edgewise.runtime.vision_language_model import VisionLanguageModel


class Recorder:
    """A backend factory that remembers what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, bundle, **arguments):
        self.calls.append(arguments)
        return FakeBackend.open(bundle, **arguments)


def test_arguments_reach_the_engine(fake_bundle):
    recorder = Recorder()
    load(fake_bundle, backend=recorder, threads=3, context_length=40).close()
    load(fake_bundle, backend=recorder).close()
    assert recorder.calls == [
        {"threads": 3, "slots": 1, "capacity": 40},
        {"threads": min(1, physical_cores()), "slots": 1, "capacity": 256},
    ]


def test_threads_are_the_profiles_but_no_more_than_the_cores(fake_bundle, tmp_path):
    folder = write_fake_bundle(tmp_path / "b")
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 1000}))
    recorder = Recorder()
    load(folder, backend=recorder).close()
    assert recorder.calls[0]["threads"] == physical_cores()


@pytest.mark.parametrize(
    "arguments",
    [
        {"context_length": 257}, {"context_length": 0}, {"context_length": 1.5},
        {"threads": 0}, {"threads": -1}, {"threads": 1025}, {"threads": True},
        {"prefill_chunk": 0}, {"slots": 0}, {"slots": 65},
    ],
)  # fmt: skip
def test_arguments_outside_what_is_accepted(fake_bundle, arguments):
    (name,) = arguments
    with pytest.raises(OptionsError, match=f"{name} is .*; accepted: a whole number from 1 to"):
        load(fake_bundle, **arguments)


def test_damage_and_mismatch_are_found_at_load(tmp_path):
    folder = write_fake_bundle(tmp_path / "b")
    template = folder / "chat_template.jinja"
    source = template.read_text()
    template.write_text(source.replace("|>{{", "|>\n{{"))
    with pytest.raises(BundleError, match=r"chat_template\.jinja has \d+ bytes"):
        load(folder)
    template.write_text(source.replace("endfor", "endfox"))
    with pytest.raises(BundleError, match="has another content"):
        load(folder, verify_hashes=True)
    with pytest.raises(ChatError, match="is no Jinja template"):
        load(folder)
    template.write_text(source.replace("<|end|>", "<|dne|>"))
    with pytest.raises(ChatError, match="renders its sample as"):
        load(folder)


def test_versions_are_checked(tmp_path):
    folder = write_fake_bundle(tmp_path / "b")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["minimum_versions"]["tokenizers"] = "999"
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"needs at least tokenizers 999 \(here: 0"):
        load(folder)


@pytest.mark.parametrize(
    ("write", "kind", "length"),
    [
        (fakes.write_fake_bundle, LanguageModel, 256),
        (fakes.write_fake_sequence_bundle, SequenceModel, 64),
        (fakes.write_fake_encoder_bundle, EncoderModel, 64),
        (fakes.write_fake_vision_bundle, VisionLanguageModel, 256),
    ],
)
def test_the_family_decides_what_comes(tmp_path, write, kind, length):
    folder = write(tmp_path / "b")
    with load(folder) as model:
        assert type(model) is kind
        assert model.context_length == length
        assert model.manifest == open_bundle(folder).manifest
    with load(folder, context_length=20) as model:
        assert model.context_length == 20


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"runtime": "litertlm"}, "is for LiteRT-LM"),
        ({"family": "retriever"}, "no engine runs fake, a retriever"),
    ],
)
def test_a_bundle_that_no_engine_runs_is_said(fake_bundle, changes, match):
    manifest = open_bundle(fake_bundle).manifest
    for name, value in changes.items():
        object.__setattr__(manifest, name, value)
    with pytest.raises(ModelError, match=match):
        engine_factory(manifest)


def test_an_encoder_has_no_slots(tmp_path):
    seen = []

    def factory(bundle, **arguments):
        seen.append(arguments)
        return engine_factory(bundle.manifest)(bundle, **arguments)

    load(fakes.write_fake_encoder_bundle(tmp_path / "b"), threads=2, backend=factory).close()
    assert seen == [{"threads": 2, "capacity": 64}]


def test_within_plan_all_slots_take_no_more_than_one_context(fake_bundle):
    def budget(**options):
        with load(fake_bundle, slots=4, **options) as model:
            return model._session.slots.budget_bytes

    assert budget() == 4 * 256  # the fake engine takes a byte a token
    assert budget(within_plan=True) == 256
    assert budget(within_plan=True, context_length=100) == 100
    assert budget(within_plan=True, cache_bytes=300) == 300


def test_a_model_says_how_many_answers_it_computes_at_once(tmp_path):
    makers = {
        write_fake_bundle: 3,
        fakes.write_fake_sequence_bundle: 1,
        fakes.write_fake_encoder_bundle: 1,
    }
    for write, expected in makers.items():
        with load(write(tmp_path / write.__name__), slots=3) as model:
            assert model.answers_at_once == expected


def test_an_engine_that_fails_is_the_error(fake_bundle):
    def failing(bundle, **arguments):
        raise BackendError("the graph is no graph")

    with pytest.raises(BackendError, match="no graph"):
        load(fake_bundle, backend=failing)


def test_of_what_can_not_be_loaded_the_damaged_file_is_told(tmp_path):
    def failing(bundle, **arguments):
        raise BackendError("the graph is no graph")

    damaged = write_fake_bundle(tmp_path / "bundle")
    graph = open_bundle(damaged).file("graph")
    graph.write_bytes(bytes(graph.stat().st_size))
    with pytest.raises(BundleError, match=f"is damaged: {graph.name} has another content"):
        load(damaged, backend=failing)
