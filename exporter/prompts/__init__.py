"""How each family of models wants to be asked, and which ids of its configuration are wrong.

A family is one TOML file here: whom it is for, prompts by name (a chat template and the texts that
end an answer) and, where a published configuration names wrong ids, the right ones. Adding a family
is adding a file. ``choosing.apply_prompts`` does both to an opened checkpoint: ids always, a prompt
only where the checkpoint brings no template of its own, or where one is asked for by name. It
stands apart, for it needs what reads checkpoints, and a list of names does not.
"""

from edgewise.exporter.prompts.family import (
    Family,
    Match,
    Prompt,
    PromptError,
    TokenRule,
    families,
    find_prompt,
    parse_family,
    prompt_names,
)

__all__ = [
    "Family",
    "Match",
    "Prompt",
    "PromptError",
    "TokenRule",
    "families",
    "find_prompt",
    "parse_family",
    "prompt_names",
]
