"""From result rows to what the statistics take: which episodes are compared, and their gains problem by problem.

A track is an environment. Teachers that look at no state run once and count in every track of the run. Only episodes
under one protocol are compared. All that shows gains starts here, so that every place shows the same numbers; what is
made of them is `dgym.results.statistics`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from dgym.results import statistics
from dgym.results.reader import Run, codes
from dgym.results.statistics import Array, Cell

OVERALL: Final = "overall"
"""Name of the track of teachers that entered all tracks, with gains averaged over them."""

CURVED: Final = ("selection", "test")
"""Splits on which there are learning curves."""

Path = Mapping[str, Any]
"""What an episode came to up to each iteration: arrays by name."""

_COLUMNS = (
    *("domain", "environment", "teacher", "digest", "variation", "teacher_label", "student"),
    *("seed_variant", "seed_training", "seed_teacher", "privileged", "state_blind", "ranked", "status", "stopped"),
    *("protocol", "spec", "pins", "iterations_run", "best_iteration", "base_test_new", "best_test_new", "retention"),
    *("examples_submitted", "response_tokens", "teacher_calls", "teacher_tokens", "cost"),
    *("seconds_student", "seconds_total", "finished_at"),
)


_AVERAGED = (
    *("retention", "new", "area", "examples_submitted", "response_tokens", "teacher_calls", "teacher_tokens", "cost"),
    *("seconds_student", "seconds_total"),
)


@dataclass(frozen=True, eq=False)
class Scores:
    """Test scores of a run's finished episodes, problem by problem.

    Attributes:
        problems: Ids of the test problems by domain, sorted.
        skills: The gold skill of each of them.
        at: By digest: scores of the untrained student, at the chosen and at the last iteration, shape (3, problems of
            the domain); NaN where there is no answer.
    """

    problems: Mapping[str, tuple[str, ...]]
    skills: Mapping[str, tuple[str, ...]]
    at: Mapping[str, Array]

    @classmethod
    def read(cls, run: Run) -> Scores:
        """Reads them, in one pass over the attempts."""
        where = pc.field("status") == "ok"
        episodes = run.frame("episodes", ["digest", "domain", "best_iteration", "iterations_run"], where)
        columns = ["digest", "iteration", "problem", "skill", "score"]
        rows = run.arrow("attempts", columns, pc.field("split") == "test", encoded=True)
        digests, of_digest = codes(rows, "digest")
        names, of_problem = codes(rows, "problem")
        skills, of_skill = codes(rows, "skill")
        iteration, score = rows.column("iteration").to_numpy(), rows.column("score").to_numpy()
        of_episode = pd.Index(episodes["digest"]).get_indexer(pd.Index(digests))[of_digest]
        wanted = np.zeros((3, len(episodes) + 1), dtype=np.int64)  # the last column is for rows of no finished episode
        wanted[1:, :-1] = episodes[["best_iteration", "iterations_run"]].to_numpy().T
        found: dict[str, Any] = {"problems": {}, "skills": {}, "at": {}}
        for domain, members in episodes.groupby("domain").indices.items():
            place = np.full(len(episodes) + 1, -1)
            place[members] = np.arange(len(members))
            here = np.flatnonzero(place[of_episode] >= 0)
            episode, problem, when = of_episode[here], of_problem[here], iteration[here]
            used = np.flatnonzero(np.bincount(problem, minlength=len(names)))
            used = used[np.argsort(names[used], kind="stable")]
            column = np.full(len(names), -1)
            column[used] = np.arange(len(used))
            at = np.full((len(members), 3, len(used)), np.nan)
            for which in range(3):
                chosen = np.flatnonzero(when == wanted[which, episode])
                at[place[episode[chosen]], which, column[problem[chosen]]] = score[here[chosen]]
            skill = np.zeros(len(used), dtype=np.int64)
            skill[column[problem]] = of_skill[here]
            found["problems"][str(domain)] = tuple(map(str, names[used]))
            found["skills"][str(domain)] = tuple(map(str, skills[skill])) if len(used) else ()
            found["at"].update(zip(episodes["digest"].iloc[members], at, strict=True))
        return cls(**found)


@dataclass(frozen=True)
class Gains:
    """Gains in points per problem, by digest, at the chosen and at the last iteration.

    Attributes:
        chosen: At the chosen iteration; only episodes whose test attempts are all there.
        last: At the last iteration.
        base: Scores of the untrained student, in [0, 1].
        problems: Ids of the problems by domain: those that all episodes of the domain answered.
        skills: The gold skill of each of them.
    """

    chosen: dict[str, Array]
    last: dict[str, Array]
    base: dict[str, Array]
    problems: dict[str, tuple[str, ...]]
    skills: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, run: Run, episodes: pd.DataFrame) -> Gains:
        """Reads the gains of episodes that finished; a run's attempts are read once."""
        scores = scores_of(run)
        gains = cls({}, {}, {}, {}, {})
        for name, part in episodes[episodes["status"] == "ok"].groupby("domain"):
            domain = str(name)
            digests = [digest for digest in part["digest"] if digest in scores.at]
            at = np.array([scores.at[digest] for digest in digests]).reshape(len(digests), 3, -1)
            there = ~np.isnan(at)
            answered = there.any(axis=2)
            shared = (there | ~answered[:, :, None]).all(axis=(0, 1))
            gains.problems[domain] = tuple(p for p, s in zip(scores.problems[domain], shared, strict=True) if s)
            gains.skills[domain] = tuple(k for k, s in zip(scores.skills[domain], shared, strict=True) if s)
            at = at[:, :, shared]
            for digest, score, whole in zip(digests, at, answered.all(axis=1), strict=True):
                if whole:
                    gains.base[digest] = score[0]
                    gains.chosen[digest] = 100 * (score[1] - score[0])
                    gains.last[digest] = 100 * (score[2] - score[0])
        return gains

    def cells(self, episodes: pd.DataFrame) -> tuple[list[Cell], list[Cell]]:
        """Returns one teacher's cells at the chosen and at the last iteration.

        Failed episodes count as `statistics.with_failures` says.
        """
        chosen, last = list[Cell](), list[Cell]()
        ok, digests, seeds = (episodes[name].to_numpy() for name in ("status", "digest", "seed"))
        members: dict[Any, Any] = episodes.groupby(["domain", "student"]).indices
        for (domain, student), rows in members.items():
            ordered = rows[np.argsort(seeds[rows], kind="stable")]
            done, failed = ordered[ok[ordered] == "ok"], ordered[ok[ordered] != "ok"]
            problems = self.problems.get(str(domain)) or ("none",)
            for cells, gains in ((chosen, self.chosen), (last, self.last)):
                found = np.array([gains[digest] for digest in digests[done]]).reshape(-1, len(problems))
                matrix = statistics.with_failures(found, len(failed))
                cells.append(Cell(str(domain), str(student), (*seeds[done], *seeds[failed]), problems, matrix))
        return chosen, last


