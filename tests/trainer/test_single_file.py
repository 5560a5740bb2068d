"""Single-file checkpoints: read like the folder they were made from, or refused by name."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from pytest import TempPathFactory
from safetensors.torch import load
from tests.trainer.jobs import AJob, a_job
from tests.trainer.original_layouts import (
    flux_checkpoint,
    flux_original,
    sd15_checkpoint,
    sdxl_checkpoint,
    wan_checkpoint,
)
from tests.trainer.tiny import make_base_model
from tests.trainer.tiny_flux import make_flux
from tests.trainer.tiny_sdxl import make_sdxl
from tests.trainer.tiny_wan import make_wan

from lora_api.settings import BaseModelSettings
from lora_trainer.basemodel import BaseModel
from lora_trainer.fetch_base import fetch_base_model, open_base
from lora_trainer.recipes import RECIPES, check_base, load_recipe
from lora_trainer.stopping import StopFlag

CPU = torch.device("cpu")
FAMILIES: dict[str, tuple[Callable[[Path], Path], Callable[[Path, Path], Path]]] = {
    "sd15": (make_base_model, partial(sd15_checkpoint, layers_per_block=1)),
    "sdxl": (make_sdxl, partial(sdxl_checkpoint, layers_per_block=1)),
    "flux": (make_flux, flux_checkpoint),
    "wan": (make_wan, wan_checkpoint),
}
FLUX_WIDTH, TINY_FLUX_WIDTH = 3072, 32

Family = tuple[str, Path, Path, Path]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: TempPathFactory) -> Iterator[Family]:
    make, write = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    base = make(folder / "base")
    single = write(base, folder / "model.safetensors")
    lacking = shutil.copytree(base, folder / "components")
    for component in RECIPES[request.param].single_file:
        for weights in (lacking / component).glob("*.safetensors"):
            weights.unlink()
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "flux":
            _let_diffusers_read_a_narrow_flux(patched)
        yield request.param, base, single, lacking


def _let_diffusers_read_a_narrow_flux(patched: pytest.MonkeyPatch) -> None:
    """Its converter cuts fused weights at the published width, a number in its code."""
    code = convert_flux_transformer_checkpoint_to_diffusers.__code__
    assert FLUX_WIDTH in code.co_consts
    narrow = tuple(TINY_FLUX_WIDTH if one == FLUX_WIDTH else one for one in code.co_consts)
    patched.setattr(
        convert_flux_transformer_checkpoint_to_diffusers, "__code__", code.replace(co_consts=narrow)
    )


def _opened(recipe: str, uri: Path, folder: Path, components: Path | None = None) -> BaseModel:
    settings = BaseModelSettings(
        uri=f"file://{uri}", components_uri=f"file://{components}" if components else None
    )
    return fetch_base_model(
        open_base(settings, stop=StopFlag()),
        folder,
        RECIPES[recipe],
        check=lambda model: check_base(recipe, model),
        advance=lambda _done, _total: None,
    )


def test_a_single_file_has_the_same_weights_as_the_folder(family: Family, tmp_path: Path) -> None:
    recipe, base, single, lacking = family
    models = [
        load_recipe(recipe, _opened(recipe, base, tmp_path)),
        load_recipe(recipe, _opened(recipe, single, tmp_path, lacking)),
    ]
    folder, file = (
        one.load_denoiser(device=CPU, dtype=torch.float32).state_dict() for one in models
    )
    assert folder.keys() == file.keys()
    assert all(torch.equal(folder[name], file[name]) for name in folder)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen, read = (one.load_picture_encoder(device=CPU).encode(pixels) for one in models)
    assert torch.equal(seen, read)
    heard, said = (one.load_text_encoder(device=CPU).encode(["a zorp"])[0] for one in models)
    assert heard.keys() == said.keys()
    assert all(torch.equal(heard[name], said[name]) for name in heard)


def test_a_run_from_a_single_file_learns_what_one_from_the_folder_does(
    family: Family, pictures: Path, tmp_path: Path
) -> None:
    recipe, base, single, lacking = family
    whole = _job(tmp_path, recipe, base, pictures).with_steps(2)
    from_file = whole.having("baseModel.uri", f"file://{single}").in_workspace("file")
    from_file = from_file.having("baseModel.componentsUri", f"file://{lacking}")
    learned = []
    for job in (whole, from_file):
        code, result = job.run()
        assert code == 0, result.message
        learned.append(load(job.model))
    assert learned[0].keys() == learned[1].keys()
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])


def test_a_single_file_of_flux_has_every_weight_of_the_model_in_its_shape() -> None:
    # In the published width, which the miniature has not: names and shapes it is.
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)
    weights = model.state_dict()
    read = convert_flux_transformer_checkpoint_to_diffusers(flux_original(weights))
    assert {name: one.shape for name, one in read.items()} == {
        name: one.shape for name, one in weights.items()
    }


def test_a_single_file_of_another_size_is_refused_before_its_weights_are_read(
    tmp_path: Path, pictures: Path
) -> None:
    small, large = make_wan(tmp_path / "small"), make_wan(tmp_path / "large", heads=4)
    single = wan_checkpoint(small, tmp_path / "small.safetensors")
    job = _job(tmp_path, "wan", single, pictures).having(
        "baseModel.componentsUri", f"file://{large}"
    )
    code, result = job.run()
    assert (code, result.reason) == (65, "BaseModelInvalid")
    assert "patch_embedding.weight in small.safetensors is 24 x 4" in result.message
    assert "48 x 4: they are models of different sizes" in result.message


def test_a_single_file_without_components_is_refused_with_the_cure(
    tmp_path: Path, pictures: Path
) -> None:
    code, result = _job(tmp_path, "sd15", tmp_path / "model.safetensors", pictures).run()
    assert (code, result.reason) == (65, "InvalidJob")
    assert result.message.startswith("baseModel.componentsUri: a single-file checkpoint lacks")


@pytest.mark.parametrize("ending", ["ckpt", "pt", "bin", "pth"])
def test_a_pickled_checkpoint_is_refused_with_the_cure(
    ending: str, tmp_path: Path, pictures: Path
) -> None:
    code, result = _job(tmp_path, "sd15", tmp_path / f"model.{ending}", pictures).run()
    assert (code, result.reason) == (65, "InvalidJob")
    assert "convert it to safetensors" in result.message


def test_a_file_of_no_known_layout_says_what_lies_in_it(
    family: Family, tmp_path: Path, pictures: Path
) -> None:
    recipe, base, _, lacking = family
    (lora,) = (base / "vae").glob("*.safetensors")
    wrong = shutil.copy(lora, tmp_path / "wrong.safetensors")
    job = _job(tmp_path, recipe, Path(wrong), pictures)
    code, result = job.having("baseModel.componentsUri", f"file://{lacking}").run()
    assert (code, result.reason) == (65, "BaseModelInvalid")
    assert "wrong.safetensors is" in result.message


def _job(folder: Path, recipe: str, base: Path, pictures: Path) -> AJob:
    return a_job(folder, base=base, dataset=pictures).having("recipe", recipe)
