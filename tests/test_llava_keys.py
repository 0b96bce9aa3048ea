"""Every key of a LLaVA configuration that changes the result is computed or refused, in the base and in the adapter."""

import dataclasses
import json
import shutil

import pytest
from conftest import GOLDEN
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, PretrainedConfig

from sdk.errors import CheckpointError
from trainer.model import llava_keys, shapes
from trainer.model.config import Conventions, read_config, read_conventions, read_statistics

BASE, CLIP, ADAPTER = (GOLDEN / name for name in ("llava-base", "clip", "llava-lora-emola-trained"))


@pytest.fixture
def folders(tmp_path):
    """Base, tower and adapter without their weights."""
    names = ("config.json", "preprocessor_config.json", "tokenizer.model", "emola.json")
    for folder in (BASE, CLIP, ADAPTER):
        shutil.copytree(folder, tmp_path / folder.name, ignore=lambda _, found: [n for n in found if n not in names])
    return [tmp_path / folder.name for folder in (BASE, CLIP, ADAPTER)]


def edit(folder, name="config.json", **changes):
    path = folder / name
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **changes}))


def refused(folders, message):
    base, clip, adapter = folders
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(base, clip, adapter)
    assert len(str(caught.value)) < 400 + len(str(base))


CHANGES = [
    ("mm_use_im_start_end", True),  # <im_start> and <im_end> around the rows
    ("mm_use_im_patch_token", True),
    ("mm_vision_select_feature", "cls_patch"),  # 577 rows instead of 576
    ("image_aspect_ratio", "anyres"),
    ("image_aspect_ratio", "anyres_max_9"),
    ("mm_patch_merge_type", "spatial_unpad"),
    ("mm_resampler_type", "spatial_pool"),
    ("s2", True),
    ("vision_feature_select_strategy", "full"),
    ("projector_hidden_act", "relu"),
    ("multimodal_projector_bias", False),
    ("quantization_config", {"bits": 4}),
    ("tie_word_embeddings", True),
    ("model_type", "llava_mistral"),
    ("model_type", "granite"),
    ("hidden_act", "gelu"),  # the graphs compute SiLU
    ("attention_bias", True),
    ("mlp_bias", True),
    ("sliding_window", 4096),
    ("partial_rotary_factor", 0.5),
    ("rope_scaling", {"type": "linear", "factor": 2}),
    ("rope_parameters", {"rope_type": "yarn"}),
    ("mm_vision_select_layer", [-2, -5]),
    ("mm_vision_select_layer", -6),  # the tower has four layers
    ("mm_vision_select_layer", 2.0),
    ("mm_spatial_pool_stride", 2),  # keys of later LLaVAs
    ("mm_newline_position", "grid"),
    ("rope_of_a_later_version", 3),
    ("unfreeze_mm_vision_tower", True),
]


@pytest.mark.parametrize("place", [0, 2], ids=["base", "adapter"])
@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_what_is_not_computed_is_refused_by_name(folders, place, key, value):
    edit(folders[place], **{key: value})
    refused(folders, "scaled rotary" if key in ("rope_scaling", "rope_parameters") else key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", "64"),
        ("hidden_size", 63),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 10**9),
        ("num_attention_heads", True),
        ("vocab_size", 1.5),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", "0"),
        ("rope_theta", float("inf")),
        ("rope_theta", "10000"),
        ("rope_parameters", [1]),
        ("text_config", 3),
        ("vision_config", [1]),
        ("emola_tokens", "all"),
        ("emola_landmark_anchors", [[0, 1]]),
        ("emola_landmark_anchors", [[10**6, 0, 0]]),
        ("emola_landmark_anchors", 7),
        ("landmark_feature_hidden_size", 0),
        ("tokenizer_model_max_length", -1),
    ],
)
def test_a_wrong_value_is_one_error(folders, key, value):
    base, _, adapter = folders
    (adapter / "config.json").unlink()
    edit(base, **{key: value})
    with pytest.raises(CheckpointError):
        read_config(base, None if key == "vision_config" else folders[1], adapter)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_channels": 4},
        {"hidden_act": "quick\x00gelu"},
        {"hidden_act": ["gelu"]},
        {"model_type": "siglip_vision_model"},
        {"hidden_size": 10**9},
        {"patch_size": 100},
        {"image_size": [56, 56]},
    ],
)
def test_another_vision_tower_is_refused(folders, changes):
    edit(folders[1], **changes)
    refused(folders, "config.json|expected one number")


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta", "num_key_value_heads", "vocab_size"])
def test_an_adapter_of_another_decoder_is_refused(folders, key):
    """Only four sizes were compared."""
    edit(folders[2], **{key: {"rms_norm_eps": 1e-6, "rope_theta": 5e5}.get(key, 2)})
    refused(folders, f"made for another base: its {key} is")


