"""A base model made from rendered faces: its parts learn, and the path from it to a bundle works."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from made_up_renders import write_made_up_renders
from PIL import Image

from export.networks import check_landmark_model, licence_of
from sdk.analyzer import Analyzer
from sdk.cli import main
from sdk.errors import DataError
from sdk.faces.preprocess import align_face
from sdk.runtime.backends.ort import OrtEncoder
from trainer.checkpoint import Checkpoint
from trainer.model.config import ImageStatistics
from trainer.pretrain.base import pretrain
from trainer.pretrain.landmark_network import landmark_error, train_landmark_network, write_landmark_network
from trainer.pretrain.muon import Muon
from trainer.pretrain.points import cell_centres, count_votes
from trainer.pretrain.renders import Renders, batches, mean_anchors, read_renders
from trainer.pretrain.shape import nano_config
from trainer.pretrain.tower import TowerRecipe, TowerTask, pretrain_tower, score_tower
from trainer.tokenization import load_tokenizer

FAST = TowerRecipe(epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_made_up_renders(tmp_path_factory.mktemp("renders") / "train", 64)


@pytest.fixture(scope="module")
def renders(folder):
    return read_renders(folder)


@pytest.fixture(scope="module")
def base(folder):
    out = folder.parent / "base"
    pretrain(folder, out, evaluation=folder, recipe=FAST, landmark_epochs=1, vocabulary=600)
    return out


def test_training_and_runtime_align_faces_alike(renders):
    """The tower is trained on the pictures that the runtime gives it, except for rounding."""
    anchors = mean_anchors(renders)
    ours = next(batches(renders, 112, len(renders), torch.Generator().manual_seed(0), anchors=anchors, jitter=0))
    order = torch.randperm(len(renders), generator=torch.Generator().manual_seed(0))
    for index in range(4):
        picture = renders.pixels[order[index]].permute(1, 2, 0).numpy()
        points = (renders.points[order[index]].numpy() + 1) * picture.shape[0] / 2
        found = align_face(picture, points, anchors, 112).astype(np.float32)
        expected = 255 * ours.pictures[index].permute(1, 2, 0).numpy()
        difference = np.abs(found - expected)[4:-4, 4:-4]
        assert difference.mean() < 3, f"mean difference {difference.mean():.2f} grey levels"
        wanted = np.array([anchor[1:] for anchor in anchors])
        placed = ours.points[index][[anchor[0] for anchor in anchors]].numpy()
        assert np.abs(placed - wanted).max() < 1e-3


def test_aligning_undoes_a_turn(astronaut):
    """A photograph that is turned and scaled gives the same aligned face."""
    anchors = ((0, -0.4, -0.3), (1, 0.4, -0.3), (2, 0.0, 0.1))
    points = np.array([[205.0, 105.0], [245.0, 100.0], [226.0, 128.0]], np.float32)
    upright = align_face(astronaut, points, anchors, 112)
    angle, middle = np.radians(25), np.array([256.0, 256.0])
    turned = Image.fromarray(astronaut).rotate(-25, Image.Resampling.BICUBIC)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = align_face(np.asarray(turned), ((points - middle) @ turn.T + middle).astype(np.float32), anchors, 112)
    difference = np.abs(found.astype(int) - upright)
    assert difference.mean() < 4, f"mean difference {difference.mean():.1f} grey levels"


def test_heat_maps_name_the_patch_of_a_point():
    task = TowerTask(nano_config().vision, ImageStatistics())
    cells = task.patch_shares(torch.tensor([[[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]]))[0]
    torch.testing.assert_close(cells.sum(dim=1), torch.ones(3))
    assert [int(row.argmax()) for row in cells] == [0, 24, 48]


def test_where_all_vote_for_a_point_it_is():
    """With one deciding cell, the point is the centre of the cell plus its offset."""
    said = torch.zeros(1, 3 * 106, 49)
    said[0, 5, 10], said[0, 106 + 5, 10], said[0, 212 + 5, 10] = 40.0, 0.02, -0.01
    _, points = count_votes(said, cell_centres(7).flatten(0, 1).T)
    torch.testing.assert_close(points[0, 5], torch.tensor([3.5 / 7 * 2 - 1 + 0.02, 1.5 / 7 * 2 - 1 - 0.01]))
    torch.testing.assert_close(points[0, 6], torch.zeros(2))


def test_a_set_is_read_once_and_whole(tmp_path):
    """Pictures are not held twice; a file cut short, landmarks of other faces and a missing picture are named."""
    folder = write_made_up_renders(tmp_path / "set", 96)
    read_renders(folder)  # imports what decodes pictures
    tracemalloc.start()
    pixels = read_renders(folder).pixels
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * pixels.numel(), f"{peak} bytes for {pixels.numel()}"
    points = np.load(folder / "points.npy")
    np.save(folder / "points.npy", points[:-1])
    with pytest.raises(
        DataError, match=r"incomplete: 96 faces in metadata\.jsonl, points\.npy of shape \(95, 106, 2\)"
    ):
        read_renders(folder)
    np.save(folder / "points.npy", points)
    for name in ("points.npy", "metadata.jsonl"):
        whole = (folder / name).read_bytes()
        for cut in (whole[:-9], b"", b"PK", b"null"):
            (folder / name).write_bytes(cut)
            with pytest.raises(DataError, match=r"is incomplete: |metadata\.jsonl is not JSONL \(line "):
                read_renders(folder)
        (folder / name).write_bytes(whole)
    (folder / "images/000003.jpg").unlink()
    with pytest.raises(DataError, match=r"incomplete: .*000003\.jpg"):
        read_renders(folder)


def test_half_of_the_pictures_are_mirrored():
    """In training, pictures and points are mirrored together: bright halves and drooping brows change sides."""
    points = torch.zeros(64, 106, 2)
    points[:, 36], points[:, 45] = torch.tensor([-0.5, 0.3]), torch.tensor([0.5, -0.3])
    pixels = torch.zeros(64, 3, 192, 192, dtype=torch.uint8)
    pixels[..., 96:] = 255
    renders = Renders(pixels, points, torch.zeros(64, 20), torch.zeros(64, dtype=torch.long))
    batch = next(batches(renders, 112, 64, torch.Generator().manual_seed(0)))
    left, right = (half.mean(dim=(1, 2, 3)) for half in batch.pictures.split(56, dim=3))
    mirrored = left > right
    assert 16 < mirrored.sum() < 48, f"{mirrored.sum()} of 64 are mirrored"
    assert torch.equal(batch.points[:, 45, 1] > batch.points[:, 36, 1], mirrored)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 or later has Muon")
def test_muon_steps_as_the_one_of_torch():
    """Ten steps of wide, tall and square matrices, within the accuracy of bfloat16, which torch's version uses."""
    torch.manual_seed(0)
    starts = [torch.randn(shape) for shape in ((8, 8), (8, 24), (24, 8), (8, 8))]
    ours, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    optimizers = [
        Muon(ours, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for step in range(10):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(step))
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for start, one, other in zip(starts, ours, theirs, strict=True):
        moved, apart = (other - start).norm(), (one - other).norm()
        assert apart < 0.03 * moved, f"{one.shape}: {apart:.4f} apart after {moved:.3f}"


def test_the_tower_learns(renders):
    """After a few hundred steps on 64 faces the tower recognises the smile and finds the points."""
    config, anchors = nano_config().vision, mean_anchors(renders)
    recipe = TowerRecipe(epochs=40, batch_size=16)
    torch.manual_seed(0)
    before = score_tower(TowerTask(config, ImageStatistics()).eval(), renders, anchors)
    task = pretrain_tower(renders, anchors, config, ImageStatistics(), recipe, lambda row: None)
    after = score_tower(task, renders, anchors)
    assert after["emotion accuracy"] > 95, after
    assert after["landmark error"] < before["landmark error"] / 2, (before, after)


def test_the_tower_learns_the_same_in_bfloat16(renders):
    """With attention as matrix products (`attend_plainly`), losses after four steps are within 2 %."""
    config, anchors, losses = nano_config().vision, mean_anchors(renders), []
    batch = next(batches(renders, 112, len(renders), torch.Generator().manual_seed(0), anchors=anchors, jitter=0))
    for bfloat16, attention in ((False, "sdpa"), (True, "eager")):
        recipe = TowerRecipe(epochs=1, batch_size=16, bfloat16=bfloat16)
        task = pretrain_tower(renders, anchors, config, ImageStatistics(), recipe, lambda row: None)
        assert task.tower.config._attn_implementation == attention
        with torch.inference_mode():
            losses.append(task.loss(batch).item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_landmark_network_learns_and_is_exported(renders, tmp_path):
    """The error falls, and the ONNX file gives the outputs of torch on the input of 2d106det."""
    anchors = mean_anchors(renders)
    before = landmark_error(train_landmark_network(renders, anchors, epochs=0, log=lambda row: None), renders)
    network = train_landmark_network(renders, anchors, epochs=120, log=lambda row: None)
    after = landmark_error(network, renders)
    assert after < before / 4, f"{before:.1f} % -> {after:.1f} % of the side"
    path = tmp_path / "landmark.onnx"
    write_landmark_network(network, path)
    check_landmark_model(path, 212)
    assert "Apache-2.0" in licence_of(path, "landmark").licence
    pixels = torch.nn.functional.interpolate(renders.pixels[:3].float(), 192)
    with torch.inference_mode():
        expected = network(pixels).numpy()
    np.testing.assert_allclose(OrtEncoder(path)(pixels.numpy()), expected, atol=1e-4)


def test_a_base_is_a_complete_checkpoint(base, folder):
    """The base holds everything that training needs; phrases of the answers are few tokens, other text is preserved."""
    checkpoint = Checkpoint(None, base)
    assert checkpoint.conventions.image_aspect == "align"
    assert "rendered faces" in checkpoint.conventions.notice
    tokenizer = load_tokenizer(base)
    answer = json.loads((folder / "train_emotion_anno.json").read_text())[1]["conversations"][1]["value"]
    assert len(tokenizer.encode(answer)) <= 4, tokenizer.encode(answer, out_type=str)
    assert tokenizer.decode(tokenizer.encode("naïve 😀 AU99")) == "naïve 😀 AU99"
    card = json.loads((base / "pretraining.json").read_text())
    assert {"tower", "landmark error %", "recipe"} <= card.keys()


def test_the_whole_path(base, folder, tmp_path, capsys):
    """landmarks -> train -> evaluate -> export -> analyze by the commands of `make nano`, on made-up faces."""
    evaluation = write_made_up_renders(folder.parent / "eval", 8, seed=3, split="eval")
    network = str(base / "landmark.onnx")
    for part in (folder, evaluation):
        files = sorted(map(str, part.glob("*_anno.json")))
        assert main(["data", "landmarks", *files, "--network", network, "--replace", "--face-scale", "1.5"]) == 0
    model, bundle = str(tmp_path / "model"), str(tmp_path / "bundle")
    data = [argument for path in sorted(folder.glob("*_anno.json")) for argument in ("--data", str(path))]
    recipe = ["--tune", "everything", "--max-steps", "2", "--batch-size", "4", "--workers", "0", "--no-checkpointing"]
    assert main(["train", "--base", str(base), *data, "--output", model, *recipe]) == 0
    scores = ["--data", str(evaluation / "eval_au_anno.json"), "--task", "au", "--max-new-tokens", "4", "--limit", "2"]
    assert main(["evaluate", model, *scores, "--output", str(tmp_path / "scores")]) == 0
    assert main(["export", "none", bundle, "--base", model, "--landmark-model", network, "--quantize", "none"]) == 0
    capsys.readouterr()
    with_face = evaluation / "images" / "000001.jpg"
    analysis = Analyzer(bundle).analyze(with_face, faces="aligned", max_new_tokens=4)
    assert analysis.model.notice == Checkpoint(None, base).conventions.notice
    assert len(analysis.faces[0].landmarks) == 106


def test_bad_input(folder, base, tmp_path):
    with pytest.raises(DataError, match=r"expected metadata.jsonl and points.npy"):
        pretrain(tmp_path, tmp_path / "base", recipe=FAST)
    with pytest.raises(DataError, match="exists already"):
        pretrain(folder, base, recipe=FAST)
    with pytest.raises(DataError, match="128 records are too few for a tokenizer of 1024 pieces; render more faces"):
        pretrain(folder, tmp_path / "base", recipe=FAST)
    assert list(tmp_path.iterdir()) == []
