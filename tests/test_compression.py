"""The codec: files that come back to the last bit, and whatever else is refused in a sentence."""

import argparse
import io
import json
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imagesets import coloured_digits, digits, write_dataset
from PIL import Image
from scipy.sparse import csr_array
from sklearn.decomposition import PCA

from vaesc.applications import compression
from vaesc.applications.code_model import CodeModel
from vaesc.applications.compression import files, peers, pixels, telling
from vaesc.applications.compression.bound import lossless_bits
from vaesc.applications.compression.codec import Codec
from vaesc.applications.compression.entropy import (
    Reader,
    Writer,
    read_choices,
    read_levels,
    write_choices,
    write_levels,
)
from vaesc.applications.compression.learning import learn_codec
from vaesc.applications.compression.quantise import rounded, step_of, worthwhile
from vaesc.applications.compression.transforms import Residuals, Transforms, learn_centres
from vaesc.applications.requirements import outside
from vaesc.applications.subject import open_subject
from vaesc.bundle import SparseVAE
from vaesc.cli import codec as cli
from vaesc.config import CompressionConfig, DictionaryConfig, PipelineConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.errors import ConfigError, DataError
from vaesc.latents import extract
from vaesc.models import VAE, save_vae
from vaesc.parts import PART, load_part, save_part
from vaesc.progress import SILENT
from vaesc.report.compression import _strip
from vaesc.report.style import LIGHT_THEME

N = 60


def apply_to(images, root):
    """What ``apply`` finds on images with an untrained VAE; its subject; the model's folder."""
    folders = {name: root / name for name in ("dataset", "vae", "latents", "dictionary")}
    for name in ("vae", "latents", "dictionary"):
        folders[name].mkdir()
    write_dataset(
        folders["dataset"], train=images[:1200], validation=images[1200:1400], test=images[1400:]
    )
    generator = torch.Generator().manual_seed(5)
    config = VAEConfig(hidden=(32,), latent_dim=8)
    save_vae(VAE(config, images.shape[1:], generator=generator), folders["vae"])
    extract(folders["dataset"], folders["vae"], folders["latents"], device="cpu")
    settings = DictionaryConfig(n_atoms=32, n_nonzero_coefs=3, max_epochs=3)
    learn(settings, folders["latents"], folders["dictionary"], seed=0, listener=SILENT)
    out = root / "out"
    out.mkdir()
    subject = open_subject(folders, out, seed=0, n_nonzero_coefs=3, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "_FILES", 4)
        findings = compression.apply(CompressionConfig(n_images=N), subject)
    subject.model.parts["compression"] = load_part(out / PART)
    # The dictionary names files of the artifacts; a saved model has its own.
    subject.model.save(root / "model")
    return findings, subject, root / "model"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return apply_to(digits(), tmp_path_factory.mktemp("compression"))


@pytest.fixture(scope="module")
def in_colour(tmp_path_factory):
    """The same of digits in colour, shape (n, 3, 8, 6)."""
    return apply_to(coloured_digits(), tmp_path_factory.mktemp("colour"))


@pytest.fixture(scope="module")
def codec(made):
    return Codec.of(SparseVAE.load(made[2], device="cpu"))


@pytest.fixture(scope="module")
def data(codec):
    return codec.compress(digits()[1400 : 1400 + N], 7)


def psnr(a, b):
    return -10 * np.log10(np.mean(np.square(a / 255.0 - b / 255.0)))


# The whole: findings, and what a user does with the registered model.


def test_what_is_found_is_what_the_files_say(made, codec, data):
    findings, subject, _ = made
    metrics = dict(findings.metrics())
    images = digits()[1400 : 1400 + N]
    assert metrics["test/compression_bits_per_pixel_q7"] == 8 * len(data) / images.size
    assert metrics["test/compression_psnr_db_q7"] == pytest.approx(
        psnr(images, codec.decompress(data)), abs=1e-6
    )
    rates = [metrics[f"test/compression_bits_per_pixel_q{q}"] for q in range(1, 10)]
    errors = [metrics[f"test/compression_psnr_db_q{q}"] for q in range(1, 10)]
    assert rates == sorted(rates)
    assert errors == sorted(errors)
    for picture in findings.pictures:
        for suffix in ("", "-dark"):
            assert (subject.folder / f"{picture.name}{suffix}.png").stat().st_size > 1000