def test_the_adapter_decides_what_it_was_trained_with(folders):
    """As in LLaVA's own loader: its layer, its length and its rows were read from the base."""
    base, clip, adapter = folders
    edit(adapter, mm_vision_select_layer=-1, tokenizer_model_max_length=1024, emola_tokens="visual")
    found = read_config(base, clip, adapter)
    assert (found.vision_layer, found.max_length, found.tokens) == (-1, 1024, "visual")
    found = read_config(base, clip)
    assert (found.vision_layer, found.max_length, found.tokens) == (-2, 2048, "both")


@pytest.mark.parametrize(("value", "layer"), [([-2], -2), (-3, -3), (2, 2), (None, -2)])
def test_one_layer_may_stand_in_a_list(folders, value, layer):
    base, clip, adapter = folders
    (adapter / "config.json").unlink()
    edit(base, mm_vision_select_layer=None, vision_feature_layer=value)
    assert read_config(base, clip, adapter).vision_layer == layer


def test_a_trained_vision_tower_is_not_replaced(folders):
    base, clip, _ = folders
    edit(base, unfreeze_mm_vision_tower=True, vision_config=json.loads((clip / "config.json").read_text()))
    with pytest.raises(CheckpointError, match="trained its vision tower"):
        read_config(base, clip)
    assert read_config(base, None).vision.hidden_size == 48


@pytest.mark.parametrize(
    "changes",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1},
        {"resample": 2},
        {"image_mean": [0.5]},
        {"image_mean": ["a", "b", "c"]},
        {"image_std": [0.5, 0, 0.5]},
        {"image_std": [0.5, 1e-300, 0.5]},
        {"image_mean": [0.5, 1e308, 0.5]},
        {"image_std": [float("nan")] * 3},
    ],
)
def test_another_preparation_of_pictures_is_refused(folders, changes):
    edit(folders[1], "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        read_statistics(folders[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"face_scale": "1.7"},
        {"face_scale": float("inf")},
        {"template": ["llava_v1"]},
        {"image_aspect": {}},
        {"anchors": 3},
        {"anchors": [[0, 1]]},
        {"anchors": [["0", 0, 0]]},
        {"notice": 3},
    ],
)
def test_wrong_conventions_are_one_error(tmp_path, changes):
    edit(tmp_path, "emola.json", **{"landmark_mode": "insightface", **changes})
    with pytest.raises(CheckpointError, match=r"emola\.json"):
        read_conventions(tmp_path)
    assert Conventions() == read_conventions(tmp_path / "none")


def test_every_key_of_transformers_has_a_place():
    """A new key of transformers fails here: decide whether it is computed, has no effect or is refused."""

    def fields(config):
        if not dataclasses.is_dataclass(config):
            pytest.skip("the configurations of this transformers are no dataclasses")
        return {field.name for field in dataclasses.fields(config)} - set(base)

    base = (
        {field.name for field in dataclasses.fields(PretrainedConfig)}
        if dataclasses.is_dataclass(PretrainedConfig)
        else ()
    )
    free = {
        "attention_dropout",
        "initializer_range",
        "initializer_factor",
        "pad_token_id",
        "pretraining_tp",
        "use_cache",
    }
    known = llava_keys.HONOURED | llava_keys.WITHOUT_EFFECT | llava_keys.LLAVA.keys() | {"text_config"}
    assert fields(LlavaConfig) <= known
    assert fields(LlamaConfig) <= llava_keys.DECODER.keys() | set(shapes._TEXT_KEYS) | llava_keys.HONOURED | free
    assert fields(CLIPVisionConfig) <= llava_keys.TOWER.keys() | set(shapes._VISION_KEYS) | free
