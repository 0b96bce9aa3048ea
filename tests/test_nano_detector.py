"""The project's own detector: its scenes are labelled right, it learns, and the runtime decodes its outputs."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from sdk.cli import main
from sdk.errors import BackendError
from sdk.faces import nano_detector
from sdk.faces.detect import ScrfdDetector, open_detector
from sdk.faces.detection import overlapping_groups
from sdk.faces.nano_detector import STRIDES, NanoDetector
from trainer.detector.batches import LEAST_SIDE, MOST_SIDE, Scenes, mirrored, windowed
from trainer.detector.heads import MOST_YAW, SIDE, HeadSet, render_head
from trainer.detector.loss import assign, decode, detection_loss, square_overlap
from trainer.detector.mining import MOST_IN_SCENE, false_faces
from trainer.detector.network import FaceNetwork
from trainer.detector.scenes import COLUMNS, SCENE, SceneComposer
from trainer.detector.train import write_detector
from trainer.synthetic.face_model import read_face_model
from trainer.synthetic.scene import Studio


@pytest.fixture(scope="module")
def heads(head):
    studio = Studio(read_face_model(head), SIDE)
    return [render_head(studio, np.random.default_rng(seed)) for seed in range(12)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Plain pictures without faces, and a cut-out disc."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, colour in enumerate(((200, 180, 90), (40, 90, 60))):
        Image.new("RGB", (400, 300), colour).save(folder / f"{index}.jpg")
    disc = Image.new("RGBA", (80, 80))
    disc.paste((90, 20, 160, 255), (20, 20, 60, 60))
    disc.save(folder / "disc.png")
    return folder


@pytest.fixture(scope="module")
def scenes(heads, pictures):
    boxes, points = np.stack([head.box for head in heads]), np.stack([head.points for head in heads])
    found = HeadSet([np.stack([head.pixels for head in heads])], boxes, points, np.array([head.yaw for head in heads]))
    composer = SceneComposer(found, pictures, seed=5)
    return [composer(index) for index in range(40)]


@pytest.fixture(scope="module")
def random_network(tmp_path_factory):
    """A network whose cells say what they like, and its file."""
    torch.manual_seed(3)
    network = FaceNetwork()
    with torch.no_grad():
        for _ in range(30):  # for the statistics of its normalisation
            network(torch.randint(0, 256, (1, 160, 224, 3), dtype=torch.uint8))
        for out in network.out:
            out.weight.normal_(0, 0.3)
            out.bias[0] = 0.0
    path = tmp_path_factory.mktemp("network") / "detector.onnx"
    write_detector(network.eval(), path)
    return network, path


def test_heads_are_cut_out(heads):
    """A head covers a part of its picture, and not the upper corners; its points lie in the box of its face."""
    for head in heads:
        x, y, side = head.box
        assert head.pixels[..., 3].max() > 200
        assert head.pixels[:4, :4, 3].max() == head.pixels[:4, -4:, 3].max() == 0
        if abs(head.yaw) <= MOST_YAW:
            assert np.abs(head.points - [x, y]).max() < 0.6 * side
            assert head.points[0, 0] < head.points[1, 0], "the eye on the left of the picture comes first"


def test_a_real_head_has_no_holes(real_studio):
    head = render_head(real_studio, np.random.default_rng(4))
    x, y, side = head.box
    left, top, right, bottom = np.array([x - side / 4, y - side / 4, x + side / 4, y + side / 4]).astype(int)
    assert head.pixels[top:bottom, left:right, 3].mean() > 230


def test_scenes_show_what_their_labels_say(scenes):
    """Faces of many sizes, points in their boxes, and some scenes without a face."""
    labels = np.concatenate([scene.labels for scene in scenes])
    sides = labels[:, 2] - labels[:, 0]
    assert labels.shape[1] == COLUMNS
    assert len(labels) > 30
    np.testing.assert_allclose(sides, labels[:, 3] - labels[:, 1], rtol=1e-3)
    assert sides.min() < 25
    assert sides.max() > 100
    assert min(len(scene.labels) for scene in scenes) == 0
    middle = (labels[:, :2] + labels[:, 2:4])[:, None] / 2
    faces = labels[:, 14] == 1
    off = np.abs(labels[:, 4:14].reshape(-1, 5, 2) - middle).max(axis=(1, 2)) / sides
    assert faces.mean() > 0.7
    assert off[faces].max() < 0.9


def test_a_composed_face_is_where_its_label_is(heads, pictures):
    """Of two scenes that differ in the heads alone, the pixels differ in the boxes of the labels."""
    head = next(head for head in heads if abs(head.yaw) < 30)
    composed = []
    for colour in (0, 255):
        pixels = head.pixels.copy()
        pixels[..., :3] = colour
        found = HeadSet([pixels[None]], head.box[None], head.points[None], np.array([head.yaw]))
        composed.append(SceneComposer(found, pictures, seed=9))
    differences = []
    for index in range(30):
        dark, light = (composer(index) for composer in composed)
        np.testing.assert_array_equal(dark.labels, light.labels)
        for x1, y1, x2, y2 in dark.labels[dark.labels[:, 14] == 1, :4].astype(int).clip(0, SCENE - 1):
            if (x2 - x1) * (y2 - y1) > 100:
                part = np.s_[y1:y2, x1:x2]
                differences.append(np.abs(light.pixels[part].astype(int) - dark.pixels[part]).mean())
    assert len(differences) > 10
    assert np.median(differences) > 60


def test_scenes_depend_on_the_seed_alone(scenes, heads, pictures):
    boxes, points = np.stack([head.box for head in heads]), np.stack([head.points for head in heads])
    found = HeadSet([np.stack([head.pixels for head in heads])], boxes, points, np.array([head.yaw for head in heads]))
    again = SceneComposer(found, pictures, seed=5)(7)
    np.testing.assert_array_equal(again.pixels, scenes[7].pixels)
    np.testing.assert_array_equal(again.labels, scenes[7].labels)


def test_empty_scenes_have_no_head(heads, pictures):
    """They are the same whatever the heads look like."""
    composers = []
    for colour in (0, 255):
        pixels = np.full_like(heads[0].pixels, colour)
        found = HeadSet([pixels[None]], heads[0].box[None], heads[0].points[None], np.array([heads[0].yaw]))
        composers.append(SceneComposer(found, pictures, seed=9, empty=True))
    for index in range(8):
        first, second = (composer(index) for composer in composers)
        np.testing.assert_array_equal(first.pixels, second.pixels)
        assert len(first.labels) == 0


def test_false_faces_are_where_the_network_sees_them(random_network):
    """Windows of scenes without faces; a network that sees nothing gives none."""
    network = copy.deepcopy(random_network[0])  # it is left ready for training
    pixels = np.random.default_rng(4).integers(0, 256, (3, 320, 320, 3), dtype=np.uint8)
    scenes = Scenes([pixels], [np.zeros((0, COLUMNS), np.float32)] * 3)
    seen = false_faces(network, scenes, 128, np.random.default_rng(0))
    assert 3 <= len(seen) <= 2 * 3 * MOST_IN_SCENE, "each scene is searched at two sizes"
    assert seen.shards[0].shape == (len(seen), 128, 128, 3)
    assert all(len(label) == 0 for label in seen.labels)
    blind = FaceNetwork()
    with torch.no_grad():
        for out in blind.out:
            out.bias[0] = -20.0
    assert len(false_faces(blind, scenes, 128, np.random.default_rng(0))) == 0


def test_mirroring_twice_changes_nothing(scenes):
    label = max((scene.labels for scene in scenes), key=len)
    once = mirrored(label, SCENE)
    assert (once[:, 4] < once[:, 6]).sum() == (label[:, 4] < label[:, 6]).sum(), "left and right points are exchanged"
    np.testing.assert_allclose(mirrored(once, SCENE), label, atol=1e-3)


def test_a_window_keeps_labels_on_their_pixels():
    """A square marks the box of a face; in every window, scaled or not, it is where the label says, and grey around."""
    for size in (30, 60, 150):
        picture = np.zeros((320, 320, 3), np.uint8)
        picture[80 : 80 + size, 100 : 100 + size] = 255
        label = np.array([[100, 80, 100 + size, 80 + size, *[100 + size / 2] * 10, 1]], np.float32)
        for seed in range(20):
            window, moved = windowed(picture, label, 128, np.random.default_rng(seed))
            assert window.shape == (128, 128, 3)
            assert len(moved) == 1
            side = moved[0, 2] - moved[0, 0]
            assert 0.99 * LEAST_SIDE < side < 1.01 * min(size, MOST_SIDE)
            x1, y1, x2, y2 = moved[0, :4].clip(0, 128)
            bright = window[..., 0] > 190
            assert abs(bright.sum() - (x2 - x1) * (y2 - y1)) < 0.1 * bright.sum() + 4
            assert bright[int(y1) + 1 : int(y2) - 1, int(x1) + 1 : int(x2) - 1].mean() > 0.97


def test_cells_in_the_middle_of_a_face_answer_for_it():
    strides = torch.cat([torch.full(((320 // stride) ** 2,), float(stride)) for stride in STRIDES])
    grids = [torch.arange(320 // stride) * stride + stride / 2 for stride in STRIDES]
    centres = torch.cat([torch.cartesian_prod(grid, grid).flip(1) for grid in grids])
    label = torch.zeros(2, COLUMNS)
    label[0, :4], label[0, 14] = torch.tensor([87.0, 87, 133, 133]), 1
    label[1, :4] = torch.tensor([200.0, 200, 300, 300])  # neither a face nor background
    face, near = assign(label, centres, strides)
    assert set(face.unique().tolist()) == {-1, 0}
    assert set(strides[face == 0].tolist()) == {8.0, 16.0}
    assert (centres[face == 0] - 110).abs().max() < 12
    assert near[(centres - 250).abs().amax(1) < 40].all()
    assert not near[(centres - 30).abs().amax(1) < 20].any()


def test_overlap_of_squares():
    first = torch.tensor([[10.0, 10, 10], [10, 10, 10], [0, 0, 2]])
    second = torch.tensor([[10.0, 10, 10], [15, 10, 10], [10, 0, 2]])
    overlap, generalised = square_overlap(first, second)
    torch.testing.assert_close(overlap, torch.tensor([1.0, 1 / 3, 0.0]))
    torch.testing.assert_close(generalised, torch.tensor([1.0, 1 / 3, -(24 - 8) / 24]))


def test_the_runtime_decodes_as_the_training_does(random_network):
    """For sides that are no multiples of 16, the boxes above a limit are those of torch, within 0.01 pixels."""
    network, path = random_network
    picture = np.random.default_rng(1).integers(0, 256, (90, 123, 3), dtype=np.uint8)
    canvas = torch.full((1, 96, 128, 3), 128, dtype=torch.uint8)
    canvas[0, :90, :123] = torch.from_numpy(picture)
    with torch.no_grad():
        outputs = network(canvas)
    boxes, scores = [], []
    for output, stride in zip(outputs, STRIDES, strict=True):
        rows, columns = (grid.flatten() for grid in torch.meshgrid(*map(torch.arange, output.shape[2:]), indexing="ij"))
        centres = (torch.stack([columns, rows], 1) + 0.5) * stride
        cells = output[0].flatten(1).T
        box, _ = decode(cells, centres, torch.full((len(cells),), float(stride)))
        half = box[:, 2:] / 2
        boxes.append(torch.cat([box[:, :2] - half, box[:, :2] + half], 1))
        scores.append(cells[:, 0].sigmoid())
    certain = torch.cat(scores) >= 0.6
    wanted, sure = torch.cat(boxes)[certain].numpy(), torch.cat(scores)[certain].numpy()
    found_scores, found = nano_detector.decode([output.numpy() for output in outputs], 0.6)
    assert len(found) == len(wanted) > 3
    assert found_scores.min() >= 0.6
    np.testing.assert_allclose(found, wanted, atol=1e-2)
    means = [np.average(wanted[group], axis=0, weights=sure[group]) for group in overlapping_groups(wanted, sure, 0.4)]
    faces = NanoDetector(str(path), 0.6).detect(picture)
    np.testing.assert_allclose([face.box_xyxy for face in faces], sorted(mean.tolist() for mean in means), atol=0.1)


def test_the_network_learns_a_face_and_the_runtime_finds_it(tmp_path):
    """Trained on squares with three spots for a few steps, it finds such a square in a larger picture."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)

    def scene(side):
        picture = np.full((side, side, 3), 90, np.uint8)
        size = int(random.integers(30, 44))
        x, y = random.integers(0, side - size, 2)
        picture[y : y + size, x : x + size] = 210
        for across, down in ((0.25, 0.3), (0.75, 0.3), (0.5, 0.75)):
            row, column = int(y + down * size), int(x + across * size)
            picture[row - 4 : row + 4, column - 4 : column + 4] = 10
        middle = [x + size / 2, y + size / 2]
        return picture, np.array([[x, y, x + size, y + size, *middle * 5, 1]], np.float32)

    made = [scene(96) for _ in range(64)]
    training = Scenes([np.stack([picture for picture, _ in made])], [label for _, label in made])
    network = FaceNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(12):
        for batch in training.epoch(16, random):
            loss = detection_loss(network(batch.pictures), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    write_detector(network.eval(), tmp_path / "detector.onnx")
    detector = NanoDetector(str(tmp_path / "detector.onnx"), 0.3)
    hits = 0
    for _ in range(10):
        picture, label = scene(256)
        best = max(detector.detect(picture), key=lambda face: face.score, default=None)
        hits += best is not None and float(np.abs(np.array(best.box_xyxy) - label[0, :4]).max()) < 12
    assert hits >= 8, f"{hits} of 10 found"


def test_large_pictures_give_the_boxes_of_small_ones(t1):
    """The six faces of a picture that is three times as large have the same boxes, three times as large."""
    detector, picture = open_detector("auto"), Image.fromarray(t1)
    picture.thumbnail((700, 700))
    large = picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.BICUBIC)
    ours, theirs = (detector.detect(np.asarray(each)) for each in (picture, large))
    assert len(ours) == len(theirs) == 6
    for small, other in zip(ours, theirs, strict=True):
        assert np.abs(np.array(other.box_xyxy) / 3 - small.box_xyxy).max() < 0.15 * small.side


