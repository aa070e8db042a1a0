"""Evaluate reward models: held-out verdicts and their report, public benchmarks, one edit, attention.

python -m evaluation heldout --config recipes/tiny/eval.yaml
python -m evaluation report --config recipes/tiny/eval.yaml
python -m evaluation bench merbench --config recipes/tiny/eval.yaml --model runs/tiny/merge --data FOLDER
python -m evaluation score merbench runs/tiny/benchmarks/merbench/runs-tiny-merge/verdicts.jsonl --json
python -m evaluation try --model runs/tiny/merge --source a.png --edited b.png --instruction 'Remove the cup.' --page try.html
python -m evaluation diagnose --config recipes/tiny/eval.yaml --model runs/tiny/merge
"""

from __future__ import annotations

from evaluation.options import (
    BenchmarkConfig,
    DiagnoseConfig,
    HeldoutConfig,
    ReportConfig,
    ScoreConfig,
    TryConfig,
    parse_options,
)
from evaluation.recipe import EvalRecipe
from pipeline.recipe import load_config
from spatial_edit_reward.errors import one_line_errors


@one_line_errors
def main() -> None:
    options = parse_options(__doc__)
    match options:  # each verb's own imports take seconds: not before the options are checked
        case HeldoutConfig():
            from evaluation.heldout import write_heldout

            write_heldout(load_config(options.config, EvalRecipe), options.overwrite)
        case ReportConfig():
            from evaluation.report import make_report

            make_report(load_config(options.config, EvalRecipe))
        case BenchmarkConfig():
            from evaluation.benchmarks.run import run_benchmarks

            run_benchmarks(load_config(options.config, EvalRecipe), options)
        case ScoreConfig():
            from evaluation.benchmarks.score import score

            score(options)
        case TryConfig():
            from evaluation.try_pair import try_pair

            try_pair(options.model, options.source, options.edited, options.instruction, options.page)
        case DiagnoseConfig():
            from evaluation.diagnose import run_diagnose

            run_diagnose(load_config(options.config, EvalRecipe), options.model, options.spec, options.count)


if __name__ == "__main__":
    main()
