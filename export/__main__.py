"""The merge stage, its verification alone, and publishing.

python -m export merge --base runs/tiny/sft/merged --adapter runs/tiny/grpo/adapter --output_dir runs/tiny/merge
python -m export verify runs/tiny/merge --base runs/tiny/sft/merged --adapter runs/tiny/grpo/adapter

Several adapters are given in the order of training: `--adapter SFT GRPO` on the base that SFT started from. A full
fine-tune's weights, in one folder of safetensors, go in with `--checkpoint FOLDER` instead.

python -m export push runs/tiny --repo org/name [--revision NAME] [--private] [--adapters] [--confirm]

Verifies again, writes the model card, shows what would be published, and with --confirm publishes it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.fingerprint import hash_files, hash_model
from pipeline.folders import require, require_finished, stage_output
from spatial_edit_reward import Spec, SpecError, load_spec
from spatial_edit_reward.errors import UserError, one_line_errors
from spatial_edit_reward.files import write_json

STAGES = ("sft", "grpo")


def spec_of(folders: Sequence[Path]) -> Spec:
    """The spec beside the first of `folders` that has one. Raises SpecError where none has."""
    for folder in folders:
        if (folder / "verdict.json").exists():
            return load_spec(folder)
    raise SpecError(f"no verdict.json in {', '.join(map(str, folders))}, so prompts and limits are unknown")


def run_merge(base: str, adapters: Sequence[Path], checkpoint: Path | None, folder: Path, overwrite: bool) -> None:
    from export.merge import merge

    sources = [checkpoint] if checkpoint else list(adapters)
    for path in (Path(base), *sources):
        if path.parent.name in STAGES:
            require_finished(path.parent, path.parent.name)

    def fingerprint() -> dict[str, Any]:
        return {"base": hash_model(base), "trained": [hash_files(require(path, "grpo")) for path in sources]}

    with stage_output(folder, fingerprint, overwrite=overwrite, atomic=True) as output:
        if output is not None:
            merge(base, adapters, spec_of([*reversed(sources), Path(base)]), output, checkpoint)


def run_verify(folder: Path, base: str, adapters: Sequence[Path], checkpoint: Path | None) -> None:
    from export.verify import verify

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    report = folder / "export_report.json"
    try:
        found = verify(folder, base, adapters, checkpoint)
    except UserError as error:
        write_json(report, {"passed": False, "failed": str(error)})
        raise
    write_json(report, found)
    tensors, answers = found["tensors"], found["answers"]
    print(
        f"verified: {tensors['parameters']:,} parameters in {tensors['tensors']} tensors, {tensors['to_change']} of them "
        f"bit-equal to PEFT's merge and the others to the base; logits of {answers['prompts']} prompts differ by at most "
        f"{answers['max_logit_difference']:.1e} (allowed {answers['tolerance']:.1e}); same greedy verdicts: "
        + ", ".join(f"{count} in {dtype}" for dtype, count in answers["same_verdicts"].items())
    )


def run_push(folder: Path, repo: str, revision: str, private: bool, adapters: bool, confirm: bool) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from export.card import write_card
    from export.contents import gather_adapters, merged_files, show
    from export.push import upload
    from export.run import Run

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"REPO: {error}") from None
    run = Run(folder)
    run.need_finished("data", "sft", "grpo", "merge", "eval")
    merged = folder / "merge"
    run_verify(merged, *run.merged_from())
    write_card(run, repo)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) if adapters else merged
        names = gather_adapters(run, source, repo) if adapters else merged_files(merged)
        show(source, names, repo, revision, private)
        if not confirm:
            print("dry run: nothing was uploaded; CONFIRM=1 (--confirm) publishes this")
            return
        print(f"published: {repo} @ {revision}, commit {upload(HfApi(), source, names, repo, revision, private)}")


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    merging = verbs.add_parser("merge", help="merge adapters into their base, verify, save")
    merging.add_argument("--output_dir", type=Path, required=True)
    merging.add_argument("--overwrite", action="store_true", help="start over")
    verifying = verbs.add_parser("verify", help="check a merged checkpoint against what it was made from")
    verifying.add_argument("folder", type=Path)
    for verb in (merging, verifying):
        verb.add_argument(
            "--base", required=True, help="weights that the first adapter was trained on: a folder or a Hub name"
        )
        trained = verb.add_mutually_exclusive_group(required=True)
        trained.add_argument("--adapter", type=Path, nargs="+", default=[], help="adapters, in the order of training")
        trained.add_argument(
            "--checkpoint", type=Path, help="folder of a full fine-tune's weights, instead of adapters"
        )
    pushing = verbs.add_parser("push", help="publish a run's merged model on the Hub (dry run without --confirm)")
    pushing.add_argument("run", type=Path, help="folder of the recipe's stages: runs/NAME")
    pushing.add_argument("--repo", required=True, help="org/name")
    pushing.add_argument("--revision", default="main", help="branch to publish on (default: %(default)s)")
    pushing.add_argument("--private", action="store_true", help="make the repository private")
    pushing.add_argument(
        "--adapters", action="store_true", help="publish both stages' adapters instead of the merged weights"
    )
    pushing.add_argument("--confirm", action="store_true", help="upload")
    arguments = parser.parse_args()
    if arguments.verb == "push":
        run_push(
            arguments.run,
            arguments.repo,
            arguments.revision,
            arguments.private,
            arguments.adapters,
            arguments.confirm,
        )
    elif arguments.verb == "merge":
        run_merge(arguments.base, arguments.adapter, arguments.checkpoint, arguments.output_dir, arguments.overwrite)
    else:
        run_verify(arguments.folder, arguments.base, arguments.adapter, arguments.checkpoint)


if __name__ == "__main__":
    main()
