"""A trained run is measured alone: latency, throughput, memory and the scores of tasks."""

from pathlib import Path

from penstock.cli.main import run
from penstock.sweep.measure import measure_job


def test_a_finished_run_has_times_memory_and_scores(workplace, tmp_path):
    config = workplace / "configs" / "quickstart.yaml"
    trained = run(["train", str(config), "train.evaluate_every=null", "--runs", str(tmp_path)])
    found = measure_job({"run": str(Path(trained["run_dir"])), "tasks": ["heldout"]})
    assert 0 < found["latency_128"] < found["latency_512"] < 60
    assert found["tokens_per_second"] > 0
    assert 50e6 < found["peak_memory"] < 50e9
    assert 0 < next(bits for name, bits in found["tasks"].items() if name.startswith("heldout.bits_per_byte@")) < 20
