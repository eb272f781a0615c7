"""Answers that are paid for and say nothing: a reasoning model spent its tokens on thoughts and never came to its answer.

Such a row is final, since the same request would end the same way, and its cost is booked as an answer's. An empty text
without a sign of thinking, and not cut at its limit of tokens, is an answer like any other: some prompts ask for one.
"""

from __future__ import annotations

from jobs.lanes.replies import Completion
from routing.answers.thinking import behind_thinking, has_thought, is_within_thinking

EMPTY = "empty answer"
"""How the row's error begins."""
_CUT = ("length", "max_tokens", "max_output_tokens", "model_length")
"""Finish reasons, in lower case, of what was cut at its limit of tokens."""
_FIX = "raise sampling.max_tokens (or max_completion_tokens), lower the reasoning effort, or turn thinking off"


def why_empty(completion: Completion) -> str:
    """What to say of an answer that never came, with what to change; "" for an answer."""
    text, usage = completion.text, completion.usage
    is_cut = completion.finish_reason.lower() in _CUT
    # One that ends by itself may well have answered at once, whatever the template opened.
    within = completion.opened and is_cut and is_within_thinking(text)
    if behind_thinking(text).strip() and not within:
        return ""
    thought = completion.thought or within or has_thought(text) or bool(usage.reasoning_tokens)
    if not thought and not (is_cut and not text and usage.completion_tokens):
        return ""
    about = "" if usage.source == "provider" else "about "
    if not thought:
        n = usage.completion_tokens
        return f"{EMPTY}, {about}{n} tokens that are not shown: max_tokens went on reasoning, it seems; {_FIX}"
    said = f"{EMPTY}, {about}{usage.reasoning_tokens or usage.completion_tokens} reasoning tokens: "
    if is_cut:
        return f"{said}max_tokens went on reasoning; {_FIX}"
    return (
        f"{said}nothing follows its thoughts; {_FIX}; or mend what ends it early (stop, the server's reasoning parser)"
    )
