"""Beams over both runtimes find what transformers finds: the same answers with the same scores."""

import json

import numpy as np
import pytest
from family_graphs import RUNTIMES, build, open_encoder_decoder
from tiny_checkpoint import DATA
from tiny_families import TinyEncoderDecoder

from edgewise.runtime.beam_search import BeamSearch, BeamSettings, log_softmax
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.sessions.beams import run_search
from edgewise.runtime.sessions.seq2seq import SequenceSession
from edgewise.runtime.token_rules import TokenRules

CASES = sorted(path.stem for path in (DATA / "beams").glob("*.json"))
TOLERANCE = 1e-4  # of a score
PRECISION = 1e-6  # of a large one: transformers adds float32
SLOTS = 8


class Silent:
    """A tokenizer of which only ids matter."""

    def detokenizer(self):
        return self

    def push(self, token_id):
        return ""

    def finish(self):
        return ""


@pytest.fixture(scope="module", params=[(name, runtime) for name in CASES for runtime in RUNTIMES])
def case(request, tmp_path_factory):
    """A model's start token, its engine, and what transformers found."""
    name, runtime = request.param
    folder = tmp_path_factory.mktemp(name)
    model = TinyEncoderDecoder(name)
    build(runtime, model, folder)
    backend = open_encoder_decoder(runtime, model, folder, slots=SLOTS)
    content = json.loads((DATA / "beams" / f"{name}.json").read_text())
    searches = content["searches"]
    if runtime == "tflite":  # which runs rows one by one: its beams are no other code
        searches = searches[::7]
    yield model.configuration.start_token_id, backend, content["most"], searches
    backend.close()


def test_answers_and_scores_are_those_of_transformers(case):
    start, backend, most, searches = case
    lengths = set()
    for search in searches:
        rules = TokenRules(
            end=search["ends"],
            forced_first=search.get("forced_first"),
            forced_last=search.get("forced_last"),
            least=search.get("least", 0),
        )
        session = SequenceSession(backend, Silent(), rules, start=start)
        given = GenerationOptions(
            max_tokens=most,
            beams=search["beams"],
            length_penalty=search["length_penalty"],
            repetition_penalty=search.get("repetition_penalty"),
        )
        if search["stop_rule"] == "likely":
            found = session.candidates(search["source"], given)
        else:
            found = searched(backend, start, most, search)
        assert [list(one.token_ids) for one in found] == search["answers"], search
        scores = [one.score for one in found]
        assert scores == pytest.approx(search["scores"], abs=TOLERANCE, rel=PRECISION)
        lengths |= {len(one.token_ids) for one in found}
    assert len(lengths) > 4
    assert most in lengths


def searched(backend, start, most, search):
    """Search by another rule than the one that sessions keep to."""
    source = np.asarray([search["source"]])
    backend.read_source(0, source, np.asarray([source.shape[1]], np.int32))
    logits = backend.step(0, np.asarray([[start]]), np.zeros(1, np.int32))
    beams = BeamSearch(
        BeamSettings(
            search["beams"],
            most,
            frozenset(search["ends"]),
            length_penalty=search["length_penalty"],
            stop_rule=search["stop_rule"],
        )
    )
    for _ in run_search(backend, beams, logits, 1, log_softmax):
        pass
    return beams.best()
