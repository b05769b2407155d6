"""`gen3d-bids BIDS_DIR OUT participant|group`: the BIDS-App interface over the verbs prepare, anomaly, export and report."""

from __future__ import annotations

import argparse
import sys

from gen3d import cli
from gen3d.anomaly.norm.folder import NormFolder, open_norm
from gen3d.bids_app.arguments import GROUP, parser
from gen3d.bids_app.dataset import PersonScans, chosen, open_dataset
from gen3d.bids_app.group import run_group
from gen3d.bids_app.output import begin_dataset
from gen3d.bids_app.participant import run_person
from gen3d.bids_app.settings import WORK, AppCall, limit_memory, require_place
from gen3d.core import words
from gen3d.core.errors import Unfinished, UserError
from gen3d.core.pool import as_done
from gen3d.core.progress import say, track, warn


def main(arguments: list[str] | None = None) -> int:
    """Run one call; returns the exit code, those of the verbs (see `gen3d.cli.main`)."""
    typed = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        run(parser().parse_args(typed))
        return 0

    return cli.ending_in_a_sentence(work, "--traceback" in typed)


def entry() -> None:
    """Console-script entry point."""
    cli.entry(main)


def run(given: argparse.Namespace) -> None:
    """Do what the arguments say.

    Raises:
        UserError: a dataset, norm, label or place that cannot be used.
        Unfinished: done, but for some participants or scans.
    """
    work = given.work_dir or given.out / WORK
    dataset, norm = open_dataset(given.bids_dir), open_norm(given.norm)
    require_place(given.bids_dir, given.out, work)
    people, left_out = chosen(dataset, given.participant_label, given.session_label)
    call = AppCall(
        dataset, norm, given.out, work, given.site, not given.template_only, given.n_cpus or 0, given.mem_mb or 0
    )
    _require_sites(norm, call, people)
    limit_memory(call.mem_mb)
    begin_dataset(call)
    for note in dataset.notes:
        say(note)
    for sentence in left_out:
        warn(f"{sentence}.")
    if given.level == GROUP:
        run_group(call, people)
    else:
        _run_participants(call, people)


def _require_sites(norm: NormFolder, call: AppCall, people: list[PersonScans]) -> None:
    """Refuse scans of sites alone that the norm does not know, before hours are spent on them."""
    sites = dict.fromkeys([call.site] if call.site else [str(site) for one in people for site in one.rows["site"]])
    group = norm.record.controls
    if not any(group.is_open(site) for site in sites):
        known = sorted({site for site in group.gate.num_controls if group.is_open(site)} | set(group.adapted))
        raise UserError(
            f"{norm.folder}: cannot judge scans of the site {words.listed([repr(site) for site in sites], 'or')}; it has "
            f"controls of {words.listed([name or '(no name)' for name in known])}. Give --site NAME if the scanner is one of "
            f"these, or add yours from its own controls: gen3d norm adapt={norm.folder} prepared=CONTROLS out=NEW_NORM."
        )


def _run_participants(call: AppCall, people: list[PersonScans]) -> None:
    workers = call.workers(len(people))
    say(
        f"{words.count(len(people), 'participant')} of {call.dataset.folder}, {words.count(workers, 'process', 'processes')}"
    )
    outcomes = list(track(as_done(run_person, call, people, workers), "participants", total=len(people)))
    num_done = sum(outcome.done for outcome in outcomes)
    say(f"{call.out}: {words.count(num_done, 'participant')} done; pages: {call.out / 'sub-*.html'}")
    remarks = [
        f"{outcome.name}: {outcome.remark}" for outcome in sorted(outcomes, key=lambda o: o.name) if outcome.remark
    ]
    if remarks:
        raise Unfinished(
            f"{len(remarks)} of {words.count(len(people), 'participant')} could not be used, or not with all scans:\n"
            + "\n".join(remarks)
        )


if __name__ == "__main__":
    entry()
