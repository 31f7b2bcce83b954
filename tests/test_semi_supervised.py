"""Few labels: draws, spreading, M2, networks, self-training, the model's part, `vaesc label`."""

import argparse
import json
import math

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from imagesets import digits, write_digits
from sklearn.datasets import load_digits

from vaesc import applications
from vaesc.applications.semi_supervised import agreement, draws, kingma, network, spreading, views
from vaesc.applications.semi_supervised.features import Features, part_of
from vaesc.applications.semi_supervised.labelling import label
from vaesc.applications.semi_supervised.measurement import METHODS
from vaesc.applications.semi_supervised.selftraining import self_train, surest_rows, total_steps
from vaesc.applications.semi_supervised.telling import PUBLISHED, _m1_m2, _sentence, _shortfall
from vaesc.arrays import write_array
from vaesc.bundle import SparseVAE
from vaesc.cli import label as command
from vaesc.config import DictionaryConfig, SemiSupervisedConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.errors import ConfigError, DataError
from vaesc.latents import extract
from vaesc.models import VAE, save_vae
from vaesc.parts import PART, Part, load_part
from vaesc.progress import SILENT
from vaesc.report.semi_supervised import _missed
from vaesc.report.style import LIGHT_THEME

FAST = SemiSupervisedConfig(
    n_labels=(50, 20, 5000, 3),
    n_draws=2,
    network_draws=1,
    m2_draws=1,
    epochs=1,
    m2_epochs=1,
)
CLASSES = load_digits().target[np.random.default_rng(0).permutation(1797)]


@pytest.fixture(autouse=True, scope="module")
def short_trainings():
    """Digits are learned in fewer steps than photographs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "FEWEST_STEPS", 60)
        patch.setattr(kingma, "_FEWEST_STEPS", 60)
        yield


def make(root, *, labelled):
    """Artifacts of digits, an untrained VAE, its latents, a dictionary."""
    folders = {name: root / name for name in ("dataset", "vae", "latents", "dictionary")}
    for folder in folders.values():
        folder.mkdir()
    write_digits(folders["dataset"])
    if labelled:
        group = zarr.open_group(str(folders["dataset"] / "dataset.zarr"), mode="a")
        parts = {"train": slice(1200), "validation": slice(1200, 1400), "test": slice(1400, None)}
        for name, rows in parts.items():
            write_array(group, f"{name}/labels", CLASSES[rows].astype(np.int64), ("sample",))
    generator = torch.Generator().manual_seed(5)
    config = VAEConfig(hidden=(32,), latent_dim=8)
    save_vae(VAE(config, (8, 8), generator=generator), folders["vae"])
    extract(folders["dataset"], folders["vae"], folders["latents"], device="cpu")
    settings = DictionaryConfig(n_atoms=16, n_nonzero_coefs=3, max_epochs=1)
    learn(settings, folders["latents"], folders["dictionary"], seed=0, listener=SILENT)
    return folders


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return make(tmp_path_factory.mktemp("labelled"), labelled=True)


@pytest.fixture(scope="module")
def model(artifacts):
    return SparseVAE.from_artifacts(
        artifacts["dataset"], artifacts["vae"], artifacts["dictionary"], device="cpu"
    )


def blobs(n=300, n_classes=3, dims=4, seed=0):
    """Well separated clouds: latents, and the class of each."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % n_classes
    centres = 10 * np.eye(n_classes, dims)
    return (centres[classes] + rng.normal(size=(n, dims))).astype(np.float32), classes


@given(st.integers(1, 60), st.integers(0, 1000), st.integers(2, 6))
def test_draws_have_as_many_images_of_each_class(n_labels, seed, n_classes):
    classes = np.random.default_rng(seed).integers(n_classes, size=200)
    classes[:n_classes] = np.arange(n_classes)
    rows = draws.balanced(classes, n_labels, np.random.default_rng(seed))
    counts = np.bincount(classes[rows], minlength=n_classes)
    there = np.bincount(classes, minlength=n_classes)
    share, rest = divmod(n_labels, n_classes)
    assert (np.diff(rows) > 0).all()
    assert (counts <= share + (rest > 0)).all()
    assert (counts >= np.minimum(share, there)).all()
    known = draws.known(classes, rows)
    assert (known != draws.UNKNOWN).sum() == len(rows)
    assert (known[rows] == classes[rows]).all()