@dataclass(frozen=True)
class Entrant:
    """A teacher in a track.

    Attributes:
        label: Its name; distinct within a run.
        episodes: Its rows, with `seed`, `area` and `new` as `tracks_of` adds them.
        chosen: Its cells at the chosen iteration.
        last: Its cells at the last iteration; none if no episode got there.
    """

    label: str
    episodes: pd.DataFrame
    chosen: list[Cell]
    last: list[Cell]

    @property
    def control(self) -> bool:
        """Whether it is a control or the ceiling."""
        return not bool(self.episodes["ranked"].iloc[0])

    @property
    def privileged(self) -> bool:
        """Whether its engine uses the domain's own generators."""
        return bool(self.episodes["privileged"].any())

    @property
    def places(self) -> set[tuple[str, str]]:
        """Domain and student of its cells."""
        return {(cell.domain, cell.student) for cell in self.chosen}

    def mean(self, column: str) -> float:
        """Mean over the seeds that finished, then cells, then domains; NaN if there is nothing to average."""
        return float(self._means[column])

    @cached_property
    def _means(self) -> Any:
        finished = self.episodes[self.episodes["status"] == "ok"]
        cells = finished.groupby(["domain", "student"])[list(_AVERAGED)].mean()
        return cells.groupby("domain").mean().mean()


