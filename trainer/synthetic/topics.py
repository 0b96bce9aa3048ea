"""What can be asked about a rendered face, and the sentences that answer it.

The first answer that is true of a face is given: see `trainer.synthetic.questions`. An answer says with `shows` and
`denies` which units it depends on, so that the runtime gives only answers that agree with the list of action units.
"""

from collections.abc import Sequence

from sdk.bundles.language import Claim, Topic
from sdk.faba.vocabulary import FABA_UNITS

UNCERTAIN = "That is hard to tell here."
HIDDEN_EYES = "The eyes are hidden by dark glasses."
REFUSAL = "I cannot tell that from a face. I describe only its expression and what is visible on it."
REFUSED = "refused"  # the topic of questions that no face answers
_OPEN = (25, 26, 27)
_OTHER_MOUTH = (10, 12, 14, 15, 16, 17, 20, 23, 24)


def _yes_or_no(questions: Sequence[str], units: tuple[int, ...], yes: str, no: str, *hidden: str) -> Topic:
    """Whether at least one of some units acts."""
    answers = [Claim(text=f"Yes, {yes}.", shows=(units,)), Claim(text=f"No, {no}.", denies=units)]
    return Topic(questions=tuple(questions), answers=(*answers, *_free(*hidden, UNCERTAIN)))


def _free(*texts: str) -> tuple[Claim, ...]:
    """Answers that no unit decides."""
    return tuple(Claim(text=text) for text in texts)


def _shown(*answers: tuple[str, tuple[int, ...]]) -> tuple[Claim, ...]:
    """Answers that need all of their units."""
    return tuple(Claim(text=text, shows=tuple((code,) for code in units)) for text, units in answers)


