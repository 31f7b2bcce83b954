"""Atom cards: every number against a direct computation, image by image, of a tiny model."""

import filecmp
import json

import numpy as np
import pytest
import torch
from PIL import Image
from report_samples import tiny_model, tiny_split

from vaesc.evaluation.cards import N_EFFECT, atom_cards, write_cards
from vaesc.report.sprites import GAP, effect_picture, save_sheet
from vaesc.report.style import DARK_THEME, LIGHT_THEME


def decode(model, code):
    """Decode one dense code by the formula in the dictionary's docstring."""
    d = model.dictionary
    z = d.mean + d.scale * (code @ d.dictionary)
    with torch.no_grad():
        return model.vae.decode(torch.from_numpy(z[None].astype(np.float32)))[0].numpy()


@pytest.fixture(scope="module", params=[(4, 5), (3, 4, 5)], ids=["grey", "colour"])
def case(request):
    """Model, images, labels, dense codes, and the cards of all atoms."""
    model, (split, images, labels) = tiny_model(request.param), tiny_split(request.param)
    with torch.no_grad():
        z = model.vae.encode(torch.from_numpy(images))[0].numpy()
    codes = model.dictionary.encode(z).toarray().astype(np.float64)
    return model, images, labels, codes, atom_cards(model, split, name="article")


def test_cards_come_in_the_order_of_energy_and_skip_atoms_that_nobody_uses(case):
    _, _, _, codes, cards = case
    energy = np.square(codes).sum(axis=0)
    shown = [card["atom"] for card in cards.facts["cards"]]
    assert shown == [j for j in np.argsort(-energy) if energy[j] > 0]
    np.testing.assert_allclose(
        [card["energy_share"] for card in cards.facts["cards"]],
        energy[shown] / energy.sum(),
        rtol=1e-5,
    )
    assert cards.facts["n_used"] == np.count_nonzero(energy)


def test_usage_size_and_images(case):
    _, images, _, codes, cards = case
    for card, shown in zip(cards.facts["cards"], cards.users, strict=True):
        column = codes[:, card["atom"]]
        used = column[column != 0]
        assert card["n_users"] == len(used)
        assert card["usage"] == pytest.approx(len(used) / len(images))
        assert card["coefficient"] == pytest.approx(np.abs(used).mean(), rel=1e-5)
        assert card["positive_share"] == pytest.approx((used > 0).mean())
        assert (
            card["images"]
            == np.argsort(-np.abs(column), kind="stable")[: min(6, len(used))].tolist()
        )
        np.testing.assert_allclose(card["coefficients"], column[card["images"]], rtol=1e-5)
        np.testing.assert_array_equal(shown, images[card["images"]])


def test_purity_weighs_every_image_by_its_squared_coefficient(case):
    _, _, labels, codes, cards = case
    for card in cards.facts["cards"]:
        energy = np.square(codes[:, card["atom"]])
        shares = [energy[labels == label].sum() / energy.sum() for label in range(3)]
        assert card["label"] == int(np.argmax(shares))
        assert card["purity"] == pytest.approx(max(shares), rel=1e-5)
        assert card["base_rate"] == pytest.approx((labels == card["label"]).mean())


def test_chance_is_the_purity_that_shuffled_labels_give(case):
    _, _, labels, codes, cards = case
    rng = np.random.default_rng(9)
    for card in cards.facts["cards"][:3]:
        energy = np.square(codes[:, card["atom"]])
        found = [np.bincount(rng.permutation(labels), energy).max() for _ in range(400)]
        error = np.std(found) * np.sqrt(1 / 400 + 1 / 200) / energy.sum()
        assert abs(card["chance"] - np.mean(found) / energy.sum()) < 4 * error + 1e-6
        assert card["chance"] >= np.bincount(labels).max() / len(labels) - 4 * error