@dataclass(frozen=True)
class Tracks:
    """All that is compared in a run.

    Attributes:
        entrants: By track, sorted; `OVERALL` last where there are several tracks.
        gains: Of their episodes.
        notes: Episodes that were left out, and what is missing of the run.
    """

    entrants: Mapping[str, Sequence[Entrant]]
    gains: Gains
    notes: tuple[str, ...]


_SCORES: WeakKeyDictionary[Run, Scores] = WeakKeyDictionary()
_TRACKS: WeakKeyDictionary[Run, Tracks] = WeakKeyDictionary()
_PATHS: WeakKeyDictionary[Run, dict[str, Path]] = WeakKeyDictionary()


def scores_of(run: Run) -> Scores:
    """Returns a run's test scores; they are read once."""
    if run not in _SCORES:
        _SCORES[run] = Scores.read(run)
    return _SCORES[run]


def tracks_of(run: Run) -> Tracks:
    """Returns what is compared in a run; it is put together once.

    Args:
        run: The results; episodes of more than one protocol are cut to the protocol of the latest.
    """
    if run not in _TRACKS:
        _TRACKS[run] = _put_together(run)
    return _TRACKS[run]


def _put_together(run: Run) -> Tracks:
    episodes, notes = _comparable(run.frame("episodes", _COLUMNS))
    gains = Gains.read(run, episodes)
    lost = (episodes["status"] == "ok") & ~episodes["digest"].isin(gains.chosen)
    if lost.any():
        notes.append(f"{count(lost.sum(), 'episode')} left out: the test attempts cannot be read.")
        episodes = episodes[~lost]
    new = 100 * (episodes["best_test_new"].astype(float) - episodes["base_test_new"].astype(float))
    episodes = episodes.assign(area=_areas(run, episodes), new=new)
    tracks = {
        str(track): _entrants(episodes[(episodes["environment"] == track) | episodes["state_blind"]], gains)
        for track in sorted(episodes.loc[~episodes["state_blind"], "environment"].unique())
        or sorted(episodes["environment"].unique())
    }
    if len(tracks) > 1:
        tracks[OVERALL] = _in_all(list(tracks.values()))
    return Tracks(tracks, gains, (*notes, *run.partial))


