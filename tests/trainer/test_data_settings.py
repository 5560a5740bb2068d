"""What a job says of its data, through whole runs: shapes, mirror images, orders, clips."""

import json
from pathlib import Path
from typing import Any

from tests.datasets import a_picture, write_clip
from tests.trainer.jobs import AJob
from tests.trainer.tiny_wan import make_wan

from lora_api.exit_codes import ExitCode


def _report(job: AJob) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((job.output / "report.json").read_text())
    return report


def _shapes(folder: Path) -> Path:
    """Two wide pictures, two tall ones, one that is none."""
    folder.mkdir()
    for number, size in enumerate([(256, 128), (260, 130), (130, 260), (128, 256)]):
        a_picture(number, *size).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"zorp, {number}, red, round")
    (folder / "none.png").write_text("no picture")
    return folder


def test_a_run_trains_on_shapes_mirror_images_and_orders(job: AJob, tmp_path: Path) -> None:
    asked = (
        job.having("dataset.uri", f"file://{_shapes(tmp_path / 'shapes')}")
        .having("dataset.onInvalidFiles", "Skip")
        .having("dataset.flip", True)
        .having("dataset.shuffleCaptions", True)
        .having("dataset.repeats", 3)
        .having("dataset.minSidePixels", 64)
        .having("optimization.resolution", 192)
        .with_steps(6)
    )
    code, result = asked.run()
    assert code == ExitCode.OK, result.message
    report = _report(asked)
    crops = [(one["crop"]["width"], one["crop"]["height"]) for one in report["pictures"]]
    assert sorted(crops) == [(128, 256), (128, 256), (256, 128), (256, 128)]
    assert [one["file"] for one in report["skipped"]] == ["none.png"]
    # Three are trained on, each with its mirror image and six orders of words; one is held out.
    assert len(list(asked.workspace.glob("cache/latents/*"))) == 2 * 3 + 1
    assert len(list(asked.workspace.glob("cache/text/*"))) == 6 * 3 + 1 + len(["", "zorp"])
    plain = asked.having("dataset.flip", False).in_workspace("plain")
    assert plain.run()[0] == ExitCode.OK
    assert plain.model != asked.model


def test_wan_trains_on_clips_and_pictures_together(job: AJob, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(2):
        write_clip(folder / f"c{number}.mp4", frames=8 + number)
        a_picture(number, 96, 64).save(folder / f"p{number}.png")
    asked = (
        job.having("recipe", "wan")
        .having("baseModel.uri", f"file://{make_wan(tmp_path / 'wan')}")
        .having("dataset.uri", f"file://{folder}")
        .having("dataset.minSidePixels", 32)
        .having("dataset.frames", 9)
        .having("validation.heldOutImages", 0)
        .with_steps(4)
    )
    code, result = asked.run()
    assert code == ExitCode.OK, result.message
    assert sorted(one["frames"] for one in _report(asked)["pictures"]) == [1, 1, 5, 9]
