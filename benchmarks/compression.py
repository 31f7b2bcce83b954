"""The codec's speed: images a second to bytes and back, on one core, by the clock and by CPU time.

By CPU time, other work on the machine does not count. Timings are no part of an application's
results, which must be the same bytes each time. The last line is one JSON object.

::

    .venv/bin/python -m benchmarks.compression --model champion --images test.npy
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Compress and decompress a file of images at each quality, and print what it took."""
    from vaesc import load_model
    from vaesc.applications.compression.codec import Codec
    from vaesc.datasets import read_npy

    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default="champion", help="a model registered with compression")
    parser.add_argument("--images", type=Path, required=True, help=".npy of its images")
    parser.add_argument("--quality", type=int, nargs="+", default=[1, 3, 5, 7, 9])
    options = parser.parse_args()
    codec = Codec.of(load_model(options.model, device="cpu"))
    images = read_npy(options.images)
    found = [_timed(codec, images, quality) for quality in options.quality]
    for each in found:
        print(
            f"quality {each['quality']}: {each['bytes']:,} bytes, "
            f"{each['encoded_per_second']:,.0f} images/s to bytes, "
            f"{each['decoded_per_second']:,.0f} images/s back; by CPU time "
            f"{each['encoded_per_cpu_second']:,.0f} and {each['decoded_per_cpu_second']:,.0f}"
        )
    print(json.dumps({"n_images": len(images), "qualities": found}))
    return 0


def _timed(codec: Any, images: Any, quality: int) -> dict[str, Any]:
    start = (time.perf_counter(), time.process_time())
    data = codec.compress(images, quality)
    middle = (time.perf_counter(), time.process_time())
    codec.decompress(data)
    end = (time.perf_counter(), time.process_time())
    (to_bytes, to_bytes_cpu), (back, back_cpu) = (
        [after - before for before, after in zip(*each, strict=True)]
        for each in ((start, middle), (middle, end))
    )
    return {
        "quality": quality, "bytes": len(data),
        "encoded_per_second": len(images) / to_bytes,
        "decoded_per_second": len(images) / back,
        "encoded_per_cpu_second": len(images) / to_bytes_cpu,
        "decoded_per_cpu_second": len(images) / back_cpu,
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
