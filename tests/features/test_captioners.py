from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_language_models import save_blip, save_llama, save_llava
from transformers import AutoModelForImageTextToText, AutoProcessor

from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.features.captioners import LocalCaptioner, Outcome, Task, in_one_line, open_picture

PROMPTS = ["a red chair?", "what is it of wood or glass?", "blue?", "a red chair?", "a lamp"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioners")
    save_llava(folder / "llava")
    save_llava(folder / "no-template", chat_template=None)
    save_blip(folder / "blip")
    for number, colour in enumerate(("red", "green", "blue", "white", "black")):
        Image.new("RGB", (30 + 10 * number, 40), colour).save(folder / f"{number}.png")
    return folder


def described(captioner: LocalCaptioner, tasks: list[Task]) -> dict[int | str, Outcome]:
    outcomes: list[Outcome] = []
    captioner.caption(iter(tasks), outcomes.append)
    assert len(outcomes) == len(tasks)
    return {outcome.task.item: outcome for outcome in outcomes}


def tasks_of(root: Path) -> list[Task]:
    return [Task(number, str(root / f"{number}.png"), prompt, "") for number, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module", params=["llava", "no-template", "blip"])
def expected(request: pytest.FixtureRequest, root: Path) -> tuple[str, list[str]]:
    """What transformers itself makes of the pictures, one by one."""
    model = request.param
    processor = AutoProcessor.from_pretrained(root / model, backend="pil")
    network = AutoModelForImageTextToText.from_pretrained(root / model)
    return model, [by_hand(processor, network, model, task) for task in tasks_of(root)]


@torch.no_grad()
def by_hand(processor: Any, network: Any, model: str, task: Task) -> str:
    picture = Image.open(task.path).convert("RGB")
    if model == "llava":
        content = [{"type": "image", "image": picture}, {"type": "text", "text": task.prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    else:
        text = f"<image>\n{task.prompt}" if model == "no-template" else task.prompt
        inputs = processor(images=picture, text=text, return_tensors="pt")
    # BLIP takes the end of the prompt away before it goes on.
    given = inputs["input_ids"].size(1) - (model == "blip")
    tokens = network.generate(**inputs, do_sample=False, max_new_tokens=6)[0, given:]
    return in_one_line(processor.tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_captions_are_those_of_transformers(batch_size: int, expected: tuple[str, list[str]], root: Path) -> None:
    model, captions = expected
    outcomes = described(LocalCaptioner(str(root / model), batch_size, max_new_tokens=6), tasks_of(root))
    assert [outcomes[number].caption for number in range(5)] == captions
    assert all(outcome.cut for outcome in outcomes.values())


def test_a_picture_that_can_not_be_read_takes_none_of_its_batch_along(root: Path) -> None:
    (root / "broken.png").write_bytes((root / "0.png").read_bytes()[:50])
    tasks = [
        *tasks_of(root)[:2],
        Task("broken", str(root / "broken.png"), "a", ""),
        Task("no", str(root / "no.png"), "a", ""),
    ]
    outcomes = described(LocalCaptioner(str(root / "llava"), 4, max_new_tokens=4), tasks)
    assert [outcome.caption is not None for outcome in outcomes.values()].count(True) == 2
    assert "can't be read" in str(outcomes["broken"].reason)
    assert outcomes["no"].reason == "there is no such file"
    assert not outcomes["broken"].blame


def test_a_prompt_that_the_model_does_not_take_fails_by_itself(root: Path) -> None:
    # The model's token for a picture, where there is no second picture.
    tasks = [*tasks_of(root)[:3], Task("odd", str(root / "0.png"), "a <image> more", "")]
    outcomes = described(LocalCaptioner(str(root / "llava"), 4, max_new_tokens=4), tasks)
    assert [item for item, outcome in outcomes.items() if outcome.caption is None] == ["odd"]
    assert outcomes["odd"].blame
    assert "the model fails" in str(outcomes["odd"].reason)


@pytest.mark.parametrize("kind", ["empty", "causal"])
def test_a_folder_without_such_a_model_is_named(kind: str, tmp_path: Path) -> None:
    if kind == "causal":
        save_llama(tmp_path)
    with pytest.raises(ConfigError, match="--caption") as refused:
        LocalCaptioner(str(tmp_path))
    assert str(tmp_path) in str(refused.value)


def test_the_description_tells_models_apart(root: Path) -> None:
    one, other = (LocalCaptioner(str(root / name)).describe() for name in ("llava", "no-template"))
    assert one["architecture"] == "LlavaForConditionalGeneration"
    assert one["revision"] != other["revision"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a\n chair\t\r\n", "a chair"),
        ("<think>hm</think> a chair", "a chair"),
        ("<think>never ends", ""),
        ("a <think>chair", "a <think>chair"),
        ("\ud800\0", "?"),
    ],
)
def test_a_caption_is_one_line_that_can_be_written(text: str, line: str) -> None:
    assert in_one_line(text) == line
    assert len(in_one_line("x " * 100_000)) < 10_100


def test_a_huge_picture_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (200, 100)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(DataError, match="more than 10000"):
        open_picture(str(tmp_path / "huge.png"), 64)


def test_only_pictures_are_opened(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(DataError, match=r"can't be read \(cannot identify image file 'page\.png'\)"):
        open_picture(str(tmp_path / "page.png"), 64)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{'tiff' if mode in ('CMYK', 'I;16') else 'png'}"
    Image.new(mode, (50, 20)).save(path)
    picture = open_picture(str(path), 25)
    assert (picture.mode, picture.size) == ("RGB", (25, 10))
