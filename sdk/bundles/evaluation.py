"""The answers of the torch model to an evaluation set; with them a target measures REGE without torch.

Evaluation sets are gated and show faces, so a bundle holds neither pictures nor annotations nor landmark features: only
torch's answers, and hashes by which whoever has the set finds the same records.
"""

from pathlib import Path

from pydantic import Field, ValidationError

from sdk.bundles.files import AGAIN, FrozenModel, first_fault
from sdk.errors import IntegrityError
from sdk.untrusted_json import read_json

_SHA256 = Field(pattern="^[0-9a-f]{64}$")


class TorchAnswer(FrozenModel):
    """The answer to one record.

    Attributes:
        image: path of the picture inside the data set, for messages.
        record: SHA-256 of the record: its paths, question, label and reference text.
        picture, landmark: SHA-256 of the two files that it names.
        answer: what torch answered.
    """

    image: str
    record: str = _SHA256
    picture: str = _SHA256
    landmark: str = _SHA256
    answer: str


class TorchAnswers(FrozenModel):
    """The answers to a set, in its order.

    Attributes:
        model: name, type of numbers and limit of the torch model.
        task: "au" or "emotion".
        dataset: decides which action units are scored.
        data: digest of the evaluation set.
        max_new_tokens: limit of an answer.
    """

    model: str
    task: str
    dataset: str
    data: str
    max_new_tokens: int = Field(gt=0, le=1 << 20)
    answers: tuple[TorchAnswer, ...] = Field(min_length=1)

    @classmethod
    def load(cls, path: Path) -> "TorchAnswers":
        """Read the file.

        Raises:
            IntegrityError: it is damaged.
        """
        content = read_json(path, IntegrityError, advice=AGAIN)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise IntegrityError(f"{path}: not the answers of a bundle ({first_fault(error)}); {AGAIN}") from None
