"""Conversation templates, and the two questions of EmoLA's evaluation."""

from dataclasses import dataclass
from typing import Literal, get_args

Task = Literal["emotion", "action_units"]
TASKS: tuple[Task, ...] = get_args(Task)

IMAGE = "<image>"
END = "</s>"

# Source: the authors' evaluation code.
QUESTIONS: dict[Task, str] = {
    "emotion": "What emotions are conveyed by this face?",
    "action_units": "What AUs are conveyed by this face?",
}


@dataclass(frozen=True)
class Template:
    """A conversation format of Vicuna 1.x: system text, then `USER: ... ASSISTANT: ...` and the end mark."""

    name: str
    system: str

    def prompt(self, question: str) -> str:
        """The text before the answer; the picture precedes the question."""
        return f"{self.system} USER: {IMAGE}\n{question} ASSISTANT:"

    def conversation(self, question: str, answer: str) -> str:
        """The text of one training record, with the end mark."""
        return f"{self.prompt(question)} {answer}{END}"


def _system(person: str) -> str:
    return (
        f"A chat between a curious {person} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {person}'s questions."
    )


# The authors train with "user" and evaluate with "human"; the names are those of their code.
TEMPLATES: dict[str, Template] = {
    "vicuna_v1": Template("vicuna_v1", _system("user")),
    "llava_v1": Template("llava_v1", _system("human")),
}