def rates_of(findings):
    """Return the bits a pixel of every measured point of each method."""
    (points,) = (t.rows for t in findings.tables if t.title == "Every measured point")
    return {name: [row[2] for row in points if row[0] == name] for name, *_ in points}


def test_a_pixel_of_a_colour_image_has_all_its_colours(in_colour):
    findings, _, folder = in_colour
    metrics, codec = dict(findings.metrics()), Codec.of(SparseVAE.load(folder, device="cpu"))
    images = coloured_digits()[1400 : 1400 + N]
    data = codec.compress(images, 7)
    back = codec.decompress(data)
    assert back.shape == images.shape
    assert metrics["test/compression_bits_per_pixel_q7"] == 8 * len(data) / (N * 8 * 6)
    assert metrics["test/compression_psnr_db_q7"] == pytest.approx(psnr(images, back), abs=1e-6)
    # The same coder without the VAE writes files about as large.
    rates = rates_of(findings)
    assert 0.2 < rates[telling.PCA][-1] / rates[telling.OURS][-1] < 5


def test_colour_images_are_held_against_image_formats(in_colour):
    findings, subject, _ = in_colour
    assert {f.name for f in peers.FORMATS if peers.installed(f.pillow)} <= {*rates_of(findings)}
    assert not [note for note in findings.notes if "no image format" in note]
    assert 0 < dict(findings.metrics())["test/png_bits_per_pixel"] < 40
    assert [p.name for p in findings.pictures] == ["compression", "compression-images"]
    with Image.open(subject.folder / "compression-images.png") as drawn:
        red, green, blue = np.moveaxis(np.asarray(drawn.convert("RGB"), np.int16), -1, 0)
    assert (np.abs(red - green) + np.abs(green - blue) > 40).mean() > 0.01


def test_the_same_subject_gives_the_same_part(made, tmp_path):
    _, subject, _ = made
    save_part(learn_codec(subject).part(), tmp_path / PART)
    assert (tmp_path / PART).read_bytes() == (subject.folder / PART).read_bytes()


def test_a_file_comes_back_the_same_in_another_process(made, data, codec, tmp_path):
    (tmp_path / "a.vsc").write_bytes(data)
    program = "import sys; from vaesc.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ("decompress", "--model", made[2], "--device", "cpu", "a.vsc", "a.npy")
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{N} images: a.vsc -> a.npy" in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), codec.decompress(data))


def test_images_come_back_as_bytes_and_can_be_compressed_again(codec, data):
    back = codec.decompress(data)
    assert (back.dtype, back.shape) == (np.uint8, (N, 8, 8))
    again = codec.decompress(codec.compress(back, 9))
    # The finer quality loses little of what the coarser one has left, and not what it lost.
    assert psnr(back, again) > psnr(digits()[1400 : 1400 + N], back) + 3


def test_how_images_are_given_changes_no_byte(codec, data):
    images = digits()[1400 : 1400 + N]
    flat = images.reshape(N, 64)
    assert codec.compress(flat, 7) == data
    assert codec.compress(images.astype(np.float32), 7) == data


@pytest.mark.parametrize("n", [0, 1])
def test_few_images_are_a_file_too(codec, n):
    assert codec.decompress(codec.compress(digits()[:n])).shape == (n, 8, 8)