def test_the_graph_is_symmetric_and_its_largest_eigenvalue_is_one():
    graph = spreading.graph_of(blobs()[0], 7)
    dense = graph.affinity.toarray()
    np.testing.assert_allclose(dense, dense.T, atol=1e-7)
    assert np.linalg.eigvalsh(dense)[-1] == pytest.approx(1, abs=1e-5)
    assert (np.diag(dense) == 0).all()


def test_spreading_finds_the_solution_of_its_equation():
    latents, classes = blobs(90)
    graph = spreading.graph_of(latents, 5)
    known = spreading.one_hot(np.where(np.arange(90) < 3, classes, -1), 3)
    system = np.eye(90) - 0.9 * graph.affinity.toarray().astype(np.float64)
    exact = 0.1 * np.linalg.solve(system, known)
    np.testing.assert_allclose(spreading.spread(graph, known, 0.9), exact, atol=1e-4)


def test_one_label_of_each_cloud_names_all_of_it_and_what_falls_into_it():
    latents, classes = blobs()
    labels = np.where(np.arange(300) < 3, classes, -1)
    graph = spreading.graph_of(latents, 10)
    found = spreading.spread_labels(graph, labels, 3)
    np.testing.assert_array_equal(found.argmax(axis=1), classes)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    others, theirs = blobs(60, seed=1)
    joined = spreading.joined(graph, found, others)
    np.testing.assert_array_equal(joined.argmax(axis=1), theirs)
    np.testing.assert_allclose(joined.sum(axis=1), 1, atol=1e-5)


def test_copies_and_far_images_stay_joined():
    latents = np.zeros((40, 2), np.float32)
    latents[-1] = 1e6
    graph = spreading.graph_of(latents, 60)
    assert graph.n_neighbours == 39
    labels = np.where(np.arange(40) < 2, np.arange(40), -1)
    assert np.isfinite(spreading.spread_labels(graph, labels, 2)).all()


@given(st.integers(0, 1000), st.integers(2, 5))
def test_weighed_classes_have_their_share(seed, n_classes):
    rng = np.random.default_rng(seed)
    scores = rng.random((200, n_classes)).astype(np.float32)
    share = (1 + rng.random(n_classes)).astype(np.float32)
    share /= share.sum()
    found = spreading.weighed(scores, share, 200)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.mean(axis=0), share, atol=0.01)


def test_the_best_classifier_of_m2_makes_u_the_bound_over_all_classes():
    costs = torch.tensor([[1.0, 3.0, 0.5], [200.0, 2.0, 7.0]])
    best = kingma.unlabelled_cost(costs, -costs)
    torch.testing.assert_close(best, -torch.logsumexp(-costs, dim=1))
    sure = torch.tensor([[0.0, 1e4, 0.0], [0.0, 1e4, 0.0]])
    torch.testing.assert_close(kingma.unlabelled_cost(costs, sure), costs[:, 1])
    assert (kingma.unlabelled_cost(costs, torch.randn(2, 3)) >= best - 1e-5).all()


def test_m2_names_clouds_from_a_label_of_each():
    latents, classes = blobs(300)
    latents /= 5
    labels = np.where(np.arange(300) < 9, classes, -1)
    std = np.full_like(latents, 0.05)
    fitted = kingma.fit_m2(latents, std, labels, 3, epochs=200, seed=0)
    assert (kingma.classify(fitted, latents).argmax(axis=1) == classes).mean() > 0.97


