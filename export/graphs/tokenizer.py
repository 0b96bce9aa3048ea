"""Convert the SentencePiece tokenizer of a checkpoint to `tokenizer.json`, which the runtime reads."""

from collections.abc import Iterator

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from sdk.errors import ExportError

BLANK = "▁"


def convert_tokenizer(processor: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    """Make a byte-pair tokenizer with the ids of a Llama SentencePiece model, including its leading blank.

    Raises:
        ExportError: the model is not of Llama's kind.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())
    trained, normal = proto.trainer_spec, proto.normalizer_spec
    if trained.model_type != trained.BPE or not trained.byte_fallback or normal.name != "identity":
        raise ExportError("expected a SentencePiece model of Llama's kind: BPE with byte fallback and no normalisation")
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            list(_merges(proto)),
            unk_token=processor.id_to_piece(processor.unk_id()),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    blank: list[normalizers.Normalizer] = [normalizers.Prepend(BLANK)] if normal.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*blank, normalizers.Replace(" ", BLANK)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [piece.piece for piece in proto.pieces if piece.type in (piece.CONTROL, piece.UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    return tokenizer


def _merges(proto: sentencepiece_model_pb2.ModelProto) -> Iterator[tuple[str, str]]:
    """The pairs of pieces that form a third piece, best score first."""
    pieces = {piece.piece: piece.score for piece in proto.pieces if piece.type == piece.NORMAL}
    order = {piece: index for index, piece in enumerate(pieces)}
    pairs = [
        (-score, order[left], order[right], left, right)
        for piece, score in pieces.items()
        for left, right in ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        if left in pieces and right in pieces
    ]
    return ((left, right) for *_, left, right in sorted(pairs))


def check_tokenizer(tokenizer: Tokenizer, processor: sentencepiece.SentencePieceProcessor, texts: list[str]) -> None:
    """Compare both tokenizers on given texts.

    Raises:
        ExportError: names the first text whose ids differ.
    """
    for text in texts:
        ours, expected = tokenizer.encode(text, add_special_tokens=False).ids, processor.encode(text)
        if ours != expected:
            raise ExportError(f"the converted tokenizer reads {text!r} as {ours}, SentencePiece as {expected}")
