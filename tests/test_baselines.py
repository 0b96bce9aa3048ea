"""Baselines on our harness: plain LLaVA-1.5, a tuned decoder, other questions and conventions; the prior's place."""

import json
import shutil
from pathlib import Path

import pytest
from chat_server import chat_server, completion
from conftest import GOLDEN
from training import emola_train, write_records

pytest.importorskip("torch")

import torch
from tiny_llava import transformers_llava

from sdk.cli import main
from sdk.faba.prompts import QUESTIONS, TEMPLATES
from trainer.checkpoint import Checkpoint, is_plain_llava, load_emola, plain_llava
from trainer.corpus.records import Record
from trainer.corpus.tensors import Encoding
from trainer.evaluation.answerers import TorchAnswerer
from trainer.evaluation.evaluate import read_answers
from trainer.model.processor import Arithmetic
from trainer.tokenization import load_tokenizer, prompt_ids

LLAVA, CLIP = GOLDEN / "llava-base", GOLDEN / "clip"
ADAPTER = GOLDEN / "llava-lora-emola-trained"
FILES = ("--base", str(LLAVA), "--vision-tower", str(CLIP))


@pytest.fixture
def data(tmp_path) -> Path:
    """Three faces whose landmark files do not exist."""
    rows = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text())[:3]
    content = [{"image": row["image"], "landmark": "none.npy", "label": 0, "gpt4": "A happy face."} for row in rows]
    path = tmp_path / "eval_emotion_anno.json"
    path.write_text(json.dumps(content))
    return path


def evaluate(data: Path, output: Path, *options: str) -> dict[int, str]:
    files = ("--data", str(data), "--root", str(GOLDEN / "data"), "--output", str(output))
    assert main(["evaluate", *options, *files, "--task", "emotion", "--max-new-tokens", "6"]) == 0
    return read_answers(output / "predictions.jsonl")


def with_landmarks(data: Path) -> Path:
    rows = json.loads(data.read_text())
    for row in rows:
        row["landmark"] = row["image"].replace("images", "landmarks").replace(".png", ".npy")
    data.write_text(json.dumps(rows))
    return data


def test_plain_llava_is_that_of_transformers(data):
    """The next words of transformers' LlavaForConditionalGeneration on the same pixels; no landmark file is read."""
    assert is_plain_llava(LLAVA)
    checkpoint = plain_llava(LLAVA, CLIP)
    image = json.loads(data.read_text())[0]["image"]
    record = Record("0", GOLDEN / "data", image, "none.npy", QUESTIONS["emotion"], "", 0)
    answerer = TorchAnswerer(checkpoint, Arithmetic(torch.float32, "cpu"), 1, 6)
    tokenizer = load_tokenizer(LLAVA)
    encoding = Encoding(checkpoint.config, checkpoint.conventions, checkpoint.statistics, tokenizer)
    ids = prompt_ids(tokenizer, TEMPLATES["vicuna_v1"].prompt(record.question))
    image_token = next(i for i in range(checkpoint.config.text.vocab_size - 1, 0, -1) if i not in ids)
    rows = checkpoint.config.image_rows
    expanded = [token for i in ids for token in ([image_token] * rows if i < 0 else [i])]
    output = transformers_llava(checkpoint, image_token).generate(
        input_ids=torch.tensor([expanded]),
        pixel_values=encoding.pixels(record)[None],
        attention_mask=torch.ones(1, len(expanded), dtype=torch.long),
        do_sample=False,
        max_new_tokens=6,
        eos_token_id=tokenizer.eos_id(),
        pad_token_id=tokenizer.eos_id(),
    )
    expected = output[0, len(expanded) :].tolist()
    kept = expected[: expected.index(tokenizer.eos_id())] if tokenizer.eos_id() in expected else expected
    assert answerer.answer([record]) == [str(tokenizer.decode(kept)).strip()]