def test_latents_without_label_teach_m2_what_its_labels_alone_do_not():
    rng = np.random.default_rng(0)
    classes = np.arange(300) % 3
    latents = (3.2 * np.eye(3, 10)[classes] + rng.normal(size=(300, 10))).astype(np.float32) / 2
    labels = np.where(np.arange(300) < 6, classes, -1)
    right = []
    for weight in (1.0, 0.0):
        fitted = kingma.fit_m2(
            latents, np.full_like(latents, 0.05), labels, 3, epochs=150, seed=0, weight=weight
        )
        right.append((kingma.classify(fitted, latents).argmax(axis=1) == classes).mean())
    assert right[0] > max(0.9, right[1] + 0.03)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (8, 11)])
def test_a_views_fields_are_those_of_torch(height, width):
    generator = torch.Generator().manual_seed(0)
    affine, bend = views._affine(3, generator, 1.0), torch.randn(3, 2, 25, generator=generator)
    fields = torch.cat([affine, bend], dim=2).reshape(6, -1) @ views._basis(height, width)
    plane = torch.nn.functional.affine_grid(affine, [3, 1, height, width], align_corners=False)
    bent = torch.nn.functional.interpolate(
        bend.reshape(3, 2, 5, 5), size=(height, width), mode="bicubic", align_corners=True
    )
    expected = plane.permute(0, 3, 1, 2) + bent
    torch.testing.assert_close(fields.reshape(3, 2, height, width), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 12), (1, 8, 8), (20,)])
def test_views_keep_shape_and_range_and_none_of_no_strength_changes_anything(shape):
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    seen = [views.view(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert seen[0].shape == images.shape
    assert -1e-5 <= seen[0].min() <= seen[0].max() <= 1 + 1e-5
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    same = views.view(images, torch.Generator().manual_seed(1), 0.0)
    torch.testing.assert_close(same, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "shape",
    [(8, 8), (28, 28), (3, 32, 32), (9, 32, 2), (5, 5), (20,), (2, 40), (64, 9), (3, 4, 4)],
)
def test_images_of_any_shape_have_a_network(shape):
    images = np.random.default_rng(0).random((6, *shape)).astype(np.float32)
    made = network.build(shape, 4)
    network._initialise(made, torch.Generator().manual_seed(0))
    found = network.predict(made.eval(), images, seed=0, n_views=1)
    assert found.shape == (6, 4)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "planes"),
    [((8, 9), (1, 8, 9)), ((1, 8, 9), (1, 8, 9)), ((3, 32, 16), (3, 32, 16)),
     ((16, 8, 8), (16, 8, 8)), ((3, 7, 9), (189,)), ((16, 16, 3), (768,)), ((9, 9, 2), (162,))],
)  # fmt: skip
def test_a_network_reads_channels_first_and_no_picture_that_is_too_narrow(shape, planes):
    images = np.random.default_rng(0).random((6, *shape)).astype(np.float32)
    made = network.build(shape, 2)
    assert made[0].weight.shape[1] == planes[0]
    seen = network._tensor(images, shape)
    np.testing.assert_array_equal(seen.numpy(), images.reshape(6, *planes))


@pytest.mark.parametrize("shape", [(9, 7), (1, 9, 7), (2, 9, 7), (3, 9, 7), (3, 4, 3), (4, 4, 1)])
def test_what_is_missed_is_drawn_as_pictures_are_everywhere(shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    (axes,) = _missed([image], ["seven"], LIGHT_THEME).axes
    drawn = np.asarray(axes.images[0].get_array())
    channels = image.reshape(-1, *shape[-2:])
    wanted = np.dstack(list(channels)) if len(channels) == 3 else np.hstack(list(channels))
    np.testing.assert_array_equal(drawn, wanted)


def test_training_is_the_same_twice_and_leaves_the_global_stream_alone():
    images = digits()[:200].astype(np.float32) / 255
    state = torch.get_rng_state()

    def made():
        taught = (np.arange(50), CLASSES[:50])
        return network.train(
            lambda rows: images[rows],
            (8, 8),
            10,
            labelled=taught,
            guessed=None,
            n_steps=60,
            seed=3,
        )

    a, b = made().state_dict(), made().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_surest_of_each_class_are_kept():
    sure = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [1.0, 0.0]], np.float32)
    labels = np.array([-1, -1, -1, -1, 0])
    assert surest_rows(sure, labels, 0.6).tolist() == [0, 2, 3]
    assert surest_rows(sure, labels, 1.0).tolist() == [0, 1, 2, 3]


