"""Starting a level where an earlier refinement ended, instead of from its pixel dictionary."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from vaesc.dictionary import load_dictionary
from vaesc.errors import DataError
from vaesc.models import VAE, load_vae
from vaesc.refinement.coding import CurveCoding, PursuitCoding

logger = logging.getLogger(__name__)


def warm_up(vae: VAE, coding: PursuitCoding | CurveCoding, folder: Path) -> bool:
    """Give a level's network and atoms the values they had at the end of an earlier refinement.

    Args:
        vae: The level's network.
        coding: The level's coding.
        folder: The level's folder in the earlier refinement's artifact.

    Returns:
        Whether that could be done: the level is there, with the same network and as many atoms.
    """
    try:
        trained, dictionary = load_vae(folder, vae.device), load_dictionary(folder)
    except DataError as error:
        logger.warning("%s starts from its pixel dictionary: %s", folder.name, error)
        return False
    same = (trained.config, trained.shape) == (vae.config, vae.shape)
    amounts = getattr(coding, "amounts", None)
    if not same or dictionary.dictionary.shape != tuple(coding.atoms.shape) or (
        amounts is not None
        and (dictionary.amounts is None or dictionary.amounts.shape != tuple(amounts.shape))
    ):  # fmt: skip
        logger.warning("%s starts from its pixel dictionary: the sizes differ", folder.name)
        return False
    vae.load_state_dict(trained.state_dict())
    with torch.no_grad():
        coding.atoms.copy_(torch.from_numpy(dictionary.dictionary))
        if amounts is not None:
            amounts.copy_(torch.from_numpy(dictionary.amounts))
    return True
