"""What the codes and the words of an error are about: what a prompt says, its length, its parts, the key, the model, the account.

Providers agree on no vocabulary, and gateways put one provider's words under another's status. So a rule here is a list of what
has been seen, matched on codes without case and marks first, and on words where there is no code. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from jobs.lanes.providers.errors import ProviderError


def _any(*patterns: str) -> re.Pattern[str]:
    return _one_of(patterns)


def _one_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_CONTENT_NAMES = _one_of(
    [
    "content(?:filter|polic|moderat|violat|safety|blocked|security)", "responsibleai", "invalidprompt", "datainspection",
    "prohibitedcontent", "inappropriate", "moderation", "guardrail(?:interven|violat|block)", "flaggedinput", "policyviolation",
    "usage(?:polic|guideline)", "sensitive", "safety", "jailbreak", "promptblocked", "blockedprompt", "blocklist", "spii$",
    "recitation", "riskcontrol", "promptfeedback", "piidetect", "blockedpii",]
)  # fmt: skip
_CONTENT_WORDS = _one_of(
    [
        r"content[ _-]?(?:management|moderation|safety|filter\w*|security)\b",
        r"content(?:'s)? polic",
        r"violat\w*[^.]{0,60}\b(?:polic|guideline|safety|terms|rules)",
        r"usage (?:guidelines|policy|policies)\b",
        r"safety[ _](?:system|check|filter|setting|guideline|reason|policy)",
        r"(?:requires|flagged by|blocked by|rejected by|input|content) moderation|moderation (?:system|check|filter|policy)",
        r"(?:was|were|been|is|got|prompt|input|request|content) flagged",
        r"(?:inappropriate|prohibited|harmful|unsafe)[ _]content",
        r"data_?inspection|risk[ _-]?control",
        r"sensitive (?:content|words?|information|data)",
        r"blocked by[^.]{0,40}(?:guardrail|filter|safety|policy|moderation)",
        r"guardrail[^.]{0,30}(?:interven|block|violat|triggered|fail)",
        "敏感|违规|内容安全",
    ]
)
_ACCOUNT = _any(
    r"\b(?:account|organi[sz]ation|project|team|user|workspace|subscription|api key|access)\b[^.;:]{0,40}"
    r"\b(?:suspended|deactivated|disabled|terminated|banned|restricted|revoked|locked|blocked)\b",
    r"\b(?:suspended|deactivated|disabled|terminated|banned|revoked)\b[^.;:]{0,30}\b(?:account|organi[sz]ation|project|key)\b",
)
"""An account that is shut for what it did before: that is nobody's prompt."""
_TOO_LONG_NAMES = _any(
    "context(?:length|window)", "exceedcontext", "stringabovemaxlength", "(?:prompt|input)toolong", "maxtokensexceeded",
    "toomanyinputtokens",
)  # fmt: skip
_TOO_LONG_WORDS = _any(
    r"maximum (?:context|model|sequence|prompt|input) length|context (?:length|window|limit|size)|max_model_len",
    r"(?:prompt|input)[^.]{0,40}(?:too long|too large for model|longer than)|longer than the maximum",
    r"exceeds? the (?:maximum|max|model)[^.]{0,30}(?:tokens|length)|tokens? (?:count|limit)[^.]{0,30}exceed",
    r"inputs`? (?:tokens \+|must have less than)|exceed\w* (?:the )?model(?:'s)? token limit|exceeds? max(?:imum)? length",
    r"reduce the length of|maximum number of tokens|range of input length|too many (?:input |prompt )?tokens",
)
_KINDS = "image|vision|audio|video|file|pdf|document|multi-?modal|tool|function"
_ROW_WORDS = _any(
    r"no endpoints? found that (?:support|can handle)",
    rf"(?:does|do)(?: not|n't) support[^.]{{0,40}}(?:{_KINDS})",
    rf"(?:{_KINDS})[^.]{{0,40}}(?:not supported|unsupported|not enabled)",
)
"""About a part of the prompt that other prompts may not have: a picture, a tool."""
_FILE_WORDS = _any(
    r"no such file|unknown file|\bfile\b[^.]{0,60}\bnot found",
    r"(?:download|fetch|load|process|decode|access|retriev)\w*[^.]{0,40}(?:image|file|audio|video|url)",
    r"invalid (?:image|base64|audio|file)|unsupported (?:image|file|media|mime)",
)
"""About a file that the prompt names."""
_WALL = _any(
    r"request (?:blocked|could not be satisfied|has been blocked)|you have been blocked|attention required",
    r"web application firewall|\bwaf\b|access denied[^.]{0,60}(?:reference|security)|incapsula|cloudflare|akamai",
)
"""A firewall before the API that takes offence at what a prompt looks like."""
_KEY_NAMES = _any(
    "(?:invalid|incorrect)apikey", "apikey(?:invalid|expired)", "accountdeactivated", "invalidauthentication"
)
_KEY_WORDS = _any(
    r"(?:api[ -]?key|access token|credentials?)[^.]{0,30}(?:not valid|invalid|incorrect|expired|not found|is missing|revoked)",
    r"(?:incorrect|invalid|expired|missing|no|unknown)[^.]{0,12}api[ -]?key\b",
)
_CREDIT = _any(
    r"used all available credits|spend(?:ing)?[ _-]limit|credit balance|insufficient[ _](?:balance|credits?|funds|quota)",
    r"key limit exceeded|out of credits?|no credits? (?:left|remaining)|arrear|欠费|余额不足",
)
_CREDIT_NAMES = _any("arrear", "insufficient(?:balance|credit|fund|quota)", "billing(?:hardlimit|notactive)")
_MODEL_NAMES = _any("modelnot(?:found|supported|exist)", "(?:invalid|unknown|nosuch)model", "modeldoesnotexist")
_MODEL_WORDS = _any(
    r"not a valid model|invalid model\b|unknown model|no such model",
    r"model\b[^.]{0,80}(?:not found|not exist|does not exist|is not available)",
)
_NO_ENDPOINT = _any(
    r"unexpected endpoint|endpoint or method|unknown (?:endpoint|route|request url)|no route matched|cannot post /"
)

