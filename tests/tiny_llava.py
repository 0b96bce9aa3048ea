"""A tiny LLaVA in the layout of transformers, with the weights of the golden base and a Vicuna chat template."""

from collections.abc import Callable
from pathlib import Path

import torch
from conftest import GOLDEN
from PIL import Image

from sdk.faba.prompts import QUESTIONS, TEMPLATES
from trainer.checkpoint import Checkpoint, plain_llava

IMAGE = "<image>"
_TEMPLATE = (
    "%s{%% for message in messages %%} USER: {%% for part in message['content'] %%}"
    "{%% if part['type'] == 'image' %%}<image>\n{%% else %%}{{ part['text'] }}{%% endif %%}{%% endfor %%}"
    "{%% endfor %%} ASSISTANT:"
)
_NAMES = {
    "vision_tower.": "model.vision_tower.",
    "mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
}


def transformers_llava(checkpoint: Checkpoint, image_token: int):
    """transformers' own LLaVA with the weights of a checkpoint."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    shape = checkpoint.config
    config = LlavaConfig(
        vision_config=shape.vision,
        text_config=shape.text,
        image_token_index=image_token,
        vision_feature_layer=shape.vision_layer,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    state = {}
    for name, tensor in checkpoint.load(dtype=torch.float32).state_dict().items():
        if ours := next((prefix for prefix in _NAMES if name.startswith(prefix)), None):
            state[_NAMES[ours] + name.removeprefix(ours)] = tensor
    model.load_state_dict(state)
    return model.eval()


def write_tiny_llava(folder: Path, max_new_tokens: int) -> tuple[Path, Callable[[Path], str]]:
    """Write the model with its processor.

    Returns:
        The folder, and what the model answers to the emotion question about a picture, greedily.
    """
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    checkpoint = plain_llava(GOLDEN / "llava-base", GOLDEN / "clip")
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "llava-base")
    unused = checkpoint.config.text.vocab_size - 1
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    processor = LlavaProcessor(
        CLIPImageProcessor.from_pretrained(GOLDEN / "clip"),
        tokenizer,
        patch_size=checkpoint.config.vision.patch_size,
        vision_feature_select_strategy="default",
        chat_template=_TEMPLATE % TEMPLATES["vicuna_v1"].system,
        num_additional_image_tokens=1,
    )
    token = tokenizer.convert_tokens_to_ids(IMAGE)
    model = transformers_llava(checkpoint, min(token, unused))
    model.resize_token_embeddings(max(len(tokenizer), unused + 1))
    model.config.image_token_id = token
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    def answer(picture: Path) -> str:
        content = [{"type": "image"}, {"type": "text", "text": QUESTIONS["emotion"]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=Image.open(picture).convert("RGB"), text=prompt, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    return folder, answer
