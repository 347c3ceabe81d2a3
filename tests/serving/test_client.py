"""`whale-ray identify URL`: a running service is asked, and each answer says which photograph it is of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.errors import InputError
from whale_ray.serving.client import ask_service


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("one.jpg", "two.jpg")]
    for shade, path in enumerate(paths):
        Image.new("RGB", (64, 48), (40 + 100 * shade, 90, 120)).save(path)
    return paths


def test_each_answer_of_a_service_names_its_photograph(plain: str, photographs: list[Path]) -> None:
    result = CliRunner().invoke(application, ["identify", plain, *map(str, photographs), "--top", "2"])
    assert result.exit_code == 0, result.output
    answers = [json.loads(line) for line in result.output.splitlines()]
    assert [answer["filename"] for answer in answers] == [str(path) for path in photographs]
    assert all(len(answer["candidates"]) == 2 for answer in answers)


def test_a_refusal_names_the_photograph_and_the_remedy(plain: str, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("a text")
    with pytest.raises(InputError, match=r"refuses .*text\.jpg"):
        ask_service(plain, [tmp_path / "text.jpg"])
    with pytest.raises(InputError, match=r"nothing\.jpg must be a readable file"):
        ask_service(plain, [tmp_path / "nothing.jpg"])
