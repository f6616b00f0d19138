"""Which states make a text's vector, by what sentence-transformers writes."""

import json

import pytest
from tiny_families import TinyEncoder
from tiny_family_folders import write_family_folder

from edgewise.exporter import open_checkpoint
from edgewise.exporter.checkpoint import CheckpointError
from edgewise.exporter.checkpoint.sentence_pooling import sentence_pooling

# As all-MiniLM-L6-v2 has it.
MINILM = {
    "word_embedding_dimension": 384,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}


@pytest.mark.parametrize(
    ("content", "pooling"),
    [
        (MINILM, "mean"),
        (MINILM | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "first"),
        ({"pooling_mode": "mean", "embedding_dimension": 384}, "mean"),
        ({"pooling_mode": "cls", "include_prompt": True}, "first"),
    ],
)
def test_the_mean_and_the_first_token_are_read(content, pooling):
    assert sentence_pooling(content) == pooling


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (MINILM | {"pooling_mode_max_tokens": True}, "mean_tokens and max_tokens"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({}, "nothing"),
    ],
)
def test_what_no_bundle_can_do_is_refused_by_name(content, named):
    with pytest.raises(CheckpointError, match=f"vector by {named}; a bundle takes the mean"):
        sentence_pooling(content)


def test_a_folder_says_it_in_a_file_of_its_own_or_not_at_all(tmp_path):
    folder = write_family_folder(TinyEncoder("bert_features"), tmp_path / "sentences")
    with open_checkpoint(str(folder)) as checkpoint:
        assert checkpoint.pooling is None
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(MINILM))
    with open_checkpoint(str(folder)) as checkpoint:
        assert checkpoint.pooling == "mean"


def test_the_frame_is_read_without_padding(tmp_path):
    """Sentence encoders come with a tokenizer that pads every text to one length."""
    folder = write_family_folder(TinyEncoder("bert_features"), tmp_path / "padded")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["padding"] = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with open_checkpoint(str(folder)) as checkpoint:
        files = checkpoint.tokenizer
    assert (files.beginning_token_id, files.separator_token_id, files.mask_token_id) == (2, 3, 4)
    assert files.separators_between == 1
