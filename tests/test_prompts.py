"""The templates give the prompts of the authors' evaluation and training code."""

from conftest import golden_json

from sdk.faba.prompts import QUESTIONS, TEMPLATES


def test_evaluation_prompt_equals_the_authors():
    names = {"AU": "action_units", "emotion": "emotion"}
    for record in golden_json("golden_eval_init.json"):
        assert TEMPLATES["llava_v1"].prompt(QUESTIONS[names[record["task"]]]) == record["prompt"]


def test_conversation_continues_the_prompt():
    template = TEMPLATES["vicuna_v1"]
    assert template.conversation("Why?", "So.") == template.prompt("Why?") + " So.</s>"
    assert "curious user" in template.system
