"""imgcls-launch on this machine alone: flags, host files, quoting, generated scripts and local jobs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from imgcls.cli import launch
from imgcls.errors import DataError, UsageError
from imgcls.launch import command, messages, ssh
from imgcls.launch.hosts import (
    Host,
    HostSlots,
    assign_workers,
    check_rendezvous_host,
    parse_nnodes,
    read_hostfile,
)
from imgcls.launch.job import Job
from imgcls.launch.messages import AgentMessage, decode_message
from imgcls.launch.schedulers import BatchScript, kubernetes_trainjob, sge_script, slurm_script
from imgcls.launch.supervisor import Supervisor

STEPS = ROOT / "tests" / "fixtures" / "steps.py"
GOLDEN = ROOT / "tests" / "fixtures" / "launch"
BATCH = BatchScript(
    command=["imgcls-train", "--network", "lenet", "--data-train", "it's here/$x.rec", "--gpus", "0,1"],
    processes=4, min_nodes=2, max_nodes=4, gpus=2, max_restarts=10, timeout_s=300.0,
    env={"DMLC_NUM_WORKER": "8", "GREETING": "two words"}, python="/opt/env/bin/python",
    folder="/home/me/my job")


def run(*arguments: object, timeout: float = 100, **env: str) -> subprocess.CompletedProcess[str]:
    """tools/launch.py in a process of its own."""
    return subprocess.run([sys.executable, ROOT / "tools" / "launch.py", *map(str, arguments)], text=True,
                          capture_output=True, timeout=timeout, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **env})


def test_an_environment_that_no_pipe_holds_reaches_the_agent(monkeypatch: pytest.MonkeyPatch,
                                                             capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print(len(sys.stdin.readline()))"
    monkeypatch.setattr(Job, "start_command", lambda *_: [sys.executable, "-c", program])
    job = Job(command=["true"], hosts=[HostSlots(Host("localhost"), 1)], num_devices=1, min_hosts=1, max_hosts=1,
              max_restarts=0, timeout_s=10, env={"BIG": "x" * 200_000}, python=sys.executable, folder="/", roots=[],
              ssh=None, name="imgcls-launch", job="j")
    assert Supervisor(job, 1).run() == 0
    assert int(capfd.readouterr().out) > 200_000


# host files

def test_every_form_of_a_host_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# ours\nnode-1\n\n10.0.0.2:2222  # far\nme@node3 slots=4\n  node4 slots=2 max_slots=4\n")
    assert read_hostfile(str(path)) == [Host("node-1"), Host("10.0.0.2", 2222), Host("node3", None, 4, "me@"),
                                        Host("node4", None, 4)]


@pytest.mark.parametrize("line", ["-oProxyCommand=touch /tmp/x", "a;b", "$(id)", "a b", "a:port",
                                  "a:70000", "a|b",
                                  "`id`", "a\x00", "--", "@a", "-a@b", "a slots=-1", "ho$t"])
def test_host_names_with_shell_characters_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(f"good\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        read_hostfile(str(path))


def test_a_host_without_slots_gets_no_workers(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("node1 slots=2\nnode2 slots=0\n")
    assert read_hostfile(str(path)) == [Host("node1", None, 2)]
    path.write_text("node2 slots=0\n")
    with pytest.raises(DataError, match="no hosts"):
        read_hostfile(str(path))


def test_a_host_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_hostfile(str(tmp_path / "none"))
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(DataError, match="no hosts"):
        read_hostfile(str(tmp_path / "empty"))


@pytest.mark.parametrize(("hosts", "workers", "counts"), [
    ("a b", 2, {"a": 1, "b": 1}),
    ("a b", 3, {"a": 2, "b": 1}),
    ("a b c", 2, {"a": 1, "b": 1}),
    ("a=1 b=3", 4, {"a": 1, "b": 3}),
    ("a=1 b=1", 4, {"a": 2, "b": 2}),
    ("a a b", 3, {"a": 2, "b": 1}),
    ("a=2 a=2 b=1", 5, {"a": 4, "b": 1}),
    ("a=1 b", 5, {"a": 1, "b": 4}),
])
def test_workers_are_dealt_out_in_turn_as_far_as_there_are_slots(hosts: str, workers: int,
                                                                 counts: dict[str, int]
                                                                ) -> None:
    listed = [Host(name, slots=int(slots or 0))
              for name, _, slots in (text.partition("=") for text in hosts.split())]
    assert {slots.host.name: slots.num_workers for slots in assign_workers(listed, workers)} == counts


def test_localhost_cannot_serve_the_rendezvous_of_several_hosts() -> None:
    with pytest.raises(UsageError, match="localhost comes first"):
        check_rendezvous_host([HostSlots(Host("localhost"), 1), HostSlots(Host("b"), 1)])
    check_rendezvous_host([HostSlots(Host("localhost"), 2)])


@pytest.mark.parametrize(("text", "expected"), [("1", (1, 1)), ("4", (4, 4)), ("1:4", (1, 4))])
def test_nnodes(text: str, expected: tuple[int, int]) -> None:
    assert parse_nnodes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "x", "3:2", "1:", ":2", "1:2:3", "-1"])
def test_nnodes_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="nnodes"):
        parse_nnodes(text)


# what goes to far shells

NASTY = ["a'b", 'c"d', "$HOME", "`id`", "; touch x", "*", "", "new\nline", "--", "tab\t", "\\", "!x", "ä"]


def test_remote_commands_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "it's; a $folder"
    folder.mkdir()
    program = [sys.executable, "-c", "import json, os, sys; print(json.dumps([os.getcwd(), sys.argv[1:]]))"]
    argv = ssh.Ssh().command(Host("h"), ssh.agent_script([*program, *NASTY], str(folder), []))
    done = subprocess.run(["sh", "-c", argv[-1]], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == [str(folder), NASTY]
    assert os.listdir(tmp_path) == [folder.name]


def test_the_first_root_with_our_package_is_used(tmp_path: Path) -> None:
    (tmp_path / "b c" / "imgcls").mkdir(parents=True)
    (tmp_path / "b c" / "imgcls" / "__init__.py").touch()
    show = [sys.executable, "-c", "import os; print(os.environ['PYTHONPATH'])"]
    script = ssh.agent_script(show, str(tmp_path), [str(tmp_path / "a"), str(tmp_path / "b c"), str(ROOT)])
    env = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    assert subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=True
                         ).stdout == f"{tmp_path / 'b c'}\n"
    gone = ssh.agent_script(show, str(tmp_path / "none"), [])
    assert subprocess.run(["sh", "-c", gone], check=False).returncode == ssh.NO_FOLDER


def test_the_probe_finds_a_port_or_says_that_there_is_no_python(tmp_path: Path) -> None:
    script = ssh.probe_script(sys.executable, str(tmp_path / "new $folder"))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"port \d+\n", done.stdout)
    assert (tmp_path / "new $folder").is_dir()
    none = ssh.probe_script("/no/python", "")
    bad = subprocess.run(["sh", "-c", none], capture_output=True, text=True, check=False)
    reason = ssh.failure_reason(bad, "/no/python", "")
    assert reason.startswith("/no/python does not run there (--python PATH")


def test_options_of_ssh() -> None:
    argv = ssh.Ssh("conf", ["BatchMode=no"]).command(Host("h", 2222, user="me@"), "true")
    assert argv[:4] == ["ssh", "-T", "-F", os.path.abspath("conf")]
    assert argv.index("BatchMode=no") < argv.index("BatchMode=yes")  # ssh takes the first
    assert argv[-4:-1] == ["-p", "2222", "me@h"]
    copy = ssh.Ssh().rsync_command(Host("h"), "/here", "/there dir/")
    assert copy[-2:] == ["/here/", "h:/there dir/"]
    assert "--protect-args" in copy


# the command

def test_one_quoted_string_is_a_command() -> None:
    assert command.split_command(["python 'my train.py' --lr 1"]) == ["python", "my train.py", "--lr", "1"]
    assert command.split_command(["--", "python", "x y"]) == ["python", "x y"]
    with pytest.raises(UsageError, match="no closing quotation"):
        command.split_command(["python 'x"])


@pytest.mark.parametrize(("text", "processes", "gpus"), [
    ("train --gpus 0,1,3", 3, 3), ("train --gpus=0,1", 2, 2), ("train --gpus 0", 1, 1), ("train", 1, 0),
    ("train --gpu 0,1", 2, 2), ("train --workers 2", 2, 0), ("train --g 0,1", 1, 0),
    ("train --workers_per_host 2", 2, 0), ("train --gpus", 1, 0), ("train --gpus none", 1, 0)])
def test_devices_of_a_command(text: str, processes: int, gpus: int) -> None:
    assert (command.count_devices(text.split()), command.count_gpus(text.split())) == (processes, gpus)


def test_only_named_variables_are_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("MINE", "y")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    passed = command.passed_variables(["MINE", "NEW=a=b", "NOT_SET"])
    assert passed["MINE"] == "y"
    assert passed["NEW"] == "a=b"
    assert passed["AWS_ACCESS_KEY_ID"] == "k"
    assert not {"SECRET", "NOT_SET"} & set(passed)
    with pytest.raises(UsageError, match="--env a b"):
        command.passed_variables(["a b"])


def test_messages_and_output_are_distinguished() -> None:
    message = AgentMessage("error", "rank 1 (hostb): bad", 2)
    assert decode_message(message.encode()) == message
    for line in ("", "text", '{"kind": "error"}', messages.MARK, messages.MARK + "{", messages.MARK + "[]"):
        assert decode_message(line) is None


# flags

@pytest.mark.parametrize(("arguments", "message"), [
    ("-n 2 --foo python x.py", "flag --foo is not known: "),
    ("-n 2 --foo python x.py", " (imgcls-launch's own flags come before the command"),
    ("-n 2 --num-work 3 ls", "flag --num-work is not known: did you mean --num-workers?"),
    ("python x.py", "-n"),
    ("-n 0 ls", "-n 0: must be at least 1"),
    ("-n 2", "the command to run is missing"),
    ("-n 2 --launcher yarn ls", "torch has no launcher for YARN"),
    ("-n 2 --launcher ssh ls", "needs a host file"),
    ("-n 2 --launcher slurm -H hosts ls", "-H hosts: is for --launcher ssh and mpi"),
    ("-n 2 -H /none/hosts ls", " /none/hosts: no such file"),
    ("-n 2 --sync-dir /tmp/x ls", "--sync-dst-dir /tmp/x: is for --launcher ssh"),
    ("-n 2 -H hosts --sync-dir rel ls", "must be a full path"),
    ("-n 2 -H hosts --sync-dst-dir / ls", "must be a full path"),
    ("-n 2 --nnodes 1:2 ls", "--nnodes 1:2: is not for --launcher local"),
    ("-n 2 -s 0 train --kv-store dist_async", "-s 0: dist_async keeps its weights on servers"),
    ("-n 3 --nnodes 2 --launcher slurm ls", "must be a multiple of the number of nodes"),
    ("-n 2 --timeout 0 ls", "--timeout 0: must be at least 1"),
    ("-n 2 --env-worker X ls", "--env-worker X: must be NAME:VALUE"),
])
def test_wrong_flags_are_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("flags", ["-n 2 --dry-run", "-n2 --dry-run", "-n=2 --dry-run",
                                   "--num-workers 2 --dry-run",
                                   "--num_workers=2 --dry_run", "-vn 2 --dry-run"])
@pytest.mark.parametrize("command", ["true -n 3 --dry-run 1", "-- true -n 3 --dry-run 1"])
def test_flags_end_where_the_command_begins(flags: str, command: str,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main([*flags.split(), *command.split()]) == 0
    out, _ = capsys.readouterr()
    assert "--processes 2 " in out
    assert out.endswith(" -- true -n 3 --dry-run 1\n")


def test_unneeded_mxnet_flags_are_noted_once(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "-n 2 -s 2 --p3 --env-server A:1 --env-worker B:2 --dry-run train --kv-store dist_sync"
    assert launch.main(arguments.split()) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert len(lines) == 3
    assert "-s 2: not needed for dist_sync, gradients are summed by all-reduce" in lines[0]
    assert "--p3: nothing to switch on" in lines[1]
    assert "--env-server" in lines[2]
    assert "DMLC_NUM_WORKER=2" in out
    assert " B" in out
    assert "--processes 2" in out


def test_flags_without_effect_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    args = launch.LaunchConfig(num_workers=2, max_restarts=3, image="mine:1", ssh_option=("Port=3",))
    launch._print_notes(args, "mpi", ["true"])
    notes = capsys.readouterr().err.splitlines()
    assert [note.split("note: ")[1].partition(":")[0] for note in notes] == [
        "--max-restarts 3", "--image mine", "--ssh-config and --ssh-option"]
    launch._print_notes(launch.LaunchConfig(num_workers=2), "mpi", ["true"])
    assert capsys.readouterr().err == ""


def test_a_dry_run_shows_what_each_host_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hosts").write_text("a:2222\nb\nc\n")
    argv = ["-n", "2", "-H", str(tmp_path / "hosts"), "--sync-dir", "/tmp/mxnet", "--env", "TOKEN=secret",
            "--dry-run",
            "python", "train.py", "--gpus", "0,1"]
    assert launch.main(argv) == 0
    out, err = capsys.readouterr()
    assert "c not needed" in err
    assert "secret" not in out  # values go over stdin
    lines = [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]
    assert [line[0] for line in lines] == ["rsync", "ssh", "rsync", "ssh"]
    for line, host, keeps in ((lines[1], "a", 1), (lines[3], "b", 0)):
        assert line[-2] == host
        script = shlex.split(line[-1])[-1]
        assert script.startswith("cd -- /tmp/mxnet ")
        assert "--processes 2" in script
        assert f"--nnodes 2:2 --endpoint a:29400 --local-addr {host} --is-host {keeps}" in script
        assert script.endswith("-- python train.py --gpus 0,1; exit $?")


# generated scripts

@pytest.mark.parametrize(("write", "name"), [
    (slurm_script, "slurm.sh"), (kubernetes_trainjob, "trainjob.yaml"), (sge_script, "sge.sh")])
def test_generated_scripts_are_the_ones_on_file(write: object, name: str, tmp_path: Path) -> None:
    folder = "/home/me/job" if write is sge_script else BATCH.folder
    text = write(BatchScript(**{**vars(BATCH), "folder": folder}))  # type: ignore[operator]
    assert text == (GOLDEN / name).read_text()
    if name.endswith(".sh"):
        (tmp_path / name).write_text(text)
        assert subprocess.run(["bash", "-n", str(tmp_path / name)], check=False).returncode == 0


def test_the_trainjob_is_valid() -> None:
    job = yaml.safe_load(kubernetes_trainjob(BATCH))
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    assert set(job["spec"]) == {"runtimeRef", "trainer"}
    assert job["spec"]["runtimeRef"] == {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime",
                                         "name": "torch-distributed"}
    trainer = job["spec"]["trainer"]
    assert set(trainer) <= {"image", "command", "args", "env", "numNodes", "numProcPerNode",
                            "resourcesPerNode"}
    assert isinstance(trainer["image"], str)
    assert trainer["numNodes"] == 4
    assert all(isinstance(word, str) for word in (*trainer["command"], *trainer["args"]))
    assert {"name": "GREETING", "value": "two words"} in trainer["env"]
    assert all(isinstance(variable["value"], str) for variable in trainer["env"])
    assert trainer["resourcesPerNode"] == {"limits": {"nvidia.com/gpu": 2}}
    assert subprocess.run(["sh", "-n", "-c", trainer["args"][0].replace("$$", "$")],
                          check=False).returncode == 0


@pytest.mark.parametrize("write", [slurm_script, sge_script, kubernetes_trainjob])
def test_a_script_hands_the_command_on_word_by_word(write: object, tmp_path: Path) -> None:
    """The script runs here, with stand-ins for the scheduler's tools and for Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"srun": 'shift; exec "$@"', "scontrol": "echo node1", "qrsh": 'shift 3; exec "$@"',
                       "python": 'for word; do printf "%s\\n" "$word"; done'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    nodes = tmp_path / "nodes"
    nodes.write_text("node1 4 all.q\n")
    batch = BatchScript(**{**vars(BATCH), "python": "python", "folder": str(tmp_path),
                           "command": ["run", *NASTY[:7]]})
    text = write(batch)  # type: ignore[operator]
    if write is kubernetes_trainjob:
        text = yaml.safe_load(text)["spec"]["trainer"]["args"][0].replace("$$", "$")
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1",
           "SLURMD_NODENAME": "node1", "PE_HOSTFILE": str(nodes), "JOB_ID": "7", "PET_MASTER_ADDR": "node1",
           "PET_MASTER_PORT": "20007", "PET_NODE_RANK": "0"}
    done = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True, check=False)
    printed = done.stdout.split("\n")
    assert printed[:2] == ["-m", "imgcls.launch.agent"], done.stderr
    assert printed[printed.index("--endpoint") + 1] == "node1:20007"
    assert printed[printed.index("--is-host") + 1] == "1"
    assert printed[printed.index("--") + 1:-1] == ["run", *NASTY[:7]]