def test_plain_llava_is_evaluated_without_landmark_files(data, tmp_path):
    """By the same command as a checkpoint, with LLaVA's question format; another question is another run."""
    answers = evaluate(data, tmp_path / "run", str(LLAVA), "--vision-tower", str(CLIP))
    assert len(answers) == 3
    asked = ("--question", "Which emotion does this face show?")
    evaluate(data, tmp_path / "asked", str(LLAVA), "--vision-tower", str(CLIP), *asked)
    models = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("run", "asked")]
    assert models[1]["model"] == models[0]["model"] + ", asked 'Which emotion does this face show?'"
    assert models[0]["data"] == models[1]["data"], "the two runs are of one set and can be compared"


def test_an_endpoint_gets_the_question(data, tmp_path):
    with chat_server(lambda request: (200, {}, completion("happy"))) as (url, requests):
        evaluate(data, tmp_path / "run", "--endpoint", url, "--model", "seer", "--question", "Happy or sad?")
    assert len(requests) == 3
    assert all("Happy or sad?" in str(request) for request in requests)


def test_the_conventions_of_an_evaluation_can_be_chosen(data, tmp_path):
    """--template and --image-aspect give the answers of a checkpoint that records these conventions."""
    data = with_landmarks(data)
    recorded = tmp_path / "recorded"
    shutil.copytree(ADAPTER, recorded)
    card = {"template": "vicuna_v1", "image_aspect": "pad", "landmark_mode": "emola"}
    (recorded / "emola.json").write_text(json.dumps(card))
    options = ("--template", "vicuna_v1", "--image-aspect", "pad")
    chosen = evaluate(data, tmp_path / "chosen", str(ADAPTER), *FILES, *options)
    assert chosen == evaluate(data, tmp_path / "of-the-card", str(recorded), *FILES)
    assert json.loads((tmp_path / "chosen/run.json").read_text())["model"].endswith(", vicuna_v1, pad")


def test_a_bundle_keeps_its_conventions(data, tmp_path, capsys):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    command = ["evaluate", str(folder), "--data", str(data), "--root", str(GOLDEN / "data"), "--task", "emotion"]
    assert main([*command, "--output", str(tmp_path / "run"), "--template", "llava_v1"]) == 1
    assert "--template needs a checkpoint" in capsys.readouterr().err


def test_the_whole_decoder_is_tuned_and_clip_is_not(data, tmp_path):
    """`--tune decoder --tokens visual` writes a complete checkpoint: CLIP's weights are those of the base.

    The decoder does not see landmarks, so no landmark file is there.
    """
    records = tmp_path / "train_anno.json"
    rows = [{**row, "landmark": "none.npy"} for row in write_records(records)]
    records.write_text(json.dumps(rows))
    options = ("--tune", "decoder", "--tokens", "visual", "--max-steps", "3", "--batch-size", "2")
    assert emola_train(tmp_path / "run", *options, data=records) == 0
    before, after = plain_llava(LLAVA, CLIP), Checkpoint(None, tmp_path / "run")
    assert after.config.tokens == "visual"
    changed = {
        name.split(".")[0]
        for name, tensor in after.frozen.items()
        if not torch.equal(tensor.half(), before.frozen[name].half())
    }
    assert {"language_model", "mm_projector"} <= changed
    assert "vision_tower" not in changed
    assert len(evaluate(data, tmp_path / "answers", str(tmp_path / "run"))) == 3


def test_the_prior_can_come_before_the_picture(tmp_path, capsys):
    """The landmark row is the first of the rows; the adapter records it, and the export refuses it."""
    options = ("--prior-position", "before", "--max-steps", "1", "--batch-size", "2")
    assert emola_train(tmp_path / "run", *options) == 0
    model = load_emola(tmp_path / "run", LLAVA, CLIP)
    assert model.config.prior_position == "before"
    side = model.config.vision.image_size
    pixels, landmarks = torch.rand(1, 3, side, side), torch.rand(1, 212)
    with torch.inference_mode():
        rows = model.encode(pixels, landmarks)
        model.config.prior_position = "after"
        usual = model.encode(pixels, landmarks)
    assert torch.equal(rows, torch.cat([usual[:, -1:], usual[:, :-1]], dim=1))
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), *FILES]) == 1
    assert "the landmark row comes before the picture" in capsys.readouterr().err
