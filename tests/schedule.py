"""Which tests stay together in one of several worker processes, and the order in which the workers take them."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

ONE_MACHINE = {
    "launch/test_slurm.py": "a cluster",
    "sweep/test_on_slurm.py": "a cluster",
    "launch/test_two_hosts.py": "two hosts",
}
"""Files that take the whole machine's ports, names or services, by what they start: files of one group never run at once."""

SECONDS = {
    "end_to_end/test_story.py": 300,
    "end_to_end/test_debug_configs.py": 200,
    "train/test_faults.py": 120,
    "exports/test_model.py": 90,
    "exports/test_model_twin.py": 70,
    "bids_app/test_app.py": 70,
    "train/test_parity.py": 70,
    "train/test_forecasters.py": 70,
    "train/test_classifier.py": 70,
    "launch/test_two_hosts.py": 60,
    "stages/test_stages.py": 60,
    "serve/test_browser.py": 60,
    "launch/test_scripts.py": 60,
    "train/test_tracking.py": 60,
    "forecast/test_forecast.py": 60,
    "train/test_fusion_attention.py": 60,
    "train/test_fusion.py": 50,
    "train/test_memory.py": 50,
    "train/test_latent_visits.py": 50,
    "models/test_latent_flow.py": 45,
    "genotypes/test_quality_control.py": 45,
    "synthesis/test_sample.py": 45,
    "simulate/test_visits.py": 45,
    "evaluate/test_forecasts.py": 40,
    "sweep/test_sweep.py": 40,
    "classify/test_predict_networks.py": 35,
    "anomaly/norm/test_by_norm.py": 30,
    "train/test_start.py": 30,
    "prepare/dicom/test_source.py": 30,
    "prepare/dicom/test_series.py": 30,
    "genotypes/test_scores_and_apoe.py": 30,
    "classify/test_networks.py": 30,
    "classify/test_genes.py": 30,
    "explain/test_explain.py": 30,
    "anomaly/test_visits.py": 30,
    "classify/test_untrained.py": 25,
    "classify/test_classify.py": 25,
    "simulate/test_stopped.py": 25,
    "serve/test_networks.py": 25,
    "serve/test_dicom.py": 25,
    "simulate/test_density_channel.py": 20,
    "simulate/test_genetics.py": 20,
    "reference/test_reference.py": 20,
    "train/test_sharding.py": 20,
    "models/test_forecast.py": 20,
    "imaging/test_registration.py": 20,
    "imaging/test_network_mask.py": 20,
    "genotypes/test_readers.py": 20,
    "synthesis/test_audit.py": 20,
    "sweep/test_slurm.py": 20,
    "serve/test_slices.py": 20,
    "serve/test_serve.py": 20,
    "forecast/test_conformal.py": 20,
    "simulate/test_twins.py": 15,
    "simulate/test_simulate.py": 15,
    "contracts/test_wheel.py": 15,
    "prepare/test_prepare.py": 12,
    "contracts/test_models.py": 12,
}
"""Seconds of the files that take longest. The longest start first, so that no worker is left alone with one of them."""


def file_of(nodeid: str) -> str:
    """A test's file, relative to the folder of the tests."""
    return nodeid.split("::")[0].removeprefix("tests/")


def seconds(nodeid: str) -> int:
    """What is known of the time that a test's file takes."""
    return SECONDS.get(file_of(nodeid), 0)


class Schedule(LoadScopeScheduling):
    """Whole files go to one worker, because their tests share what the file's fixtures made; so do files of one group."""

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        return ONE_MACHINE.get(file, file)
