"""Each family from pictures to a published file, and what it says of what it can't train."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pytest import TempPathFactory
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.trainer.families import CPU, MAKERS, adapt, opened, recipe_of
from tests.trainer.jobs import AJob, a_job
from tests.trainer.tiny_wan import make_wan

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError
from lora_trainer.lora import find_layers, read_weights
from lora_trainer.recipes import RECIPES, Batch, LossSettings, load_recipe
from lora_trainer.recipes.ddpm import NoisePrediction
from lora_trainer.recipes.flow import level_at, sigmas_at

# A layer's name in the file, and how many of them the miniature has.
LAYERS = {
    "sdxl": ("lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0", 32),
    "flux": ("transformer.single_transformer_blocks.0.attn.to_q", 7),
    "wan": ("diffusion_model.blocks.1.cross_attn.o", 16),
    "wan with 48 channels": ("diffusion_model.blocks.0.self_attn.q", 16),
}
# The script that would load the file again: sd-scripts', and musubi-tuner's for WAN.
NETWORK_MODULES = {
    "sdxl": "networks.lora",
    "flux": "networks.lora_flux",
    "wan": "networks.lora_wan",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("families")

    def made(family: str) -> Path:
        path = folder / family.replace(" ", "-")
        return path if path.exists() else MAKERS[family](path)

    return made


def _job(folder: Path, family: str, base: Path, pictures: Path) -> AJob:
    job = a_job(folder, base=base, dataset=pictures).having("recipe", recipe_of(family))
    return job.with_steps(2)


@pytest.mark.parametrize("family", LAYERS)
def test_a_family_trains_saves_reloads_samples_and_publishes(
    family: str, bases: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    job = _job(tmp_path, family, bases(family), pictures)
    code, result = job.run()
    assert code == 0, result.message
    assert result.artifact is not None
    assert result.artifact.format == RECIPES[recipe_of(family)].file_format
    assert result.validation is not None
    assert result.validation.base_loss is not None
    tensors = load_file(job.output / "model.safetensors")
    layer, count = LAYERS[family]
    assert f"{layer}.alpha" in tensors
    assert len(tensors) == 3 * count
    assert any(
        bool(tensor.any()) for name, tensor in tensors.items() if "lora_B" in name or "up" in name
    )
    with safe_open(job.output / "model.safetensors", "pt") as file:
        assert file.metadata()["ss_network_module"] == NETWORK_MODULES[recipe_of(family)]
    report = json.loads((job.output / "report.json").read_text())
    assert all((job.output / pair["lora"]).exists() for pair in report["samples"])


def test_two_experts_are_trained_one_after_the_other_into_two_files(
    bases: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    job = _job(tmp_path, "wan with two experts", bases("wan with two experts"), pictures)
    code, result = job.run()
    assert code == 0, result.message
    files = [
        load_file(job.output / name)
        for name in ("model.safetensors", "model-high-noise.safetensors")
    ]
    assert files[0].keys() == files[1].keys()
    assert any(not torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert (result.step, result.total_steps) == (4, 4)  # two of each
    report = json.loads((job.output / "report.json").read_text())
    assert {"model.safetensors", "model-high-noise.safetensors"} < report["files"].keys()
    assert len(report["samples"]) == 3


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_samples_have_a_side_that_the_family_can_draw_whatever_the_resolution(
    family: str, bases: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    job = _job(tmp_path, family, bases(family), pictures).having("optimization.resolution", 72)
    code, result = job.run()
    assert code == 0, result.message
    report = json.loads((job.output / "report.json").read_text())
    assert report["leftOut"] == []
    with Image.open(job.output / report["samples"][0]["lora"]) as picture:
        assert picture.size == (64, 64)


def test_previews_of_two_experts_are_refused(
    bases: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    job = _job(tmp_path, "wan with two experts", bases("wan with two experts"), pictures)
    code, result = job.having("validation.sampleEverySteps", 1).run()
    assert (code, result.reason) == (65, "InvalidJob")
    assert result.message.startswith("validation.sampleEverySteps: the base model has two experts")


def test_a_layer_without_a_name_in_the_format_is_refused_before_training(
    bases: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    job = _job(tmp_path, "wan", bases("wan"), pictures)
    code, result = job.having("network.targetModules", ["to_q", "time_proj"]).run()
    assert (code, result.reason) == (65, "TargetModulesNotFound")
    assert "no name for condition_embedder.time_proj" in result.message
    assert "Train" not in result.stage_seconds


def test_a_lora_of_a_smaller_wan_is_refused_on_a_larger_one_by_both_sizes(tmp_path: Path) -> None:
    small = load_recipe("wan", opened("wan", make_wan(tmp_path / "small")))
    large = load_recipe("wan", opened("wan", make_wan(tmp_path / "large", heads=4)))
    denoiser = small.load_denoiser(device=CPU, dtype=torch.float32)
    adapt(denoiser, find_layers(denoiser, ["to_q"]))
    save_file(small.to_file(read_weights(denoiser), alpha=2.0), tmp_path / "lora.safetensors")
    other = large.load_denoiser(device=CPU, dtype=torch.float32)
    with pytest.raises(TrainerError, match=r"\(width 24\), the base model is a WAN \(width 48\)"):
        large.attach_file(other, tmp_path / "lora.safetensors", name="small")


TEXT_LAYERS = {
    "sd15": {"lora_te_text_model_encoder_layers_0_self_attn_q_proj"},
    "sdxl": {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
    },
}


@pytest.mark.parametrize("family", TEXT_LAYERS)
def test_text_encoders_are_trained_too_where_the_job_asks(
    family: str, bases: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    job = _job(tmp_path, family, bases(family), pictures).having("network.textEncoder", True)
    code, result = job.run()
    assert code == 0, result.message
    tensors = load_file(job.output / "model.safetensors")
    for layer in TEXT_LAYERS[family]:
        # It starts at zero: only a gradient can have moved it.
        assert bool(tensors[f"{layer}.lora_up.weight"].any())
        assert float(tensors[f"{layer}.alpha"]) == 2.0


def test_a_run_with_text_encoders_goes_on_from_its_checkpoint_to_the_same_bytes(
    bases: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    whole = _job(tmp_path, "sd15", bases("sd15"), pictures).having("network.textEncoder", True)
    whole = whole.with_steps(4).having("checkpoints.everySteps", 2)
    assert whole.run()[0] == 0
    for name in ("stages", "result"):
        shutil.rmtree(whole.workspace / name)
    for last in whole.workspace.glob("checkpoints/*/step-*4.pt"):
        last.unlink()
    first = whole.model
    shutil.rmtree(whole.output)
    assert whole.run()[0] == 0
    assert whole.model == first


# Family, what is changed in which config, and what the message must say of it.
WRONG_MODELS: dict[str, tuple[str, str, dict[str, object], str]] = {
    "an inpainting model": ("sd15", "unet", {"in_channels": 9}, "inpainting models take 9"),
    "Stable Diffusion 2": ("sd15", "unet", {"cross_attention_dim": 1024}, "Stable Diffusion 2.x"),
    "the refiner": ("sdxl", "unet", {"cross_attention_dim": 1280}, "it is the refiner of SDXL"),
    "an SDXL without sizes": (
        "sdxl",
        "unet",
        {"addition_embed_type": None},
        "its UNet takes no sizes and no pooled text",
    ),
    "an SDXL for inpainting": ("sdxl", "unet", {"in_channels": 9}, "inpainting models take 9"),
    "schnell": ("flux", "transformer", {"guidance_embeds": False}, "FLUX.1-schnell"),
    "fill": ("flux", "transformer", {"in_channels": 384}, "fill, depth and canny models"),
    "an image-to-video WAN": ("wan", "transformer", {"in_channels": 36}, "from a picture (I2V)"),
    "another WAN's VAE": ("wan", "vae", {"z_dim": 48}, "the VAE makes 48"),
    "another family": (
        "sd15",
        "model_index",
        {"_class_name": "FluxPipeline"},
        "is a FluxPipeline, the recipe trains a StableDiffusionPipeline; set recipe: flux",
    ),
    "a family that nobody trains": (
        "wan",
        "model_index",
        {"_class_name": "WanVACEPipeline"},
        "name a base model that is a WanPipeline",
    ),
}


@pytest.mark.parametrize("case", WRONG_MODELS)
def test_a_model_of_another_kind_is_refused_by_what_it_is(
    case: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe, component, change, words = WRONG_MODELS[case]
    folder = tmp_path / "wrong"
    _link(bases(recipe), folder)
    names = {"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}
    path = folder / names.get(component, f"{component}/config.json")
    config = json.loads(path.read_text()) | change
    if case == "schnell":
        _write(folder / names["scheduler"], {"shift": 1.0, "use_dynamic_shifting": False})
    _write(path, config)
    with pytest.raises(TrainerError) as caught:
        opened(recipe, folder)
    assert caught.value.reason is Reason.BASE_MODEL_INVALID
    assert words in caught.value.message


REFUSED: dict[str, tuple[str, str, object]] = {
    "a shift for sd15": ("sd15", "optimization.timestepShift", 3.0),
    "a shift for sdxl": ("sdxl", "optimization.timestepShift", 3.0),
    "min-SNR for flux": ("flux", "optimization.minSnrGamma", 5.0),
    "a noise offset for wan": ("wan", "optimization.noiseOffset", 0.05),
    "a text encoder for flux": ("flux", "network.textEncoder", True),
    "a text encoder for wan": ("wan", "network.textEncoder", True),
    "clips for sdxl": ("sdxl", "dataset.frames", 5),
    "frames that no video VAE takes": ("wan", "dataset.frames", 6),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_setting_without_a_meaning_for_the_family_is_refused_before_anything_is_fetched(
    case: str, pictures: Path, tmp_path: Path
) -> None:
    recipe, field, value = REFUSED[case]
    job = _job(tmp_path, recipe, tmp_path / "nowhere", pictures)
    code, result = job.having(field, value).run()
    assert (code, result.reason) == (65, "InvalidJob")
    assert result.message.startswith(f"{field}: ")


def test_min_snr_weighs_by_the_smaller_of_snr_and_gamma() -> None:
    steps = torch.tensor([10, 500, 990])
    noise = NoisePrediction({"prediction_type": "epsilon"})
    velocity = NoisePrediction({"prediction_type": "v_prediction"})
    betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
    cumulative = (1 - betas).cumprod(0)[steps]
    snr = cumulative / (1 - cumulative)
    expected = torch.minimum(snr, torch.tensor(5.0)) / snr
    assert torch.allclose(noise.min_snr_weights(steps, 5.0).double(), expected, rtol=1e-4)
    expected = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)
    assert torch.allclose(velocity.min_snr_weights(steps, 5.0).double(), expected, rtol=1e-4)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 12.0])
def test_a_level_of_flow_matching_and_its_share_of_noise_are_inverse(shift: float) -> None:
    for level in (0.01, 0.3, 0.5, 0.9, 0.99):
        sigma = float(sigmas_at(torch.tensor([level]), shift=shift))
        assert level_at(sigma, shift=shift) == pytest.approx(level, abs=1e-4)


def test_a_higher_shift_trains_on_more_noise() -> None:
    levels = torch.linspace(0.05, 0.95, 7)
    assert (sigmas_at(levels, shift=3.0) > sigmas_at(levels, shift=1.0)).all()


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_each_expert_is_asked_only_for_its_share_of_noise(
    level: float, bases: Callable[[str], Path]
) -> None:
    recipe = load_recipe("wan", opened("wan", bases("wan with two experts")))
    low, high = recipe.experts()
    assert [one.part.name for one in (low, high)] == ["low-noise", "high-noise"]
    seen: dict[str, float] = {}
    for one in (low, high):
        denoiser = one.load_denoiser(device=CPU, dtype=torch.float32)
        denoiser.register_forward_pre_hook(
            lambda _module, _args, given, name=one.part.name: seen.update(
                {name: float(given["timestep"]) / 1000}
            ),
            with_kwargs=True,
        )
        one.losses(denoiser, _batch(level), settings=LossSettings(), generator=torch.Generator())
    assert seen["low-noise"] <= 0.8751
    assert seen["high-noise"] >= 0.8749


def test_sdxl_is_told_sizes_to_the_pixel_whatever_the_precision(
    bases: Callable[[str], Path],
) -> None:
    recipe = load_recipe("sdxl", opened("sdxl", bases("sdxl")))
    denoiser = recipe.load_denoiser(device=CPU, dtype=torch.bfloat16)
    told: list[torch.Tensor] = []
    denoiser.register_forward_pre_hook(
        lambda _module, _args, given: told.append(given["added_cond_kwargs"]["time_ids"]),
        with_kwargs=True,
    )
    sizes = torch.tensor([[1365, 1023, 3, 5, 1025, 767]])
    config: Any = denoiser.config
    batch = Batch(
        moments=torch.zeros(1, 8, 8, 8),
        text={
            "hidden_states": torch.zeros(1, 77, config["cross_attention_dim"]),
            "pooled": torch.zeros(
                1,
                config["projection_class_embeddings_input_dim"]
                - 6 * config["addition_time_embed_dim"],
            ),
        },
        geometry=sizes,
        levels=torch.tensor([0.5]),
    )
    with torch.autocast("cpu", torch.bfloat16):
        recipe.losses(denoiser, batch, settings=LossSettings(), generator=torch.Generator())
    assert told[0].tolist() == sizes.tolist()


def _batch(level: float) -> Batch:
    return Batch(
        moments=torch.zeros(1, 8, 1, 8, 8),
        text={"hidden_states": torch.zeros(1, 16, 32)},
        geometry=torch.zeros(1, 6, dtype=torch.int64),
        levels=torch.tensor([level]),
    )


def _link(source: Path, target: Path) -> None:
    """The same files without copying weights, configs as files of their own."""
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                place.write_bytes(path.read_bytes())
            else:
                place.symlink_to(path)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
