from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_language_models import save_blip, save_llama, save_llava
from transformers import AutoModelForImageTextToText, AutoProcessor

from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.features.captioners import LocalCaptioner, Outcome, Task, in_one_line, open_image

PROMPTS = ["a red chair?", "what is it of wood or glass?", "blue?", "a red chair?", "a lamp"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioners")
    save_llava(folder / "llava")
    save_llava(folder / "no-template", chat_template=None)
    save_blip(folder / "blip")
    for number, color in enumerate(("red", "green", "blue", "white", "black")):
        Image.new("RGB", (30 + 10 * number, 40), color).save(folder / f"{number}.png")
    return folder


def described(captioner: LocalCaptioner, tasks: list[Task]) -> dict[int | str, Outcome]:
    outcomes: list[Outcome] = []
    captioner.caption(iter(tasks), outcomes.append)
    assert len(outcomes) == len(tasks)
    return {outcome.task.item: outcome for outcome in outcomes}


def tasks_of(root: Path) -> list[Task]:
    return [Task(number, str(root / f"{number}.png"), prompt, {}) for number, prompt in enumerate(PROMPTS)]


@torch.no_grad()
def alone(processor: Any, network: Any, model: str, task: Task) -> str:
    """Caption by transformers itself, for one image."""
    image = Image.open(task.path).convert("RGB")
    if model == "llava":
        content = [{"type": "image", "image": image}, {"type": "text", "text": task.prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    else:
        text = f"<image>\n{task.prompt}" if model == "no-template" else task.prompt
        inputs = processor(images=image, text=text, return_tensors="pt")
    # BLIP removes the end of the prompt.
    given = inputs["input_ids"].size(1) - (model == "blip")
    tokens = network.generate(**inputs, do_sample=False, max_new_tokens=6)[0, given:]
    return in_one_line(processor.tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("model", ["llava", "no-template", "blip"])
def test_captions_are_those_of_transformers(model: str, root: Path) -> None:
    processor = AutoProcessor.from_pretrained(root / model, backend="pil")
    network = AutoModelForImageTextToText.from_pretrained(root / model)
    expected = [alone(processor, network, model, task) for task in tasks_of(root)]
    for batch_size in (1, 2, 5):
        outcomes = described(LocalCaptioner(str(root / model), batch_size, max_new_tokens=6), tasks_of(root))
        assert [outcomes[number].caption for number in range(5)] == expected
        assert all(outcome.cut for outcome in outcomes.values())


def test_images_and_prompts_fail_one_by_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "broken.png").write_bytes((root / "0.png").read_bytes()[:50])
    tasks = [
        *tasks_of(root)[:2],
        Task("broken", str(root / "broken.png"), "a", {}),
        Task("no", str(root / "no.png"), "a", {}),
        # The model's token of an image, without a second image.
        Task("odd", str(root / "0.png"), "a <image> more", {}),
    ]
    captioner = LocalCaptioner(str(root / "llava"), 4, max_new_tokens=4)
    outcomes = described(captioner, tasks)
    assert {item for item, outcome in outcomes.items() if outcome.caption is None} == {"broken", "no", "odd"}
    assert "cannot be read" in str(outcomes["broken"].reason)
    assert outcomes["no"].reason == "there is no such file"
    assert "the model fails" in str(outcomes["odd"].reason)
    assert [outcomes[item].blame for item in ("broken", "odd")] == ["image", "model"]

    def generate(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(captioner, "_generate", generate)
    with pytest.raises(RunError, match="smaller `caption_concurrency`"):
        described(captioner, tasks)


def test_models_of_another_kind_are_named(root: Path, tmp_path: Path) -> None:
    save_llama(tmp_path / "causal")
    (tmp_path / "empty").mkdir()
    for kind in ("causal", "empty"):
        with pytest.raises(ConfigError, match="Cannot load the model") as refused:
            LocalCaptioner(str(tmp_path / kind))
        assert str(tmp_path) in str(refused.value)


def test_the_description_distinguishes_models(root: Path) -> None:
    one, other = (LocalCaptioner(str(root / name)).describe() for name in ("llava", "no-template"))
    assert one["architecture"] == "LlavaForConditionalGeneration"
    assert one["revision"] != other["revision"]


def test_a_caption_is_one_line_of_valid_text() -> None:
    for text, line in {
        " a\n chair\t\r\n": "a chair",
        "<think>hm</think> a chair": "a chair",
        "<think>never ends": "",
        "a <think>chair": "a <think>chair",
        "\ud800\0": "?",
    }.items():
        assert in_one_line(text) == line
    assert len(in_one_line("x " * 100_000)) < 10_100


def test_images_of_any_mode_become_rgb(tmp_path: Path) -> None:
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16"):
        path = tmp_path / f"image.{'tiff' if mode in ('CMYK', 'I;16') else 'png'}"
        Image.new(mode, (50, 20)).save(path)
        image = open_image(str(path), 25)
        assert (image.mode, image.size) == ("RGB", (25, 10))
