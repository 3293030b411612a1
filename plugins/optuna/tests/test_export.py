"""A sweep's figures as a study that Optuna reads from its journal."""

from __future__ import annotations

import json
from dataclasses import replace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.run.records.record import write_record
from penstock.run.records.sweep import CellFigures, RungFigures, SweepFigures

optuna.logging.set_verbosity(optuna.logging.ERROR)


def cell(name: str, bits: float | None, state: str, parameters: int) -> CellFigures:
    share, depth = name.split(", ")
    measured = CellFigures(name, 1, bits, None, None, None, None, None, parameters, None)
    settings = {"share": share, "depth": depth}
    return replace(measured, state=state, parameters=parameters, settings=settings, tokens=400, phase="short")


def rung(name: str, seed: int, tokens: int, bits: float) -> RungFigures:
    return RungFigures("key", name, "short", seed, tokens, 1, bits, 20.0, 3.0, "text", 100, "hash", 1.0, None)


FIGURES = SweepFigures(
    baseline="25 %, 2",
    cells=[
        cell("25 %, 2", 2.0, "finished", 100),
        cell("25 %, 4", 1.8, "finished", 300),
        cell("45 %, 2", 2.5, "stopped", 100),
        cell("45 %, 4", None, "failed", 300),
        replace(cell("45 %, 8", None, "pending", 300)),
    ],
    runs=[],
    objectives={"bits_per_byte": "minimize"},
    rungs=[rung("45 %, 2", seed, tokens, 2.5 + seed + 100 / tokens) for seed in (0, 1) for tokens in (100, 400)],
)


def loaded(journal, name="allocation") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(journal))))


def test_cells_come_back_as_trials(tmp_path, capsys):
    sweep, journal = tmp_path / "allocation", tmp_path / "study.log"
    sweep.mkdir()
    write_record(sweep / "sweep.json", FIGURES)
    run(["export-study", str(sweep), str(journal), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["trials"] == {"complete": 2, "fail": 1, "pruned": 1}
    assert told["left_out"] == 1
    study = loaded(journal)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    assert study.best_trial.params == {"share": "25 %", "depth": "4"}
    assert study.best_value == 1.8
    assert study.trials[2].intermediate_values == {100: 4.0, 400: 3.25}
    assert study.trials[2].user_attrs["state"] == "stopped"
    study.optimize(lambda trial: len(trial.suggest_categorical("share", ["25 %", "45 %"])), n_trials=1)
    assert len(loaded(journal).trials) == 5


def test_several_objectives_have_a_front(tmp_path):
    sweep, journal = tmp_path / "both", tmp_path / "study.log"
    sweep.mkdir()
    objectives = {"bits_per_byte": "minimize", "parameters": "minimize"}
    write_record(sweep / "sweep.json", replace(FIGURES, objectives=objectives))
    run(["export-study", str(sweep), str(journal), "--name", "two"])
    study = loaded(journal, "two")
    assert study.user_attrs["objectives"] == ["bits_per_byte", "parameters"]
    assert sorted(trial.values for trial in study.best_trials) == [[1.8, 300.0], [2.0, 100.0]]


@pytest.mark.parametrize(("missing", "code"), [(True, "missing-file"), (False, "file-not-ours")])
def test_a_folder_without_a_sweep_and_a_file_that_exists_are_refused(tmp_path, missing, code):
    journal = tmp_path / "study.log"
    if not missing:
        write_record(tmp_path / "sweep.json", FIGURES)
        journal.write_text("mine")
    with pytest.raises(ProblemError) as caught:
        run(["export-study", str(tmp_path), str(journal)])
    assert [problem.code for problem in caught.value.problems] == [code]