def test_sge_refuses_a_folder_that_qrsh_would_split() -> None:
    with pytest.raises(UsageError, match="my job"):
        sge_script(BATCH)


def test_scripts_go_to_stdout_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["-n", "2", "--launcher", "slurm", "--env", "X=1", "imgcls-train", "--gpus",
                        "0,1"]) == 0
    out, err = capsys.readouterr()
    assert "#SBATCH --nodes=2\n" in out
    assert "#SBATCH --gpus-per-node=2\n" in out
    assert "export X=1\n" in out
    assert "--processes 2 " in out
    assert "sbatch FILE" in err
    assert launch.main(["-n", "2", "--launcher", "sge", "--output", str(tmp_path / "job.sh"), "ls"]) == 0
    assert f"qsub {tmp_path}/job.sh" in capsys.readouterr().err
    assert (tmp_path / "job.sh").read_text().startswith("#!/bin/bash\n#$ -N imgcls\n")
    (tmp_path / "job.sh").write_text("mine")
    assert launch.main(["-n", "2", "--launcher", "sge", "--dry-run", "--output", str(tmp_path / "job.sh"), "ls"]) == 0
    assert capsys.readouterr().out.startswith("#!/bin/bash\n#$ -N imgcls\n")
    assert (tmp_path / "job.sh").read_text() == "mine"