FILTERED_FINISH = frozenset(
    {
        "contentfilter", "safety", "prohibitedcontent", "sensitive", "blocklist", "spii", "recitation", "guardrailintervened",
        "refusal", "imagesafety", "moderation", "contentfiltered", "blocked",
    }
)  # fmt: skip
"""`finish_reason` of an answer that was held back, squashed."""
FAILED_FINISH = {
    "error": None, "networkerror": 503, "insufficientsystemresource": 503, "upstreamerror": 502, "failed": 502, "abort": 502,
    "aborted": 502, "cancelled": 502, "modelerror": 502, "servererror": 500, "timeout": 504,
}  # fmt: skip
"""`finish_reason` of an answer that broke off, squashed; the status it amounts to, None where the error beside it has to say."""

EMPTY_FINISH = frozenset(
    {
        "other", "malformedfunctioncall", "unexpectedtoolcall", "language", "unknown", "finishreasonunspecified", "nocandidates",
        "missingthoughtsignature",
    }
)  # fmt: skip
"""`finish_reason` that is one of a failure where nothing was answered, squashed."""

_STATUS_OF_NAMES = (
    (_any("insufficient(?:quota|balance|credit|fund)", "paymentrequired", "arrear", "billing"), 402),
    (
        _any(
            "ratelimit",
            "toomanyrequest",
            "throttl",
            "resourceexhausted",
            "(?:limit|concurrency)request",
            "quotaexceeded",
        ),
        429,
    ),
    (_any("apikey", "authentication", "unauthori[sz]ed", "unauthenticated", "invalidtoken"), 401),
    (_any("permission", "forbidden", "accessdenied"), 403),
    (_any("notfound", "(?:unknown|nosuch)model"), 404),
    (_any("overloaded"), 529),
    (_any("unavailable", "capacity", "notready", "busy", "networkerror", "insufficientsystem"), 503),
    (_any("timeout", "timedout", "deadlineexceeded"), 504),
    (_any("badgateway", "upstream", "providererror"), 502),
    (_any("servererror", "internal", "apierror"), 500),
    (
        _any(
            "invalid(?:request|argument|parameter)",
            "badrequest",
            "contextlength",
            "unprocessable",
            "validation",
            "unsupported",
        ),
        400,
    ),
)
"""The first that fits. Codes are without case and marks."""
_STATUS_OF_WORDS = (
    (_NO_ENDPOINT, 404),
    (_any("rate[ -]?limit", "too many requests", "quota exceeded", "exceeded your current quota"), 429),
    (_CREDIT, 402),
    (_KEY_WORDS, 401),
    (_any("unauthori[sz]ed", "not authenticated", "authentication"), 401),
    (_MODEL_WORDS, 404),
    (_any("overloaded", "at capacity", "temporarily unavailable", "try again later", "service unavailable"), 503),
    (_any("timed? ?out"), 504),
    (_any("field required", "validation error", "invalid request", "must be (?:a|an|one|less|greater)"), 400),
)


