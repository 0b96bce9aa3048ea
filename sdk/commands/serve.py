"""`emola serve [BUNDLE]`"""

import argparse
import os
from pathlib import Path

from sdk.analyzer import Analyzer
from sdk.commands.options import add_reading_arguments, print_notice, reading_options
from sdk.errors import UsageError
from sdk.runtime.backends.select import DEVICES
from sdk.runtime.backends.vllm.open import LOCAL

KEY = "EMOLA_API_KEY"
_SEATS = {"bundle": 1, "vllm": 16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", help="folder, or owner/name on the hub (default: the embedded bundle)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="what runs the model (default auto)")
    parser.add_argument(
        "--engine", choices=tuple(_SEATS), default="bundle", help="what decodes: the bundle itself (default), or vLLM"
    )
    parser.add_argument("--vllm-url", metavar="URL", help="vLLM server that decodes (default: vLLM in this process)")
    parser.add_argument("--offline", action="store_true", help="never use the network to find the bundle")
    add_reading_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes a free one")
    parser.add_argument("--seats", type=int, help="requests that compute at once (default 1; with vLLM 16)")
    parser.add_argument("--waiting", type=int, default=16, help="requests that may wait (default 16); others get 429")
    parser.add_argument("--deadline", type=float, default=30.0, metavar="S", help="seconds that one may wait (30)")
    parser.add_argument("--max-upload", type=float, default=20.0, metavar="MB", help="largest request (20)")
    parser.add_argument("--cache", type=float, default=2000.0, metavar="MB", help="KV caches kept for questions (2000)")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"file with the key that clients must send (or ${KEY})"
    )
    parser.add_argument("--scores", action="store_true", help="add the probabilities of the labels")


def run(args: argparse.Namespace) -> None:
    import uvicorn

    from sdk.server.app import Settings, create_app
    from sdk.server.seats import Limits

    if args.seats is None:
        args.seats = _SEATS[args.engine]
    _check(args)
    limits, key = Limits(args.seats, args.waiting, args.deadline), _key(args)
    vllm = args.vllm_url or LOCAL if args.engine == "vllm" else None
    with Analyzer(**reading_options(args), vllm=vllm) as analyzer:
        cache = _cache_bytes(args, **analyzer.info()["memory"])
        settings = Settings(limits, int(1e6 * args.max_upload), cache, key, args.scores)
        print_notice(analyzer.pipeline.notice)
        app = create_app(analyzer, settings)
        try:
            uvicorn.run(app, host=args.host, port=args.port, access_log=False, timeout_graceful_shutdown=30)
        except SystemExit:  # uvicorn has printed the reason and ends the process
            where = f"--host {args.host} --port {args.port}"
            advice = "pass another --port (0 takes a free one), or a --host of this machine"
            raise UsageError(f"{where}: the server cannot listen there, as the line above says; {advice}") from None


def _check(args: argparse.Namespace) -> None:
    if args.vllm_url and args.engine != "vllm":
        raise UsageError("--vllm-url needs --engine vllm")
    for name, least in (("seats", 1), ("waiting", 0), ("deadline", 0.001), ("max_upload", 0.001), ("cache", 0)):
        value = getattr(args, name)
        if not least <= value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port is a number in 0..65535, not {args.port}")


def _cache_bytes(args: argparse.Namespace, weights: int, per_face: int) -> int:
    """Bytes of KV caches to keep. A memory limit is for the seats first; each may then hold as much as is kept."""
    cache = int(1e6 * args.cache)
    if args.memory_limit is None:
        return cache
    needed = weights + args.seats * per_face * (2 if args.seats > 1 else 1)  # the second to share decode steps
    room = int(1e6 * args.memory_limit) - needed
    if room < 0:
        raise UsageError(
            f"{args.seats} seats need about {needed / 1e6:.0f} MB (weights and KV caches), --memory-limit is "
            f"{args.memory_limit:g} MB: raise it, or take fewer --seats"
        )
    return int(min(cache, room // (args.seats + 1)))


def _key(args: argparse.Namespace) -> str | None:
    """The API key; None if there is none."""
    if not args.api_key_file:
        return os.environ.get(KEY) or None
    try:
        key = args.api_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file {args.api_key_file}: {error}") from None
    if not key:
        raise UsageError(f"--api-key-file {args.api_key_file} is empty: expected the key in one line")
    return str(key)
