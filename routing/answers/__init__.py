"""What the text of an answer shows: whether it is right, what it commits to, and what that says of the other models.

Public: `make_matcher` and `make_comparer` (gold), the prompts and verdicts of an LLM judge, `response_features` and
`answer_checks`, `agreement_with`, `AnswerHead` (the cascade's second look) and `ResponseJudge`. The top floor of the core:
it may use all others, and none of them may import it.
"""
