"""Training curves of both stages as one image, for the report and the model card."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from matplotlib.figure import Figure

# stage -> (title, patterns of the logged names to draw) of each panel: every reward of a run is drawn, one's own too
PANELS = {
    "sft": (
        ("loss", ("loss", "eval_loss")),
        ("token accuracy", ("mean_token_accuracy", "eval_mean_token_accuracy")),
    ),
    "grpo": (
        ("mean rewards", ("rewards/*/mean",)),
        ("tokens of a completion", ("completions/mean_length",)),
        ("groups without a difference, clipped completions", ("frac_reward_zero_std/*", "completions/clipped_ratio")),
    ),
}


def read_history(stage_dir: Path) -> list[dict[str, float]]:
    """The Trainer's log history of a finished stage; empty where there is none."""
    file = stage_dir / "trainer_state.json"
    return json.loads(file.read_bytes())["log_history"] if file.exists() else []


def drawn_names(history: Sequence[dict[str, float]], patterns: Sequence[str]) -> list[str]:
    """The logged names that match one of `patterns`, by pattern and then as they were first logged."""
    logged = list(dict.fromkeys(name for entry in history for name in entry))
    return [name for pattern in patterns for name in logged if fnmatch(name, pattern)]


def curves(run_dir: Path, form: str) -> bytes:
    """The curves of `run_dir`'s stages as an image, `form` "svg" or "png"."""
    panels = [(stage, *panel) for stage, stage_panels in PANELS.items() for panel in stage_panels]
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = list(figure.subplots(2, 3).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (stage, title, patterns) in zip(axes, panels, strict=False):
        history = read_history(run_dir / stage)
        for name in drawn_names(history, patterns):
            points = [(entry["step"], entry[name]) for entry in history if entry.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, linewidth=1.4)
        axis.set_title(f"{stage}: {title}", fontsize=9)
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
