"""Messages into a prompt, by the chat template that came with the checkpoint.

Workflow: `check_messages` what a caller gives, `ChatTemplate.render` it. The environment is that of
transformers' ``apply_chat_template``: an immutable sandbox, trim_blocks and lstrip_blocks, break
and continue, ``{% generation %}``, and the names ``raise_exception``, ``strftime_now``, ``tojson``,
``bos_token``, ``eos_token``, ``messages``, ``tools``, ``documents`` and ``add_generation_prompt``.

Rules: there is no other template to fall back to; what this one does not accept is an error. A
template comes from a stranger: beside the sandbox, its size, its output, the turns of its loops and
calls, the length of ranges and repeated texts are limited. Memory is not: a template that doubles a
text in each of a hundred turns can still exhaust it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from edgewise.common.distributions import installed_version
from edgewise.common.errors import EdgewiseError
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.manifest import SpecialTokens

ROLES = ("system", "user", "assistant")
TEMPLATE_MAX_LENGTH = 1 << 18  # characters; the longest published ones have some ten thousand
OUTPUT_MAX_LENGTH = 1 << 22  # characters
TURNS_MAX = 100_000  # of all loops and macro calls together, in one rendering
REPEATED_MAX_LENGTH = 100_000  # items of a repeated text or list, as of a range
POWER_MAX = 1000  # of base and exponent

Message = Mapping[str, str]
Messages = Sequence[Message]


class ChatError(EdgewiseError):
    """Messages that are malformed, or that the bundle's template does not accept."""


def check_messages(messages: object) -> tuple[dict[str, str], ...]:
    """Check the form of a conversation.

    Args:
        messages: A sequence of ``{"role": "system" | "user" | "assistant", "content": str}``.

    Returns:
        A copy as plain dicts.

    Raises:
        ChatError: It is empty or something else; the message says which entry and why.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise ChatError(
            "messages must be a list of at least one {'role': ..., 'content': ...},"
            f" not {messages!r:.60}"
        )
    return tuple(_checked(message, index) for index, message in enumerate(messages))


def _checked(message: object, index: int) -> dict[str, str]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise ChatError(
            f"message {index} is {message!r:.60}; accepted: an object with role and content"
        )
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise ChatError(f"message {index} has the role {role!r:.60}; accepted: {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ChatError(f"message {index} has the content {content!r:.60}; accepted: a text")
    return {"role": role, "content": content}


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, tokens: SpecialTokens) -> None:
        """Compile a template.

        Args:
            source: Jinja source.
            tokens: Whose texts the template knows as ``bos_token`` and ``eos_token``.

        Raises:
            ChatError: The source is too long or no Jinja template.
        """
        if len(source) > TEMPLATE_MAX_LENGTH:
            raise ChatError(
                f"the chat template has {len(source)} characters; accepted: {TEMPLATE_MAX_LENGTH}"
            )
        names = {"bos_token": tokens.beginning_text, "eos_token": tokens.end_text}
        self._lock = threading.Lock()  # the environment counts for one rendering at a time
        self._variables = {name: text for name, text in names.items() if text is not None}
        self._environment = _Environment()
        try:
            self._template = self._environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
            raise ChatError(f"the bundle's chat template is no Jinja template: {error}") from error

    @classmethod
    def open(cls, bundle: Bundle) -> ChatTemplate | None:
        """Load the template of a bundle and check that it renders the manifest's sample.

        Returns:
            None when the bundle has no template.

        Raises:
            ChatError: It can not be compiled, or renders the sample otherwise than where the
                bundle was exported.
        """
        sample = bundle.manifest.chat
        if sample is None:
            return None
        template = cls(bundle.read_text("chat_template"), bundle.manifest.tokens)
        rendered = template.render(
            check_messages(sample.messages), moment=datetime.fromisoformat(sample.moment)
        )
        if rendered != sample.rendered:
            raise ChatError(
                f"the chat template renders its sample as {rendered!r:.200}, the bundle was"
                f" exported with {sample.rendered!r:.200} (jinja2 here:"
                f" {installed_version('jinja2')}); export the bundle again"
            )
        return template

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        moment: datetime | None = None,
    ) -> str:
        """Render a conversation.

        Args:
            messages: As `check_messages` returns them.
            add_generation_prompt: End with what the assistant's answer begins with.
            moment: What the template takes for now; None: the local time.

        Returns:
            The prompt; special tokens stand in it as their texts, the beginning token included.

        Raises:
            ChatError: The template refuses the messages, or fails, or exceeds a limit.
        """
        variables = {
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        with self._lock:
            self._environment.begin(moment)
            try:
                return _joined(self._template.generate(**variables, **self._variables))
            except ChatError:
                raise
            except Exception as error:  # a template can raise whatever Python can
                raise ChatError(
                    f"the bundle's chat template fails on these messages: {error}"
                    f" ({type(error).__name__})"
                ) from error


def _joined(parts: Iterable[str]) -> str:
    kept = []
    length = 0
    for part in parts:
        length += len(part)
        if length > OUTPUT_MAX_LENGTH:
            raise ChatError(f"the chat template writes more than {OUTPUT_MAX_LENGTH} characters")
        kept.append(part)
    return "".join(kept)


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}``, a mark for training: here just its content."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox with the names that chat templates use, and with limits."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationBlock],
        )
        self._turns = 0
        self._moment: datetime | None = None
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = self._strftime_now

    def begin(self, moment: datetime | None) -> None:
        self._turns = 0
        self._moment = moment

    def count_turn(self) -> str:
        self._turns += 1
        if self._turns > TURNS_MAX:
            raise ChatError(
                f"the chat template takes more than {TURNS_MAX} turns of its loops on these"
                " messages: give fewer or shorter ones"
            )
        return ""

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**" and max(abs(left), abs(right)) > POWER_MAX:
            raise ChatError(f"the chat template takes a power of more than {POWER_MAX}")
        for times, repeated in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(repeated, str | list | tuple):
                length = times * len(repeated)
                if length > REPEATED_MAX_LENGTH:
                    raise ChatError(f"the chat template repeats a text to {length} characters")
        return super().call_binop(context, operator, left, right)

    def _strftime_now(self, layout: str) -> str:
        moment = datetime.now() if self._moment is None else self._moment
        return moment.strftime(layout)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        bodies = [node.body for node in tree.find_all(jinja2.nodes.For)]
        bodies += [node.body for node in tree.find_all(jinja2.nodes.Macro)]
        bodies += [node.body for node in tree.find_all(jinja2.nodes.CallBlock)]
        for body in bodies:
            body.insert(0, _turn())
        return tree


def _turn() -> jinja2.nodes.Output:
    """Return the node that counts one turn wherever it is run."""
    counter = jinja2.nodes.EnvironmentAttribute("count_turn", lineno=1)
    call = jinja2.nodes.Call(counter, [], [], None, None, lineno=1)
    return jinja2.nodes.Output([call], lineno=1)


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  # transformers' signature
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002  # transformers' signature
) -> str:
    """Do as transformers' filter: plain JSON, without jinja2's escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> None:
    raise ChatError(f"the bundle's chat template refuses these messages: {message}")
