"""Measure speed, quality, scale and training, each against a peer or a baseline in the same run.

ncut        our eigensolver against scipy.linalg.eigh as MaskCut calls it, on real features
pseudo      seconds per image for each step of both methods, against MaskCut as published, and the cost of 3D
crf         one CRF per mask against ours
precision   masks of the networks' precisions against those of float32
quality     AP, AR, recall and precision on the sets of real photos: the order of Table 4, sweeps, and robustness
focal       preset objects with the true focal lengths of the sets against the default, on photos and parts of them
robustness  cost of all instances, rank correlation of confidence and IoU, and masks where depth is worse
scale       images per second against workers, peak memory against the number of images
costs       disk space and time of the features of each backbone
report      the gallery of `cuts3d report`: photos per second, and how fast a browser opens, filters and sorts it
loader      training batches per second by the number of loader processes, of one shard and of many
train       what each use of Spatial Confidence adds to a detector of preset tiny, on rendered scenes: Table 6 (an hour)
train-step  a training step with all uses of Spatial Confidence against detectron2's plain one
selftrain   what a round of self-training adds to a small detector, on rendered scenes, with a control (most of an hour)
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import costs, device, focal, gallery, precision, pseudo, quality, robustness, scale, selftrain, speed, train
from bench.common import BenchError, Report, load_average, log, machine, print_machine, print_report
from bench.data import RENDERED, WITH_DEPTH, WITHOUT_DEPTH, Features, Photo, data_folder, read_set, some_photos
from cuts3d_cli.config import PRESETS
from cuts3d_cli.devices import choose_device
from cuts3d_cli.errors import Cuts3dError
from executable import CommandError

NAMES = (
    "ncut",
    "pseudo",
    "crf",
    "precision",
    "quality",
    "focal",
    "robustness",
    "scale",
    "costs",
    "report",
    "loader",
    "train",
    "train-step",
    "selftrain",
)
BUSY = 0.7
"""Load average above which the figures come with a warning."""
WIDTH = 170
"""Of the tables where stdout is not a terminal, characters."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: of the command line; those of this process by default.

    Raises:
        SystemExit: an argument is invalid, or a benchmark failed.
    """
    # Warn if other processes use the machine.
    options = _parser().parse_args(arguments)
    load_before = load_average()
    if load_before is not None and load_before > BUSY:
        log(f"the load average is {load_before}: other processes use this machine, so that times and ratios are rough")

    # Run what was asked for.
    try:
        reports = [_run(name, options) for name in dict.fromkeys(options.benchmarks)]
    except (BenchError, CommandError, Cuts3dError) as error:
        sys.exit(f"bench: {error}")

    # Print the results.
    facts = machine(load_before=load_before)
    if options.json:
        print(json.dumps({"machine": facts, **{report.name: report.to_json() for report in reports}}, indent=2))
        return
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    print_machine(facts, console)
    for report in reports:
        print_report(report, console)


def _run(name: str, options: argparse.Namespace) -> Report:
    actions: dict[str, Callable[[argparse.Namespace], Report]] = {
        "ncut": _ncut,
        "pseudo": _pseudo,
        "crf": _crf,
        "precision": _precision,
        "quality": _quality,
        "focal": _focal,
        "robustness": _robustness,
        "scale": _scale,
        "costs": _costs,
        "report": _report,
        "loader": _loader,
        "train": _train,
        "train-step": _train_step,
        "selftrain": _selftrain,
    }
    return actions[name](options)


@functools.cache
def _features(folder: Path | None) -> Features:
    """Share features, and the networks that compute them, among benchmarks."""
    return Features(folder)


def _ncut(options: argparse.Namespace) -> Report:
    photos = some_photos(data_folder(options.data), options.images, sets=("mosd", "coco"))
    return speed.ncut(photos, sizes=options.sizes, features=_features(options.cache), repeats=options.repeats)


def _crf(options: argparse.Namespace) -> Report:
    photos = some_photos(data_folder(options.data), options.images, sets=("mosd",))
    return speed.crf(photos, features=_features(options.cache), repeats=options.repeats)


def _pseudo(options: argparse.Namespace) -> Report:
    photos = some_photos(data_folder(options.data), options.images, sets=("mosd",))
    features = _features(options.cache)
    size = max(options.sizes)
    report = pseudo.pseudo(photos, features=features, repeats=options.repeats, size=size)
    if options.device is not None:
        config = speed.table_top(features, size=size)
        run = replace(config.run, batch_size=options.batch_size, workers=options.workers)
        table = device.throughput(
            photos,
            config=replace(config, run=run),
            device=choose_device(options.device),
            images=options.device_images,
            repeats=options.repeats,
        )
        report.tables.append(table)
        report.notes.append(
            f"'{table.title}': {options.device_images} images after {device.WARM_UP} that are not timed; 'busy' is a"
            " share of the time."
        )
    return report


def _precision(options: argparse.Namespace) -> Report:
    photos = some_photos(data_folder(options.data), options.images, sets=("mosd",))
    return precision.precision(
        photos,
        device=choose_device(options.device or "cpu"),
        features=_features(options.cache),
        size=max(options.sizes),
    )


def _sets(options: argparse.Namespace, *, names: Sequence[str]) -> tuple[dict[str, list[Photo]], list[str]]:
    """Read sets, rendered scenes if none of them is there, and note those that are missing."""
    folder = data_folder(options.data)
    found: dict[str, list[Photo]] = {}
    skipped = []
    for name in options.sets or names:
        photos = read_set(folder, name)
        if photos is None:
            skipped.append(f"{name}: there is no {folder / name / 'annotations.json'}")
            log(f"skipped: {skipped[-1]}")
        else:
            found[name] = photos[: options.photos]
    if not found:
        log(f"none of the sets is there, using {RENDERED} scenes")
        found[RENDERED] = (read_set(folder, RENDERED) or [])[: options.photos]
    return found, skipped


def _robustness(options: argparse.Namespace) -> Report:
    found, skipped = _sets(options, names=("mosd", "ycbv"))
    photos = [photo for some in found.values() for photo in quality.half_of(some, options.half)]
    report = robustness.robustness(
        [photo for photo in photos if photo.metres is not None], features=_features(options.cache)
    )
    report.skipped += skipped
    return report


def _focal(options: argparse.Namespace) -> Report:
    found, skipped = _sets(options, names=tuple(focal.FOCALS))
    photos = {name: quality.half_of(some, options.half) for name, some in found.items() if name in focal.FOCALS}
    report = focal.focal(photos, features=_features(options.cache))
    report.skipped += skipped
    return report


def _quality(options: argparse.Namespace) -> Report:
    found, skipped = _sets(options, names=(*WITH_DEPTH, *WITHOUT_DEPTH))

    # Choose the variants.
    variants = {**quality.VARIANTS, **dict(options.variant)}
    if options.only:
        variants = {name: variant for name, variant in variants.items() if name in options.only}
    report = quality.quality(
        found,
        folder=options.cache,
        half=options.half,
        variants=variants,
        sweeps=quality.SWEEPS if options.sweeps else {},
        workers=options.workers,
    )
    report.skipped += skipped
    if options.robustness and any(name in WITH_DEPTH or name == RENDERED for name in found):
        more = _robustness(options)
        report.tables += more.tables
        report.notes += more.notes
    return report


def _scale(options: argparse.Namespace) -> Report:
    return scale.scale(
        counts=sorted(options.counts), workers=(1, 2), repeats=options.repeats, speed_images=options.speed_images
    )


def _costs(options: argparse.Namespace) -> Report:
    return costs.costs(
        images=options.dataset_images,
        measure=options.measure,
        device=choose_device(options.device or "cpu"),
        repeats=options.repeats,
    )


def _report(options: argparse.Namespace) -> Report:
    return gallery.gallery(counts=options.report_photos, repeats=options.repeats, out=options.keep_reports)


def _loader(options: argparse.Namespace) -> Report:
    try:
        from bench import loader
    except ModuleNotFoundError as error:
        raise _needs_detectron2("loader", error) from error
    return loader.loader(
        PRESETS[options.preset or "paper"].train,
        processes=options.processes,
        images=options.loader_images,
        repeats=options.repeats,
    )


def _needs_detectron2(name: str, error: ModuleNotFoundError) -> BenchError:
    """Return what to tell where a module is missing; raises it again where that is another one than detectron2."""
    if not (error.name or "").startswith("detectron2"):
        raise error
    return BenchError(f"{name} needs detectron2: `bash scripts/bench.sh {name}` installs it")


def _train(options: argparse.Namespace) -> Report:
    size = train.Size(
        scenes=options.scenes or 200,
        test_scenes=options.test_scenes or 60,
        iterations=options.iterations,
        clip=options.clip,
    )
    if unknown := set(options.rows or ()) - set(train.ROWS):
        raise BenchError(f"--rows: there is no row '{unknown.pop()}': the rows are {', '.join(train.ROWS)}")
    return train.ablation(
        options.out / "train",
        size=size,
        seeds=range(options.seeds),
        rows=options.rows or tuple(train.ROWS),
        threads=options.threads,
    )


def _train_step(options: argparse.Namespace) -> Report:
    try:
        from bench import step
    except ModuleNotFoundError as error:
        raise _needs_detectron2("train-step", error) from error
    return step.step_overhead(
        PRESETS[options.preset or "tiny"].train,
        device=choose_device(options.device or "cpu"),
        batches=options.batches,
        repeats=options.repeats,
        threads=options.threads,
        further=options.further,
    )


def _selftrain(options: argparse.Namespace) -> Report:
    plan = selftrain.Plan(
        train_scenes=options.scenes or 120,
        test_scenes=options.test_scenes or 50,
        iterations=options.iterations,
        further=options.round_iterations,
        rounds=options.rounds,
    )
    return selftrain.selftrain(out=options.out / "selftrain", seeds=range(options.seeds), plan=plan)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmarks", nargs="+", choices=NAMES, metavar="BENCHMARK", help=", ".join(NAMES))
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--repeats", type=_positive, default=3, help="rounds of every timing (3)")
    parser.add_argument("--images", type=_positive, default=3, help="photos for ncut, pseudo, crf and precision (3)")
    parser.add_argument(
        "--sizes",
        type=_numbers,
        default=(490, 840),
        help="pixels, for ncut; the largest for pseudo and precision (490,840)",
    )
    parser.add_argument("--data", type=Path, help="folder of the sets ($CUTS3D_TEST_DATA, or ../shared/data)")
    parser.add_argument("--cache", type=Path, help="folder that keeps features for further runs (none)")
    parser.add_argument("--workers", type=int, default=2, help="processes that cut; 0 cuts in the main one (2)")
    parser.add_argument(
        "--device",
        help="cpu, cuda, cuda:1, ... for train-step, precision and costs (cpu); pseudo also measures images per second"
        " there, network included",
    )
    group = parser.add_argument_group("pseudo with --device")
    group.add_argument("--device-images", type=_positive, default=200, help="timed images (200)")
    group.add_argument("--batch-size", type=_positive, default=4, help="images that the device processes at once (4)")
    group = parser.add_argument_group("quality and robustness")
    group.add_argument("--half", choices=("all", "even", "odd"), default="all", help="which photos of each set (all)")
    group.add_argument(
        "--sets", type=_words, help=f"e.g. mosd,ycbv; also {RENDERED}, scenes that are always available (all)"
    )
    group.add_argument("--no-sweeps", dest="sweeps", action="store_false", help="leave out the sweeps")
    group.add_argument(
        "--no-robustness",
        dest="robustness",
        action="store_false",
        help="leave out cost, rank correlation and worse depth, which `robustness` measures alone",
    )
    group.add_argument("--only", type=_words, help="names of variants, separated by commas (all)")
    group.add_argument(
        "--variant",
        action=_AddVariant,
        nargs="+",
        default=[],
        metavar="WORD",
        help="one more: NAME pseudo.beta=0.3 confidence.cuts=8 preset=best ranked=true table_top=false",
    )
    group.add_argument("--photos", type=_positive, help="the most photos of each set, for a trial (all)")
    group = parser.add_argument_group("scale")
    group.add_argument("--counts", type=_numbers, default=(100, 300, 1000), help="images, for memory (100,300,1000)")
    group.add_argument("--speed-images", type=_positive, default=100, help="images, for speed (100)")
    group = parser.add_argument_group("report")
    group.add_argument("--report-photos", type=_numbers, default=(2000,), help="photos in the gallery (2000)")
    group.add_argument("--keep-reports", type=Path, help="folder that keeps the reports (none)")
    group = parser.add_argument_group("costs")
    group.add_argument(
        "--dataset-images", type=_positive, default=costs.IMAGENET, help="images in the dataset (ImageNet-1K's)"
    )
    group.add_argument("--measure", action="store_true", help="also time each network, with random weights")
    group = parser.add_argument_group("loader")
    group.add_argument("--processes", type=_counts, default=(0, 1, 2, 4, 8), help="of the loader (0,1,2,4,8)")
    group.add_argument("--loader-images", type=_positive, default=120, help="images each time (120)")
    group = parser.add_argument_group("train, train-step and selftrain")
    group.add_argument(
        "--out", type=Path, default=Path("bench-train"), help="folder that keeps scenes and finished runs (bench-train)"
    )
    group.add_argument("--seeds", type=_positive, default=3, help="trainings of each row (3)")
    group.add_argument("--iterations", type=_positive, default=300, help="of each training (300)")
    group.add_argument("--scenes", type=_positive, help="scenes to train on (train 200, selftrain 120)")
    group.add_argument("--test-scenes", type=_positive, help="held-out scenes (train 60, selftrain 50)")
    group.add_argument(
        "--further",
        type=_words,
        default=(),
        help="for train-step: also channels-last, compiled (needs a C++ compiler), graphs (needs a GPU) (none)",
    )
    group.add_argument(
        "--clip",
        choices=("parameter", "model"),
        default="parameter",
        help="for train: whose gradient is clipped (parameter)",
    )
    group.add_argument("--rows", type=_words, help="for train: some rows of the table, as in 'none,+ soft loss' (all)")
    group.add_argument("--threads", type=_positive, default=1, help="of a training (1)")
    group.add_argument("--preset", choices=("tiny", "paper"), help="for train-step (tiny) and loader (paper)")
    group.add_argument("--batches", type=_positive, default=4, help="for train-step (4)")
    group.add_argument(
        "--round-iterations", type=_positive, default=150, help="of a round of selftrain, and of its control (150)"
    )
    group.add_argument("--rounds", type=_positive, default=1, help="of selftrain (1)")
    return parser


class _AddVariant(argparse.Action):
    """Collects the variants of --variant."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: object = None
    ) -> None:
        """Parse and check one variant."""
        assert isinstance(values, list)
        try:
            name, variant = quality.parse_variant(values)
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


def _counts(text: str) -> tuple[int, ...]:
    found = tuple(int(word) for word in text.split(","))
    if min(found) < 0:
        raise argparse.ArgumentTypeError("it must be at least 0")
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


if __name__ == "__main__":
    main()