def test_self_training_errs_less_than_the_same_network_taught_by_the_labels_alone():
    images = digits()[:1200].astype(np.float32) / 255
    rows = draws.balanced(CLASSES[:1200], 40, np.random.default_rng(0))
    labels = draws.known(CLASSES[:1200], rows)
    graph = spreading.graph_of(images.reshape(1200, -1), 10)
    taught = self_train(lambda at: images[at], (8, 8), graph, labels, 10, epochs=20, seed=0)
    alone = network.train(
        lambda at: images[at], (8, 8), 10, labelled=(rows, CLASSES[rows]), guessed=None,
        n_steps=total_steps(1160, 20), seed=0,
    )  # fmt: skip
    right = [
        (network.predict_all(each, lambda at: images[at], 1200, seed=0).argmax(axis=1)
         == CLASSES[:1200]).mean()
        for each in (taught, alone)
    ]  # fmt: skip
    assert right[0] > max(0.93, right[1] + 0.02)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_the_product_keeps_what_both_say_and_lets_the_surer_decide(seed, n_classes):
    rng = np.random.default_rng(seed)
    one, other = rng.dirichlet(np.ones(n_classes), (2, 50)).astype(np.float32)
    both = agreement.agreed(one, other)
    np.testing.assert_allclose(both.sum(axis=1), 1, atol=1e-5)
    same = one.argmax(axis=1) == other.argmax(axis=1)
    np.testing.assert_array_equal(both[same].argmax(axis=1), one[same].argmax(axis=1))
    undecided = np.full_like(one, 1 / n_classes)
    told = agreement.agreed(one, undecided)
    np.testing.assert_array_equal(told.argmax(axis=1), one.argmax(axis=1))


def test_the_part_gives_the_latents_of_the_encoder_it_was_made_of(model):
    other = VAE(VAEConfig(hidden=(16, 12), latent_dim=5), (8, 8))
    refined = SparseVAE(model.vae, model.dictionary, parts={"semi_supervised": part_of(other)})
    unit = digits()[:30].astype(np.float32) / 255
    with torch.inference_mode():
        mean, log_var = other.encode(torch.from_numpy(unit))
    found = Features.of(refined).posterior(unit)
    np.testing.assert_allclose(found[0], mean, atol=1e-6)
    np.testing.assert_allclose(found[1], (log_var / 2).exp(), rtol=1e-5)
    own = Features.of(model).posterior(unit)[0]
    np.testing.assert_allclose(own, model.latents_of_unit(unit), atol=1e-6)


def changed(part, change):
    arrays, facts = dict(part.arrays), json.loads(json.dumps(part.facts))
    change(arrays, facts)
    return Part(arrays=arrays, facts=facts)


def first_array(arrays, value):
    name = sorted(arrays)[0]
    arrays[name] = value(arrays[name])


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, facts: arrays.clear(),
        lambda arrays, facts: facts.clear(),
        lambda arrays, facts: facts.update(vae=None),
        lambda arrays, facts: facts.update(shape=[4, 16]),
        lambda arrays, facts: facts["vae"].update(hidden=[10**9, 10**9]),
        lambda arrays, facts: facts["vae"].update(hidden=[1] * 5000),
        lambda arrays, facts: facts["vae"].update(latent_dim=0),
        lambda arrays, facts: facts["vae"].update(surprise=1),
        lambda arrays, facts: first_array(arrays, lambda a: a * np.float32(np.nan)),
        lambda arrays, facts: first_array(arrays, lambda a: a.astype(np.float64)),
        lambda arrays, facts: first_array(arrays, lambda a: a[..., :-1]),
    ],
)
def test_a_damaged_part_is_refused_in_a_sentence(model, change):
    part = changed(part_of(model.vae), change)
    damaged = SparseVAE(model.vae, model.dictionary, parts={"semi_supervised": part})
    with pytest.raises(DataError, match="the model's part semi_supervised is no encoder") as told:
        Features.of(damaged)
    assert "\n" not in str(told.value)