def test_any_rows_are_those_of_the_whole(codec, monkeypatch):
    for module in ("codec", "files"):
        monkeypatch.setattr(f"vaesc.applications.compression.{module}.BLOCK", 16)
    data = codec.compress(digits()[:N])
    whole = codec.decompress(data)
    for rows in (slice(0, 1), slice(15, 17), slice(16, 32), slice(3, 60), slice(-5, None)):
        np.testing.assert_array_equal(codec.decompress(data, rows), whole[rows])
    assert codec.decompress(data, slice(70, 80)).shape == (0, 8, 8)
    # A damaged block takes nothing from the others.
    broken = data[:-1] + bytes([data[-1] ^ 1])
    np.testing.assert_array_equal(codec.decompress(broken, slice(0, 48)), whole[:48])
    with pytest.raises(DataError, match="images 48 to 59 is damaged"):
        codec.decompress(broken, slice(0, 49))


class Watched(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    read_bytes = 0

    def read(self, size=-1):
        found = super().read(size)
        self.read_bytes += len(found)
        return found


def test_of_an_open_file_only_what_is_needed_is_read(codec, monkeypatch):
    for module in ("codec", "files"):
        monkeypatch.setattr(f"vaesc.applications.compression.{module}.BLOCK", 16)
    data = codec.compress(digits()[:N])
    header = files.unpack(io.BytesIO(data))
    file = Watched(data)
    np.testing.assert_array_equal(
        codec.decompress(file, slice(17, 30)), codec.decompress(data)[17:30]
    )
    assert file.read_bytes == header.bounds[0] + header.bounds[2] - header.bounds[1]


def test_what_cannot_be_asked_is_refused(codec, data):
    with pytest.raises(ConfigError, match="quality must be from 1 to 9, got 10"):
        codec.compress(digits()[:2], 10)
    with pytest.raises(ConfigError, match="plain range"):
        codec.decompress(data, slice(0, 10, 2))
    with pytest.raises(DataError, match="shape"):
        codec.compress(np.zeros((3, 7, 7), np.uint8))


# Damage.


def sealed(head: bytes) -> bytes:
    """Return a header with the checksum that it should have."""
    return head + struct.pack("<I", zlib.crc32(head))


@given(st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_changed_bit_anywhere_is_seen(codec, data, draw):
    at = draw.draw(st.integers(0, 8 * len(data) - 1))
    changed = bytearray(data)
    changed[at // 8] ^= 1 << at % 8
    with pytest.raises(DataError):
        codec.decompress(bytes(changed))


@given(st.integers(0, 10_000), st.binary(max_size=3))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_file_cut_short_or_longer_is_seen(codec, data, end, more):
    if end < len(data):
        with pytest.raises(DataError):
            codec.decompress(data[:end])
    if more:
        with pytest.raises(DataError, match="must have"):
            codec.decompress(data + more)


def test_a_file_of_another_model_is_refused(made, data):
    model = SparseVAE.load(made[2], device="cpu")
    model.dictionary.dictionary[0, 0] += 1e-3
    with pytest.raises(DataError, match="another model"):
        Codec.of(model).decompress(data)


@pytest.mark.parametrize(
    ("n_images", "blocks", "words"),
    [
        (2**31 - 1, [b""], "ends within its index"), (2**32 - 1, [b""], "ends within its index"),
        (10**6, [b""] * 977, "more images than its bytes"), (1024, [b"1234"], "more images"),
        (1, [b"12345"], "whole words"), (1, [b"1234", b"1234"], "checksum differs"),
        (1, [bytes(1_000_000)], "more bytes than its images"),
    ],
)  # fmt: skip
def test_a_whole_file_that_claims_what_cannot_be_is_refused(codec, n_images, blocks, words):
    facts = {"digest": codec.digest, "quality": 3, "shape": (8, 8), "n_images": n_images}
    with pytest.raises(DataError, match=words):
        codec.decompress(files.pack(blocks, **facts))


@pytest.mark.parametrize(
    ("quality", "shape"), [(0, (8, 8)), (10, (8, 8)), (3, (8, 9)), (3, (64,))]
)
def test_a_header_that_contradicts_its_model_is_refused(codec, quality, shape):
    file = files.pack([], digest=codec.digest, quality=quality, shape=shape, n_images=0)
    with pytest.raises(DataError, match="contradicts"):
        codec.decompress(file)


@given(st.binary(min_size=4, max_size=400))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_bits_that_nobody_wrote_decode_to_something_or_are_refused(codec, bits):
    bits = bits[: len(bits) // 4 * 4]
    try:
        images = codec.decoded(bits, codec.qualities[2], 3)
    except DataError:
        return
    assert images.shape == (3, 8, 8)


@pytest.mark.parametrize("head", [b"", b"\x93VSC", files.MAGIC[:-1] + b"\x02", b"\x93NUMPY" * 20])
def test_what_is_no_file_of_ours_is_refused(codec, head):
    with pytest.raises(DataError, match=r"no file of|another version"):
        codec.decompress(head)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("basis", lambda a: a[:, :-1]), ("basis", lambda a: a.astype(np.float32)),
        ("scale", lambda a: a * np.nan), ("mean", lambda a: a[:, :-1]), ("centre", None),
        ("3/kinds", lambda a: a * 0), ("3/kinds", lambda a: a[:-1]), ("3/price", lambda a: -a),
        ("3/price", lambda a: np.append(a, a)), ("9/detail/used", lambda a: a[:, :-1]),
        ("2/base/classes", None), ("1/base/negative", lambda a: a * 0),
    ],
)  # fmt: skip
def test_a_damaged_part_is_refused(made, name, change):
    _, subject, _ = made
    model, part = SparseVAE.load(made[2], device="cpu"), subject.model.parts["compression"]
    arrays = {n: a for n, a in part.arrays.items() if n != name or change}
    if change:
        arrays[name] = change(part.arrays[name])
    model.parts["compression"] = replace(part, arrays=arrays)
    with pytest.raises(DataError, match=r"make the model again|register the model again"):
        Codec.of(model)


def test_a_model_without_the_part_says_so(made):
    model = SparseVAE.load(made[2], device="cpu")
    del model.parts["compression"]
    with pytest.raises(DataError, match="registered without compression"):
        Codec.of(model)


# The pieces.


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_choices_and_levels_go_there_and_back(m, seed):
    rng = np.random.default_rng(seed)
    n, k = 20, 6
    dense = np.rint(rng.normal(scale=2, size=(n, k)) * (rng.random((n, k)) < 0.4))
    codes = csr_array(dense.astype(np.float32))
    model = CodeModel.fit(codes, step=1.0, n_classes=3, rng=rng)
    levels = model.quantise(codes)
    classes = rng.integers(0, model.n_classes, n)
    shares, chosen = rng.integers(1, 100, (n, m)), rng.integers(0, m, n)
    writer = Writer()
    write_choices(writer, chosen, shares)
    write_levels(writer, model, levels, classes)
    reader = Reader(writer.finish())
    np.testing.assert_array_equal(read_choices(reader, shares), chosen)
    assert (read_levels(reader, model, classes) != levels).nnz == 0


def test_a_file_takes_the_bits_that_the_model_says():
    rng = np.random.default_rng(3)
    dense = np.rint(rng.laplace(size=(1000, 40)) * (rng.random((1000, 40)) < 0.2))
    codes = csr_array(dense.astype(np.float32))
    model = CodeModel.fit(codes, step=1.0, n_classes=5, rng=rng)
    levels = model.quantise(codes)
    bits = model.bits(levels)
    classes = bits.argmin(axis=1)
    writer = Writer()
    write_choices(writer, classes, np.broadcast_to(model.classes, bits.shape))
    write_levels(writer, model, levels, classes)
    assert 8 * len(writer.finish()) == pytest.approx(bits.min(axis=1).sum(), abs=64)


def test_no_other_levels_cost_less():
    """Against levels of which each is the nearest, the next smaller or zero, at random."""
    rng = np.random.default_rng(4)
    coefficients = rng.laplace(scale=0.5, size=(30, 5)).astype(np.float32)
    price = 0.02
    model = CodeModel.fit(csr_array(coefficients), step=step_of(price), n_classes=2, rng=rng)
    classes = rng.integers(0, model.n_classes, 30)

    def cost(levels):
        error = np.square(coefficients - model.values(levels).toarray()).sum(axis=1)
        return error + price * model.bits(levels)[np.arange(30), classes]

    best = cost(worthwhile(coefficients, model, classes, price))
    assert (best <= cost(rounded(coefficients, step_of(price))) + 1e-6).all()
    near = np.rint(coefficients / model.step).astype(np.int16)
    for _ in range(200):
        choice = rng.integers(0, 3, near.shape)
        other = np.choose(choice, [near, near - np.sign(near), np.zeros_like(near)])
        assert (best <= cost(csr_array(other)) + 1e-4).all()


def test_transforms_of_all_details_lose_nothing():
    rng = np.random.default_rng(5)
    flat, residuals = rng.random((300, 12)), rng.normal(size=(300, 12))
    flat, residuals = flat.astype(np.float32), residuals.astype(np.float32)
    gathered = Residuals(learn_centres(flat, 5000, seed=0))
    gathered.add(flat, residuals)
    transforms = gathered.transforms()
    assert transforms.n_kinds > 1
    kinds = transforms.kinds(flat)
    back = transforms.residuals(transforms.project(residuals, kinds), kinds)
    np.testing.assert_allclose(back, residuals, atol=0.1)
    again = Transforms.from_arrays(transforms.arrays())
    np.testing.assert_array_equal(again.kinds(flat), kinds)


def test_one_kind_has_the_principal_components_of_its_residuals():
    rng = np.random.default_rng(6)
    residuals = (rng.normal(size=(4000, 4)) * [5, 1, 0.3, 0.1]).astype(np.float32)
    gathered = Residuals(np.zeros((1, 4), np.float32))
    gathered.add(residuals, residuals)
    details = gathered.transforms().project(residuals, np.zeros(4000, np.int64))
    np.testing.assert_allclose(details.std(axis=0), [5, 1, 0.3, 0.1], rtol=0.1)


# The others.


def test_formats_are_measured_on_the_images_own_pixels():
    images = digits()[:7]
    points = peers.lossy(images, peers.JPEG)
    assert [p.psnr for p in points] == sorted(p.psnr for p in points)
    bits = peers.lossless(images)
    assert 0 < bits["PNG"] < 40


@pytest.mark.parametrize("shape", [(5, 6, 9), (1, 4, 4), (10, 1, 8, 3), (10, 3, 8, 5)])
def test_a_mosaic_holds_every_image(shape):
    images = np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)
    pictures = peers.pictures_of(images)
    assert pictures.shape[1:3] == shape[-2:]
    np.testing.assert_array_equal(peers._cut(peers._mosaic(pictures), pictures), pictures)


@pytest.mark.parametrize(
    ("shape", "is_picture"),
    [((8, 8), True), ((1, 8, 6), True), ((3, 8, 6), True), ((3, 32, 32), True),
     ((8, 6, 3), False), ((2, 8, 6), False), ((4, 8, 6), False), ((64,), False)],
)  # fmt: skip
def test_pictures_have_one_channel_or_three(shape, is_picture):
    assert peers.drawable(shape) == is_picture


@pytest.mark.parametrize(("name", "pillow", "options"), peers.LOSSLESS)
def test_lossless_formats_give_colours_back_and_count_pixels_once(
    name, pillow, options, monkeypatch
):
    assert peers.installed(pillow), "a part of what the tests need: make setup-dev"
    images = coloured_digits()[:6]
    pictures, sizes = [], []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(np.dstack(list(image))).save(file, pillow, **options)
        sizes.append(len(file.getvalue()))
        with Image.open(file) as written:
            pictures.append(np.asarray(written.convert("RGB")))
    np.testing.assert_array_equal(np.moveaxis(np.stack(pictures), -1, 1), images)
    monkeypatch.setattr(peers, "_LONGEST", 0)  # no mosaic
    assert peers.lossless(images)[name] == 8 * sum(sizes) / (6 * 8 * 6)
    # One of the three is what a gray image is.
    np.testing.assert_array_equal(peers.pictures_of(images[:, :1]), images[:, 0])
    assert peers.lossless(images[:, :1]) == peers.lossless(images[:, 0])


@pytest.mark.parametrize("one", peers.FORMATS, ids=lambda one: one.name)
def test_lossy_formats_are_measured_on_colours(one, monkeypatch):
    assert peers.installed(one.pillow), "a part of what the tests need: make setup-dev"
    images = coloured_digits()[:2].repeat(8, axis=2).repeat(8, axis=3)
    monkeypatch.setattr(peers, "_LONGEST", 0)
    best = peers.lossy(images, one)[-1]
    assert best.setting == f"files, {one.qualities[-1]}"
    size, errors = 0, []
    for image in images:
        file = io.BytesIO()
        picture = np.dstack(list(image))
        Image.fromarray(picture).save(file, one.pillow, quality=one.qualities[-1], **one.options)
        size += len(file.getvalue())
        with Image.open(file) as written:
            errors.append(np.square(np.asarray(written.convert("RGB")) / 255 - picture / 255))
    assert best.bpp == 8 * size / (2 * 64 * 48)
    assert best.mse == pytest.approx(np.mean(errors), rel=1e-9)
    assert best.psnr > 22


def test_bits_back_are_counted_by_pixels():
    """The same numbers with or without an axis for channels; two of them are one pixel's."""
    found = {}
    for shape in ((8, 8), (1, 8, 8), (2, 8, 4)):
        images = digits()[:200].reshape(-1, *shape)
        vae = VAE(
            VAEConfig(hidden=(16,), latent_dim=4), shape,
            generator=torch.Generator().manual_seed(5),
        )  # fmt: skip
        dataset = SimpleNamespace(
            n=lambda split: 200, images=lambda split, rows, images=images: images[rows]
        )
        subject = SimpleNamespace(
            article=SimpleNamespace(vae=vae), dataset=dataset,
            rng=lambda stream: np.random.default_rng(0),
        )  # fmt: skip
        found[shape] = lossless_bits(subject, images[:50])
    assert found[1, 8, 8] == found[8, 8]
    assert found[2, 8, 4] == pytest.approx(2 * found[8, 8])


def test_a_strip_shows_images_in_their_colours():
    images = coloured_digits()[:5] / np.float32(255)
    figure = _strip([("colour", images), ("gray", images[:, 0])], LIGHT_THEME)
    colour, gray = (axes.images[0].get_array() for axes in figure.axes)
    np.testing.assert_array_equal(
        colour, np.dstack([np.hstack(list(c)) for c in images.swapaxes(0, 1)])
    )
    np.testing.assert_array_equal(gray, np.hstack(list(images[:, 0])))


def test_rates_lie_between_points_and_nowhere_else():
    points = [peers.Point(bpp=b, mse=10 ** (-p / 10), setting="") for b, p in ((1, 20), (4, 30))]
    assert peers.bpp_at(points, 25) == pytest.approx(2)
    assert peers.psnr_at(points, 2) == pytest.approx(25)
    assert peers.bpp_at(points, 31) is None
    assert peers.psnr_at(points, 0.5) is None


def test_the_rival_is_the_one_of_fewest_bytes_that_is_no_worse():
    curves = {"JPEG": at((1, 20), (4, 30)), "WebP": at((0.5, 26), (3, 36)), "AVIF": at((0.1, 19))}
    bpp, name = telling.best_rival(curves, 22)
    assert bpp == 0.5  # AVIF is none of the goal's
    assert name == "WebP's smallest file, which has 26.0 dB"
    assert telling.best_rival(curves, 26) == (pytest.approx(0.5), "WebP")
    assert telling.best_rival({"JPEG": curves["JPEG"]}, 31) is None


def at(*pairs):
    return [peers.Point(bpp=b, mse=10 ** (-p / 10), setting="") for b, p in pairs]


FEW = {telling.OURS: at((0.1, 20), (0.5, 30)), telling.CONTROL: at((0.05, 10), (1, 40)),
       telling.PCA: at((0.05, 10), (2, 40)), "WebP": at((0.2, 20), (1.4, 30))}  # fmt: skip
ALL = FEW | {"JPEG": at((1, 20), (4, 30)), "JPEG XL": at((0.4, 20), (2, 30))}
SIZES = telling.Sizes(n_pixels=100, of={telling.OURS: 1000, telling.PCA: 10})


def test_there_is_no_verdict_while_a_format_of_the_goal_is_missing():
    figures = telling.figures_of(FEW, 5)
    assert [f.met for f in figures] == [None] * len(figures)
    said = telling.sentence_of(FEW, figures, 5, SIZES)
    assert "the best of WebP takes" in said
    assert "not judged without JPEG and JPEG XL (pip install 'vaesc[peers]')" in said
    figures = telling.figures_of(ALL, 5)
    assert [f.met for f in figures] == [None] + [False] * 4
    assert "missed at 4 of 4" in (said := telling.sentence_of(ALL, figures, 5, SIZES))
    assert "the best of JPEG, WebP and JPEG XL takes 2.00" in said
    assert f"the honest baseline, {telling.CONTROL}, 1.36" in said


def test_a_models_bytes_are_made_up_for_by_what_images_save():
    # At 20 dB WebP takes 0.2 bits a pixel and ours 0.1: 100 pixels save 10 bits.
    assert telling.break_even(ALL, SIZES, telling.OURS, 0.1) == pytest.approx(8 * 1000 / 10)
    assert "which pays from 800 images on at 0.1" in telling.sentence_of(
        ALL, telling.figures_of(ALL, 5), 5, SIZES
    )
    dear = {**ALL, telling.OURS: at((0.3, 20), (0.5, 21))}
    assert telling.break_even(dear, SIZES, telling.OURS, 0.3) is None  # nothing is saved
    assert telling.break_even(ALL, SIZES, telling.OURS, 0.05) is None  # nor measured


def test_without_kinds_the_control_is_pca(made):
    _, subject, _ = made
    flat = digits()[:1200].reshape(-1, 64) / np.float32(255)
    of_all = pixels.learn_transforms(subject, of_kinds=False)
    assert of_all.n_kinds == 1
    kinds = np.zeros(len(flat), np.int64)
    pca = PCA().fit(flat)
    ours = of_all.project(flat, kinds).var(axis=0, ddof=1)
    np.testing.assert_allclose(ours[:20], pca.explained_variance_[:20], rtol=0.02)


def test_the_control_is_coded_like_ours(made):
    """Its file holds as many bytes as it says, and more of them err less."""
    _, subject, _ = made
    transforms = pixels.learn_transforms(subject, of_kinds=True)
    flat = digits()[1400 : 1400 + N].reshape(-1, 64) / np.float32(255)
    found = []
    for price in (0.1, 0.01):
        coder = pixels.fit_coder(subject, transforms, price)
        size, back = coder.coded(flat, (8, 8))
        found.append((size, np.square(flat - back).mean()))
    assert found[0][0] < found[1][0]
    assert found[0][1] > found[1][1]


def test_of_a_format_every_point_counts_that_none_of_its_others_beats():
    images = np.repeat(digits()[:4], 4, axis=1).repeat(4, axis=2)
    points = peers.lossy(images, peers.JPEG)
    assert peers.hull(points) == points
    assert {p.setting.split(",")[0] for p in points} <= {"mosaic", "files"}


def test_other_formats_make_another_result(monkeypatch):
    config = PipelineConfig(applications=("compression",))
    before = outside("compression", config)
    for name in ("JPEG", "WebP", "PNG"):
        assert f"{name} " in before
    real = peers.installed
    monkeypatch.setattr(peers, "installed", lambda name: name != "WEBP" and real(name))
    without = outside("compression", config)
    assert "WebP" not in without
    monkeypatch.undo()
    monkeypatch.setattr("PIL.features.version", lambda name: "0.0.1")
    assert len({before, without, outside("compression", config)}) == 3


# The command line.


def call(function, given, out, **more):
    options = argparse.Namespace(
        model="m", device="cpu", input=given, output=out, quality=5, rows=None
    )
    return function(argparse.Namespace(**{**vars(options), **more}))


@pytest.fixture
def registered(made, monkeypatch):
    monkeypatch.setattr(
        "vaesc.registry.load_model", lambda ref, *, device: SparseVAE.load(made[2], device=device)
    )


def test_files_go_there_and_back(registered, codec, tmp_path, capsys):
    images = digits()[:9]
    np.save(tmp_path / "in.npy", images)
    call(cli.compress, tmp_path / "in.npy", tmp_path / "a.vsc", quality=8)
    data = (tmp_path / "a.vsc").read_bytes()
    assert data == codec.compress(images, 8)
    call(cli.decompress, tmp_path / "a.vsc", tmp_path / "out.npy")
    call(cli.decompress, tmp_path / "a.vsc", tmp_path / "few.npy", rows="2:5")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), codec.decompress(data))
    np.testing.assert_array_equal(np.load(tmp_path / "few.npy"), codec.decompress(data)[2:5])
    said = capsys.readouterr().out
    assert f"{len(data)} bytes, {8 * len(data) / images.size:.4f} bits per pixel" in said
    assert "images/s" in said


