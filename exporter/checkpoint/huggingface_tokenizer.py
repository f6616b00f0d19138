"""Reads a Hugging Face folder's tokenizer, chat template and special tokens.

Rules: a folder without a tokenizer.json has it made of its older files (``slow_tokenizer.py``);
tokenizer.json is passed on as it is, unless tokenizer_config.json contradicts it on whether
a text begins with the beginning token, for there transformers believes the latter; the chat
template is the file chat_template.jinja if there is one, else the one in tokenizer_config.json, and
never one of our own; generation stops at every end token that generation_config.json (else
config.json) or the tokenizer names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgewise.exporter.checkpoint.checkpoint import TokenizerFiles
from edgewise.exporter.checkpoint.errors import CheckpointError, listed
from edgewise.exporter.checkpoint.slow_classes import SLOW_FILES
from edgewise.exporter.checkpoint.slow_tokenizer import (
    convert_slow_tokenizer,
    has_slow_files,
)
from edgewise.exporter.checkpoint.tokenizer_check import framing, loaded_tokenizer, prepends
from edgewise.exporter.checkpoint.tokenizer_files import read_object, token_text
from edgewise.exporter.checkpoint.tokenizer_parts import prepend_processor

HOW_TO_MAKE_TOKENIZER = (
    "Make it with `python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('IN')"
    ".save_pretrained('OUT')\"` and copy OUT/tokenizer.json beside the weights."
)


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], generation: Mapping[str, Any]
) -> TokenizerFiles:
    """Read the tokenizer's files, tokenizer_config.json, special_tokens_map.json and the template.

    Args:
        folder: The checkpoint's folder.
        config: The content of config.json.
        generation: The content of generation_config.json, or {}.

    Raises:
        CheckpointError: A file is missing or damaged, or names a token that does not exist.
    """
    settings = read_object(folder / "tokenizer_config.json")
    special = {**read_object(folder / "special_tokens_map.json"), **settings}
    if (folder / "tokenizer.json").is_file() or not has_slow_files(folder):
        tokenizer_json = _read_tokenizer_json(folder)
    else:
        model_type = str(config.get("model_type"))
        tokenizer_json, special = convert_slow_tokenizer(folder, special, model_type)
    tokenizer = loaded_tokenizer(tokenizer_json, "tokenizer.json")

    def token(role: str) -> tuple[str | None, int | None]:
        text = token_text(special.get(f"{role}_token"), f"{role}_token")
        identifier = None if text is None else tokenizer.token_to_id(text)
        if text is not None and identifier is None:
            raise CheckpointError(
                f"tokenizer_config.json has the {role}_token {text!r}, which tokenizer.json lacks."
            )
        return text, identifier

    beginning, beginning_id = token("bos")
    if beginning is None:
        beginning, beginning_id = token("cls")  # what an encoder begins every text with
    end, end_id = token("eos")
    _, padding_id = token("pad")
    configured_end = generation.get("eos_token_id", config.get("eos_token_id"))
    end_ids = [*_token_ids(configured_end, "eos_token_id"), *([] if end_id is None else [end_id])]
    if beginning_id is None:
        beginning_id = next(iter(_token_ids(config.get("bos_token_id"), "bos_token_id")), None)
        beginning = None if beginning_id is None else tokenizer.id_to_token(beginning_id)
    if end is None and end_ids:
        end = tokenizer.id_to_token(end_ids[0])
    if padding_id is None:
        configured = generation.get("pad_token_id", config.get("pad_token_id"))
        padding_id = next(iter(_token_ids(configured, "pad_token_id")), None)
    adds_beginning = prepends(tokenizer, beginning_id)
    if "add_bos_token" in settings or "add_eos_token" in settings:
        wanted = settings.get("add_bos_token") is True and beginning is not None
        if wanted != adds_beginning:
            tokenizer_json = _with_beginning(
                tokenizer_json, beginning if wanted else None, beginning_id
            )
            adds_beginning = wanted
    frame = framing(tokenizer)
    return TokenizerFiles(
        tokenizer_json=tokenizer_json,
        chat_template=_read_chat_template(folder, settings),
        beginning_token_id=beginning_id,
        end_token_ids=tuple(dict.fromkeys(end_ids)),
        padding_token_id=padding_id,
        beginning_token=beginning,
        end_token=end,
        add_beginning_token=adds_beginning,
        mask_token_id=token("mask")[1],
        separator_token_id=frame.after if frame.after is not None else token("sep")[1],
        separators_between=frame.between,
    )


def _with_beginning(tokenizer_json: str, token: str | None, identifier: int | None) -> str:
    """Replace the post-processor: ``token`` goes before a text, or nothing does."""
    content = json.loads(tokenizer_json)
    content["post_processor"] = (
        None if token is None or identifier is None else prepend_processor(token, identifier)
    )
    return json.dumps(content, ensure_ascii=False)


def _read_tokenizer_json(folder: Path) -> str:
    path = folder / "tokenizer.json"
    if not path.is_file():
        others = [name for name in SLOW_FILES if (folder / name).is_file()]
        given = f"only {listed(others)}" if others else "no tokenizer file"
        raise CheckpointError(
            f"{folder.name} has no tokenizer.json, {given}. {HOW_TO_MAKE_TOKENIZER}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path.name} can not be read: {error}.") from error


def _token_ids(value: object, key: str) -> list[int]:
    """Take one id or a list of ids; negative ones mean none."""
    values: Iterable[object] = value if isinstance(value, list) else [value]
    identifiers = [entry for entry in values if entry is not None]
    if not all(isinstance(entry, int) and not isinstance(entry, bool) for entry in identifiers):
        raise CheckpointError(f"The configuration has {key} = {value!r}; token ids are accepted.")
    return [entry for entry in identifiers if isinstance(entry, int) and entry >= 0]


def _read_chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path.name} can not be read: {error}.") from error
    template = settings.get("chat_template")
    if template is None or isinstance(template, str):
        return template
    return named_template(template, "tokenizer_config.json")


def named_template(templates: object, where: str) -> str:
    """Choose from a list of ``{"name": ..., "template": ...}``: the only one, or ``default``."""
    if not isinstance(templates, list):
        raise CheckpointError(f"{where} has a chat_template that is neither a string nor a list.")
    by_name: dict[str, str] = {
        entry["name"]: entry["template"]
        for entry in templates
        if isinstance(entry, Mapping)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    }
    if len(by_name) == 1:
        return next(iter(by_name.values()))
    if "default" in by_name:
        return by_name["default"]
    raise CheckpointError(
        f"{where} has chat templates named {listed(by_name) or 'nothing'}, and none is named "
        "default. Save the one to use as chat_template.jinja in the folder."
    )