def test_the_lowest_score_may_be_anything(astronaut):
    """0 takes every cell, 1 and more take none."""
    counts = [len(open_detector("auto", min_score=score).detect(astronaut)) for score in (0, 0.75, 1, 1.5)]
    assert counts[0] > 100
    assert counts[1:] == [1, 0, 0]


def test_a_score_of_nothing_has_a_box():
    """Logits whose scores are zero in float32."""
    output = np.zeros((1, 14, 2, 2), np.float32)
    output[:, 0] = [[-120.0, -800.0], [-90.0, -1e30]]
    scores, boxes = nano_detector.decode([output, output], 0.0)
    assert len(scores) == len(boxes) == 8
    assert scores.min() > 0


def test_a_file_is_recognised_by_its_interface(random_network, tmp_path, landmark_network):
    _, path = random_network
    assert isinstance(open_detector(path), NanoDetector)
    with pytest.raises(BackendError, match="no detector of this project"):
        NanoDetector(str(landmark_network))
    with pytest.raises(BackendError, match="is not SCRFD"):
        ScrfdDetector(str(path))


@pytest.mark.parametrize("shape", [(1, 1), (1, 800), (3, 2000), (900, 2)])
def test_tiny_and_thin_pictures_have_no_face(shape):
    assert open_detector("auto").detect(np.full((*shape, 3), 90, np.uint8)) == []


