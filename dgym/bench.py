"""Running a suite: expand, skip what is finished, hand the rest to a backend, collect what it reports.

A backend decides where episodes run, never what they are: `LocalBackend` runs them one after the other in this
process, the Ray backend (`dgym.cluster`) many at a time, and both give the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Literal, Protocol

from dgym.chat import digest_of, session
from dgym.core import Checks, Domain, Frames, Pool, Prepares, Step, Student, Teacher
from dgym.domains import make_domain
from dgym.environments import make_environment
from dgym.episode import ClosedLoop, LocalPool, overlap_index, run_episode, used
from dgym.errors import DgymError, InfrastructureError, UsageError, boundary_of, one_line
from dgym.heartbeat import Heartbeat, Hosts, at_work
from dgym.overlap import OverlapIndex
from dgym.results.place import Place
from dgym.results.writer import EpisodeWriter, announce, announced, finished
from dgym.skills.agreement import agreement
from dgym.skills.discovery import find_discovery
from dgym.specs import EpisodeSpec, Identity, identify, student_of
from dgym.students.host import HostStats, StudentConfig, StudentHost, local_student
from dgym.teachers import make_teacher


@dataclass(frozen=True)
class Progress:
    """What a backend reports while it runs.

    Attributes:
        digest: Which episode.
        status: `"running"` after an iteration, then `"ok"` or `"failed"`.
        iteration: The latest iteration.
        score: Its selection score, in [0, 1].
        message: Why it failed; else empty.
        boundary: At which boundary it failed.
        last: Whether no iteration follows.
    """

    digest: str
    status: Literal["running", "ok", "failed"]
    iteration: int = 0
    score: float = 0.0
    message: str = ""
    boundary: str = ""
    last: bool = False


@dataclass
class Usage:
    """How the student hosts were used in a run.

    Attributes:
        hosts: How many there were.
        busy: Share of the time between first and last training in which hosts worked, in [0, 1]; `None`
            when nothing was trained.
        seconds: Length of that time.
        loads: How often a base was loaded.
        replaced: Hosts that died and were replaced; what they did is not counted.
        asked: Answers that students were asked for.
        answered: How many of them were computed: nothing is asked twice of the same version of a student.
    """

    hosts: int = 0
    busy: float | None = None
    seconds: float = 0.0
    loads: int = 0
    replaced: int = 0
    asked: int = 0
    answered: int = 0

    @classmethod
    def of(cls, stats: Sequence[HostStats], replaced: int = 0) -> Usage:
        """Sums up what the hosts did between the first and the last training of them all.

        Of a host that came later, in place of one that died, the time before does not count, and of one that was ended
        early the time after.
        """
        starts = [s.first_training for s in stats if s.first_training is not None]
        ends = [s.last_training for s in stats if s.last_training is not None]
        usage = cls(
            hosts=len(stats),
            loads=sum(s.loads for s in stats),
            replaced=replaced,
            asked=sum(s.asked for s in stats),
            answered=sum(s.answered for s in stats),
        )
        if not starts or not ends or max(ends) <= min(starts):
            return usage
        low, high = min(starts), max(ends)
        worked = sum(max(0.0, min(b, high) - max(a, low)) for s in stats for a, b in s.busy)
        there = sum(max(0.0, min(high, s.ended or high) - max(low, s.started)) for s in stats)
        return replace(usage, busy=worked / there, seconds=high - low)

    @classmethod
    def total(cls, parts: Sequence[Usage]) -> Usage:
        """Sums up parts of a run that came one after the other, each with hosts of its own."""
        worked = [p for p in parts if p.busy is not None]
        there = sum(p.seconds * p.hosts for p in worked)
        return cls(
            hosts=max((p.hosts for p in parts), default=0),
            busy=sum((p.busy or 0.0) * p.seconds * p.hosts for p in worked) / there if there else None,
            seconds=sum(p.seconds for p in parts),
            loads=sum(p.loads for p in parts),
            replaced=sum(p.replaced for p in parts),
            asked=sum(p.asked for p in parts),
            answered=sum(p.answered for p in parts),
        )


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Job:
    """Episodes to run, and where their results go.

    Attributes:
        episodes: In the order in which they are started.
        folder: The run's results folder, or its URL.
        suite: Name of the suite, for the rows.
        chat: What a person chose for language-model calls.
    """

    episodes: Sequence[Identity]
    folder: str | PathLike[str]
    suite: str = ""
    chat: session.Settings = session.DEFAULT


class Backend(Protocol):
    """Runs the episodes of a job."""

    def run(self, job: Job, report: Report) -> Usage:
        """Runs all episodes; a failed one is reported and stored, and the others go on."""
        ...


@dataclass
class Summary:
    """What became of a run.

    Attributes:
        total: Episodes of the suite.
        skipped: How many were finished before.
        ok: Digests that finished now.
        failed: Failed episodes, as they were reported.
        usage: How busy the hosts were.
    """

    total: int
    skipped: int
    ok: list[str] = field(default_factory=list)
    failed: list[Progress] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)


def bench(
    specs: Sequence[EpisodeSpec],
    folder: str | PathLike[str],
    *,
    suite: str = "",
    chat: session.Settings = session.DEFAULT,
    backend: Backend | None = None,
    begin: Callable[[Sequence[Identity], int], None] | None = None,
    report: Report | None = None,
) -> Summary:
    """Runs episodes and stores their results; what is finished already is not run again.

    Args:
        specs: The episodes.
        folder: The run's results folder, made if it does not exist, or its URL.
        suite: Name for the rows.
        chat: What a person chose for language-model calls.
        backend: Where to run; in this process by default.
        begin: Called once with the episodes to run and the number of finished ones.
        report: Called with every progress.

    Raises:
        UsageError: If a name is unknown or the folder cannot be written; nothing has been run then.
        InfrastructureError: If this machine cannot grade one of the domains, or nothing can be written; nothing has
            been run then either. Also if results have vanished meanwhile.
    """
    for name in dict.fromkeys(s.domain for s in specs):
        domain = make_domain(name)
        if isinstance(domain, Prepares):
            domain.prepare()
    identities, todo = unfinished(specs, folder)
    if chat.replay != "strict":
        reachable(todo)
    writable(folder)
    announce(folder, [identity.digest for identity in identities])
    summary = Summary(total=len(identities), skipped=len(identities) - len(todo))
    if begin is not None:
        begin(todo, summary.skipped)

    where = backend or LocalBackend()
    beat = Heartbeat(folder, todo, {i.digest: 1 + expected_work(i) for i in todo}, len(identities), where)

    def note(progress: Progress) -> None:
        if progress.status == "ok":
            summary.ok.append(progress.digest)
        elif progress.status == "failed":
            summary.failed.append(progress)
        if progress.status == "running":
            beat.iteration(progress.digest, progress.iteration, progress.score)
        else:
            beat.ended(progress.digest, progress.status == "ok")
        if report is not None:
            report(progress)

    if todo:
        with beat:
            summary.usage = where.run(Job(todo, Place.of(folder).absolute(), suite, chat), note)
        if not announced(folder):
            raise InfrastructureError(
                f"What was in {str(folder)!r} has vanished during the run: it was removed, or its file system is not "
                "mounted any more. The same command runs what is not there."
            )
    return summary


def unfinished(specs: Sequence[EpisodeSpec], folder: str | PathLike[str]) -> tuple[list[Identity], list[Identity]]:
    """Returns the different episodes of some specs, and those that are still to run, the longest first.

    Raises:
        UsageError: If a name is unknown.
    """
    # The first of equal episodes counts: a variation that changes nothing is no episode of its own.
    identities = list({i.digest: i for i in reversed([identify(s) for s in specs])}.values())[::-1]
    done = finished(folder)
    return identities, sorted((i for i in identities if i.digest not in done), key=expected_work, reverse=True)


def reachable(identities: Sequence[Identity]) -> None:
    """Checks that the language models and painters of some episodes can be asked, each of them once.

    Raises:
        UsageError: If one cannot; the message says what to set.
    """
    for asked in asked_by([identity.spec for identity in identities]):
        asked.check()


def asked_by(specs: Sequence[EpisodeSpec]) -> list[Checks]:
    """Returns what the teachers of some episodes ask and what can be tried before, each thing once."""
    found: dict[str, object] = {}
    for spec in {(s.teacher, repr(s.teacher_params)): s for s in specs}.values():
        teacher = make_teacher(spec.teacher, spec.teacher_params)
        for chat in teacher.chats:
            found.setdefault(digest_of(chat), chat)
        painter = getattr(teacher.engine, "painter", None)
        # A picture is drawn only where problems have some.
        pictures: object = getattr(make_domain(spec.domain), "pictures", "")
        if painter is not None and pictures:
            found.setdefault(f"painter {painter.name}", painter)
    return [asked for asked in found.values() if isinstance(asked, Checks)]


def expected_work(identity: Identity) -> float:
    """Estimates an episode's work, so that the longest start first and no host idles at the end."""
    rules = identity.spec.seeded_rules(make_teacher(identity.spec.teacher, identity.spec.teacher_params))
    rounds = range(1, rules.iterations + 1)
    trained = sum(rounds) if rules.training == "retrain" else len(rounds)
    asks = identity.spec.teacher != "no-data"
    return float(trained * rules.budget.examples_per_iteration * asks)


