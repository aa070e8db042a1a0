"""How a command ends on an error that a user can cause."""

import pytest

from spatial_edit_reward.errors import UserError, one_line_errors


@pytest.mark.parametrize("error", [UserError("recipe.yaml: no such file"), KeyboardInterrupt("run it again to go on")])
def test_the_error_has_a_line_of_its_own_behind_a_progress_bar(error, capsys):
    from tqdm.auto import tqdm

    @one_line_errors
    def main() -> None:
        outer = tqdm(total=2)
        for _ in tqdm(range(3), position=1, leave=False):
            outer.update()
            raise error

    with pytest.raises(SystemExit) as end:
        main()
    written = capsys.readouterr().err + (str(end.value.code) if isinstance(end.value.code, str) else "")
    assert written.rstrip().splitlines()[-1] in (
        "error: recipe.yaml: no such file",
        "interrupted; run it again to go on",
    )