def test_a_stopped_run_goes_on(head, pictures, tmp_path, monkeypatch, capsys):
    """What was made is kept: the second run renders nothing, and the network is the same for the same seed."""
    from trainer.detector import build

    def unwanted(*args):
        raise AssertionError("heads are rendered again")

    few = ("--heads", "3", "--scenes", "6", "--empty", "2", "--batch-size", "2", "--steps", "4", "--processes", "1")
    given = ("--face-model", str(head), "--pictures", str(pictures), *few)
    out = tmp_path / "detector"
    assert main(["pretrain-detector", str(out), *given]) == 0
    assert capsys.readouterr().out.strip() == str(out / "detector.onnx")
    first = (out / "detector.onnx").read_bytes()
    (out / "detector.onnx").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(build, "HeadRenderer", unwanted)
        assert main(["pretrain-detector", str(out), *given]) == 0
    assert (out / "detector.onnx").read_bytes() == first
    assert main(["pretrain-detector", str(out), *given[:-1], "1", "--seed", "4"]) == 1
    err = capsys.readouterr().err
    assert "holds another detector run: seed (found 1, expected 4)" in err


@pytest.mark.parametrize(
    ("name", "message"), [("notes.txt", "holds no pictures"), ("torn.jpg", "torn.jpg cannot be read")]
)
def test_a_folder_without_pictures_is_refused_before_anything_is_rendered(name, message, head, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / name).write_bytes(b"no picture")
    given = ("--face-model", str(head), "--pictures", str(tmp_path / "pictures"), "--processes", "2")
    assert main(["pretrain-detector", str(tmp_path / "detector"), *given]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "detector").exists()
