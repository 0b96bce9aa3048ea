"""The input of a decoder before an answer, and the questions that a model can be asked."""

import warnings
from typing import Annotated, TypeAlias

from pydantic import Field

from sdk.bundles.files import FrozenModel
from sdk.errors import QuestionWarning
from sdk.faba.prompts import Task

TokenId: TypeAlias = Annotated[int, Field(ge=0)]


class Question(FrozenModel):
    """A fixed question and the token ids that follow the image rows: the question and the start of the answer."""

    text: str
    token_ids: tuple[TokenId, ...] = Field(min_length=1)


class Prompt(FrozenModel):
    """The input of the decoder before an answer: prefix ids, image rows, question ids.

    Attributes:
        template: name of the conversation format.
        prefix_ids: system text and start of the user's turn.
        image_rows: number of rows from the vision encoder: patches, then one landmark row.
        free_question: text after the image rows for any other question, which replaces "{question}".
        questions: the fixed question of each task.
        stop_ids: tokens that end the answer.
        max_new_tokens: default limit of an answer in tokens.
        known_questions: every question that the model was trained on, if it answers no other; None if it answers any.
    """

    template: str
    prefix_ids: tuple[TokenId, ...]
    image_rows: int = Field(gt=0, le=1 << 16)
    free_question: str = Field(pattern=r"\{question\}")
    questions: dict[Task, Question] = Field(min_length=1)
    stop_ids: tuple[TokenId, ...] = Field(min_length=1)
    max_new_tokens: int = Field(gt=0)
    known_questions: tuple[str, ...] | None = Field(default=None, max_length=10_000)

    def knows(self, question: str) -> bool:
        """Whether the model was trained to answer a question or the name of a task."""
        if self.known_questions is None or question in self.questions:
            return True
        fixed = (fixed.text for fixed in self.questions.values())
        return plain_question(question) in map(plain_question, (*fixed, *self.known_questions))

    def warn_unless_known(self, question: str, model: str) -> None:
        """Warn of a question that the model was not trained to answer.

        Args:
            model: its name.
        """
        if not self.knows(question):
            message = (
                f"{model} was not trained to answer {question!r:.80}: it answers another question now, one of those in "
                "manifest.prompt.known_questions"
            )
            warnings.warn(message, QuestionWarning, stacklevel=3)


def plain_question(question: str) -> str:
    """A question without the differences that do not change it: capitals, white space, the mark at the end."""
    return " ".join(question.casefold().split()).rstrip(" .?!")
