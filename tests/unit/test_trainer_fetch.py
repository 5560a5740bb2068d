"""What is refused from the listing alone, before a byte is fetched."""

from pathlib import Path

import pytest

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError
from lora_trainer.fetch import fetch_files
from lora_trainer.storage import StoredFile
from lora_trainer.storage.local import LocalStorage

UNSAFE_NAMES = {
    "an absolute path": "/abs",
    "a way out": "a/../../b",
    "an empty part": "a//b",
    "the folder itself": "a/./b",
    "a zero byte": "a\0b",
    "a part of 250 bytes": f"a/{'n' * 250}/b",
    "250 bytes in 125 letters": "ü" * 125,
}


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_an_object_whose_name_is_no_path_below_the_folder_is_refused(
    name: str, tmp_path: Path
) -> None:
    storage = LocalStorage(f"file://{tmp_path}/there", field="dataset.uri")
    files = [StoredFile("good.png", 1, "t"), StoredFile(UNSAFE_NAMES[name], 1, "t")]
    with pytest.raises(TrainerError, match=r"dataset\.uri.*rename or remove") as caught:
        fetch_files(
            storage,
            files,
            tmp_path / "here",
            unsafe=Reason.INVALID_IMAGES,
            advance=lambda _done, _total: None,
        )
    assert caught.value.reason is Reason.INVALID_IMAGES
    assert repr(UNSAFE_NAMES[name])[:200] in caught.value.message
    assert list(tmp_path.iterdir()) == []