def test_flags_that_do_nothing_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    args = launch.LaunchConfig(num_workers=2, command=("true",), max_restarts=3, ssh_option=("Port=2222",))
    launch._print_notes(args, "mpi", ["true"])
    assert capsys.readouterr().err.splitlines() == [
        "imgcls-launch: note: --max-restarts 3: --launcher mpi restarts nothing",
        "imgcls-launch: note: --ssh-config and --ssh-option: nothing goes over ssh without -H"]


# jobs on this machine

@pytest.mark.slow
def test_a_local_job_has_mxnets_variables_and_complete_lines() -> None:
    show = ("import os, sys; r = os.environ['RANK']; "
            "names = ('DMLC_ROLE', 'DMLC_NUM_WORKER', 'DMLC_NUM_SERVER', 'X', "
            "'DMLC_JOB_CLUSTER', 'WORLD_SIZE'); sys.stdout.write('a\\rb' + r); sys.stdout.flush(); "
            "print(' '.join(os.environ[n] for n in names)); print('e' + r, file=sys.stderr); "
            "print('x' * 9999)")
    done = run("-n", 2, "-s", 1, "--env", "X=1 2", sys.executable, "-c", show)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(
        line for rank in "01"
        for line in (f"[{rank}] b{rank}worker 2 1 1 2 local 2", f"[{rank}] " + "x" * 9999))
    assert sorted(done.stderr.splitlines()) == [
        "[0] e0", "[1] e1",
        "imgcls-launch: note: -s 1: not needed for this command, gradients are summed by all-reduce"]


