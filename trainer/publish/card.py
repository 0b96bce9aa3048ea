"""The model card of an adapter, a complete checkpoint or a bundle, from what its files record."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdk.bundles.files import file_sha256
from sdk.bundles.manifest import MANIFEST, Manifest, read_manifest
from sdk.errors import CheckpointError, DataError
from sdk.untrusted_json import read_json_object
from trainer.evaluation.evaluate import RUN, SCORES
from trainer.model.config import CONVENTIONS, Conventions
from trainer.model.terms import INTENDED_USE, UNRECORDED

PLOT = "training.png"
LIBRARY = "emola-edge"
_LIMITS = (
    "The model describes a picture, not a person: a face does not show what someone feels. It makes mistakes, and more "
    "of them on faces, ages, skin tones, poses and light that are rare in its training data. The figures above hold "
    "for the sets that they name; measure on faces like yours. A fluent reason is not evidence."
)
_SHOWN = (
    "tune",
    "rank",
    "alpha",
    "dropout",
    "learning_rate",
    "projector_learning_rate",
    "epochs",
    "batch_size",
    "precision",
)


def model_card(folder: Path, name: str, evaluations: Sequence[Path] = ()) -> str:
    """The text of a README.md, with the metadata block that the hub reads.

    Args:
        folder: of a bundle or of a checkpoint that `emola train` wrote.
        name: "owner/name" on the hub.
        evaluations: folders of `emola evaluate`, whose figures are shown with their 95 % intervals.

    Raises:
        CheckpointError: the folder is neither.
        DataError: an evaluation has no scores, or is of another model.
    """
    if (folder / MANIFEST).is_file():
        parts = _bundle_parts(read_manifest(folder), name)
    elif (folder / CONVENTIONS).is_file():
        parts = _checkpoint_parts(folder, name)
    else:
        raise CheckpointError(
            f"{folder}: expected a bundle ({MANIFEST}) or a checkpoint of `emola train` ({CONVENTIONS}), found neither"
        )
    figures = [line for evaluation in evaluations for line in _figures(evaluation, folder)]
    return "\n".join([*parts, *_figure_parts(figures), *_end_parts()])


def _head(name: str, base: str | None, library: str, title: str, notice: str | None) -> list[str]:
    metadata = ["---", "license: other", "license_name: see-licences-below", f"library_name: {library}"]
    metadata += [f"base_model: {base}"] if base else []
    metadata += [
        "pipeline_tag: image-text-to-text",
        "tags:",
        "- emola",
        "- facial-expression-recognition",
        "- action-units",
    ]
    return [*metadata, "---", "", f"# {name}", "", title, *(["", f"**{notice}**"] if notice else [])]


def _checkpoint_parts(folder: Path, name: str) -> Iterator[str]:
    """Title, base, data, recipe and training curve of a checkpoint."""
    card = read_json_object(folder / CONVENTIONS, CheckpointError)
    adapter = (folder / "adapter_config.json").is_file()
    hub: Mapping[str, str] = card.get("hub") or {}
    base = hub.get("base", "").partition("@")[0] or None
    kind = "An EmoLA adapter: LoRA and the projectors" if adapter else "A complete EmoLA checkpoint"
    yield from _head(name, base, "peft" if adapter else LIBRARY, f"{kind}.", card.get("notice"))
    yield from ("", "## Origin", "", f"- base: {_shown(hub.get('base') or card.get('base'))}")
    for role in ("vision_tower", "adapter"):
        if stated := hub.get(role) or card.get(role):
            yield f"- {role.replace('_', ' ')}: {_shown(stated)}"
    records, digest = (_shown(card.get(key)) for key in ("records", "data_sha256"))
    yield f"- training data: {records} records, SHA-256 of the list {digest}"
    yield from ("", "## Recipe", "", "| setting | value |", "|---|---|")
    recipe: Mapping[str, Any] = card.get("trained_with") or {}
    yield from (f"| {key.replace('_', ' ')} | {_shown(recipe[key])} |" for key in _SHOWN if key in recipe)
    yield f"| steps | {_shown(card.get('steps'))} |"
    yield from (f"| {label} | {value} |" for label, value in _variant(folder))
    defaults = Conventions()
    for key in ("template", "image_aspect", "landmark_mode", "face_scale"):
        yield f"| {key.replace('_', ' ')} | {_shown(card.get(key, getattr(defaults, key)))} |"
    yield f"| last losses (nats per token) | {_shown(', '.join(map(str, card.get('last_losses') or [])))} |"
    if (folder / PLOT).is_file():
        yield from ("", f"![Loss and learning rates over the steps]({PLOT})")
    terms = card.get("licence") or UNRECORDED
    yield from ("", "## Licences", "", terms, "", "## Intended use", "", INTENDED_USE)
    yield from ("", "## Use", "", "```sh", *_use(name, adapter, hub), "```")


def _variant(folder: Path) -> Iterator[tuple[str, str]]:
    """What distinguishes an ablation from the model of the paper."""
    path = folder / "config.json"
    found = read_json_object(path, CheckpointError) if path.is_file() else {}
    for key, usual in (("emola_tokens", "both"), ("emola_prior", "landmarks"), ("emola_prior_position", "after")):
        if (value := found.get(key) or usual) != usual:
            yield key.removeprefix("emola_").replace("_", " "), _shown(value)


def _use(name: str, adapter: bool, hub: Mapping[str, str]) -> list[str]:
    source, words = (name, f" --base {hub.get('base', 'BASE')}") if adapter else ("none", f" --base {name}")
    if tower := hub.get("vision_tower"):
        words += f" --vision-tower {tower}"
    return [f"emola export {source} bundle{words} --landmark-model 2d106det.onnx --quantize int4"]


def _bundle_parts(manifest: Manifest, name: str) -> Iterator[str]:
    """Title, origin, licences and measured figures of a bundle."""
    size = sum(record.size for record in manifest.files.values())
    title = f"A bundle for the EmoLA runtime, {size / 1e6:.0f} MB, digest {manifest.digest[:12]}."
    yield from _head(name, None, LIBRARY, title, manifest.notice)
    yield from ("", "## Origin", "")
    yield from (f"- {key}: {_shown(value)}" for key, value in manifest.provenance.items())
    yield from ("", "## Parity with torch", "", "| variant | stage | relative error |", "|---|---|---|")
    yield from (f"| {p.variant} | {p.stage} | {p.relative_error:.1e} |" for p in manifest.parity)
    if manifest.gate and (rege := manifest.gate.rege):
        yield from ("", f"REGE on {rege.samples} records of {rege.dataset} ({rege.task}): torch {rege.reference:.2f}, ")
        yield f"bundle {rege.measured:.2f}, difference {rege.difference:+.2f} [{rege.low:+.2f}, {rege.high:+.2f}]."
    yield from ("", "## Licences", "")
    yield from (f"- {licence.part} ({licence.origin}): {licence.licence}" for licence in manifest.licences)
    yield from ("", "## Intended use", "", manifest.intended_use)
    yield from ("", "## Use", "", "```sh", f"emola analyze photo.jpg --bundle {name}", "```")


def _figures(evaluation: Path, folder: Path) -> Iterator[str]:
    """The rows of an evaluation of the model in a folder: set, task, figure, interval."""
    path = evaluation / SCORES
    if not path.is_file():
        raise DataError(f"{path} is missing; finish `emola evaluate` with that output folder first")
    _check_model(evaluation, folder)
    found = read_json_object(path, DataError)
    figures = found if "accuracy" in found else found.get("official", {})
    try:
        evaluated = f"{figures['dataset']}, {figures['task']}, {figures['samples']} samples"
        for name, (low, high) in found["intervals"].items():
            yield f"| {evaluated} | {name} | {figures[name]:.2f} | {low:.2f} .. {high:.2f} |"
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{path} holds no scores of `emola evaluate`; evaluate again") from None


def _check_model(evaluation: Path, folder: Path) -> None:
    """Refuse an evaluation of another model: its name holds the first digits of a hash of the model."""
    bundle = (folder / MANIFEST).is_file()
    digest = read_manifest(folder).digest if bundle else file_sha256(folder / CONVENTIONS)
    model = read_json_object(evaluation / RUN, DataError).get("model")
    if digest[:12] not in str(model):
        raise DataError(
            f"{evaluation} is an evaluation of {_shown(model)}, not of {folder} ({digest[:12]}); evaluate this model"
        )


def _figure_parts(rows: Sequence[str]) -> Iterator[str]:
    yield from ("", "## Figures", "")
    if not rows:
        yield "None were given with this upload."
        return
    yield "In percent, measured by `emola evaluate`: s_re, s_ge and s_rege by the protocol of the authors' evaluation "
    yield "code; accuracy, of RAF-DB, of the emotion that the SDK reads from each answer."
    yield from ("", "| set | figure | value | 95 % interval |", "|---|---|---|---|", *rows)


def _end_parts() -> Iterator[str]:
    yield from (
        "",
        "## Limits",
        "",
        _LIMITS,
        "",
        "This card was written by `emola push` from the files of the model.",
        "",
    )


def _shown(value: Any) -> str:
    """A value in one line, without what would end a cell of a table."""
    return "not recorded" if value in (None, "") else " ".join(str(value).replace("|", "/").split())
