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

from pipeline.fingerprint import hash_files, hash_model
from pipeline.folders import require, require_finished, stage_lock, stage_output
from spatial_edit_reward import load_spec
from spatial_edit_reward.errors import UserError, one_line_errors
from spatial_edit_reward.files import write_json
from spatial_edit_reward.spec import FILE_NAME as SPEC


def run_merge(base: str, adapters: Sequence[Path], checkpoint: Path | None, folder: Path, overwrite: bool) -> None:
    trained = [checkpoint] if checkpoint else list(adapters)
    for path in (Path(base), *trained):
        if path.parent.name in ("sft", "grpo"):
            require_finished(path.parent, path.parent.name)
    fingerprint = {"base": hash_model(base), "trained": [hash_files(require(path, "grpo")) for path in trained]}
    with stage_output(folder, lambda: fingerprint, overwrite=overwrite, atomic=True) as partial:
        if partial is not None:
            from export.merge import write_verified  # with torch: not before the earlier stages were looked at

            folders = [*reversed(trained), Path(base)]
            spec = load_spec(next((path for path in folders if (path / SPEC).exists()), folders[0]))
            write_verified(base, adapters, spec, folder, partial, checkpoint)


def run_verify(folder: Path, base: str, adapters: Sequence[Path], checkpoint: Path | None) -> None:
    from export.verify import verify

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    file = folder / "export_report.json"
    try:
        report = verify(folder, base, adapters, checkpoint)
    except UserError as error:
        write_json(file, {"passed": False, "failed": str(error)})
        raise
    write_json(file, report)
    tensors, answers = report["tensors"], report["answers"]
    origin = "the fine-tune" if checkpoint else "PEFT's merge"
    print(
        f"verified: {tensors['parameters']:,} parameters in {tensors['tensors']} tensors, {tensors['to_change']} of them "
        f"bit-equal to {origin} and the others to the base; logits of {answers['prompts']} prompts differ by at most "
        f"{answers['max_logit_difference']:.1e} (allowed {answers['tolerance']:.1e}); same greedy verdicts: "
        + ", ".join(f"{count} in {dtype}" for dtype, count in answers["same_verdicts"].items())
    )


def run_push(folder: Path, repo: str, revision: str, private: bool, adapters: bool, confirm: bool) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from export.card import FinishedRun, write_card
    from export.push import gather_adapters, merged_files, print_contents, upload

    if not repo:
        raise UserError("give the repository on the Hub: REPO=org/name (--repo)")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"REPO: {error}") from None
    run = FinishedRun(folder)
    for stage in ("data", "sft", "grpo", "merge", "eval"):
        require_finished(folder / stage, stage)
    merged = folder / "merge"
    with stage_lock(merged), tempfile.TemporaryDirectory() as temporary:
        run_verify(merged, *run.merged_from())
        write_card(run, repo)
        source = Path(temporary) if adapters else merged
        names = gather_adapters(run, source, repo) if adapters else merged_files(merged)
        print_contents(source, names, repo, revision, private)
        if not confirm:
            print("dry run: nothing was uploaded; CONFIRM=1 (--confirm) publishes this")
            return
        print(f"published: {repo} @ {revision}, commit {upload(HfApi(), source, names, repo, revision, private)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    def add_command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    merge = add_command("merge", "merge adapters into their base, verify, save")
    verify = add_command("verify", "check a merged checkpoint against what it was made from")
    push = add_command("push", "publish a run's merged model on the Hub (dry run without --confirm)")
    for command, function in ((merge, run_merge), (verify, run_verify), (push, run_push)):
        command.set_defaults(function=function)
    merge.add_argument("--output_dir", dest="folder", metavar="FOLDER", type=Path, required=True)
    merge.add_argument("--overwrite", action="store_true", help="start over")
    verify.add_argument("folder", type=Path)
    for command in (merge, verify):
        command.add_argument(
            "--base", required=True, help="weights that the first adapter was trained on: a folder or a Hub name"
        )
        trained = command.add_mutually_exclusive_group(required=True)
        trained.add_argument(
            "--adapter", dest="adapters", type=Path, nargs="+", default=[], help="adapters, in the order of training"
        )
        trained.add_argument(
            "--checkpoint", type=Path, help="folder of a full fine-tune's weights, instead of adapters"
        )
    push.add_argument("folder", metavar="run", type=Path, help="folder of the recipe's stages: runs/NAME")
    push.add_argument("--repo", required=True, help="org/name")
    push.add_argument("--revision", default="main", help="branch to publish on (default: %(default)s)")
    push.add_argument("--private", action="store_true", help="make the repository private")
    push.add_argument(
        "--adapters", action="store_true", help="publish both stages' adapters instead of the merged weights"
    )
    push.add_argument("--confirm", action="store_true", help="upload")
    return parser.parse_args()


@one_line_errors
def main() -> None:
    arguments = vars(parse_arguments())
    arguments.pop("function")(**arguments)


if __name__ == "__main__":
    main()
