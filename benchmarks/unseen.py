"""Speed beside other libraries on fresh random problems, per family.

    python -m benchmarks.unseen --seed 1 --count 44 [--against torch,onnxruntime] [--threads 2]

Named shapes are what kernels get tuned on; these are not.  The same seed gives the same problems.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.families import FAMILIES, chosen_families, family_of, problems
from mlxconv.bench import report
from mlxconv.bench.contest import Contest, Result, geometric_mean
from mlxconv.cli import bench
from mlxconv.cli.errors import CommandError
from mlxconv.cli.parser import positive, positive_number
from mlxconv.tables import Table


def per_family(results: Sequence[Result]) -> Table:
    """The geometric mean and the worst of each family, and of all."""
    table = Table(("family", "problems", "ratio", "worst", "% of peak", "worst problem"))
    table.text_columns = (0, 5)
    names = dict.fromkeys(family_of(r.name) for r in results)
    rows = [(name, [r for r in results if family_of(r.name) == name]) for name in names]
    for name, chosen in [*rows, ("all", list(results))]:
        worst = min(chosen, key=lambda r: r.ratio)
        sizes = ", ".join(f"{field} {n}" for field, n in worst.shape._asdict().items())
        table.add(
            name,
            str(len(chosen)),
            f"{geometric_mean([r.ratio for r in chosen]):.2f}",
            report.ratio(worst),
            f"{geometric_mean([r.percent_of_peak for r in chosen]):.1f}",
            f"{worst.name}: {sizes}",
        )
    return table


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--seed", type=int, required=True)
    made.add_argument("--count", type=positive, default=len(FAMILIES))
    made.add_argument("--families", default="", metavar="A,B", help=", ".join(FAMILIES))
    made.add_argument("--against", metavar="A,B")
    made.add_argument("--threads", type=positive)
    made.add_argument("--dtype", choices=("float16", "float32", "float64"), default="float32")
    made.add_argument("--seconds", type=positive_number, default=2.0, help="per problem")
    made.add_argument("--json", metavar="FILE")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        setting = bench.setting_of(options.against, options.threads, options.dtype)
    except CommandError as error:
        raise SystemExit(str(error)) from error
    chosen = problems(options.seed, options.count, chosen_families(options.families))
    results: list[Result] = []
    with Contest(setting.peers, setting.threads, setting.dtype) as contest:
        try:
            bench.measure(contest, chosen, options.seconds, False, results)
        finally:
            print(f"seed {options.seed}, {len(results)} problems; {setting}")
            if results:
                print(report.table(results, setting.peers).plain(), end="\n\n")
                print(per_family(results).plain())
                print("\n".join(report.summary(results)))
    if options.json:
        Path(options.json).write_text(json.dumps(report.as_json(results, setting), indent=1))


if __name__ == "__main__":
    main()
