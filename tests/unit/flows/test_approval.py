"""The form at the gate, as Prefect's server and page read it."""

import pytest
from prefect.utilities.schema_tools import ValidationError, validate

from flows.approval import Approval

FORM = Approval.with_initial_data("what was measured").model_json_schema()
ANSWER = {"promote": True, "who": "anna", "why": "sharper"}


def test_nothing_is_chosen_beforehand() -> None:
    assert not [name for name, field in FORM["properties"].items() if "default" in field]
    for name in ANSWER:
        with pytest.raises(ValidationError):
            validate({key: value for key, value in ANSWER.items() if key != name}, FORM, raise_on_error=True)


def test_the_choice_is_a_list_and_not_a_switch() -> None:
    """Of a type boolean the page makes a switch that stands at no."""
    assert FORM["properties"]["promote"]["enum"] == [True, False]
    assert "type" not in FORM["properties"]["promote"]


@pytest.mark.parametrize("promote", [True, False])
def test_an_answer_is_taken(promote: bool) -> None:
    validate({**ANSWER, "promote": promote}, FORM, raise_on_error=True)
    assert Approval(promote=promote, who="anna", why="sharper").promote is promote


@pytest.mark.parametrize("wrong", [{"promote": "maybe"}, {"who": ""}, {"why": ""}])
def test_other_answers_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        validate({**ANSWER, **wrong}, FORM, raise_on_error=True)
