"""What was measured as a table to read: (what, value)."""

from __future__ import annotations

from typing import Any


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The table: (what, value)."""
    card, tiny = found["card"], found["tiny_losses"]
    table = [
        ("card", card["name"] + (f", {card['memory_bytes'] / 2**30:.0f} GiB" if card["memory_bytes"] else "")),
        ("fastest matrix product", f"{card['matmul_per_second'] / 1e12:.3g} TFLOP/s"),
        (
            "tiny model, device against CPU",
            f"losses differ by {tiny['relative_difference']:.1e} (allowed {tiny['tolerance']:.0e}): "
            + ("agree" if tiny["agree"] else "DO NOT AGREE"),
        ),
    ]
    if "model" in found:
        model = found["model"]
        table.append(
            ("model", f"{model['parameters']:,} parameters, {model['trained']:,} trained; {model['attention']}")
        )
    if found.get("sft"):
        step = found["sft"]
        table += [
            ("SFT, forward and backward", f"{step['rows']} rows of {step['tokens_per_row']} tokens: {_speed(step)}"),
            ("attention operators", ", ".join(step["attention"][:3]) or "none found by name"),
        ]
        if step["peak_bytes"]:
            plan = found["estimate"]
            said = plan if isinstance(plan, str) else f"{sum(plan.values()) / 2**30:.1f} GiB by the plan"
            table.append(("SFT, peak memory", f"{step['peak_bytes'] / 2**30:.1f} GiB; {said}"))
    if found.get("grpo"):
        generation, update = found["grpo"]["generation"], found["grpo"]["update"]
        table.append(
            (
                "GRPO, generation",
                f"{generation['rows']} completions: {generation['seconds']:.1f} s, "
                f"{generation['tokens_per_second']:,.0f} new tokens/s{_memory(generation)}",
            )
        )
        table.append(
            (
                "GRPO, update",
                f"{update['completions']} completions, {update['rows']} at a time: {_speed(update)}{_memory(update)}",
            )
        )
    for name, step in found.get("trainers", {}).items():
        table.append((f"TRL's {name}", f"{step['seconds']:.2f} s a step of {step['rows']} rows{_memory(step)}"))
    table += [(f"skipped: {part}", why) for part, why in found["skipped"].items()]
    return table


def _speed(step: dict[str, Any]) -> str:
    share = f"MFU {step['mfu']:.3f}, " if step["mfu"] else ""
    return (
        f"{step['seconds']:.2f} s, {step['tokens_per_second']:,.0f} tokens/s, "
        f"{share}{step['share_of_matmul']:.3f} of the fastest product"
    )


def _memory(step: dict[str, Any]) -> str:
    return f", {step['peak_bytes'] / 2**30:.1f} GiB" if step["peak_bytes"] else ""