def _comparable(episodes: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Cuts to the latest protocol and, for each teacher, cell and seed, to the latest version of the episode."""
    notes: list[str] = []
    # Variations exchange more than the teacher: they stand in a table of their own (`dgym.ablation`).
    episodes = episodes[episodes["variation"] == ""].sort_values("finished_at")
    if episodes.empty:
        return episodes.assign(seed="", entrant="", rules=""), notes
    same = episodes["protocol"] == episodes["protocol"].iloc[-1]
    if not same.all():
        notes.append(f"{count((~same).sum(), 'episode')} of another protocol (rules, recipe or engine) left out.")
    episodes = episodes[same]
    episodes = with_seed(episodes)
    # A teacher's file that was edited between two runs makes two entrants, not one mixture.
    pins = episodes["pins"].map(lambda text: str(json.loads(text).get("teacher", "")))
    specs = [json.loads(text) for text in episodes["spec"]]
    params = [json.dumps(spec.get("teacher_params"), sort_keys=True) for spec in specs]
    entrant = episodes["teacher"] + "\n" + pd.Series(params, episodes.index) + "\n" + pins
    episodes = episodes.assign(pin=pins, entrant=entrant, rules=[spec["rules"] for spec in specs])
    latest = episodes.drop_duplicates(["entrant", "environment", "domain", "student", "seed"], keep="last")
    if len(latest) < len(episodes):
        notes.append(f"{count(len(episodes) - len(latest), 'episode')} left out: run again since something changed.")
    labels = latest.drop_duplicates("entrant").set_index("entrant")
    twice = labels["teacher_label"].duplicated(keep=False)
    labels.loc[twice, "teacher_label"] += " #" + labels.loc[twice, "pin"].str[:6]
    # In an order that is the same in part files and published tables, so that sums are too, to the last bit.
    latest = latest.assign(teacher_label=latest["entrant"].map(labels["teacher_label"])).sort_values("digest")
    return latest, notes


def with_seed(episodes: pd.DataFrame) -> pd.DataFrame:
    """Adds a column `seed` that names the three seeds of each episode; what shares it can be paired."""
    seeds = [episodes[f"seed_{what}"].astype(str) for what in ("variant", "training", "teacher")]
    return episodes.assign(seed=seeds[0] + "-" + seeds[1] + "-" + seeds[2])


def paths_of(run: Run) -> dict[str, Path]:
    """Returns what every episode came to up to each iteration, by digest; the steps are read once.

    Returns:
        Arrays with a value for each iteration: `examples`, `tokens`, `cost` and `seconds` up to it, and the gain on
        `selection` and `test` in points, NaN where a split was not asked.
    """
    if run not in _PATHS:
        sums = {"examples": "examples_submitted", "tokens": "response_tokens", "cost": "cost", "seconds": "seconds"}
        stages = [f"seconds_{stage}" for stage in ("plan", "generate", "gate", "train", "answer")]
        read = ["digest", "iteration", *CURVED, *list(sums.values())[:-1], *stages]
        steps = run.frame("steps", read).sort_values(["digest", "iteration"], ignore_index=True)
        steps["seconds"] = steps[stages].fillna(0).sum(axis=1)
        values = {name: steps[name].to_numpy(dtype=float) for name in (*CURVED, *sums.values())}
        digests = steps["digest"].to_numpy()
        bounds = [0, *(np.flatnonzero(digests[1:] != digests[:-1]) + 1).tolist(), len(steps)] if len(steps) else [0]
        _PATHS[run] = {
            str(digests[start]): {split: 100 * (values[split][start:end] - values[split][start]) for split in CURVED}
            | {name: values[column][start:end].cumsum() for name, column in sums.items()}
            for start, end in pairwise(bounds)
        }
    return _PATHS[run]


def _areas(run: Run, episodes: pd.DataFrame) -> pd.Series[float]:
    """Area under each episode's gain-by-data curve, in points; on test where the rules test every iteration."""
    paths = paths_of(run)
    areas = {}
    for digest, rules in zip(episodes["digest"], episodes["rules"], strict=True):
        if digest in paths:
            gains = paths[digest]["test" if rules["test_every_iteration"] else "selection"]
            budget = rules["iterations"] * rules["budget"]["examples_per_iteration"]
            budget = min(budget, rules["budget"]["examples_total"] or budget)
            areas[digest] = statistics.area_under_curve(paths[digest]["examples"].tolist(), gains.tolist(), budget)
    return episodes["digest"].map(areas).astype(float)


def _entrants(episodes: pd.DataFrame, gains: Gains) -> list[Entrant]:
    return [
        Entrant(str(part["teacher_label"].iloc[0]), part, *gains.cells(part))
        for _, part in episodes.groupby("entrant", sort=True)
    ]


def _in_all(tracks: Sequence[Sequence[Entrant]]) -> list[Entrant]:
    """The teachers that entered all tracks, with gains averaged over them."""
    by_label = [{entrant.label: entrant for entrant in entrants} for entrants in tracks]
    out = []
    for label in by_label[0]:
        found = [entrants[label] for entrants in by_label if label in entrants]
        chosen = statistics.average([e.chosen for e in found])
        if len(found) == len(tracks) and chosen:
            episodes = pd.concat([e.episodes for e in found]).drop_duplicates("digest")
            out.append(Entrant(label, episodes, chosen, statistics.average([e.last for e in found])))
    return out


def count(number: int, noun: str) -> str:
    """Writes a number with its noun, as in "1 episode" and "2 episodes"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