def test_colour_files_go_there_and_back(in_colour, monkeypatch, tmp_path, capsys):
    model = SparseVAE.load(in_colour[2], device="cpu")
    monkeypatch.setattr("vaesc.registry.load_model", lambda ref, *, device: model)
    images = coloured_digits()[:9]
    np.save(tmp_path / "in.npy", images)
    call(cli.compress, tmp_path / "in.npy", tmp_path / "a.vsc", quality=8)
    call(cli.decompress, tmp_path / "a.vsc", tmp_path / "out.npy")
    size, back = (tmp_path / "a.vsc").stat().st_size, np.load(tmp_path / "out.npy")
    assert f"{size} bytes, {8 * size / (9 * 8 * 6):.4f} bits per pixel" in capsys.readouterr().out
    assert (back.dtype, back.shape) == (np.uint8, (9, 3, 8, 6))
    assert psnr(images, back) > 20


def test_mistakes_are_told_in_a_sentence(registered, tmp_path):
    (tmp_path / "bad.vsc").write_bytes(b"\x93VSC\r\n\x1a\x01 and no more")
    with pytest.raises(DataError, match=r"bad\.vsc: it ends within"):
        call(cli.decompress, tmp_path / "bad.vsc", tmp_path / "out.npy")
    with pytest.raises(ConfigError, match=r"end in \.npy"):
        call(cli.decompress, tmp_path / "bad.vsc", tmp_path / "out.png")
    with pytest.raises(ConfigError, match="two numbers"):
        call(cli.decompress, tmp_path / "bad.vsc", tmp_path / "out.npy", rows="5")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.vsc"]


def test_rows_that_are_not_there_are_refused(registered, codec, tmp_path):
    (tmp_path / "a.vsc").write_bytes(codec.compress(digits()[:3]))
    with pytest.raises(ConfigError, match="there are 3"):
        call(cli.decompress, tmp_path / "a.vsc", tmp_path / "out.npy", rows="3:9")


def test_findings_are_plain(made):
    from vaesc.applications.findings import RESULTS, write_findings

    findings, subject, _ = made
    write_findings(findings, subject.folder)
    json.loads((subject.folder / RESULTS).read_text())
