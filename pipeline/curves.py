"""Training curves of both stages as one picture, for the report and the model card."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("Agg")

# stage -> the logged values to draw, one panel each
PANELS = {
    "sft": (("loss", "eval_loss"), ("mean_token_accuracy", "eval_mean_token_accuracy")),
    "grpo": (
        ("rewards/box_iou/mean", "rewards/score_agreement/mean", "rewards/format/mean"),
        ("completions/mean_length",),
        ("frac_reward_zero_std/weighted_sum", "frac_reward_zero_std/box_iou", "completions/clipped_ratio"),
    ),
}


def read_history(stage_dir: Path) -> list[dict[str, float]]:
    """The Trainer's log history of a finished stage; empty where there is none."""
    file = stage_dir / "trainer_state.json"
    return json.loads(file.read_text())["log_history"] if file.exists() else []


def curves(run_dir: Path, form: str) -> bytes:
    """The curves of `run_dir`'s stages as a picture, `form` "svg" or "png"."""
    panels = [(stage, names) for stage, groups in PANELS.items() for names in groups]
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, 3).flat
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (stage, names) in zip(axes, panels, strict=False):
        history = read_history(run_dir / stage)
        for name in names:
            points = [(entry["step"], entry[name]) for entry in history if entry.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, linewidth=1.4)
        axis.set_title(f"{stage}: {names[0]}", fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        if axis.lines:
            axis.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form)
    return buffer.getvalue()


def curves_uri(run_dir: Path) -> str:
    """The curves of `run_dir`'s stages as an SVG data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(curves(run_dir, 'svg')).decode()}"