_UNIT_TOPICS = {
    "smile": _yes_or_no(
        (
            "Is this person smiling?", "Is there a smile on this face?", "Does this person smile?",
            "Do you see a smile?", "Is the person in the picture smiling?", "Is she smiling?", "Is he smiling?",
            "smile?",
        ),
        (12,), "the corners of the mouth are pulled up", "there is no smile",
    ),
    "brows lowered": _yes_or_no(
        (
            "Is this person frowning?", "Are the brows lowered?", "Are the eyebrows drawn together?",
            "Is there a frown on the forehead?", "Does this person knit the brows?", "Are the brows furrowed?",
        ),
        (4,), "the brows are lowered and drawn together", "the brows are not lowered",
    ),
    "brows raised": _yes_or_no(
        (
            "Are the brows raised?", "Are the eyebrows lifted?", "Does this person raise the eyebrows?",
            "Are the eyebrows up?", "Is one of the brows raised?", "Do you see raised eyebrows?",
        ),
        (1, 2), "the brows are raised", "the brows are not raised",
    ),
    "eyes wide": _yes_or_no(
        (
            "Are the eyes wide open?", "Are the eyes opened wide?", "Does this person stare?",
            "Are the upper lids raised?", "Is this person wide-eyed?", "Do the eyes look wide?",
        ),
        (5,), "the eyes are opened wide", "the eyes are not opened wide", HIDDEN_EYES,
    ),
    "eyes narrowed": _yes_or_no(
        (
            "Are the eyes narrowed?", "Are the eyelids tight?", "Does this person squint?",
            "Is this person squinting?", "Are the lids tensed?", "Does this person screw up the eyes?",
        ),
        (6, 7), "the eyes are narrowed", "the eyes are not narrowed", HIDDEN_EYES,
    ),
    "cheeks": _yes_or_no(
        (
            "Are the cheeks raised?", "Are the cheeks involved?", "Do the cheeks take part in this expression?",
            "Are the cheeks lifted?", "Does this person raise the cheeks?", "What about the cheeks: are they up?",
        ),
        (6,), "the cheeks are raised", "the cheeks are not raised",
    ),
    "nose": _yes_or_no(
        (
            "Is the nose wrinkled?", "Does this person wrinkle the nose?", "Are there wrinkles on the nose?",
            "Is the nose scrunched?", "Do you see a wrinkled nose?", "What about the nose: is it wrinkled?",
        ),
        (9,), "the nose is wrinkled", "the nose is not wrinkled",
    ),
    "upper lip": _yes_or_no(
        (
            "Is the upper lip raised?", "Does this person lift the upper lip?", "Is the upper lip pulled up?",
            "Is there a sneer?", "Does this person sneer?", "Do you see a raised upper lip?",
        ),
        (10,), "the upper lip is raised", "the upper lip is not raised",
    ),
    "corners down": _yes_or_no(
        (
            "Are the corners of the mouth turned down?", "Do the corners of the mouth point down?",
            "Is the mouth turned down?", "Does the mouth droop?", "Are the lip corners lowered?",
            "Do you see a downturned mouth?",
        ),
        (15,), "the corners of the mouth are turned down", "the corners of the mouth are not turned down",
    ),
    "chin": _yes_or_no(
        (
            "Is the chin raised?", "Is the chin pushed up?", "Is the chin bunched?", "Does this person pout?",
            "Is the skin of the chin wrinkled?", "What about the chin: is it pushed up?",
        ),
        (17,), "the chin is pushed up", "the chin is not pushed up",
    ),
    "stretched": _yes_or_no(
        (
            "Are the lips stretched?", "Is the mouth stretched sideways?", "Are the lips pulled sideways?",
            "Does this person stretch the mouth?", "Is the mouth pulled wide?", "Do you see stretched lips?",
        ),
        (20,), "the lips are stretched sideways", "the lips are not stretched",
    ),
    "pressed": _yes_or_no(
        (
            "Are the lips pressed together?", "Does this person press the lips?", "Are the lips tight?",
            "Is the mouth tense?", "Are the lips tightened?", "Do you see pressed lips?",
        ),
        (23, 24), "the lips are tense", "the lips are not tense",
    ),
    "mouth open": Topic(
        questions=(
            "Is the mouth open?", "Are the lips parted?", "Is the mouth closed?", "Is the mouth open or closed?",
            "Does this person open the mouth?", "Are the lips together?",
        ),
        answers=(
            Claim(text="The mouth is open.", shows=((26, 27),)),
            Claim(text="The lips are parted.", shows=(_OPEN,)),
            Claim(text="The mouth is closed.", denies=_OPEN),
            *_free(UNCERTAIN),
        ),
    ),
    "jaw": _yes_or_no(
        (
            "Is the jaw dropped?", "Does the jaw hang?", "Is the jaw open?", "Does this person drop the jaw?",
            "Is this person shouting or gaping?", "Is the mouth wide open?",
        ),
        (26, 27), "the jaw is dropped", "the jaw is not dropped",
    ),
    "eyes": Topic(
        questions=(
            "Are the eyes open?", "Are the eyes closed?", "Are the eyes open or closed?", "Are the eyes shut?",
            "Is this person asleep?", "Does this person have the eyes open?", "What are the eyes doing?",
        ),
        answers=(
            Claim(text="The eyes are closed.", shows=((43,),)),
            Claim(text="The eyes are open, and opened wide.", shows=((5,),)),
            Claim(text="The eyes are open.", denies=(43,)),
            *_free(HIDDEN_EYES, UNCERTAIN),
        ),
    ),
    "brow movement": Topic(
        questions=(
            "Which brow movement do you see?", "What are the brows doing?", "How do the eyebrows move?",
            "What is the position of the brows?", "Describe the eyebrows.", "How are the brows?",
            "What do the eyebrows show?",
        ),
        answers=(
            *_shown(
                ("The brows are raised and drawn together.", (1, 2, 4)),
                ("The inner brows are raised and drawn together.", (1, 4)),
                ("The brows are raised.", (1, 2)),
                ("The inner brows are raised.", (1,)),
                ("The outer brows are lifted and the brows are drawn together.", (2, 4)),
                ("The outer brows are lifted.", (2,)),
                ("The brows are lowered and drawn together.", (4,)),
            ),
            Claim(text="The brows are at rest.", denies=(1, 2, 4)),
            *_free(UNCERTAIN),
        ),
    ),
    "mouth": Topic(
        questions=(
            "What is the mouth doing?", "Describe the mouth.", "What does the mouth look like?", "How is the mouth?",
            "What do the lips show?", "Which mouth movement do you see?", "How do the lips move?",
        ),
        answers=(
            *_shown(
                ("The mouth is open in a smile.", (12, 25)),
                ("The mouth smiles with closed lips.", (12,)),
                ("The mouth is stretched wide open.", (27,)),
                ("The jaw is dropped.", (26,)),
                ("The lips are stretched sideways.", (20,)),
                ("The corners of the mouth are turned down.", (15,)),
                ("The upper lip is raised.", (10,)),
                ("The lips are pressed together.", (24,)),
                ("The lips are tightened.", (23,)),
                ("The lower lip is pulled down.", (16,)),
                ("The lips are parted.", (25,)),
                ("The chin pushes the lower lip up.", (17,)),
                ("The corners of the mouth are dimpled.", (14,)),
            ),
            Claim(text="The mouth is at rest.", denies=(*_OPEN, *_OTHER_MOUTH)),
            *_free(UNCERTAIN),
        ),
    ),
    "any movement": Topic(
        questions=(
            "Is the face at rest?", "Is this face relaxed?", "Is there any expression?", "Does anything move here?",
            "Is this an expressionless face?", "Does this person show any expression?",
        ),
        answers=(
            Claim(text="The face is at rest.", denies=FABA_UNITS),
            Claim(text="The face is not at rest.", shows=(FABA_UNITS,)),
            *_free(UNCERTAIN),
        ),
    ),
}  # fmt: skip
_SCENE_TOPICS = {
    "strength": Topic(
        questions=(
            "How strong is the expression?", "How intense is this expression?", "Is the expression strong or weak?",
            "How clear is the expression?", "Is this a strong expression?", "How expressive is this face?",
        ),
        answers=(
            Claim(text="There is hardly any expression.", denies=FABA_UNITS),
            *(
                Claim(text=f"The expression is {degree}.", shows=(FABA_UNITS,))
                for degree in ("weak", "clear", "strong")
            ),
            *_free(UNCERTAIN),
        ),
    ),
    "certainty": Topic(
        questions=(
            "How sure are you?", "Are you sure?", "How certain is this?", "Can this expression be read with certainty?",
            "How reliable is your answer?", "Could you be wrong about this face?", "Is the expression ambiguous?",
        ),
        answers=_free(
            "The signs are clear, but a face alone never makes it certain.",
            "Not very sure: the signs are weak.",
            "Not very sure: the signs belong to no single emotion.",
            "Not very sure: a part of the face is hidden or turned away.",
        ),
    ),
    "valence": Topic(
        questions=(
            "Is the expression positive or negative?", "Does this face look pleasant?", "Is the mood good or bad?",
            "Is this a positive expression?", "Does this person look pleased or displeased?",
            "Is the emotion negative?",
        ),
        answers=(
            Claim(text="The expression looks positive.", shows=((12,),)),
            *_free("The expression looks negative.", "The expression looks neither positive nor negative.", UNCERTAIN),
        ),
    ),
    "glasses": Topic(
        questions=(
            "Does this person wear glasses?", "Are there glasses?", "Is this person wearing glasses?",
            "Do you see glasses?", "Does he wear glasses?", "Does she wear glasses?", "glasses?",
        ),
        answers=_free("Yes, glasses.", "Yes, dark glasses.", "No, I see no glasses."),
    ),
    "beard": Topic(
        questions=(
            "Does this person have a beard?", "Is there a beard or a moustache?", "Is this person bearded?",
            "Do you see a beard?", "Is this face shaved?", "Does he have a beard?",
            "Does this person have facial hair?",
        ),
        answers=_free("Yes, a beard or a moustache.", "There may be stubble.", "No, I see no beard."),
    ),
    "hat": Topic(
        questions=(
            "Does this person wear a hat?", "Is there a hat or a scarf on the head?", "Is the head covered?",
            "Do you see a cap?", "Is this person wearing a hat?", "Does this person wear a cap or a headscarf?",
        ),
        answers=_free("Yes, the head is covered.", "No, I see neither hat nor scarf."),
    ),
    "hand": Topic(
        questions=(
            "Is there a hand in front of the face?", "Does a hand touch the face?", "Is a part of the face covered?",
            "Do you see a hand?", "Is something in front of the face?", "Does anything cover the face?",
        ),
        answers=_free("Yes, a hand.", "Yes, something covers a part of the face.", "No, the face is free."),
    ),
    "turned": Topic(
        questions=(
            "Is the head turned?", "Does this person face the camera?", "Where does the head turn?",
            "Which way is the face turned?", "Is this a profile?", "Is this face seen from the side?",
        ),
        answers=_free(
            "The head is turned to the right of the picture.",
            "The head is turned to the left of the picture.",
            "The face is turned to the camera.",
        ),
    ),
    "tilted": Topic(
        questions=(
            "Is the head tilted?", "Is the head upright?", "Does the head lean to a side?",
            "Which way does the head lean?", "Is the head held straight?", "Is the face tilted?",
        ),
        answers=_free(
            "The head leans to the left of the picture.",
            "The head leans to the right of the picture.",
            "The head is upright.",
        ),
    ),
}  # fmt: skip
_REFUSED = Topic(
    questions=(
        "What is this person's name?", "Who is this?", "Who is the person in the picture?", "Do you know this person?",
        "Is this a famous person?", "What is this person's age?", "How old does she look?", "How old is he?",
        "Is this person older than thirty?", "Is this a child?", "Is this a man or a woman?",
        "What gender is this person?",
        "What is this person's ethnicity?", "Where does this person come from?", "What nationality is this person?",
        "What is this person thinking?", "What does this person think about?", "What is he thinking?",
        "What does she want?", "What will this person do next?", "Is this person lying?", "Does he tell the truth?",
        "Is this person honest?", "Can I trust this person?", "Is this person dangerous?", "Is this person a criminal?",
        "Is this person healthy?", "Is this person ill?", "Is this person in pain?", "Is this person depressed?",
        "Does this person have autism?", "Is this person drunk?", "Is this person intelligent?", "Is she clever?",
        "Is this person kind?", "What character does this person have?", "Is this person attractive?",
        "Is she beautiful?",
        "What does this person do for a living?", "What is this person's job?", "Is this person rich?",
        "Is this person married?", "Does this person love me?", "What religion does this person have?",
        "How does this person vote?", "What is this person's sexual orientation?", "Would you hire this person?",
        "Does this person pay attention?", "Is this person bored?", "Why is this person here?",
        "Why does this person feel like that?", "What has happened?", "Where was this picture taken?",
        "When was this picture taken?", "Who took this picture?", "What is in the background?", "What time is it?",
        "What is the weather like?", "What is the capital of France?", "How much is two plus two?", "Hello!",
        "Who are you?", "Tell me a joke.", "Write a poem.", "What does this person say?", "How tall is this person?",
        "How heavy is this person?", "Is this a photograph or a painting?", "Is this picture real?",
    ),
    answers=_free(REFUSAL),
)  # fmt: skip
# "How old is this person?" is in no list: tests and users see with it what a question does that was not trained.
TOPICS: dict[str, Topic] = {**_UNIT_TOPICS, **_SCENE_TOPICS, REFUSED: _REFUSED}