def writable(folder: str | PathLike[str]) -> None:
    """Makes the results folder.

    Raises:
        UsageError: If it cannot be made or written.
    """
    try:
        Place.of(folder).make()
    except InfrastructureError as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise UsageError(
            f"The results folder {str(folder)!r} cannot be written: {reason} Name another with --out."
        ) from error


def student_config(identity: Identity) -> StudentConfig:
    """Returns which student an episode opens."""
    return student_of(identity.spec)


_INDICES: dict[tuple[str, str], OverlapIndex] = {}


def open_loop(identity: Identity, student: Student) -> tuple[ClosedLoop, Teacher]:
    """Builds an episode's loop and teacher in this process.

    Raises:
        UsageError: If the skills or the curriculum do not fit the environment.
    """
    spec = identity.spec
    teacher = make_teacher(spec.teacher, spec.teacher_params)
    domain = make_domain(spec.domain)
    index = spec.domain, spec.rules.validation
    if index not in _INDICES:
        _INDICES[index] = overlap_index(domain, spec.rules.validation)
    skills = discovered(spec, domain)
    loop = ClosedLoop(
        domain,
        make_environment(spec.environment, spec.curriculum, skills),
        student,
        spec.seeded_rules(teacher),
        unverified=teacher.unverified,
        index=_INDICES[index],
    )
    return loop, teacher


