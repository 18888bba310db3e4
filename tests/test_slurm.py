"""A Slurm cluster of two nodes on this machine: the smoke study ends with the same tables though a node is killed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from smoke_project import real_project, tables, without_timings
from toy_project import run_all

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel")
# Slurm's default place: jobs lose the variable SLURM_CONF on their way to a node
PLACE = Path("/etc/slurm/slurm.conf")
CONFIGURATION = """
# Written by tests/test_slurm.py, which takes it away again; if no test runs, delete it.
ClusterName=qtl
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SlurmdTimeout=15
ReturnToService=2
MinJobAge=300
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 RealMemory=9000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 RealMemory=9000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, NEEDED)), reason="needs Debian's slurmctld, slurmd, slurm-client and munge"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: Slurm's daemons change users"),
    pytest.mark.skipif(PLACE.exists(), reason=f"{PLACE} is there: it may belong to a cluster"),
]


def until(question, seconds, what):
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, what
        time.sleep(0.5)


def asked(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def nodes(tmp_path):
    """The process of each node of a running cluster, by name."""
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    ports = dict(zip(("control", "first", "second"), free_ports(3), strict=True))
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(CONFIGURATION.format(host=socket.gethostname().split(".")[0], folder=folder, **ports))
    started = []

    def start(*command):
        with (folder / f"{len(started)}.out").open("w") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    try:
        own = (
            f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "key-file", "pid-file", "seed-file")
        )
        start("munged", "--foreground", "--force", *own, f"--log-file={folder}/munge.log")
        until((folder / "munge.socket").exists, 20, "munged did not start")
        start("slurmctld", "-D")
        running = {name: start("slurmd", "-D", "-N", name) for name in ("node1", "node2")}
        until(lambda: asked("sinfo", "-h", "-o", "%D %t").split() == ["2", "idle"], 60, "the nodes did not come up")
        yield running
        asked("scancel", "--state=PENDING,RUNNING", "--user=root")
        time.sleep(3)
    finally:
        for process in reversed(started):
            process.terminate()
        PLACE.unlink()
        for process in started:
            process.wait(30)


def jobs_on(name):
    """The numbers of the jobs that run on a node."""
    return set(asked("squeue", "-h", "-w", name, "-t", "R", "-o", "%i").split())


def is_busy(name):
    """Whether a job runs on a node for five seconds: it is in the middle of something."""
    before = jobs_on(name)
    time.sleep(5)
    return bool(before & jobs_on(name))


def cut_power(name, node):
    """Kills a node's daemon, its jobs and all that they started; the numbers of the jobs."""
    jobs = jobs_on(name)
    node.kill()
    for step in psutil.process_iter(["cmdline"]):
        title = " ".join(step.info["cmdline"] or ())
        if title.startswith("slurmstepd") and any(f"[{job}." in title for job in jobs):
            for one in [*step.children(recursive=True), step]:
                one.kill()
    return jobs


def seen_often(project):
    """The project whose profile asks for its jobs every few seconds: no cluster of others is bothered here."""
    path = project / "workflow" / "profiles" / "slurm" / "config.yaml"
    profile = path.read_text()
    assert "before-status-checks: 10" in profile and "between-status-checks: 20" in profile
    often = profile.replace("before-status-checks: 10", "before-status-checks: 3")
    path.write_text(often.replace("between-status-checks: 20", "between-status-checks: 5"))
    return project


def test_a_killed_node_changes_no_table(tmp_path, nodes):
    here, there = (seen_often(without_timings(real_project(tmp_path / name))) for name in ("here", "there"))
    done = run_all(here, "smoke", timeout=1800)
    assert done.returncode == 0, done.stderr
    command = [str(there / "run_all.sh"), "smoke", "--profile", "slurm", "--cores", "4"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, env=os.environ | {"VIRTUAL_ENV": sys.prefix}, stdout=log, stderr=log)
    try:
        until(lambda: is_busy("node2"), 300, "no job ran on node2 for long")
        jobs = cut_power("node2", nodes["node2"])
        assert jobs
        assert run.wait(3600) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        run.kill()
    log = (tmp_path / "slurm" / "slurmctld.log").read_text()
    assert all(f"requeue job JobId={job} due to failure of node node2" in log for job in jobs), log[-3000:]
    assert tables(there) == tables(here)