@pytest.mark.slow
def test_a_failure_is_the_last_line(tmp_path: Path) -> None:
    done = run("-n", 2, sys.executable, STEPS, tmp_path, 400, "fail", 1, 2)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "imgcls-launch: error: bad JPEG in record 17"
    assert "Traceback" not in done.stderr


def test_a_program_that_is_not_there_is_wrong_usage() -> None:
    done = run("-n", 1, "no-such-program")
    assert done.returncode == 2
    assert re.fullmatch(r"imgcls-launch: error: no-such-program: there is no such program on \S+\n",
                        done.stderr)


@pytest.mark.slow
def test_ctrl_c_saves_and_ends(tmp_path: Path) -> None:
    argv = [sys.executable, ROOT / "tools" / "launch.py", "-n", "2", sys.executable, STEPS, tmp_path, "4000"]
    process = subprocess.Popen(argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    # two torch imports and a rendezvous: minutes on a machine that has other work. What counts is the order
    # of things, and that nothing waits for a limit of its own (75 s until agents are killed).
    deadline = time.monotonic() + 240
    while not (tmp_path / "position").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert time.monotonic() - begun < 60
    assert "Traceback" not in err
    assert re.search(r"^imgcls-launch: error: stopped by SIGINT in step \d+, position saved$", err, re.MULTILINE), err


@pytest.mark.slow
def test_mpirun_runs_a_command_with_variables() -> None:
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun here")
    show = ("import os, sys; names = ('DMLC_NUM_WORKER', 'X', 'MASTER_ADDR'); "
            "sys.stdout.write(' '.join(os.environ[name] for name in names) + '\\n')")  # in one piece
    done = run("-n", 2, "--launcher", "mpi", "--env", "X=a b", sys.executable, "-c", show)
    assert (done.returncode, done.stdout) == (0, "2 a b 127.0.0.1\n" * 2), done.stderr
