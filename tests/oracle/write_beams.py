"""Search with transformers' beams over tiny encoder-decoders, and store or compare what it finds.

Runs in an environment of its own (torch and transformers are no dependency of Edgewise):

    python tests/oracle/write_beams.py           # write tests/data/beams/*.json
    python tests/oracle/write_beams.py --check   # compare what is stored with a live run

A random model hardly ever gives its end token, so tokens that it does give are made end tokens:
those that some searches without any end have used most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_checkpoint import DATA
from tiny_families import TinyEncoderDecoder
from write_states import loaded

TOLERANCE = 1e-5
CASES = ("t5_v1_0", "t5_v1_1", "bart")
RULES = {"first": True, "likely": False, "never": "never"}
MOST = 12  # tokens
SETTINGS = [
    {"beams": beams, "stop_rule": rule, "length_penalty": penalty}
    for beams, rule, penalty in itertools.product((2, 4), RULES, (0.0, 1.0, 2.0))
]
SETTINGS += [
    {"beams": 3, "stop_rule": "likely", "length_penalty": -1.0},
    {"beams": 3, "stop_rule": "likely", "length_penalty": 1.0, "repetition_penalty": 1.5},
    {"beams": 3, "stop_rule": "likely", "length_penalty": 1.0, "forced_first": 7, "forced_last": 9},
    {"beams": 3, "stop_rule": "likely", "length_penalty": 1.0, "least": 5},
    {"beams": 8, "stop_rule": "never", "length_penalty": 1.5},
]


def found(network, source, start, ends, settings):
    """Return the answers' ids and scores, the best first."""
    network.generation_config.update(
        eos_token_id=ends or None,
        pad_token_id=0,
        bos_token_id=None,
        decoder_start_token_id=start,
        forced_bos_token_id=settings.get("forced_first"),
        forced_eos_token_id=settings.get("forced_last"),
    )
    with torch.no_grad():
        result = network.generate(
            input_ids=torch.tensor([source]),
            attention_mask=torch.ones(1, len(source), dtype=torch.long),
            num_beams=settings["beams"],
            num_return_sequences=settings["beams"],
            max_new_tokens=MOST,
            min_new_tokens=settings.get("least"),
            do_sample=False,
            use_cache=False,  # its cache takes as many layers as the encoder has
            early_stopping=RULES[settings["stop_rule"]],
            length_penalty=settings["length_penalty"],
            repetition_penalty=settings.get("repetition_penalty", 1.0),
            return_dict_in_generate=True,
            output_scores=True,
        )
    answers = []
    for row, indices in zip(result.sequences, result.beam_indices, strict=True):
        length = int((indices >= 0).sum())
        answers.append(row[1 : 1 + length].tolist())
    return answers, result.sequences_scores.tolist()


def live(name: str) -> list[dict[str, object]]:
    model = TinyEncoderDecoder(name)
    network = loaded(model)
    start = model.configuration.start_token_id
    searches = []
    for source in model.content["sources"]:
        free, _ = found(network, source, start, [], SETTINGS[0] | {"beams": 6})
        used = Counter(itertools.chain(*free))
        for count in (1, 3):
            ends = sorted(token for token, _ in used.most_common(count + 1)[1:])
            for settings in SETTINGS:
                answers, scores = found(network, source, start, ends, settings)
                searches.append(
                    settings
                    | {"source": source, "ends": ends, "answers": answers, "scores": scores}
                )
    return searches


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    torch.set_num_threads(1)  # more of them wait for each other over so small a model
    worst = 0.0
    for name in CASES:
        path = DATA / "beams" / f"{name}.json"
        searches = live(name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            lines = ",\n".join(json.dumps(one) for one in searches)
            path.write_text(f'{{"most": {MOST}, "searches": [\n{lines}\n]}}\n')
            lengths = Counter(len(ids) for one in searches for ids in one["answers"])
            print(f"{name}: {len(searches)} searches written, answers of {sorted(lengths.items())}")
            continue
        stored = json.loads(path.read_text())["searches"]
        for one, other in zip(searches, stored, strict=True):
            if one["answers"] != other["answers"]:
                print(f"{name}: other answers to {other}")
                worst = np.inf
            worst = max(worst, np.abs(np.subtract(one["scores"], other["scores"])).max())
        print(f"{name}: largest difference of a score {worst:.2g}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