def test_labels_of_any_number_name_classes_and_are_kept(model):
    names = np.array([7, 40, 1000, 3, 5, 6, 9, 11, 12, 2**40])
    labels = np.where(np.arange(300) < 60, names[CLASSES[:300]], -1)
    config = SemiSupervisedConfig(n_images=200, epochs=1)
    found, classes, probabilities = label(model, digits()[:300], labels, config=config)
    np.testing.assert_array_equal(found[:60], labels[:60])
    np.testing.assert_array_equal(classes, np.sort(names))
    np.testing.assert_array_equal(found, classes[probabilities.argmax(axis=1)])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    again = label(model, digits()[:300], labels, config=config)
    np.testing.assert_array_equal(again[2], probabilities)


def test_with_labels_enough_the_network_and_the_graph_must_agree(model, monkeypatch):
    monkeypatch.setattr(agreement, "ENOUGH", 20)
    labels = np.where(np.arange(400) < 200, CLASSES[:400], -1)
    config = SemiSupervisedConfig(n_images=300, epochs=1)
    found, classes, probabilities = label(model, digits()[:400], labels, config=config)
    np.testing.assert_array_equal(found[:200], labels[:200])
    np.testing.assert_array_equal(found, classes[probabilities.argmax(axis=1)])
    assert (found[200:] == CLASSES[200:400]).mean() > 0.8


def test_a_figure_of_few_draws_and_a_figure_behind_the_published_say_so():
    few = {name: [5.0] for name in METHODS} | {"best": [4.0]}
    assert "network_draws=10" in _shortfall(600, few, None)
    assert "misses 3.3 %" in _shortfall(100, few, 3.3)
    assert _shortfall(100, few | {"best": [2.0] * 10}, 3.3) == ""
    behind = _m1_m2(100, few, PUBLISHED["mnist"])
    assert "no reproduction" in behind.shortfall
    assert [p.name for p in behind.published] == ["M2", "M1+M2"]


def test_all_images_may_be_labelled(model):
    found, _, _ = label(model, digits()[:50], CLASSES[:50])
    np.testing.assert_array_equal(found, CLASSES[:50])


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.zeros(3, np.int64), "one integer for each of the 30 images"),
        (np.zeros(30), "one integer for each of the 30 images"),
        (np.full(30, -2), "must be -1"),
        (np.full(30, -1), "must name at least 2 classes"),
        (np.full(30, 4, np.uint8), "must name at least 2 classes"),
        (np.full(30, 2**63, np.uint64), "must be below"),
    ],
)
def test_unusable_labels_are_refused_in_a_sentence(model, labels, sentence):
    with pytest.raises(DataError, match=sentence):
        label(model, digits()[:30], labels)


def call(folder, out="out.npy", probabilities=None, seed=0):
    options = argparse.Namespace(
        model="champion", device="cpu", seed=seed, probabilities=probabilities,
        images=folder / "images.npy", labels=folder / "labels.npy", output=folder / out,
    )  # fmt: skip
    return command.label(options)


@pytest.fixture
def files(tmp_path, model, monkeypatch):
    np.save(tmp_path / "images.npy", digits()[:100])
    np.save(tmp_path / "labels.npy", np.where(np.arange(100) < 40, CLASSES[:100], -1))
    monkeypatch.setattr("vaesc.registry.load_model", lambda ref, *, device: model)
    return tmp_path


def test_the_command_writes_classes_and_probabilities_and_shows_progress(
    files, capsys, monkeypatch
):
    monkeypatch.setattr("vaesc.cli.progress.SAY_EVERY_SECONDS", 0)
    assert call(files, probabilities=files / "p.npy") == 0
    classes, probabilities = np.load(files / "out.npy"), np.load(files / "p.npy")
    assert classes.dtype == np.int64
    assert probabilities.shape == (100, 10)
    np.testing.assert_array_equal(classes, probabilities.argmax(axis=1))
    said = capsys.readouterr()
    assert "100 images, 10 classes, 40 labels" in said.out
    percents = [float(line.split()[1]) for line in said.err.splitlines()]
    assert percents == sorted(percents)
    assert percents[0] < 10
    assert percents[-1] == 100


