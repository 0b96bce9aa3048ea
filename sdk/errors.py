"""The errors that this project raises on purpose.

SdkError                     base of all errors below
├── ImageError               a picture that cannot be used: not an image, truncated, too large, wrong shape or dtype
├── TaskError                an unknown task, or one that this bundle does not support
├── VideoError               a video or camera that cannot be read, or a video that cannot be written
├── CancelledError           the caller asked an analysis to stop
├── OutputError              a file or folder that cannot be written: the disk is full, or another process writes it
├── UsageError               invalid options of a command, alone or together
├── ScoreError               predictions and annotations that cannot be scored (REGE)
├── BundleError              a bundle that cannot be opened
│   ├── BundleNotFoundError  no bundle under this name or path
│   ├── FormatError          a manifest that this version does not read, or that was edited
│   ├── DownloadError        an interrupted download; complete files are kept for the next attempt
│   └── IntegrityError       a file of the bundle is missing, or its size or content is wrong
│       └── GraphError       an ONNX file is damaged, crafted or no ONNX file; also a BackendError
├── BackendError             no backend of this bundle runs on this machine
├── CheckpointError          weights, configuration or tokenizer that do not form one model
├── DataError                a training or evaluation set that does not have the expected form
├── TrainingError            a run that cannot start or continue; saved results are kept
├── ExportError              a checkpoint that cannot become a bundle
└── DependencyError          an optional package is missing; names the extra to install

A message says what was expected, what was found and what to do next, in one line.
"""


class SdkError(Exception):
    """Base of the errors that this project raises on purpose."""


class QuestionWarning(UserWarning):
    """A question that the model of a bundle was not trained to answer."""


class ImageError(SdkError):
    pass


class TaskError(SdkError):
    pass


class VideoError(SdkError):
    pass


class CancelledError(SdkError):
    pass


class OutputError(SdkError):
    pass


class UsageError(SdkError):
    pass


class ScoreError(SdkError):
    pass


class BundleError(SdkError):
    pass


class BundleNotFoundError(BundleError):
    pass


class FormatError(BundleError):
    pass


class DownloadError(BundleError):
    pass


class IntegrityError(BundleError):
    pass


class BackendError(SdkError):
    pass


class GraphError(IntegrityError, BackendError):
    pass


class CheckpointError(SdkError):
    pass


class DataError(SdkError):
    pass


class TrainingError(SdkError):
    pass


class ExportError(SdkError):
    pass


class DependencyError(SdkError):
    """A package that an optional feature needs is not installed.

    Args:
        package: its name on PyPI.
        extra: the extra of emola-edge that installs it.
        purpose: what it is needed for; completes "... is needed to".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{package} is needed to {purpose}; install it with: pip install 'emola-edge[{extra}]'")
