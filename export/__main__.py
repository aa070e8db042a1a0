"""The merge stage, and its verification alone.

python -m export merge --base runs/tiny/sft/merged --adapter runs/tiny/grpo/adapter --output_dir runs/tiny/merge
python -m export verify runs/tiny/merge --base runs/tiny/sft/merged --adapter runs/tiny/grpo/adapter
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from pipeline.errors import UserError, one_line_errors
from pipeline.fingerprint import already_made, finish, finished, hash_files, hash_model, write_json
from verdict import load_spec


def run_merge(base: str, adapter: Path, folder: Path, fresh: bool) -> None:
    from export.merge import merge

    for path, stage in ((Path(base).parent, "sft"), (adapter.parent, "grpo")):
        if not finished(path):
            raise UserError(f"{path} is not finished: run 'make {stage}' first (with the same RECIPE)")
    fingerprint = {"base": hash_model(base), "adapter": hash_files(adapter)}
    if already_made(folder, fingerprint, fresh):
        return
    merge(base, adapter, load_spec(Path(base)), folder)
    finish(folder, fingerprint)


def run_verify(folder: Path, base: str, adapter: str) -> None:
    from export.verify import verify

    verification = verify(str(folder), base, adapter)
    write_json(folder / "export_report.json", asdict(verification))
    print(
        f"verified: {verification.parameters:,} parameters in {verification.tensors} tensors as in the base; logits of "
        f"{verification.prompts} prompts differ by at most {verification.max_logit_difference:.1e}"
    )


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    merging = verbs.add_parser("merge", help="merge an adapter into its base, verify, save")
    merging.add_argument("--output_dir", type=Path, required=True)
    merging.add_argument("--fresh", action="store_true", help="start over")
    verifying = verbs.add_parser("verify", help="check a merged checkpoint against base + adapter")
    verifying.add_argument("folder", type=Path)
    for verb in (merging, verifying):
        verb.add_argument("--base", required=True, help="folder of the weights that the adapter was trained on")
        verb.add_argument("--adapter", type=Path, required=True, help="folder of the adapter")
    arguments = parser.parse_args()
    if arguments.verb == "merge":
        run_merge(arguments.base, arguments.adapter, arguments.output_dir, arguments.fresh)
    else:
        run_verify(arguments.folder, arguments.base, str(arguments.adapter))


if __name__ == "__main__":
    main()