def test_mistakes_are_found_before_a_model_is_loaded(files, monkeypatch):
    monkeypatch.setattr("vaesc.registry.load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=r"must end in \.npy"):
        call(files, "out.txt")
    with pytest.raises(ConfigError, match="another file than OUT"):
        call(files, probabilities=files / "out.npy")
    with pytest.raises(ConfigError, match="--seed must be between"):
        call(files, seed=-1)
    with pytest.raises(DataError, match="does not exist"):
        call(files, "nowhere/out.npy")
    images = np.load(files / "images.npy")
    np.save(files / "images.npy", np.float32(3))
    with pytest.raises(DataError, match=r"images\.npy must hold images"):
        call(files)
    np.save(files / "images.npy", images)
    np.save(files / "labels.npy", np.zeros(3, np.int64))
    with pytest.raises(DataError, match="one integer for each of the 100 images"):
        call(files)
    assert {p.name for p in files.iterdir()} == {"images.npy", "labels.npy"}


def applied(inputs, folder, config=FAST, block_size=8192):
    folder.mkdir()
    return applications.apply(
        "semi_supervised", config, inputs, folder, seed=0, n_nonzero_coefs=3, window_bytes=2**28,
        device="cpu", block_size=block_size,
    )  # fmt: skip


def test_the_application_measures_every_method_and_is_the_same_twice(artifacts, tmp_path):
    done = applied(artifacts, tmp_path / "a")
    keys = {f"test/semi_supervised_error_{n}" for n in (20, 50)}
    assert keys | {f"{k}_{s}" for k in keys for s in ("m1", "spreading", "supervised")} \
        <= set(done["metrics"])  # fmt: skip
    assert "test/semi_supervised_error_20_m1_m2" in done["metrics"]
    assert all(math.isfinite(v) and 0 <= v <= 100 for v in done["metrics"].values())
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert [row[0] for row in results["tables"][0]["rows"]] == list(METHODS.values())
    assert any("5000, 3 labels" in note for note in results["notes"])
    assert all((tmp_path / "a" / f"{p['name']}.png").is_file() for p in results["pictures"])
    assert not (tmp_path / "a" / PART).exists()
    applied(artifacts, tmp_path / "b", block_size=100)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_the_sentence_says_to_what_self_training_loses_over_the_draws_that_both_have():
    ahead = {name: [9.0, 9.0] for name in METHODS} | {"best": [2.0, 2.5]}
    behind = {name: [9.0, 1.0] for name in METHODS} | {"best": [2.0]}
    behind |= {"supervised": [1.5], "spreading": [1.75, 8.0]}
    said = _sentence({100: ahead, 600: behind})
    assert "With 100 labels ours errs on 2.25 %" in said
    lost = f"{METHODS['supervised']} (1.50 % against 2.00 %); {METHODS['spreading']} (1.75 %"
    assert f"With 600 labels it loses to {lost} against 2.00 %)." in said
    assert said.count("loses") == 1
    assert "  " not in said


def test_without_labels_there_is_nothing_to_measure_and_it_is_said(tmp_path):
    (tmp_path / "artifacts").mkdir()
    done = applied(make(tmp_path / "artifacts", labelled=False), tmp_path / "out")
    assert done["metrics"] == {}
    assert "no labels" in done["sentence"]


def test_a_refined_model_keeps_the_encoder_it_had_before(artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "vaesc.evaluation.refined.refined_folder", lambda *_: artifacts["dictionary"]
    )
    for name in ("vae.json", "vae.safetensors"):
        (artifacts["dictionary"] / name).write_bytes((artifacts["vae"] / name).read_bytes())
    config = SemiSupervisedConfig(n_labels=(5000,))
    done = applied({**artifacts, "refined": artifacts["vae"]}, tmp_path / "out", config)
    assert "no number of labels fits 1200 training images" in done["sentence"]
    assert load_part(tmp_path / "out" / PART).facts["shape"] == [8, 8]
