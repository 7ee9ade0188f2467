"""`show` of a recipe contains its deviations."""

from expunge.commands.show import show
from expunge.config.load import load_recipe


def test_deviations_of_a_recipe_are_shown(tmp_path):
    (shown,) = show("tofu-forget10-pdu")
    recipe = load_recipe("tofu-forget10-pdu")
    assert [line.strip() for line in recipe.deviations] == [line.strip() for line in shown.deviations]
    assert all(line in " ".join(shown.text.split()) for line in shown.deviations)
    path = tmp_path / "own.yaml"
    path.write_text("name: own\ndeviations: [Another model.]\n")
    (own,) = show(str(path))
    assert own.deviations == ["Another model."]
    (quickstart,) = show("quickstart")
    assert quickstart.deviations == []