UNKNOWN = 502
"""The status of an error that tells nothing: somebody behind the server has failed."""


def status_of(error: ProviderError) -> int:
    """The HTTP status that an error without one amounts to: what it says itself, then its codes, then its words; else UNKNOWN."""
    if error.status is not None:
        return error.status
    if any(_CONTENT_NAMES.search(name) for name in error.names):
        return 400
    for pattern, status in _STATUS_OF_NAMES:
        if any(pattern.search(name) for name in error.names):
            return status
    if is_about_content(400, error) or _TOO_LONG_WORDS.search(error.message):
        return 400
    return next((status for pattern, status in _STATUS_OF_WORDS if pattern.search(error.message)), UNKNOWN)


def is_about_content(status: int, error: ProviderError) -> bool:
    """What the prompt or the answer says was not let through. Many rows may be refused so, and the model works."""
    if status in (401, 402, 408, 429) or _ACCOUNT.search(error.message):
        return False
    if status == 451 or any(_CONTENT_NAMES.search(name) for name in error.names):
        return True
    return status < 500 and bool(_CONTENT_WORDS.search(error.message))


def is_too_long(status: int, error: ProviderError) -> bool:
    """The prompt does not fit the model's context."""
    if any(_TOO_LONG_NAMES.search(name) for name in error.names):
        return True
    return status in (400, 413, 422, 424, 500) and bool(_TOO_LONG_WORDS.search(error.message))


def is_about_the_row(status: int, error: ProviderError) -> bool:
    """Under a status that speaks of the lane, or of the server: a part of this prompt, or its looks to a firewall."""
    if status in (403, 404, 405, 415, 501) or status >= 500:
        words = [_ROW_WORDS, *([_FILE_WORDS] if status < 500 else []), *([_WALL] if status == 403 else [])]
        return any(each.search(error.message) for each in words)
    return False


def is_about_the_key(error: ProviderError) -> bool:
    return any(_KEY_NAMES.search(name) for name in error.names) or bool(_KEY_WORDS.search(error.message))


def is_out_of_credit(error: ProviderError) -> bool:
    return any(_CREDIT_NAMES.search(name) for name in error.names) or bool(_CREDIT.search(error.message))


def is_unknown_model(error: ProviderError) -> bool:
    return any(_MODEL_NAMES.search(name) for name in error.names) or bool(_MODEL_WORDS.search(error.message))


def is_no_endpoint(error: ProviderError) -> bool:
    """The address takes no chat completions, whatever status says so."""
    return bool(_NO_ENDPOINT.search(error.message))
