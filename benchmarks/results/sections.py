"""The sections of docs/results.md: which set, which training rows, what was published, what is aimed at.

Published figures: RouteLLM (arXiv 2406.18665, tables 1-3) and RouterBench (arXiv 2403.12031). Floors and targets are this
project's, set on the same files before the routers were written.
"""

from __future__ import annotations

from benchmarks.results.batch_tables import batch_tables
from benchmarks.results.cascade_tables import cascade_tables
from benchmarks.results.live_tables import live_tables
from benchmarks.results.matcher_tables import matcher_tables
from benchmarks.results.pilot_tables import pilot_tables
from benchmarks.results.promise_tables import coverage_tables, violation_tables
from benchmarks.results.sets import Section, mmlu_pro, mmlu_pro_training, published_table, routellm, routerbench
from benchmarks.results.tables import Table

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
        routellm("mmlu"), train_rows=500, most_seeds=3, floor=("words and ridge", 0.609), target=("project", 0.65),
        reference=MMLU_BEST, published=MMLU_PUBLISHED,
    ),
    Section(
        "mmlu-half", "MMLU, half and half",
        'Trained on one half, tested on the other. "category mean" is told the subject, which is not in the prompt.',
        routellm("mmlu"), floor=("subject mean", 0.689), target=("project", 0.72), reference=MMLU_BEST, most_seeds=3,
        without=("mlp", "svm", "mf"),
    ),
    Section(
        "mmlu-transfer", "MMLU, no pilot",
        "Trained on another set and another strong model, tested on all of MMLU: what the paper's routers do.",
        routellm("mmlu"), train=mmlu_pro_training, floor=("prompt length", 0.584), target=("project", 0.62),
        reference=MMLU_BEST, most_seeds=3, without=("mlp", "svm"),
    ),
    Section(
        "gsm8k-pilot", "GSM8K, a pilot of 400 rows", "RouteLLM's GSM8K, GPT-4 against Mixtral.",
        routellm("gsm8k"), train_rows=400, floor=("nine counts and ridge", 0.615), target=("project", 0.65),
        reference=GSM8K_BEST, published=GSM8K_PUBLISHED,
    ),
    Section(
        "gsm8k-transfer", "GSM8K, no pilot", "Trained on MMLU-Pro, tested on all of GSM8K.",
        routellm("gsm8k"), train=mmlu_pro_training, floor=("prompt length", 0.599), target=("project", 0.63),
        reference=GSM8K_BEST, most_seeds=3, without=("mlp", "svm"),
    ),
    Section(
        "mt-bench", "MT-Bench, half and half",
        "72 questions: one random draw has a standard deviation of .067, so nothing here separates two routers.",
        routellm("mt_bench"), reference=MT_BENCH_BEST, published=MT_BENCH_PUBLISHED,
    ),
    Section(
        "mmlu-pro", "MMLU-Pro, a pilot of 1,000 rows", "gpt-4o against Llama-3.1-8B.",
        mmlu_pro("gpt-4o", "Llama-3.1-8B"), train_rows=1000, floor=("prompt only", 0.533), target=("prompt only", 0.57),
        after_answer=True, most_seeds=3,
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
TABLES = (
    Table(
        "pilot-sizes", "How large a pilot",
        "APGR of routers fitted on a pilot of the set at hand, by its size. A job fits on three fifths of its sample, or on less"
        " where a promise has to be kept, and measures itself on the others: 500 rows here are a sample of some 830.",
        pilot_tables,
    ),
    Table(
        "batches", "The second batch",
        "Two batches of one kind, one after the other: does the router that `headgate train --from-run` makes of the first"
        " route the second better?",
        batch_tables,
    ),
    Table(
        "cascade", "Cascade",
        "Dollars per 1,000 rows for equal quality, by the prompt alone and after the weak model's answer, which is paid for; in"
        " brackets the difference to the prompt alone. Log-probabilities and agreement of further answers are not in the"
        " records, so the cascade has the answer's text alone. The simulated judge (RouterBench) is told which answers are right"
        " and errs in one of ten; the oracle knows all. Recorded tokens at list prices of 2024.",
        cascade_tables,
    ),
    Table(
        "cascade-live", "Cascade with all signals",
        "The same on the demo's two models, which answer live: log-probabilities of the weak model's tokens, and further answers of"
        " it drawn near the cut, which are paid for too.",
        live_tables,
    ),
    Table(
        "coverage", "Coverage of the intervals",
        "Share of draws of n rows whose 95 % interval holds the figure of all rows / width of the interval (mean, of PGR the"
        " median). Wald: the textbook's, with finite-population correction, on the same draws. PGR has no interval where the"
        " sample cannot tell the strong model from the weak; the share of draws with one is in brackets.",
        coverage_tables,
    ),
    Table(
        "violations", "Promises broken",
        "How often the cut that n measured rows chose breaks its promise on all rows, and the strong calls it pays for. \"Would"
        " do\": the cut chosen with all rows known. \"Without a bound\": the cut chosen by the sample's own figures.",
        violation_tables,
    ),
    Table(
        "matchers", "Matchers of gold",
        "What the matchers say of recorded answers, against the recorded correctness. Precision and recall are of \"right\","
        " with the record as the truth.",
        matcher_tables,
    ),
)  # fmt: skip
"""Further parts of the page, after the routers."""
