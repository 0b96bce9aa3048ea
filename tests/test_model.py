"""The torch model computes what the authors' code computes."""

import numpy as np
import pytest
import torch
from conftest import CHECKPOINTS, GOLDEN, golden_json

from sdk.errors import CheckpointError
from trainer.model.emola import new_projector


def evaluation(name):
    """(record, pixel values, landmarks, golden logits) of four faces x two tasks."""
    logits = np.load(GOLDEN / f"golden_logits_{name}.npz")
    pixels = np.load(GOLDEN / "golden_eval_pixels.npz")
    for record in golden_json(f"golden_eval_{name}.json"):
        face = record["image"].split("/")[-1].removesuffix(".png")
        landmarks = np.load(GOLDEN / "data" / record["landmark"])
        key = next(key for key in logits if key.split("_")[0] == str(int(face)) and key.endswith(record["task"]))
        yield record, torch.from_numpy(pixels[f"eval_{face}"]), torch.from_numpy(landmarks), logits[key]


@pytest.mark.parametrize("lora", ["merged", "live"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_and_greedy_tokens(emola, name, lora):
    """Logits within 1e-4 and 24 greedy tokens equal, 8 of 8; Hugging Face's generate is the decoder."""
    model = emola(name, lora)
    for record, pixels, landmarks, expected in evaluation(name):
        ids = torch.tensor([record["input_ids"]])
        with torch.inference_mode():
            logits = model(ids, pixels[None], landmarks[None])
            fused = model.fuse(ids, model.encode(pixels[None], landmarks[None]))
            tokens = model.language_model.generate(
                inputs_embeds=fused.embeds,
                attention_mask=fused.attention_mask.long(),
                do_sample=False,
                max_new_tokens=24,
                eos_token_id=None,
            )
        assert logits.shape[1] == record["sequence_length"]
        np.testing.assert_allclose(logits[0, -4:].numpy(), expected, atol=1e-4)
        assert tokens[0].tolist() == record["greedy_ids"]


def test_a_padded_batch_equals_single_records(emola):
    """Two records of different length: logits within 1e-5, loss is the mean over all trained tokens."""
    model = emola("trained")
    records = golden_json("golden_train_tokens.json")[:2]
    pixels = torch.randn(2, 3, 56, 56)
    landmarks = torch.randn(2, 212)
    longest = max(len(record["input_ids"]) for record in records)

    def batch(key, fill):
        return torch.tensor([record[key] + [fill] * (longest - len(record[key])) for record in records])

    ids, labels = batch("input_ids", 0), batch("labels", -100)
    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in records])
    with torch.inference_mode():
        together = model(ids, pixels, landmarks, attention_mask=mask, labels=labels)
        losses, counts = [], []
        for index, record in enumerate(records):
            one = torch.tensor([record["input_ids"]])
            target = torch.tensor([record["labels"]])
            alone = model(one, pixels[index, None], landmarks[index, None], labels=target)
            length = alone.logits.shape[1]
            torch.testing.assert_close(together.logits[index, :length], alone.logits[0], atol=1e-5, rtol=0)
            counts.append(int((target != -100).sum()))
            losses.append(float(alone.loss))
    assert float(together.loss) == pytest.approx(np.average(losses, weights=counts), abs=1e-5)


def test_long_sequences_are_cut_at_the_trained_length(emola):
    model = emola("trained")
    ids = torch.tensor([[1, -200] + [5] * 3000])
    fused = model.fuse(ids, torch.zeros(1, 17, 64))
    assert fused.embeds.shape == (1, model.config.max_length, 64)


def test_a_record_has_one_image(emola):
    with pytest.raises(ValueError, match="expected one image token"):
        emola("trained").fuse(torch.tensor([[1, 2, 3]]), torch.zeros(1, 17, 64))


def test_projectors():
    assert len(new_projector("mlp3x_gelu", 4, 8)) == 5
    assert len(new_projector("linear", 4, 8)) == 1
    with pytest.raises(CheckpointError, match="mm_projector_type 'qformer'"):
        new_projector("qformer", 4, 8)
