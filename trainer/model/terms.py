"""What is said about every model: its intended use, and the terms of the weights it comes from."""

INTENDED_USE = (
    "Describing the visible facial expression of consenting adults for research, accessibility and user interfaces. "
    "Not for judging what a person feels, not for decisions about people; emotion recognition at work and in education "
    "is prohibited in the European Union (AI Act, Article 5(1)(f)), and people must be told of it (Article 50(3))."
)
UNRECORDED = "not recorded by the checkpoint; LLaVA-1.5 and Vicuna 1.5: Llama 2 Community License, CLIP: MIT"
