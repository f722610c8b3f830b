"""Plans for hosts: what follows from a machine, what a user sets, and what cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgym.errors import UsageError
from dgym.students.machine import Machine, cores, memory, this_machine, visible_gpus
from dgym.students.sizing import (
    COMPUTING,
    SHARING,
    SMALL,
    WAITING,
    Need,
    Plan,
    Wishes,
    default_threads,
    largest,
    need,
    plan,
    without_gpus,
)

GB = 10**9
LAPTOP = Machine(cores=8, memory=16 * GB)
MICRO = need(5_000_000, 4, 16)
SMOLLM2 = need(540_000_000, 4, 16)
EIGHT_B = need(32 * GB, 4, 16)
ON_GPU = {"accelerator": True}


def on_gpu(**fields: object) -> Need:
    return need(**{"base": 16 * GB, "item": 2, "rank": 16, "accelerator": True} | fields)


# On the CPU -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("small", [MICRO, Need()], ids=["micro", "unknown"])
def test_small_students_get_a_core_each_as_results_were_published(small: Need) -> None:
    assert default_threads(small.base, 8, accelerator=False) == 1
    assert plan([LAPTOP], small) == Plan(hosts=8, threads=1, gpus=0.0, tenants=COMPUTING)
    assert plan([Machine(2, 24 * GB)], small) == Plan(2, 1, 0.0, COMPUTING)
    assert plan([Machine(8)], small).hosts == 8, "where the memory is not known"


def test_larger_students_share_one_base_and_have_all_cores() -> None:
    assert default_threads(SMOLLM2.base, 8, accelerator=False) == 8
    assert plan([LAPTOP], SMOLLM2) == Plan(1, 8, 0.0, COMPUTING)


def test_teachers_that_wait_leave_time_for_more_students() -> None:
    assert plan([LAPTOP], largest([SMOLLM2], waits=True)).tenants == WAITING


def test_where_threads_are_set_there_are_as_many_hosts_as_have_room() -> None:
    assert plan([LAPTOP], SMOLLM2, Wishes(threads=2)) == Plan(4, 2, 0.0, COMPUTING)
    assert plan([Machine(8, 5 * GB)], SMOLLM2, Wishes(threads=1)).hosts == 2, "each holds a base of its own"
    assert plan([LAPTOP], MICRO, Wishes(threads=16)).hosts == 1


def test_a_small_memory_holds_fewer_hosts_and_students() -> None:
    assert plan([Machine(64, 8 * GB)], MICRO).hosts < 64
    waiting = largest([SMOLLM2], waits=True)
    assert 1 < plan([Machine(8, 4 * GB)], waiting).tenants < WAITING
    assert plan([Machine(8, 2 * GB)], waiting).tenants == 1, "tight, but it works"


def test_what_the_user_sets_wins() -> None:
    assert plan([LAPTOP], MICRO, Wishes(hosts=3, threads=2, per_host=5)) == Plan(3, 2, 0.0, 5)
    assert plan([Machine(8, 2 * GB)], SMOLLM2, Wishes(per_host=8)).tenants == 8


def test_a_server_of_vllm_is_started_once_per_machine() -> None:
    served = need(5_000_000, 4, 16, served=True)
    assert plan([LAPTOP], served).hosts == 1
    assert plan([LAPTOP, LAPTOP], served).hosts == 2
    assert plan([LAPTOP], served, Wishes(hosts=3)).hosts == 3


def test_several_machines_are_filled_each_by_itself() -> None:
    assert plan([Machine(3), Machine(5)], SMOLLM2, Wishes(threads=2)).hosts == 1 + 2
    assert plan([LAPTOP, Machine(4, 16 * GB)], MICRO).hosts == 12


@pytest.mark.parametrize(
    ("machine", "need_", "wishes", "message"),
    [
        (LAPTOP, EIGHT_B, Wishes(), r"weights alone take 32\.0 GB, and the largest machine has 16\.0 GB"),
        (LAPTOP, SMOLLM2, Wishes(hosts=40), r"40 hosts hold 40 bases of 0\.5 GB each; there is memory for 29"),
        (LAPTOP, MICRO, Wishes(gpus_per_host=1), "the students are on the CPU"),
        (LAPTOP, on_gpu(), Wishes(), "on a GPU, but none was found"),
        (Machine(8, None, 2), on_gpu(), Wishes(gpus_per_host=4), "No machine has the 4 GPUs"),
        (Machine(8, None, 2), on_gpu(), Wishes(gpus_per_host=1.5), "a part of a GPU or whole ones, not 1.5"),
        (Machine(8, None, 2), on_gpu(), Wishes(gpus_per_host=0), "a part of a GPU or whole ones, not 0"),
        (Machine(8, None, 2), on_gpu(), Wishes(gpus_per_host=1e-5), "too small"),
        (
            Machine(8, None, 2),
            on_gpu(),
            Wishes(hosts=3, gpus_per_host=1),
            "3 hosts with 1 GPUs each do not fit 2 GPUs",
        ),
        (Machine(8, None, 1, 12 * GB), on_gpu(), Wishes(), r"1 base of 16\.0 GB each will not fit a GPU of 12\.0 GB"),
        (Machine(8, None, 1, 24 * GB), on_gpu(), Wishes(hosts=2), r"2 bases of 16\.0 GB .* or ask for fewer hosts"),
    ],
)
def test_what_cannot_be_is_said_at_once(machine: Machine, need_: Need, wishes: Wishes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan([machine], need_, wishes)
    if not wishes.gpus_per_host and wishes.gpus_per_host != 0:
        assert plan([machine], need_, wishes, grows=True).hosts >= 1, "a cluster may bring what is not there yet"


# On GPUs --------------------------------------------------------------------------------------------------------------

TWO_GPUS = Machine(cores=16, memory=128 * GB, gpus=2, gpu_memory=80 * GB)


def test_a_large_base_has_a_gpu_for_itself() -> None:
    assert default_threads(16 * GB, 16, accelerator=True) == 1
    assert plan([TWO_GPUS], on_gpu()) == Plan(hosts=2, threads=1, gpus=1.0, tenants=COMPUTING)
    assert plan([TWO_GPUS], Need(accelerator=True)).hosts == 2, "as has one that does not say how large it is"


def test_small_students_share_gpus_as_far_as_cores_and_memory_go() -> None:
    small = on_gpu(base=5_000_000)
    assert plan([TWO_GPUS], small) == Plan(hosts=2 * SHARING, threads=1, gpus=1 / SHARING, tenants=COMPUTING)
    assert plan([Machine(6, None, 2, 80 * GB)], small).hosts == 6
    assert plan([Machine(6, None, 2, 80 * GB)], small).gpus == 0.3333, "three parts are not more than the whole"
    assert plan([Machine(16, None, 1, 4 * GB)], small).hosts == 3
    assert plan([Machine(1, None, 1, 1 * GB)], small) == Plan(1, 1, 1.0, COMPUTING), "parked ones take no room there"
    assert plan([Machine(16, 3 * GB, 1, 80 * GB)], small).hosts == 2
    assert plan([TWO_GPUS], on_gpu(base=5_000_000, served=True)).hosts == 2, "each would start a server"


def test_hosts_or_their_parts_of_a_gpu_may_be_set() -> None:
    assert plan([TWO_GPUS], on_gpu(), Wishes(hosts=1)) == Plan(1, 1, 1.0, COMPUTING)
    assert plan([TWO_GPUS], on_gpu(), Wishes(hosts=3)) == Plan(3, 1, 0.5, COMPUTING)
    assert plan([TWO_GPUS], on_gpu(), Wishes(gpus_per_host=0.25)) == Plan(8, 1, 0.25, COMPUTING)
    assert plan([TWO_GPUS], on_gpu(base=100 * GB), Wishes(gpus_per_host=2)) == Plan(1, 1, 2.0, COMPUTING)
    assert plan([TWO_GPUS], on_gpu(), Wishes(hosts=1, gpus_per_host=0.5, threads=4, per_host=7)) == Plan(1, 4, 0.5, 7)


def test_students_with_weights_of_their_own_fill_a_gpu_and_adapters_do_not() -> None:
    waits = {"waits": True}
    adapters, whole = on_gpu(base=6 * GB), on_gpu(base=6 * GB, rank=None)
    assert plan([TWO_GPUS], largest([adapters], **waits)).tenants == WAITING
    assert plan([TWO_GPUS], largest([whole], **waits)).tenants == 6


def test_a_cluster_without_gpus_gets_one_for_what_waits() -> None:
    assert plan([LAPTOP], on_gpu(), grows=True) == Plan(1, 1, 1.0, COMPUTING)
    assert plan([LAPTOP], on_gpu(), Wishes(hosts=4, gpus_per_host=0.5), grows=True) == Plan(4, 1, 0.5, COMPUTING)


def test_a_host_has_its_gpus_on_one_machine() -> None:
    single = Machine(8, None, 1)
    assert plan([single, TWO_GPUS], on_gpu(), Wishes(gpus_per_host=2)).hosts == 1
    with pytest.raises(UsageError, match="No machine has the 2 GPUs"):
        plan([single, single], on_gpu(), Wishes(gpus_per_host=2))


def test_machines_without_gpus_hold_no_hosts_of_students_on_gpus() -> None:
    assert plan([LAPTOP, TWO_GPUS], on_gpu()).hosts == 2


def test_a_gpu_may_be_left_to_others_but_not_the_last_one() -> None:
    machines = [LAPTOP, TWO_GPUS, Machine(4, None, 1)]
    assert [m.gpus for m in without_gpus(machines, 1)] == [0, 1, 1]
    assert [m.gpus for m in without_gpus(machines, 9)] in ([0, 1, 0], [0, 0, 1])
    assert without_gpus([LAPTOP], 1) == [LAPTOP]


MACHINES = st.builds(
    Machine,
    cores=st.integers(1, 256),
    memory=st.none() | st.integers(GB, 2000 * GB),
    gpus=st.integers(0, 8),
    gpu_memory=st.none() | st.integers(8 * GB, 141 * GB),
)
NEEDS = st.builds(
    need,
    base=st.none() | st.integers(10**6, 200 * GB),
    item=st.sampled_from([2, 4]),
    rank=st.none() | st.integers(1, 256),
    accelerator=st.booleans(),
    served=st.booleans(),
)
WISHES = st.builds(
    Wishes,
    hosts=st.none() | st.integers(1, 64),
    threads=st.none() | st.integers(1, 64),
    per_host=st.none() | st.integers(1, 32),
    gpus_per_host=st.none() | st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1.0, 2.0]),
)


@given(st.lists(MACHINES, min_size=1, max_size=4), NEEDS, WISHES, st.booleans())
def test_every_plan_can_be_carried_out_and_has_what_was_set(
    machines: list[Machine], need_: Need, wishes: Wishes, grows: bool
) -> None:
    try:
        made = plan(machines, need_, wishes, grows=grows)
    except UsageError:
        return
    assert min(made.hosts, made.threads, made.tenants) >= 1
    assert made.hosts == (wishes.hosts or made.hosts)
    assert made.threads == (wishes.threads or made.threads)
    assert made.tenants == (wishes.per_host or made.tenants)
    assert (made.gpus > 0) == need_.accelerator
    if need_.accelerator:
        if wishes.gpus_per_host:
            assert made.gpus == pytest.approx(wishes.gpus_per_host, abs=1e-4)
        assert made.gpus <= 1 or made.gpus == round(made.gpus)
        if not grows:
            room = sum(
                m.gpus * int(1 / made.gpus + 1e-9) if made.gpus <= 1 else m.gpus // int(made.gpus) for m in machines
            )
            assert made.hosts <= room, "Ray would wait for ever"


# Needs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "adapter"),
    [(1.16e6, 0.25e6), (135e6, 4.9e6), (2.6e9, 20.8e6), (8e9, 41.9e6)],
    ids=["micro", "SmolLM2-135M", "Gemma-2-2B", "Llama-3-8B"],
)
def test_the_estimate_of_an_adapter_is_on_the_safe_side_of_those_that_are_known(weights: float, adapter: float) -> None:
    estimate = need(int(2 * weights), 2, 16).parked / 4
    assert adapter <= estimate <= 4 * adapter


def test_a_student_that_trains_all_weights_keeps_a_copy_where_the_base_lies() -> None:
    whole = need(GB, 4, None)
    assert (whole.tenant, whole.parked, whole.training) == (GB, 0, 4 * GB)
    assert need(GB, 4, None, served=True).training == 5 * GB, "the server holds the base too"


def test_the_largest_need_suffices_for_all() -> None:
    found = largest([need(None, 4, 16), MICRO, SMOLLM2, need(GB, 4, None, **ON_GPU)])
    assert (found.base, found.parked, found.tenant) == (GB, SMOLLM2.parked, GB)
    assert found.accelerator
    assert largest([Need()]).base is None
    assert default_threads(SMALL, 4, False) == 1
    assert default_threads(SMALL + 1, 4, False) == 4


# The machine ----------------------------------------------------------------------------------------------------------

LISTED = "0, GPU-aaaa-1, 81559\n1, GPU-bbbb-2, 24564\n2, GPU-cccc-3, [N/A]\n"


@pytest.mark.parametrize(
    ("visible", "mebibytes"),
    [
        (None, [81559, 24564]),
        ("1,0", [24564, 81559]),
        ("GPU-bbbb", [24564]),
        ("", []),
        ("-1", []),
        ("0,7,1", [81559]),
    ],
)
def test_gpus_that_are_visible(visible: str | None, mebibytes: list[int]) -> None:
    assert visible_gpus(LISTED, visible) == [n * 2**20 for n in mebibytes]


def test_this_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores() >= 1
    assert (memory() or 2**40) > 2**28
    monkeypatch.setattr("dgym.students.machine._smi", lambda: LISTED)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = this_machine()
    assert (found.gpus, found.gpu_memory) == (2, 24564 * 2**20)
    assert this_machine(gpus_too=False).gpus == 0


def test_a_container_may_have_less_than_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/sys/fs/cgroup/cpu.max": "150000 100000", "/sys/fs/cgroup/memory.max": "1000000"}
    monkeypatch.setattr("dgym.students.machine._read", lambda path: files.get(path, ""))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores() == 2
    assert memory() == 1_000_000
    files |= {"/sys/fs/cgroup/cpu.max": "max 100000", "/sys/fs/cgroup/memory.max": "max"}
    assert cores() == 8
    assert (memory() or 2**40) > 1_000_000
