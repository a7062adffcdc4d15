"""How much slower the variant that the table picks is than the fastest, on random problems.

    python -m benchmarks.regret --seed 1 --count 44 [--families dense,short] [--threads 2]
    python -m benchmarks.regret --named [--threads 2]       on the shapes that come with mlxconv

Regrets above 5 % are raced once more, three times as long, and listed only if they are still there.
"""

import argparse
from collections.abc import Sequence

import mlxconv
from benchmarks.families import FAMILIES, chosen_families, problems
from mlxconv.bench.shapes import Shape, named
from mlxconv.cli import progress
from mlxconv.cli.parser import positive, positive_number
from mlxconv.racing import Race
from mlxconv.tables import Table, number

NOTABLE = 0.05
CONFIRM = 3  # times as long
SLOWEST_SECONDS = 0.2  # per call: slower variants are no rivals


def raced(shape: Shape, seconds: float, threads: int | None, dtype: str) -> Race:
    """The race of all variants, once more if its regret is notable."""

    def one(seconds: float) -> Race:
        return mlxconv.race(
            *shape.arrays,
            **shape.parameters,
            transposed=shape.transposed,
            dtype=dtype,
            stream=mlxconv.Stream(threads),
            seconds=seconds,
            slowest=SLOWEST_SECONDS,
        )

    first = one(seconds)
    if first.regret <= NOTABLE:
        return first
    return min(first, one(CONFIRM * seconds), key=lambda race: race.regret)


def report(races: dict[str, Race]) -> str:
    """The distribution, and what is above 5 %."""
    regrets = sorted(race.regret for race in races.values())
    mean, middle = sum(regrets) / len(regrets), regrets[len(regrets) // 2]
    notable = {name: race for name, race in races.items() if race.regret > NOTABLE}
    lines = [
        f"regret: mean {100 * mean:.1f} %, median {100 * middle:.1f} %,"
        f" largest {100 * regrets[-1]:.1f} %;"
        f" above {100 * NOTABLE:.0f} % on {len(notable)} of {len(races)}"
    ]
    table = Table(("problem", "regret %", "picked", "us", "fastest", "its us", "sizes"))
    table.text_columns = (0, 2, 4, 6)
    for name, race in sorted(notable.items(), key=lambda item: -item[1].regret):
        took = {entry.variant: entry.us for entry in race.entries}
        table.add(
            name,
            f"{100 * race.regret:.0f}",
            race.picked,
            number(took[race.picked]),
            race.fastest.variant,
            number(race.fastest.us),
            f"{race.problem.input_shape} * {race.problem.weight_shape}",
        )
    return "\n".join([*lines, table.plain()] if notable else lines)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int)
    which.add_argument("--named", action="store_true", help="the shapes that come with mlxconv")
    made.add_argument("--count", type=positive, default=len(FAMILIES))
    made.add_argument("--families", default="", metavar="A,B", help=", ".join(FAMILIES))
    made.add_argument("--threads", type=positive)
    made.add_argument("--dtype", choices=("float16", "float32", "float64"), default="float32")
    made.add_argument("--seconds", type=positive_number, default=0.5, help="per problem")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    chosen = named()
    if not options.named:
        chosen = problems(options.seed, options.count, chosen_families(options.families))
    races = {}
    with progress.bar("racing", len(chosen), False, counts=True) as advance:
        for name, shape in chosen.items():
            races[name] = raced(shape, options.seconds, options.threads, options.dtype)
            advance(1)
    source = "named shapes" if options.named else f"seed {options.seed}"
    print(f"{source}, {options.dtype}, variants {', '.join(mlxconv.variants())}")
    print(report(races))


if __name__ == "__main__":
    main()
