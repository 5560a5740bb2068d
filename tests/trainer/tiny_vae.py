"""The VAE of pictures in miniature, with random weights, for the families that have one."""

from pathlib import Path

from diffusers import AutoencoderKL


def make_vae(folder: Path, **settings: float) -> None:
    """Write the VAE of a base model; the same bytes each time, after the same random numbers.

    Args:
        folder: The base model's.
        settings: What the family has otherwise than Stable Diffusion 1.5.
    """
    AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        **settings,
    ).save_pretrained(folder / "vae")
