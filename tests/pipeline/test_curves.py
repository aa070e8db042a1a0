"""Training curves: every reward that was logged is drawn."""

import json

HISTORY = [
    {"step": 1, "frac_reward_zero_std": 0.5, "frac_reward_zero_std/brevity": 0.2, "reward": 0.4},
    {"step": 1, "rewards/brevity/mean": 0.3, "rewards/brevity/std": 0.1, "rewards/box_iou/mean": 0.1},
    {"step": 2, "rewards/box_iou/mean": None, "rewards/late:reward/mean": 0.3, "completions/clipped_ratio": 0.1},
]


def test_every_reward_that_was_logged_is_drawn_one_of_ones_own_too():
    from pipeline.curves import PANELS, drawn_names

    _, _, (_, flat) = PANELS["grpo"]
    assert drawn_names(HISTORY, PANELS["grpo"][0][1]) == [
        "rewards/brevity/mean",
        "rewards/box_iou/mean",
        "rewards/late:reward/mean",
    ]
    assert drawn_names(HISTORY, flat) == ["frac_reward_zero_std/brevity", "completions/clipped_ratio"]


def test_the_image_names_every_curve_and_is_there_without_a_history(tmp_path):
    from pipeline.curves import curves

    assert curves(tmp_path, "png").startswith(b"\x89PNG")
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    svg = curves(tmp_path, "svg").decode()
    for name in ("rewards/brevity/mean", "rewards/late:reward/mean", "frac_reward_zero_std/brevity"):
        assert f"<!-- {name} -->" in svg
    assert "rewards/brevity/std" not in svg
