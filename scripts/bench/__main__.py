#!/usr/bin/env python3
"""How fast and how good the cutting is, against the peer's way in the same run.

ncut     our eigensolver against scipy.linalg.eigh as MaskCut calls it, on real features
pseudo   seconds an image for each step of both methods, against MaskCut's way of computing, and what 3D adds
crf      one CRF for each mask against ours
quality  AP, AR, recall and precision on the sets of real photos beside the checkout: Table 4's order, sweeps
scale    images a second against workers, peak memory against the number of images
train    what each use of Spatial Confidence adds to a detector of preset tiny, on rendered scenes: Table 6 (an hour)
train-step  a training step with all uses of Spatial Confidence against detectron2's plain one
selftrain  what a round of self-training adds to a small detector, on rendered scenes, with a control (most of an hour)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import device as bench_device
from bench import pseudo as bench_pseudo
from bench import quality as bench_quality
from bench import scale as bench_scale
from bench import selftrain as bench_selftrain
from bench import speed as bench_speed
from bench import train as bench_train
from bench.common import Report, load_average, machine, print_machine, print_report, say
from bench.data import RENDERED, WITH_DEPTH, WITHOUT_DEPTH, Features, Photo, data_folder, read_set, some_photos
from cuts3d_cli.config import PRESETS
from cuts3d_cli.detector.train import require_detectron2
from cuts3d_cli.devices import choose_device
from cuts3d_cli.errors import Cuts3dError

NAMES = ("ncut", "pseudo", "crf", "quality", "scale", "train", "train-step", "selftrain")
BUSY = 0.7
"""Load average over which the figures come with a warning."""
WIDTH = 170
"""Of the tables, in characters, where stdout is no terminal."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(arguments)
    load_before = load_average()
    if load_before is not None and load_before > BUSY:
        say(f"the load average is {load_before}: others use this machine, so that times and ratios are rough")
    features = Features(options.cache)
    folder = data_folder(options.data)
    actions: dict[str, Callable[[], Report]] = {
        "ncut": lambda: bench_speed.ncut(
            some_photos(folder, options.images, sets=("mosd", "coco")),
            sizes=options.sizes,
            features=features,
            repeats=options.repeats,
        ),
        "pseudo": lambda: _pseudo(options, folder, features),
        "crf": lambda: bench_speed.crf(
            some_photos(folder, options.images, sets=("mosd",)), features=features, repeats=options.repeats
        ),
        "quality": lambda: _quality(options, folder, features),
        "scale": lambda: bench_scale.scale(
            counts=sorted(options.counts),
            workers=(1, 2),
            repeats=options.repeats,
            speed_images=options.speed_images,
        ),
        "train": lambda: bench_train.ablation(
            options.out,
            size=bench_train.Size(
                scenes=options.scenes, test_scenes=options.test_scenes, iterations=options.iterations
            ),
            seeds=range(options.seeds),
            threads=options.threads,
        ),
        "train-step": lambda: _train_step(options),
        "selftrain": lambda: bench_selftrain.selftrain(
            out=options.out / "selftrain",
            seeds=range(options.seeds),
            plan=bench_selftrain.Plan(
                iterations=options.iterations, further=options.round_iterations, rounds=options.rounds
            ),
        ),
    }
    try:
        reports = [actions[name]() for name in dict.fromkeys(options.benchmarks)]
    except Cuts3dError as error:
        sys.exit(f"bench: {error}")
    facts = machine(load_before=load_before)
    if options.json:
        print(json.dumps({"machine": facts, **{report.name: report.to_json() for report in reports}}, indent=2))
        return
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    print_machine(facts, console)
    for report in reports:
        print_report(report, console)


def _train_step(options: argparse.Namespace) -> Report:
    require_detectron2()
    from bench import step as bench_step

    return bench_step.step_overhead(
        PRESETS[options.preset].train,
        device=choose_device(options.device or "cpu"),
        batches=options.batches,
        repeats=options.repeats,
        threads=options.threads,
    )


def _pseudo(options: argparse.Namespace, folder: Path, features: Features) -> Report:
    photos = some_photos(folder, options.images, sets=("mosd",))
    size = max(options.sizes)
    report = bench_pseudo.pseudo(photos, features=features, repeats=options.repeats, size=size)
    if options.device is not None:
        config = bench_speed.table_top(features, size=size)
        run = replace(config.run, batch_size=options.batch_size, workers=options.workers)
        table = bench_device.throughput(
            photos,
            config=replace(config, run=run),
            device=choose_device(options.device),
            images=options.device_images,
            repeats=options.repeats,
        )
        report.tables.append(table)
        report.notes.append(
            f"'{table.title}': {options.device_images} images after {bench_device.WARM_UP} others; 'busy' is a share of"
            " the time."
        )
    return report


