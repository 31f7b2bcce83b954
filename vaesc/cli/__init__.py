"""The command line: ``vaesc COMMAND ...``.

Exit codes: 0 good, 1 failed, 2 wrong usage. Errors are one sentence on stderr; ``--debug`` adds
the traceback. Start-up is a feature: each command imports what it needs when it runs, and the
floors above the library are named by entrypoint strings, as deployments name them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from vaesc import __version__, memory
from vaesc.cli import (
    care,
    claim,
    codec,
    detect,
    label,
    models,
    operate,
    represent,
    reproduce,
    run,
    sample,
    score,
    sweep,
    use,
)
from vaesc.config import expanded
from vaesc.errors import NO_MEMORY, VaescError, machine_told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    if options.debug:
        os.environ["VAESC_DEBUG"] = "1"
    if options.function is run.run:
        os.environ["VAESC_CLI"] = "1"  # the console leaves the last word, the sentence, to us
    kept = getattr(options, "kept", "finished steps are kept, and the next run goes on from them")
    memory.set_aside()
    if not os.environ.get("VAESC_DEBUG"):
        memory.without_tracebacks()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_failed(f"terminated; {kept}", 143)))
    try:
        if options.home:
            os.environ["VAESC_HOME"] = str(expanded(options.home).resolve())
        with machine_told():
            return int(options.function(options))
    except VaescError as error:
        return _failed(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _failed(f"interrupted; {kept}", 130)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); say nothing more, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _failed(f"{error.strerror or error}{where}", 1)
    except BaseException as error:
        if type(error).__module__.partition(".")[0] in ("prefect", "httpx"):
            first = str(error).partition("\n")[0].partition(" - For more")[0]
            return _failed(f"Prefect's API failed ({first}); look at its log; {kept}", 1)
        # Not every wrapping is an Exception: what Prefect cancels for want of memory is none.
        if isinstance(error, SystemExit) or not memory.ran_out(error):
            raise
        memory.give_back()
        return _failed(NO_MEMORY, 1)


def _failed(sentence: str, code: int) -> int:
    if os.environ.get("VAESC_DEBUG"):
        traceback.print_exc()
    print(f"vaesc: {sentence}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--home",
        metavar="DIR",
        help="where everything is made (default: $VAESC_HOME, else ./data)",
    )
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    parser = argparse.ArgumentParser(
        prog="vaesc",
        description="Sparse coding in the latent space of a variational autoencoder.",
        epilog="`vaesc COMMAND --help` says more. Start with `vaesc run`.",
    )
    parser.add_argument("--version", action="version", version=f"vaesc {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (
        run, reproduce, claim, sweep, operate, models, use, sample, codec, represent, detect,
        label, score, care,
    ):  # fmt: skip
        module.add_commands(commands, common)
    return parser
