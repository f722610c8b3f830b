"""The conformance checks of backends: ours pass, Ray's too, and every kind of fault is found."""

from dataclasses import replace

import pytest

from dgym import checks
from dgym.bench import LocalBackend, Usage
from dgym.checks import check_backend


def failed(findings):
    return [f"{f.name} | {f.detail}" for f in findings if not f.ok]


def test_the_backend_in_process_conforms():
    findings = checks.check("", "local")
    assert failed(findings) == []
    assert len(findings) == 9


@pytest.mark.slow
def test_the_backend_on_ray_conforms():
    assert failed(checks.check("", "ray")) == []


class Broken:
    """A backend in process, in parts that can be replaced."""

    def job(self, job):
        return job

    def report(self, progress, report):
        report(progress)

    def run(self, job, report):
        return LocalBackend().run(self.job(job), lambda progress: self.report(progress, report))


def relabelled(self, job):
    """Runs another student than the spec's under its digest."""
    episodes = [
        identity.model_copy(update={"spec": identity.spec.model_copy(update={"student": "fake:b"})})
        for identity in job.episodes
    ]
    return replace(job, episodes=episodes)


def twice(self, progress, report):
    report(progress)
    if progress.status == "ok":
        report(progress)


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({"run": None}, "it has run(job, report)"),
        ({"run": lambda self, job, report: 1 / 0}, "it runs all episodes"),
        ({"run": lambda self, job, report: None}, "it returns a NoneType"),
        ({"run": lambda self, job, report: Usage()}, "no host was used"),
        ({"job": lambda self, job: replace(job, episodes=job.episodes[1:])}, "once, and the iterations"),
        ({"report": lambda self, p, report: p.status == "ok" and report(p)}, "once, and the iterations"),
        ({"report": twice}, "once, and the iterations"),
        ({"report": lambda self, p, report: p.status != "running" and report(p)}, "the iterations of one are told as"),
        ({"report": lambda self, p, report: report(replace(p, status=p.status.replace("ok", "failed")))}, "others end"),
        ({"report": lambda self, p, report: report(replace(p, boundary="student"))}, "'failed', 'student'"),
        ({"report": lambda self, p, report: report(replace(p, message="?"))}, "the message is '?'"),
        ({"job": relabelled}, "rows are those of episodes in this process: attempts"),
        ({"job": lambda self, job: replace(job, episodes=job.episodes[1:])}, "what it has finished"),
    ],
)
def test_a_fault_is_found(members, name):
    faults = failed(check_backend(type("Mine", (Broken,), members)()))
    assert any(name in f for f in faults), faults