def _quality(options: argparse.Namespace, folder: Path, features: Features) -> Report:
    wanted = options.sets or (*WITH_DEPTH, *WITHOUT_DEPTH)
    found: dict[str, list[Photo]] = {}
    skipped = []
    for name in wanted:
        photos = read_set(folder, name)
        if photos is None:
            skipped.append(f"{name}: there is no {folder / name / 'annotations.json'}")
            say(f"skipped: {skipped[-1]}")
        else:
            found[name] = photos[: options.photos]
    if not found:
        say(f"quality: none of the sets is there, taking {RENDERED} scenes")
        found[RENDERED] = read_set(folder, RENDERED) or []
    variants = {**bench_quality.VARIANTS, **dict(options.variant)}
    if options.only:
        variants = {name: variant for name, variant in variants.items() if name in options.only}
    report = bench_quality.quality(
        found,
        features=features,
        half=options.half,
        variants=variants,
        sweeps=bench_quality.SWEEPS if options.sweeps else {},
        workers=options.workers,
    )
    report.skipped += skipped
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="+", choices=NAMES, metavar="BENCHMARK", help=", ".join(NAMES))
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--repeats", type=_positive, default=3, help="rounds of every timing (3)")
    parser.add_argument("--images", type=_positive, default=3, help="photos for ncut, pseudo and crf (3)")
    parser.add_argument(
        "--sizes", type=_numbers, default=(490, 840), help="pixels, for ncut; the largest for pseudo (490,840)"
    )
    parser.add_argument("--data", type=Path, help="folder of the sets ($CUTS3D_TEST_DATA, or ../shared/data)")
    parser.add_argument("--cache", type=Path, help="folder that keeps features for further runs (none)")
    parser.add_argument("--workers", type=int, default=2, help="processes that cut; 0 works in this one (2)")
    parser.add_argument(
        "--device",
        help="cpu, cuda, cuda:1, ...: of train-step (cpu); pseudo tells images a second there, network included",
    )
    group = parser.add_argument_group("pseudo")
    group.add_argument("--device-images", type=_positive, default=200, help="images for that (200)")
    group.add_argument("--batch-size", type=_positive, default=4, help="images that the device works on at once (4)")
    group = parser.add_argument_group("quality")
    group.add_argument("--half", choices=("all", "even", "odd"), default="all", help="which photos of each set (all)")
    group.add_argument(
        "--sets", type=_words, help=f"e.g. mosd,ycbv; also {RENDERED}, scenes that are always there (all)"
    )
    group.add_argument("--no-sweeps", dest="sweeps", action="store_false", help="leave out the sweeps")
    group.add_argument("--only", type=_words, help="names of variants, with commas (all)")
    group.add_argument(
        "--variant",
        action=_AddVariant,
        nargs="+",
        default=[],
        metavar="WORD",
        help="one more: NAME pseudo.beta=0.3 confidence.cuts=8 preset=best ranked=true table_top=false",
    )
    group.add_argument("--photos", type=_positive, help="so many of each set, for a trial (all)")
    group = parser.add_argument_group("scale")
    group.add_argument("--counts", type=_numbers, default=(100, 300, 1000), help="images, for memory (100,300,1000)")
    group.add_argument("--speed-images", type=_positive, default=200, help="images, for speed (200)")
    group = parser.add_argument_group("train, train-step and selftrain")
    group.add_argument(
        "--out", type=Path, default=Path("bench-train"), help="folder that keeps scenes and finished runs (bench-train)"
    )
    group.add_argument("--seeds", type=_positive, default=3, help="trainings of each row (3)")
    group.add_argument("--iterations", type=_positive, default=300, help="of each training (300)")
    group.add_argument("--scenes", type=_positive, default=200, help="to learn from (200)")
    group.add_argument("--test-scenes", type=_positive, default=60, help="to be tried on (60)")
    group.add_argument("--threads", type=_positive, default=1, help="that a training computes with (1)")
    group.add_argument("--preset", choices=("tiny", "paper"), default="tiny", help="for train-step (tiny)")
    group.add_argument("--batches", type=_positive, default=4, help="for train-step (4)")
    group.add_argument(
        "--round-iterations", type=_positive, default=150, help="of a round of selftrain, and of its control (150)"
    )
    group.add_argument("--rounds", type=_positive, default=1, help="of selftrain (1)")
    return parser


class _AddVariant(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: object = None
    ) -> None:
        """Parse and check one variant."""
        assert isinstance(values, list)
        try:
            name, variant = bench_quality.parse_variant(values)
            variant.config()
        except (ValueError, Cuts3dError) as error:
            parser.error(f"--variant {' '.join(values)}: {error}")
        namespace.variant = [*namespace.variant, (name, variant)]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(word) for word in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


if __name__ == "__main__":
    main()
