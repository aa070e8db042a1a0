"""Where verdicts come from: a local checkpoint through transformers, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluation.questions import Ask, Question, Reply
from pipeline.errors import UserError
from verdict import Spec, load_spec


def open_backend(
    backend: str,
    model: str,
    spec: Spec,
    *,
    batch_size: int,
    samples: int = 1,
    temperature: float = 0.0,
    expected_score: bool = False,
) -> Ask:
    """Asks the checkpoint `model` with the prompts, pixels and lengths of `spec`. Raises UserError for what cannot be done."""
    if backend != "transformers" or expected_score:
        raise UserError(f"{backend}: only the transformers backend is there, without expected scores")
    if samples > 1 and temperature == 0:
        raise UserError(f"{samples} samples at temperature 0 would all be the same: give a temperature above 0")
    import torch
    from accelerate import PartialState

    from evaluation.generate import Sampling, generate, in_batches
    from training.model import load_model, load_processor

    processor = load_processor(model, spec)
    loaded = load_model(model, "auto", None).to(PartialState(cpu=not torch.cuda.is_available()).device)
    sampling = Sampling(temperature, top_p=1.0) if temperature > 0 else None

    def ask(questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        ordered = sorted(questions, key=lambda question: -len(question.images))
        for places in in_batches(len(ordered), batch_size):
            part = [ordered[place] for place in places]
            chats = []
            for one in part:
                text = {"type": "text", "text": spec.prompt(one.task, one.instruction)}
                chats.append([{"role": "user", "content": [*({"type": "image"} for _ in one.images), text]}])
            said = generate(loaded, processor, chats, [one.images for one in part], spec.max_new_tokens, sampling)
            yield from ((one, Reply(text.text, text.truncated)) for one, text in zip(part, said, strict=True))

    return ask


def spec_of(model: str, named: Path | None) -> Spec:
    """The spec in the folder `named`, else the one beside the checkpoint `model`. Raises SpecError where there is none."""
    return load_spec(named or Path(model))