def discovered(spec: EpisodeSpec, domain: Domain) -> Mapping[str, str] | None:
    """Finds the skills of the feedback problems as a spec says; `None` for the domain's own."""
    if spec.skills == "gold":
        return None
    problems = used(domain, "feedback", spec.rules)
    if isinstance(domain, Frames):
        # What stands around every problem tells nothing about its skill.
        problems = [replace(problem, prompt=domain.bare(problem.prompt)) for problem in problems]
    return find_discovery(spec.skills).assign(problems)


def skills_agreement(spec: EpisodeSpec, domain: Domain) -> float | None:
    """Measures how well discovered skills agree with the domain's own, as adjusted Rand index; `None` for those."""
    skills = discovered(spec, domain)
    if skills is None:
        return None
    return agreement(skills, [p for p in domain.problems("feedback") if p.id in skills])


def recorded(
    identity: Identity,
    student: Student,
    pool: Callable[[Teacher], Pool],
    writer: EpisodeWriter,
    show: Callable[[Step], None] | None = None,
) -> Iterator[Progress]:
    """Runs one episode, stores its rows, and yields its progress; whatever fails becomes the last progress.

    This is all that either backend does with an episode.
    """
    step: Step | None = None
    try:
        writer.ready()
        loop, teacher = open_loop(identity, student)
        writer.agreement = skills_agreement(identity.spec, loop.domain)
        for step in run_episode(loop, teacher, pool(teacher)):
            writer.add(step)
            if show is not None:
                show(step)
            yield Progress(identity.digest, "running", step.iteration, step.selection.score, last=loop.done)
        writer.finish()
        yield Progress(identity.digest, "ok", step.iteration if step else 0, step.selection.score if step else 0.0)
    except Exception as error:
        yield failed(identity, error, writer, step)


def episode(
    identity: Identity,
    folder: str | PathLike[str],
    show: Callable[[Step], None],
    chat: session.Settings = session.DEFAULT,
) -> Progress:
    """Runs one episode in this process, stores its rows, and shows every step.

    Raises:
        UsageError: If the folder cannot be written, or if its language model cannot be asked.
    """
    writable(folder)
    if chat.replay != "strict":
        reachable([identity])
    student = local_student(StudentHost(), student_config(identity), identity.digest)
    writer = EpisodeWriter(folder, identity, "")
    with session.use(session.Session(chat)):
        *_, last = recorded(identity, student, LocalPool, writer, show)
    return last


def failed(identity: Identity, error: Exception, writer: EpisodeWriter, step: Step | None = None) -> Progress:
    """Stores a failed episode and returns its last progress."""
    message = one_line(error)
    try:
        writer.fail(error)
    except DgymError as worse:
        message = f"{message} (and the row could not be written: {worse})"
    iteration = step.iteration if step else 0
    return Progress(identity.digest, "failed", iteration, message=message, boundary=boundary_of(error))


class LocalBackend:
    """Runs episodes one after the other in this process."""

    def __init__(self) -> None:
        self._host: StudentHost | None = None
        self._left = 0

    def hosts_now(self) -> Hosts | None:
        """See `dgym.heartbeat.Watched`."""
        return at_work([self._host.now()], self._left) if self._host is not None else None

    def run(self, job: Job, report: Report) -> Usage:
        """See `Backend.run`."""
        with session.use(session.Session(job.chat)):
            return self._run(job, report)

    def _run(self, job: Job, report: Report) -> Usage:
        self._host = host = StudentHost()
        for place, identity in enumerate(job.episodes, 1):
            self._left = len(job.episodes) - place
            writer = EpisodeWriter(job.folder, identity, job.suite)
            try:
                student = local_student(host, student_config(identity), identity.digest)
            except Exception as error:
                report(failed(identity, error, writer))
                continue
            try:
                for progress in recorded(identity, student, LocalPool, writer):
                    report(progress)
            finally:
                student.close()
        return Usage.of([host.stats()])
