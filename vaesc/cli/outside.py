"""``vaesc models serve|export``: a registered model for those who do not import vaesc."""

from __future__ import annotations

import argparse
import contextlib

from vaesc.cli.files import local


def add_actions(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's actions to the parser of ``vaesc models``."""
    what = "answer over HTTP, by MLflow's server; vaesc.serving.ModelClient asks it"
    parser = actions.add_parser("serve", parents=[common], help=what, description=what)
    _add_model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="interface to listen on; there is no password (default: 127.0.0.1)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=5080, help="port (default: 5080)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes (default: 1)"
    )
    parser.set_defaults(function=serve)

    what = "write encoder and decoder as ONNX, with a JSON file that says what they are"
    parser = actions.add_parser("export", parents=[common], help=what, description=what)
    _add_model(parser)
    parser.add_argument("folder", type=local, metavar="DIR", help="a folder that is not there yet")
    parser.set_defaults(function=export)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ref", nargs="?", default="champion", metavar="REF",
        help="alias, version, models:/name/version, run id or folder (default: champion)",
    )  # fmt: skip
    parser.add_argument("--name", default="vaesc", help="registered model (default: vaesc)")


def serve(options: argparse.Namespace) -> int:
    """Serve a model until interrupted."""
    from vaesc.registry.serving import serve as serve_model

    with contextlib.suppress(KeyboardInterrupt):  # which is how it is stopped
        serve_model(
            options.ref, name=options.name, host=options.host, port=options.port,
            workers=options.workers, announce=lambda said: print(said, flush=True),
        )  # fmt: skip
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a model's networks as ONNX."""
    from vaesc.export import check_export, export_onnx
    from vaesc.registry import load_model

    check_export(options.folder)
    model = load_model(options.ref, name=options.name, device="cpu")
    for path in export_onnx(model, options.folder):
        print(path)
    return 0
