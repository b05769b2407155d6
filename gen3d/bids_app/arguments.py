"""The arguments of `gen3d-bids`: those of every BIDS app, and the norm to judge by.

Names are those of the BIDS apps (Gorgolewski et al. 2017, PLoS Computational Biology 13:e1005209), with hyphens or underscores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from gen3d import __version__
from gen3d.core.errors import UserError

PROGRAM = "gen3d-bids"
PARTICIPANT, GROUP = "participant", "group"
SUMMARY = "Calibrated anomaly maps of the T1w scans of a BIDS dataset, judged by a norm of gen3d."
EPILOGUE = """\
Levels
  participant   prepares each scan with the norm's settings, judges it by the norm, and writes z maps, masks, region tables
                and a page (sub-X.html) per participant. Jobs of a cluster may share one OUT, each with participants of its own.
  group         joins the participants' tables to group_*_stats.tsv and participants.tsv, and writes group.html.

The same command goes on where it was stopped. Exit codes: 0 done, 2 a mistake in the arguments or the dataset, 3 done but
some participants or scans could not be used, 130 or 143 stopped.
"""


class ArgumentsOfApp(argparse.ArgumentParser):
    """Whose mistakes are sentences, as those of every verb."""

    def error(self, message: str) -> NoReturn:
        """Raise a wrong call as a sentence."""
        raise UserError(f"{PROGRAM}: {message}; `{PROGRAM} --help` lists the arguments.")


def parser() -> argparse.ArgumentParser:
    """The command line; the Boutiques descriptor is made of it."""
    made = ArgumentsOfApp(
        prog=PROGRAM,
        description=SUMMARY,
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help="folder of the raw BIDS dataset")
    made.add_argument("out", type=Path, metavar="OUT", help="folder of the derivatives dataset to write")
    made.add_argument("level", choices=(PARTICIPANT, GROUP), help="level of the analysis")
    _option(made, "participant-label", nargs="+", default=[], help="participants, with or without sub-; default: all")
    _option(made, "session-label", nargs="+", default=[], help="sessions, with or without ses-; default: all")
    _option(made, "norm", type=Path, required=True, help="norm folder to judge by (gen3d norm), with its models")
    _option(made, "site", default="", help="site or scanner of all scans, as the norm calls it; default: the table's")
    _option(made, "template-only", action="store_true", help="no maps in the scans' own space, which take 4 s per scan")
    _option(made, "n_cpus", type=_positive, help="processes at a time; default: one per core")
    _option(
        made, "mem_mb", type=_positive, help="memory to use, MB; participants are done one after another to keep it"
    )
    _option(made, "work-dir", type=Path, help="folder of intermediate results, kept to go on; default: OUT/work")
    made.add_argument("--boutiques", action=_Describe, metavar="FILE", help="write the Boutiques descriptor, and stop")
    made.add_argument("--traceback", action="store_true", help="for developers: errors with their place in the code")
    made.add_argument("--version", action="version", version=f"gen3d {__version__}")
    return made


def _option(made: argparse.ArgumentParser, name: str, **settings: object) -> None:
    """An option whose name may be written with hyphens or underscores."""
    spellings = dict.fromkeys((name, name.replace("_", "-"), name.replace("-", "_")))
    made.add_argument(*(f"--{spelling}" for spelling in spellings), **settings)  # type: ignore[arg-type]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


class _Describe(argparse.Action):
    """Writes the descriptor of the very parser that met the option, as --version prints without any other argument."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: object = None
    ) -> None:
        from gen3d.bids_app.boutiques import write_descriptor

        write_descriptor(parser, Path(str(values)))
        parser.exit()
