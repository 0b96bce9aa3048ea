"""The shape of emola-nano: the architecture of the 7B model, small enough to train on two cores and ship in a wheel."""

from transformers import CLIPVisionConfig, LlamaConfig

from sdk.faces.preprocess import Anchor
from trainer.model.config import Conventions, EmolaConfig
from trainer.synthetic.rendered_face import FACE_SCALE

VOCABULARY = 1024
TEMPLATE = "vicuna_v1"
NOTICE = "trained on rendered faces; a demonstration, not for decisions about people"
LICENCE = "Apache-2.0; made by this project from renders of the ICT-FaceKit light model (MIT)"


def nano_config(vocabulary: int = VOCABULARY, anchors: tuple[Anchor, ...] = ()) -> EmolaConfig:
    """49 patches of 16 pixels and one landmark row, read by three decoder layers."""
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=480,
        num_hidden_layers=5,
        num_attention_heads=5,
        image_size=112,
        patch_size=16,
        projection_dim=160,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    # Reads the last hidden state, not the last but one, so that the last layer is used.
    return EmolaConfig(text=text, vision=vision, landmark_anchors=anchors, vision_layer=-1, max_length=512)


def nano_conventions(anchors: tuple[Anchor, ...]) -> Conventions:
    """The same template and face crops for training and for use; faces are aligned by their landmarks.

    A base without general language learns nothing but the questions of its training files.
    """
    return Conventions(
        template=TEMPLATE,
        image_aspect="align",
        landmark_mode="insightface",
        face_scale=FACE_SCALE,
        anchors=anchors,
        notice=NOTICE,
        licence=LICENCE,
        known_questions_only=True,
    )
