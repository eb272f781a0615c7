"""`python -m jobs.replay --outcomes PATH …`: the replay server without the rest of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jobs.errors import HeadgateError
from jobs.replay.options import ReplayOptions, parse_faults
from jobs.replay.server import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until it is stopped; returns the exit code. A bad option or outcomes file: one line on standard error, 2."""
    args = _parser().parse_args(arguments)
    try:
        serve(
            ReplayOptions(
                outcomes=tuple(args.outcomes),
                port=args.port,
                host=args.host,
                latency_s=args.latency_s,
                faults=parse_faults(args.fault),
                batch_latency_s=args.batch_latency_s,
                batch_faults=parse_faults(args.batch_fault, "batch-fault"),
                enqueued_tokens=args.enqueued_tokens,
                flex_default_share=args.flex_default_share,
                retry_after_s=args.retry_after_s,
                requests_per_minute=args.requests_per_minute,
                burst=args.burst,
                seed=args.seed,
                api_key=args.api_key,
                verbose=args.verbose,
                json=args.json,
            )
        )
    except HeadgateError as error:
        print(f"headgate replay: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    default = ReplayOptions()
    parser = argparse.ArgumentParser(
        prog="headgate replay", description="An OpenAI-compatible server that answers from recorded outcomes."
    )
    add = parser.add_argument
    add("--outcomes", action="append", default=[], metavar="PATH", help="recorded outcomes; may be given several times")
    add("--port", type=int, default=default.port, help="0 picks a free one (default %(default)s)")
    add("--host", default=default.host, help="address to listen on (default %(default)s)")
    add("--latency-s", type=float, default=default.latency_s, help="seconds before an answer (default %(default)s)")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=P,…",
        help="probability of each fault: an HTTP status, 429_bare, quota, hang, drip, cut, bad_json, empty",
    )
    add("--batch-latency-s", type=float, default=default.batch_latency_s, help="seconds a batch takes (%(default)s)")
    add(
        "--batch-fault",
        action="append",
        default=[],
        metavar="NAME=P,…",
        help="of a batch: failed, lost_reply, late; of each of its rows: expired, missing, empty, an HTTP status",
    )
    add("--enqueued-tokens", type=int, metavar="N", help="prompt tokens of a model that may wait in batches")
    add("--flex-default-share", type=float, default=0.0, metavar="P", help="share of flex served in the default tier")
    add("--retry-after-s", type=float, default=default.retry_after_s, help="of a drawn 429 (default %(default)s)")
    add("--requests-per-minute", type=int, metavar="N", help="over it: 429; the bucket starts full")
    add("--burst", type=int, metavar="N", help="size of that bucket (default: a minute's worth)")
    add("--seed", type=int, default=default.seed, help="of the faults (default %(default)s)")
    add("--api-key", metavar="KEY", help="other keys get 401 (default: any key will do)")
    add("--verbose", action="store_true", help="one line a request on standard error")
    add("--json", action="store_true", help="the first line is a JSON object with the URL")
    return parser


if __name__ == "__main__":
    sys.exit(main())