def test_ablation_is_what_users_lose_when_the_coefficient_alone_becomes_zero(case):
    model, images, _, codes, cards = case
    for card in cards.facts["cards"][:3]:
        with_it, without = [], []
        for i in np.flatnonzero(codes[:, card["atom"]]):
            bare = codes[i].copy()
            bare[card["atom"]] = 0
            with_it.append(np.square(decode(model, codes[i]) - images[i]).mean())
            without.append(np.square(decode(model, bare) - images[i]).mean())
        found, increase = card["ablation"], np.mean(without) - np.mean(with_it)
        assert found["error"] == pytest.approx(np.mean(with_it), rel=1e-4)
        assert found["increase"] == pytest.approx(increase, rel=1e-3, abs=1e-6)
        assert found["percent"] == pytest.approx(
            100 * increase / np.mean(with_it), rel=1e-3, abs=1e-3
        )


def test_the_effect_is_that_of_the_typical_coefficient_where_users_are(case):
    model, _, _, codes, cards = case
    for card, effects in zip(cards.facts["cards"][:2], cards.effects, strict=False):
        users = np.flatnonzero(codes[:, card["atom"]])[:N_EFFECT]
        for sign, effect in zip((1, -1), effects, strict=True):
            total = np.zeros(model.shape)
            for i in users:
                bare = codes[i].copy()
                bare[card["atom"]] = 0
                moved = bare.copy()
                moved[card["atom"]] = sign * card["coefficient"]
                total += decode(model, moved) - decode(model, bare)
            np.testing.assert_allclose(effect, total / len(users), atol=2e-5)
        assert card["effect_limit"] == pytest.approx(np.abs(effects).max())


def test_without_labels_there_is_no_purity_and_without_users_no_card():
    split, _, _ = tiny_split(classes=None)
    facts = atom_cards(tiny_model(), split, name="article").facts
    assert facts["classes"] is None
    assert all("purity" not in card for card in facts["cards"])
    assert len(atom_cards(tiny_model(), split, name="article", n_cards=2).facts["cards"]) == 2


def test_cards_and_sheets_have_the_same_bytes_whatever_the_block_size(tmp_path):
    for name, block_size in (("a", 8192), ("b", 100)):
        (tmp_path / name).mkdir()
        split, _, _ = tiny_split(block_size=block_size)
        write_cards(atom_cards(tiny_model(), split, name="article"), tmp_path / name)
    names = ["cards.json", "card-effects.png", "card-effects-dark.png", "card-images.png"]
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)[0] == names
    assert json.loads((tmp_path / "a" / "cards.json").read_text())["tiles"]["images"]["gap"] == GAP


def test_no_effect_is_the_pages_colour_and_opposite_ones_the_ends():
    effect = np.array([[-2.0, 0.0, 2.0]])
    light, dark = (effect_picture(effect, 2.0, theme)[0] for theme in (LIGHT_THEME, DARK_THEME))
    assert light[1].min() > 0.9
    assert dark[1].max() < 0.2
    for end in (light, dark):
        assert end[0][0] > end[0][2]  # orange: darker
        assert end[2][2] > end[2][0]  # blue: brighter
    np.testing.assert_allclose(effect_picture(np.zeros((3, 2, 2)), 0.0, LIGHT_THEME), 0.5)


@pytest.mark.parametrize(
    "shape", [(8, 8), (28, 28), (3, 32, 32), (100, 60), (3, 200, 200), (1, 300)]
)
def test_sheets_hold_every_tile_at_its_place(tmp_path, shape):
    from vaesc.report.sprites import as_picture

    rows = [
        [as_picture(np.full(shape, 0.2 * i + 0.1 * j, "f4")) for j in range(2)] for i in range(3)
    ]
    tile = save_sheet(rows, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert max(tile["width"], tile["height"]) <= 112
    for i in range(3):
        for j in range(2):
            y, x = i * (tile["height"] + GAP), j * (tile["width"] + GAP)
            part = sheet[y : y + tile["height"], x : x + tile["width"]]
            assert np.abs(part[..., :3] - 255 * (0.2 * i + 0.1 * j)).max() <= 0.51
            assert (part[..., 3] == 255).all()
    assert sheet[tile["height"]].max() == 0  # the gap is transparent
