"""Takes a sweep from rung to rung: trains what has no result, and lets the rule decide.

A rung is a barrier: the rule sees the results of all living cells, so what it decides depends on them alone, and not on
the number of workers or on who was first. The controller keeps nothing in memory that the files do not say. It goes
through all rungs from the first each time, and where results exist it only decides: continuing a killed sweep, adding
cells to a finished one and reading it again are the same walk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import numpy as np

from penstock.cli import output
from penstock.hooks.contracts.launching import Job, Launcher, Outcome
from penstock.hooks.contracts.stopping import Standing, StopRule
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.records.sweep import Decision, RungResult
from penstock.sweep.budget import Ledger
from penstock.sweep.files import SweepFiles
from penstock.sweep.finalists import finalists
from penstock.sweep.grid import Cell, Sweep
from penstock.sweep.phases import Phase, phases_of, require_time_for
from penstock.sweep.rates import CellRateOverrides, find_missing
from penstock.sweep.trials import Ended, Jobs, State, Trial, failure_of

WORK = "penstock.sweep.worker:train_to_rung"
ATTEMPTS = 2
"""How often a worker may die over a run without a new checkpoint. One may be killed for another's memory; two in the
same place are the run's own fault."""


class Controller:
    """One walk through a sweep. `trials` are the runs that it has planned, and `states` the cells' so far. `left_out`
    are runs of further seeds of a cell of which one has failed: they count for nothing, even if they were trained at
    the same time. `why` says of runs without a result, by their folders, why they have none. `costs` are those of each
    cell by name: see `Standing`."""

    def __init__(
        self,
        sweep: Sweep,
        runs: Path,
        registry: Registry,
        launcher: Launcher,
        rule: StopRule | None = None,
        costs: Mapping[str, tuple[float, ...]] = MappingProxyType({}),
    ) -> None:
        self.sweep, self.runs, self.registry = sweep, runs, registry
        self.files = SweepFiles(runs / sweep.settings.name)
        self.phases = phases_of(sweep)
        self.rates = CellRateOverrides(sweep, self.files)
        self.ledger = Ledger(sweep.settings.budget)
        self.states = {cell.name: State("pending") for cell in sweep.cells}
        self.decisions: list[Decision] = []
        self.trials: list[Trial] = []
        self.left_out: list[Trial] = []
        self.why: dict[Path, State] = {}
        self.entered: dict[str, list[Cell]] = {}
        self._launcher, self._rule, self._costs = launcher, rule, costs
        if rule is not None:
            require_time_for(rule, self.phases, sweep)
        self._jobs = Jobs()
        self._outcomes = self._launched()
        self._before = list(self.files.decisions())

    def run(self) -> None:
        """Trains and decides until every cell has a state that is not "pending"."""
        with closing(self):
            self._walk()

    def close(self) -> None:
        """Ends the workers."""
        self._outcomes.close()

    def _walk(self) -> None:
        living, best = self._with_rates(), list[Cell]()
        for phase in self.phases:
            living = self._through(phase, {"final": best, "common": self.at_other_rates}.get(phase.name, living))
            if phase.name == "short":
                best = self._finalists(phase, living)
            elif phase.name != "common":
                self._set(living, State("finished"))
                self._confirm(phase, living)

    def _with_rates(self) -> list[Cell]:
        """The cells whose learning rates are known; those of the others are looked for first."""
        planned = {cell.name: self.rates.ramp_tokens(cell) for cell in self.sweep.cells}
        for name, tokens in planned.items():
            if tokens and (refusal := self.ledger.ramps_refusal(tokens)):
                self.states[name] = State("capped", refusal)
        allowed = [cell for cell in self.sweep.cells if self.states[cell.name].name != "capped"]
        missing = find_missing(self.rates, allowed, self.sweep, self.runs, self.registry, self._launcher, self.ledger)
        for name, (state, reason) in missing.items():
            self.states[name] = State(state, f"no rate was found: {reason}")
        for cell in allowed:
            found = self.rates.found(cell)
            self.ledger.release(planned[cell.name] - (found.found.tokens if found else 0))
        return [cell for cell in allowed if cell.name not in missing]

    @property
    def at_other_rates(self) -> list[Cell]:
        """The cells whose rates are not, or may not be, those of their configs."""
        return [cell for cell in self.sweep.cells if self.rates.of(cell) != ()]

    @property
    def finalists(self) -> int:
        """How many cells the final phase has."""
        return self.sweep.settings.phases.finalists if self.sweep.settings.phases else len(self.sweep.cells)

    def has_result(self, cell: Cell, phase: Phase, seed: int) -> bool:
        """Whether a run was measured at its end."""
        known = phase.name == "common" or self.rates.of(cell) is not None
        return known and self._trial(cell, phase, seed).files.result(phase.tokens(cell)) is not None

    def _through(self, phase: Phase, entering: list[Cell]) -> list[Cell]:
        """The cells that reach the end of a phase."""
        self.entered[phase.name] = entering
        trials = {cell.name: [self._trial(cell, phase, seed) for seed in phase.seeds] for cell in entering}
        shown = self.sweep.cells if phase.name == "common" else entering
        self.trials += [self._trial(cell, phase, seed) for seed in phase.seeds for cell in shown]
        living = entering
        for rung in range(len(phase.rungs) + 1):
            planned = [trials[cell.name][number] for number in range(len(phase.seeds)) for cell in living]
            living = self._trained(phase, rung, planned, living)
            if phase.stops and self._rule is not None and rung < len(phase.rungs) and living:
                living = self._decided(self._rule, phase, rung, living, trials)
        return living

    def _confirm(self, phase: Phase, finished: Sequence[Cell]) -> None:
        """Further seeds, one run after the other, each of the cell whose mean is best so far. A cap ends this, and a
        cell whose run fails has failed."""
        seeds = self.sweep.settings.seeds
        trials = {cell.name: [self._trial(cell, phase, seeds[0])] for cell in finished}
        for _ in range(self.sweep.settings.confirm or 0):
            waiting = [cell for cell in finished if len(trials[cell.name]) < len(seeds) and self._is_finished(cell)]
            if not waiting:
                return
            standings = self._standings(phase, len(phase.rungs), waiting, trials)
            best = min(standings, key=lambda standing: (standing.bits_per_byte, standing.cell)).cell
            cell = next(each for each in waiting if each.name == best)
            trial = self._trial(cell, phase, seeds[len(trials[best])])
            self._record(phase, phase.tokens(self.sweep.baseline), "confirm", [cell], {}, trial.seed)
            self.trials.append(trial)
            if not all(self._trained(phase, rung, [trial], [cell]) for rung in range(len(phase.rungs) + 1)):
                if self.states[best].name != "capped":
                    continue
                output.note(f"{trial.name} is left out: {self.states[best].reason}")
                self._set([cell], State("finished"))
                return
            trials[best].append(trial)

    def _is_finished(self, cell: Cell) -> bool:
        return self.states[cell.name].name == "finished"

    def _trial(self, cell: Cell, phase: Phase, seed: int) -> Trial:
        """A cell whose rates are those of its config has one short run, which is that of both rates."""
        own = self.rates.of(cell) or ()
        name = "short" if phase.name == "common" and self.rates.of(cell) == () else phase.name
        added = [*(own if phase.name != "common" else ()), *phase.overrides(cell)]
        depends_on = [added, self.sweep.settings.heldout_bytes, list(phase.rung_tokens(cell))[-1]]
        files = self.files.trial(cell.key, name, seed, depends_on)
        return Trial(cell, phase, seed, (*cell.overrides, *added, f"seed={seed}"), files)

    def _trained(self, phase: Phase, rung: int, planned: Sequence[Trial], living: Sequence[Cell]) -> list[Cell]:
        """Trains the runs up to a rung where they have no result there; returns the cells that all of their runs have
        one of."""
        missing: list[Trial] = []
        ended = Ended(planned)
        for trial in planned:
            refusal = self.ledger.refusal(trial.files.folder, self._new_tokens(trial, rung))
            if refusal:
                ended.capped(trial, refusal)
            elif (result := trial.files.result(self._tokens(trial, rung))) is not None:
                self.ledger.measured(trial.files.folder, result, self._skipped(trial))
            elif (failure := trial.files.failure()) is not None:
                ended.failed(trial, failure.reason)
            elif not ended.is_left_out(trial):
                missing.append(trial)
        self._train(missing, rung, ended)
        for trial in planned:
            if trial.name in ended.failures:
                self.ledger.failed(trial.files.folder)
        self._leave_out([trial for trial in planned if ended.is_left_out(trial)])
        self.why |= {trial.files.folder: ended.why(trial) for trial in planned if ended.has(trial)}
        lost = ended.states()
        if phase.name != "common":
            self.states |= lost
        return [cell for cell in living if cell.name not in lost]

    def _leave_out(self, trials: Sequence[Trial]) -> None:
        names = {trial.name for trial in trials}
        self.left_out += [trial for trial in self.trials if trial.name in names]
        self.trials = [trial for trial in self.trials if trial.name not in names]

    def _train(self, trials: Sequence[Trial], rung: int, ended: Ended) -> None:
        """Runs jobs until each has a result or has `ended`."""
        waiting = {trial.name: trial for trial in trials}
        begun: set[str] = set()
        deaths: Counter[str] = Counter()
        tries: Counter[str] = Counter()

        def refused(name: str) -> bool:
            """Whether a job is not wanted any more when a worker is free for it, or no hours are left for it."""
            if name in waiting and (refusal := self.ledger.out_of_hours()):
                ended.capped(waiting.pop(name), refusal)
            begun.add(name)
            return name not in waiting

        self._jobs.add([Job(name, self._argument(trial, rung)) for name, trial in waiting.items()], refused)
        while waiting:
            for outcome in self._outcomes:
                trial = waiting[outcome.name]
                tries[trial.name] += 1
                if self._ended(trial, rung, outcome, tries[trial.name], deaths, ended):
                    del waiting[outcome.name]
                    for name in [name for name, each in waiting.items() if ended.is_left_out(each)]:
                        if name not in begun:
                            del waiting[name]
                else:
                    self._jobs.add([Job(trial.name, self._argument(trial, rung))], refused)
                if not waiting:
                    return
            self._outcomes = self._launched()

    def _launched(self) -> Generator[Outcome]:
        yield from self._launcher.run(WORK, self._jobs)

    def _ended(self, trial: Trial, rung: int, outcome: Outcome, tries: int, deaths: Counter[str], ended: Ended) -> bool:
        """Whether the job of a trial is over: it has a result, or failed and says why in its files. Raises
        `ProblemError` for what is not the trial's own fault."""
        result = trial.files.result(self._tokens(trial, rung))
        if result is not None:
            self.ledger.measured(trial.files.folder, result, self._skipped(trial))
            output.note(f"{trial.name}: {result.bits_per_byte:.4f} bits per byte after {result.tokens:,} tokens")
            return True
        if outcome.state == "lost":
            place = f"{trial.name} {self._progress(trial)}"
            deaths[place] += 1
            if deaths[place] < ATTEMPTS:
                output.warn(f"{trial.name}: {outcome.reason}; it is tried again")
                return False
        failure, problem = failure_of(outcome, tries)
        trial.files.write_failure(failure)
        output.warn(f"{trial.name} failed: {problem}")
        ended.failed(trial, outcome.reason)
        return True

    def _progress(self, trial: Trial) -> str:
        """The newest checkpoint, which a worker that died in vain has not moved."""
        run = trial.files.run(self.files.folder)
        return max((path.name for path in run.glob("checkpoints/step-*")), default="") if run else ""

    def _new_tokens(self, trial: Trial, rung: int) -> int:
        """Tokens that a run trains from the rung before to this one."""
        before = self._tokens(trial, rung - 1) if rung else self._skipped(trial)
        return self._tokens(trial, rung) - before

    def trunk_tokens(self, cell: Cell, phase: Phase, seed: int) -> int:
        """Tokens that a final run takes over from a short one."""
        if not self._continues_trunk(phase, seed):
            return 0
        from penstock.train.fork import steps_of_trunk  # torch: most sweeps have no trunk

        train = cell.config.train.model_copy(update={"tokens": self.phases[0].tokens(cell)})
        short = cell.config.model_copy(update={"train": train})
        return (steps_of_trunk(short) or 0) * short.tokens_per_step

    def _continues_trunk(self, phase: Phase, seed: int) -> bool:
        short = self.phases[0]
        return phase.name == "final" and short.schedule == "trunk" and seed in short.seeds

    def _skipped(self, trial: Trial) -> int:
        return self.trunk_tokens(trial.cell, trial.phase, trial.seed)

    def _tokens(self, trial: Trial, rung: int) -> int:
        return trial.phase.rung_tokens(trial.cell)[rung] if rung >= 0 else 0

    def _argument(self, trial: Trial, rung: int) -> dict[str, object]:
        """See `penstock.sweep.worker.RungJob`."""
        tokens, selection = trial.phase.rung_tokens(trial.cell), self.registry.selection
        return {
            "config": str(self.sweep.config_file),
            "overrides": list(trial.overrides),
            "runs": str(self.runs),
            "sweep": str(self.files.folder),
            "trial": str(trial.files.folder),
            "cell": trial.cell.name,
            "key": trial.cell.key,
            "phase": trial.phase.name,
            "seed": trial.seed,
            "tokens": tokens[rung],
            "whole": rung == len(tokens) - 1,
            "trunk": self._trunk(trial),
            "data": trial.cell.data,
            "heldout_bytes": self.sweep.settings.heldout_bytes,
            "no_plugins": selection.no_plugins,
            "only": list(selection.only),
            "files": list(selection.files),
        }

    def _trunk(self, trial: Trial) -> str | None:
        """The folder of the short run whose steps a final run begins with."""
        if not self._continues_trunk(trial.phase, trial.seed):
            return None
        return str(self._trial(trial.cell, self.phases[0], trial.seed).files.folder)

    def _decided(
        self, rule: StopRule, phase: Phase, rung: int, living: list[Cell], trials: dict[str, list[Trial]]
    ) -> list[Cell]:
        """The cells that go on after a rung."""
        standings = self._standings(phase, rung, living, trials)
        stopped = dict(rule.stopped(rung, standings))
        for cell in living:
            if cell.name in stopped:
                where = f"after {phase.rung_tokens(cell)[rung]:,} tokens"
                self.states[cell.name] = State("stopped", f"{where}: {stopped[cell.name]}")
        stop = self.sweep.settings.stop
        name = stop.entry.component.name if stop else type(rule).__name__
        self._record(phase, phase.rung_tokens(self.sweep.baseline)[rung], name, living, stopped)
        return [cell for cell in living if cell.name not in stopped]

    def _finalists(self, phase: Phase, living: list[Cell]) -> list[Cell]:
        trials = {cell.name: [self._trial(cell, phase, seed) for seed in phase.seeds] for cell in living}
        standings = self._standings(phase, len(phase.rungs), living, trials)
        chosen = finalists(standings, self.finalists)
        bits = {standing.cell: standing.bits_per_byte for standing in standings}
        stopped = {
            cell.name: f"{bits[cell.name]:.4f} bits per byte, not among the best {self.finalists}"
            for cell in living
            if cell.name not in chosen
        }
        self._record(phase, phase.tokens(self.sweep.baseline), "finalists", living, stopped)
        for name, why in stopped.items():
            self.states[name] = State("stopped", f"after the short phase: {why}")
        return [cell for cell in living if cell.name in chosen]

    def _standings(
        self, phase: Phase, rung: int, living: Sequence[Cell], trials: dict[str, list[Trial]]
    ) -> list[Standing]:
        """Means over seeds. Raises `ProblemError` if cells were measured on different texts."""
        found: dict[str, tuple[Standing, ...]] = {}
        texts: dict[str, str] = {}
        for cell in living:
            earlier: tuple[Standing, ...] = ()
            for number in range(rung + 1):
                results = [trial.files.result(self._tokens(trial, number)) for trial in trials[cell.name]]
                whole = [result for result in results if result is not None]
                if len(whole) == len(results):
                    texts[whole[0].text] = cell.name
                    earlier = (*earlier, self._standing(cell, whole, earlier))
            found[cell.name] = earlier
        if len(texts) > 1:
            one, other, *_ = texts.values()
            what = f"cells '{one}' and '{other}' were measured on different held-out texts, so no rule can compare them"
            fix = "give all cells one corpus and one split"
            raise ProblemError(Problem("other-data", what, self.sweep.where("axes"), fix))
        return [each[-1] for each in found.values()]

    def _standing(self, cell: Cell, results: Sequence[RungResult], earlier: tuple[Standing, ...]) -> Standing:
        first = results[0]  # written under another name if the cell was renamed since
        return Standing(
            cell=cell.name,
            tokens=first.tokens,
            bits_per_byte=float(np.mean([result.bits_per_byte for result in results])),
            perplexity=float(np.mean([result.perplexity for result in results])),
            document_bits=np.mean([result.document_bits for result in results], axis=0),
            document_bytes=np.array(self.files.heldout(first.text).document_bytes),
            tokenizer=first.tokenizer,
            history=earlier,
            seeds=len(results),
            costs=self._costs.get(cell.name, ()),
            whole=cell.config.train.tokens,
        )

    def _record(
        self,
        phase: Phase,
        tokens: int,
        rule: str,
        living: list[Cell],
        stopped: dict[str, str],
        seed: int | None = None,
    ) -> None:
        """Writes a decision, and says for which cells it is another one than before cells were added."""
        went_on = [cell.name for cell in living if cell.name not in stopped]
        for earlier in self._before:
            if (earlier.phase, earlier.tokens, earlier.rule) == (phase.name, tokens, rule):
                for name in earlier.stopped.keys() & set(went_on):
                    output.note(f"{name} was stopped after {tokens:,} tokens, and goes on now")
        self.decisions.append(Decision(phase.name, tokens, rule, went_on, stopped, seed))
        self.files.write_decisions(self.decisions)

    def _set(self, cells: Sequence[Cell], state: State) -> None:
        for cell in cells:
            self.states[cell.name] = state
