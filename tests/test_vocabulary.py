"""The tables of emotions, action units and scored sets are consistent."""

from sdk.faba.vocabulary import ACTION_UNITS, CATEGORY_WORDS, DATASETS, EMOTIONS, SYNONYMS


def test_every_emotion_has_words():
    assert set(SYNONYMS) == set(CATEGORY_WORDS) == set(EMOTIONS)
    assert all(emotion in SYNONYMS[emotion] for emotion in EMOTIONS)


def test_scored_units_are_labelled_and_named():
    """The sizes are those of Tables 4 to 7 of the paper."""
    assert {name: len(d.scored) for name, d in DATASETS.items()} == dict(
        FABA=12, DISFA=8, BP4D=12, GFT=10, EmotioNet=12
    )
    for name, dataset in DATASETS.items():
        assert set(dataset.scored) <= set(dataset.labelled), name
        assert set(dataset.labelled) <= set(ACTION_UNITS), name
