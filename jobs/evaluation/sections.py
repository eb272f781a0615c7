"""The sections of docs/results.md: which set, which training rows, what was published, what is aimed at.

Published figures: RouteLLM (arXiv 2406.18665, tables 1-3) and RouterBench (arXiv 2403.12031). Floors and targets are this
project's, set on the same files before the routers were written.
"""

from __future__ import annotations

from jobs.evaluation.result_sets import Section, mmlu_pro, mmlu_pro_training, published_table, routellm, routerbench

MMLU_PUBLISHED = published_table([
    ("arena", "49.43 / 77.80 / .502", "48.88 / 77.93 / .499", "45.00 / 76.86 / .524", "55.82 / 80.25 / .473"),
    ("+ 1,500 golden labels", "41.30 / 72.20 / .572", "35.49 / 70.31 / .600", "35.46 / 71.40 / .597", "35.40 / 71.55 / .603"),
])  # fmt: skip
GSM8K_PUBLISHED = published_table([
    ("arena", "58.78 / 83.84 / .438", "56.09 / 83.56 / .461", "53.59 / 85.24 / .475", "54.43 / 82.11 / .475"),
    ("+ 120,000 judge labels", "44.76 / 79.09 / .531", "33.64 / 63.26 / .622", "38.82 / 72.62 / .565", "41.21 / 72.20 / .568"),
])  # fmt: skip
MT_BENCH_PUBLISHED = published_table([
    ("arena", "78.09 / 87.64 / .391", "28.82 / 77.53 / .573", "25.32 / 74.26 / .580", "37.85 / 58.99 / .610"),
    ("+ 120,000 judge labels", "19.58 / 34.02 / .751", "31.50 / 48.75 / .679", "13.40 / 31.31 / .802", "23.21 / 36.04 / .759"),
])  # fmt: skip
MMLU_BEST, GSM8K_BEST = (
    ("the paper's best (SW, golden labels)", 0.603),
    ("the paper's best (causal LLM, judge labels)", 0.622),
)
MT_BENCH_BEST = ("the paper's best (MF, judge labels)", 0.802)

SECTIONS = (
    Section(
        "mmlu-pilot", "MMLU, a pilot of 500 rows",
        "RouteLLM's MMLU, GPT-4 against Mixtral: trained on 500 random rows, tested on all others.",
        routellm("mmlu"), train_rows=500, floor=("words and ridge", 0.609), target=("project", 0.65),
        reference=MMLU_BEST, published=MMLU_PUBLISHED,
    ),
    Section(
        "mmlu-half", "MMLU, half and half",
        'Trained on one half, tested on the other. "category mean" is told the subject, which is not in the prompt.',
        routellm("mmlu"), floor=("subject mean", 0.689), target=("project", 0.72), reference=MMLU_BEST,
    ),
    Section(
        "mmlu-transfer", "MMLU, no pilot",
        "Trained on another set and another strong model, tested on all of MMLU: what the paper's routers do.",
        routellm("mmlu"), train=mmlu_pro_training, floor=("prompt length", 0.584), target=("project", 0.62),
        reference=MMLU_BEST,
    ),
    Section(
        "gsm8k-pilot", "GSM8K, a pilot of 400 rows", "RouteLLM's GSM8K, GPT-4 against Mixtral.",
        routellm("gsm8k"), train_rows=400, floor=("nine counts and ridge", 0.615), target=("project", 0.65),
        reference=GSM8K_BEST, published=GSM8K_PUBLISHED,
    ),
    Section(
        "gsm8k-transfer", "GSM8K, no pilot", "Trained on MMLU-Pro, tested on all of GSM8K.",
        routellm("gsm8k"), train=mmlu_pro_training, floor=("prompt length", 0.599), target=("project", 0.63),
        reference=GSM8K_BEST,
    ),
    Section(
        "mt-bench", "MT-Bench, half and half",
        "72 questions: one random draw has a standard deviation of .067, so nothing here separates two routers.",
        routellm("mt_bench"), reference=MT_BENCH_BEST, published=MT_BENCH_PUBLISHED,
    ),
    Section(
        "mmlu-pro", "MMLU-Pro, a pilot of 1,000 rows", "gpt-4o against Llama-3.1-8B.",
        mmlu_pro("gpt-4o", "Llama-3.1-8B"), train_rows=1000, floor=("prompt only", 0.533), target=("prompt only", 0.57),
        after_answer=True,
        reference=("the target after the weak answer", 0.62),
    ),
    Section(
        "routerbench", "RouterBench, three tasks mixed",
        "ARC-Challenge, MBPP and WinoGrande together, 11 models, 70 % of the rows for training.",
        routerbench("arc_challenge", "mbpp", "winograde"), fraction=0.7, figure="aiq", floor=("kNN", 0.833),
        target=("project", 0.845), cascades=True,
        reference=("kNN with 40 neighbours, measured earlier", 0.833),
    ),
    *(
        Section(
            f"routerbench-{name}", f"RouterBench, {title} alone", "70 % of the rows for training.", routerbench(name),
            fraction=0.7, figure="aiq", reference=("kNN with 40 neighbours, measured earlier", knn),
        )
        for name, title, knn in (
            ("arc_challenge", "ARC-Challenge", 0.914), ("mbpp", "MBPP", 0.669), ("winograde", "WinoGrande", 0.812)
        )
    ),
)  # fmt: skip
