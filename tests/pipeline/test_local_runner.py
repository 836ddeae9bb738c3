"""The local runner with tiny components: what is executed, what is taken from the cache, and what a failure leaves."""

import contextlib
import json
import sys
import threading
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import Artifact, open_artifact, verify
from components.base import Component, ComponentError, Context, Port, SilentProgress
from pipeline import graph, local
from pipeline.config import BeamConfig
from pipeline.graph import FromHistory, FromStep, Step
from pipeline.lineage import Lineage
from pipeline.local import LocalRunner, RunResult
from schemas.config import Config, ConfigError


class FakeConfig(Config):
    text: str = "x"


class FakePipelineConfig(Config):
    name: str = "fake"
    beam: BeamConfig = BeamConfig()
    first: FakeConfig = FakeConfig()
    second: FakeConfig = FakeConfig()
    third: FakeConfig = FakeConfig()

    def of(self, component: str) -> Any:
        return getattr(self, component)


class Notes(SilentProgress):
    """Progress that keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def component(name: str, inputs: Mapping[str, Port] | None = None, **changes: Any) -> Component:
    base = Component(name, f"Step {name}.", FakeConfig, inputs or {}, {"out": Port("Examples", ""), "log": Port("Quarantine", "")})
    return replace(base, **changes)


class World:
    """A root folder, a graph of three steps, and what their executors did."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root = root
        self.notes = Notes()
        self.executed: list[str] = []
        self.seen: dict[str, Mapping[str, Artifact]] = {}
        self.contexts: dict[str, Context] = {}
        self.before: dict[str, Callable[..., None]] = {}
        self._monkeypatch = monkeypatch
        for name in ("first", "second", "third"):
            package, module = types.ModuleType(f"components.{name}"), types.ModuleType(f"components.{name}.executor")
            module.execute = self._executor(name)  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, package.__name__, package)
            monkeypatch.setitem(sys.modules, module.__name__, module)
        made = Port("Examples", "")
        self.use(
            Step(component("first"), {}),
            Step(component("second", {"given": made}), {"given": FromStep("first", "out")}),
            Step(
                component("third", {"given": made, "earlier": Port("Examples", "", optional=True)}),
                {"given": FromStep("second", "out"), "earlier": FromHistory("second", "out", differs_from="given")},
            ),
        )

    def use(self, *steps: Step) -> None:
        self._monkeypatch.setattr(graph, "GRAPH", steps)
        self._monkeypatch.setattr(local, "GRAPH", steps)

    def _executor(self, name: str) -> Callable[..., Any]:
        def execute(config: FakeConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context) -> Any:
            self.executed.append(name)
            self.seen[name] = dict(inputs)
            self.contexts[name] = context
            for folder in outputs.values():
                folder.mkdir(parents=True)
            given = "".join((inputs[port].path / "data").read_text() for port in sorted(inputs) if port == "given")
            (outputs["out"] / "data").write_text(f"{given}{name}:{config.text[:1]} ")
            (outputs["log"] / "data").write_text("log")
            if name in self.before:
                self.before[name](outputs, context)
            return {"out": {"n": len(given)}, "log": {}}

        return execute

    def run(self, cache: Any = "auto", begin: str | None = None, end: str | None = None, **changes: Any) -> RunResult:
        """Runs and returns the result; `executed` then holds the steps of this run alone."""
        self.executed.clear()
        runner = LocalRunner(self.root, self.notes, cache)
        *steps, result = runner.run(FakePipelineConfig(**changes), begin, end)  # type: ignore[arg-type]
        assert isinstance(result, RunResult)
        assert steps == result.steps
        return result

    def store(self) -> list[Path]:
        return sorted(path for path in (self.root / "store").glob("*/*"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "root", monkeypatch)


def statuses(result: RunResult) -> dict[str, str]:
    return {step.name: step.status for step in result.steps}


def data(result: RunResult, step: str) -> str:
    found = result.output(step, "out")
    assert found is not None
    return (found.path / "data").read_text()


def two(text: str) -> FakeConfig:
    return FakeConfig(text=text)


# === The cache ===


def test_steps_run_in_order_and_hand_on_their_artifacts(world: World) -> None:
    result = world.run()
    assert world.executed == ["first", "second", "third"]
    assert statuses(result) == {"first": "executed", "second": "executed", "third": "executed"}
    assert data(result, "third") == "first:x second:x third:x "
    assert result.failed is None
    assert result.output("third", "nothing") is None
    for step in result.steps:
        for artifact in step.outputs.values():
            verify(artifact, contents=True)
            assert artifact.path.is_relative_to(world.root / "store" / step.name)


def test_the_second_and_third_run_are_cached(world: World) -> None:
    first = world.run()
    for _ in range(2):
        again = world.run()
        assert world.executed == []
        assert set(statuses(again).values()) == {"cached"}
        assert [step.outputs for step in again.steps] == [step.outputs for step in first.steps]


def test_a_changed_configuration_makes_its_step_and_what_follows_anew(world: World) -> None:
    world.run()
    assert statuses(world.run(second=two("y"))) == {"first": "cached", "second": "executed", "third": "executed"}


def test_a_step_whose_input_comes_out_the_same_is_not_made_anew(world: World) -> None:
    world.run()
    # The executor looks at the first letter alone: another configuration, the same content.
    result = world.run(first=two("xyz"))
    assert statuses(result) == {"first": "executed", "second": "cached", "third": "cached"}


def test_going_back_to_an_earlier_configuration_finds_its_result(world: World) -> None:
    world.run()
    world.run(second=two("y"))
    assert statuses(world.run())["second"] == "cached"


def test_how_beam_runs_does_not_make_anything_anew(world: World) -> None:
    world.run()
    result = world.run(beam=BeamConfig(runner="FlinkRunner", args=("--parallelism=4",)))
    assert set(statuses(result).values()) == {"cached"}
    world.run("refresh", beam=BeamConfig(runner="FlinkRunner", args=("--parallelism=4",)))
    assert world.contexts["first"].beam_args == ("--runner=FlinkRunner", "--parallelism=4")


def test_refresh_executes_everything_and_fills_the_store_anew(world: World) -> None:
    before = world.run()
    result = world.run("refresh")
    assert set(statuses(result).values()) == {"executed"}
    assert world.executed == ["first", "second", "third"]
    assert [step.outputs["out"].path for step in result.steps] == [step.outputs["out"].path for step in before.steps]
    run_ids = {json.loads((path / "execution.json").read_text())["run_id"] for path in world.store()}
    assert run_ids == {result.run_id}


def test_without_the_cache_artifacts_stay_with_the_run(world: World) -> None:
    world.run("off")
    result = world.run("off")
    assert world.executed == ["first", "second", "third"]
    assert world.store() == []
    found = result.output("third", "out")
    assert found is not None
    assert found.path == world.root / "runs" / result.run_id / "artifacts" / "third" / "out"


@pytest.mark.parametrize("how", ["delete", "truncate", "tear the manifest", "delete an output", "tear the execution"])
def test_a_cached_result_that_was_damaged_is_made_anew(world: World, how: str) -> None:
    found = world.run().output("second", "out")
    assert found is not None
    if how == "delete":
        (found.path / "data").unlink()
    elif how == "truncate":
        (found.path / "data").write_text("")
    elif how == "tear the manifest":
        (found.path / "manifest.json").write_text('{"type"')
    elif how == "tear the execution":
        (found.path.parent / "execution.json").write_text("{")
    else:
        (found.path.parent / "log" / "manifest.json").unlink()
    result = world.run()
    assert statuses(result) == {"first": "cached", "second": "executed", "third": "cached"}
    assert data(result, "second") == "first:x second:x "
    assert any(line.startswith("second: cached result is not used: ") for line in world.notes.lines)
    assert statuses(world.run())["second"] == "cached"


def test_a_result_without_its_execution_file_is_not_finished(world: World) -> None:
    found = world.run().output("second", "out")
    assert found is not None
    (found.path.parent / "execution.json").unlink()
    assert statuses(world.run())["second"] == "executed"


def test_a_result_whose_effect_outside_is_gone_is_made_anew(world: World) -> None:
    outside = {"there": True}
    step = component("first", outputs_hold=lambda outputs: outside["there"] and outputs["out"].properties["n"] == 0)
    world.use(Step(step, {}))
    world.run()
    assert statuses(world.run()) == {"first": "cached"}
    outside["there"] = False
    assert statuses(world.run()) == {"first": "executed"}


def test_two_runs_side_by_side_make_a_result_once(world: World) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        entered.set()
        assert go_on.wait(20)

    world.before["first"] = wait
    world.use(Step(component("first"), {}))
    found: list[Any] = []

    def run() -> None:
        found.append(next(LocalRunner(world.root, world.notes).run(FakePipelineConfig())))  # type: ignore[arg-type]

    threads = [threading.Thread(target=run) for _ in range(2)]
    threads[0].start()
    assert entered.wait(20)
    threads[1].start()
    while not any("another run is making the same result" in line for line in world.notes.lines):
        assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert world.executed == ["first"]
    assert sorted(step.status for step in found) == ["cached", "executed"]


# === Parts of the graph ===


def test_steps_after_the_last_are_left_out(world: World) -> None:
    assert statuses(world.run(end="second")) == {"first": "executed", "second": "executed"}
    assert world.executed == ["first", "second"]


def test_steps_before_the_first_are_not_executed_although_they_are_out_of_date(world: World) -> None:
    world.run()
    result = world.run(begin="second", first=two("z"))
    assert statuses(result) == {"first": "reused", "second": "cached", "third": "cached"}


def test_a_run_from_a_step_uses_the_latest_results_of_earlier_ones(world: World) -> None:
    world.run()
    result = world.run(begin="third", first=two("z"), third=two("y"))
    assert statuses(result) == {"first": "reused", "second": "reused", "third": "executed"}
    assert data(result, "third") == "first:x second:x third:y "


def test_a_run_from_a_step_needs_an_earlier_run(world: World) -> None:
    with pytest.raises(ConfigError, match=r"--from: no earlier result of first for pipeline 'fake' in .*root; run it first"):
        world.run(begin="second")
    world.run(name="other")
    with pytest.raises(ConfigError, match="no earlier result of first for pipeline 'fake'"):
        world.run(begin="second")


def test_a_run_from_a_step_passes_over_results_that_are_gone(world: World) -> None:
    old = world.run()
    latest = world.run(second=two("y")).output("second", "out")
    assert latest is not None
    (latest.path / "data").unlink()
    result = world.run(begin="third", end="third")
    assert result.output("second", "out") == old.output("second", "out")


def test_the_first_step_must_not_come_after_the_last(world: World) -> None:
    with pytest.raises(ConfigError, match="--from third comes after --to second"):
        world.run(begin="third", end="second")


# === Failures ===


def test_a_failed_step_stops_the_run_and_keeps_what_it_finished(world: World) -> None:
    def fail(outputs: Mapping[str, Path], context: Context) -> None:
        raise ComponentError("it does not fit", outputs={"log": {"lines": 3}})

    world.before["second"] = fail
    result = world.run()
    assert statuses(result) == {"first": "executed", "second": "failed"}
    assert result.failed is result.steps[1]
    assert result.steps[1].error == "it does not fit"
    kept = result.output("second", "log")
    assert kept is not None
    assert kept.path == world.root / "runs" / result.run_id / "failed" / "second" / "log"
    assert open_artifact(kept.path).properties == {"lines": 3}
    verify(kept, contents=True)
    assert result.output("second", "out") is None
    # Nothing of it is in the store or the lineage, so it is not taken for a result.
    assert [path.parent.name for path in world.store()] == ["first"]
    assert list(Lineage(world.root / "lineage.jsonl").latest_first("fake", "second")) == []
    del world.before["second"]
    assert statuses(world.run()) == {"first": "cached", "second": "executed", "third": "executed"}


def test_an_error_that_nobody_foresaw_is_a_failed_step_with_its_traceback(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def crash(*_: Any) -> None:
        raise ZeroDivisionError("by zero")

    world.before["second"] = crash
    result = world.run()
    assert statuses(result) == {"first": "executed", "second": "failed"}
    assert result.steps[1].error == "ZeroDivisionError: by zero"
    assert "Traceback" in capsys.readouterr().err
    assert not list((world.root / "store").glob("second/[!.]*"))
    del world.before["second"]
    assert statuses(world.run())["second"] == "executed"
    assert not list((world.root / "store").glob("second/.making-*"))


@pytest.mark.parametrize("kind", [ZeroDivisionError, ConfigError])
def test_an_attempt_that_crashed_leaves_nothing_behind_in_the_store(world: World, kind: type[Exception]) -> None:
    def crash(*_: Any) -> None:
        raise kind("a large folder stays")

    world.before["second"] = crash
    with contextlib.suppress(ConfigError):
        world.run()
    del world.before["second"]
    world.run(second=two("corrected"))
    assert list((world.root / "store").glob("second/.making-*")) == []


def test_a_configuration_that_does_not_fit_its_data_ends_the_run(world: World) -> None:
    def refuse(*_: Any) -> None:
        raise ConfigError("no such column")

    world.before["second"] = refuse
    with pytest.raises(ConfigError, match="no such column"):
        world.run()
    del world.before["second"]
    assert statuses(world.run()) == {"first": "cached", "second": "executed", "third": "executed"}


def test_an_executor_that_forgets_an_output_fails(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["components.first.executor"], "execute", lambda *_: {"out": {}})
    result = world.run()
    assert statuses(result) == {"first": "failed"}
    assert "log" in (result.steps[0].error or "")


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def test_what_a_killed_step_leaves_is_no_result_and_is_cleared_away_by_the_next(world: World) -> None:
    def kill(outputs: Mapping[str, Path], context: Context) -> None:
        (context.scratch / "checkpoint").write_text("half way")
        raise Killed

    world.before["second"] = kill
    with pytest.raises(Killed):
        world.run()
    # As if it had been another process.
    (making,) = (world.root / "store" / "second").glob(".making-*")
    making.rename(making.with_name(making.name.rpartition("-")[0] + "-99999"))
    assert list((world.root / "store" / "second").glob("[!.]*")) == []
    found: list[str] = []
    world.before["second"] = lambda outputs, context: found.append((context.scratch / "checkpoint").read_text())
    result = world.run()
    assert statuses(result) == {"first": "cached", "second": "executed", "third": "executed"}
    assert found == ["half way"]  # the work goes on where it was
    assert list((world.root / "store" / "second").glob(".making-*")) == []
    assert not world.contexts["second"].scratch.exists()
    assert len(list((world.root / "store" / "second").iterdir())) == 1


def test_a_result_appears_in_the_store_only_when_it_is_complete(world: World) -> None:
    seen: list[list[str]] = []
    world.before["first"] = lambda outputs, context: seen.append([path.name for path in world.store() if not path.name.startswith(".")])
    world.run()
    assert seen == [[]]
    assert len(world.store()) == 3
    for folder in world.store():
        assert json.loads((folder / "execution.json").read_text())["status"] == "complete"
        assert sorted(path.name for path in folder.iterdir()) == ["execution.json", "log", "out"]


# === History and provenance ===


def test_an_earlier_result_with_other_content_is_an_input_and_the_same_in_every_repetition(world: World) -> None:
    world.run()
    assert "earlier" not in world.seen["third"]
    old = world.run().output("second", "out")
    assert world.executed == []
    result = world.run(second=two("y"))
    assert world.seen["third"]["earlier"] == old
    assert set(statuses(world.run(second=two("y"))).values()) == {"cached"}
    assert result.failed is None


def test_a_history_that_is_not_wanted_is_not_looked_for(world: World) -> None:
    ports = {"given": Port("Examples", ""), "earlier": Port("Examples", "", optional=True)}
    history = FromHistory("first", "out", only_if=("text", "go on"))
    world.use(Step(component("first"), {}), Step(component("second", ports), {"given": FromStep("first", "out"), "earlier": history}))
    world.run()
    assert list(world.seen["second"]) == ["given"]
    world.run(second=two("go on"))
    assert sorted(world.seen["second"]) == ["earlier", "given"]


def test_lineage_records_every_step_of_every_run(world: World) -> None:
    runs = [world.run(), world.run()]
    lineage = Lineage(world.root / "lineage.jsonl")
    for step in ("first", "second", "third"):
        entries = list(lineage.latest_first("fake", step))
        assert [(entry.run_id, entry.status) for entry in entries] == [(runs[1].run_id, "cached"), (runs[0].run_id, "executed")]
        assert entries[0].key == entries[1].key
        assert entries[0].outputs == entries[1].outputs
    (latest, _) = lineage.latest_first("fake", "second")
    given = runs[0].output("first", "out")
    assert given is not None
    assert latest.inputs == {"given": {"path": str(given.path), "digest": given.digest, "type": "Examples"}}


def test_a_manifest_says_which_run_configuration_and_inputs_made_it(world: World) -> None:
    result = world.run(second=two("y"))
    found, given = result.output("second", "out"), result.output("first", "out")
    assert found is not None
    assert given is not None
    assert found.manifest["producer"] == "second.out"
    provenance = found.manifest["provenance"]
    assert (provenance["pipeline"], provenance["run_id"], provenance["config"]) == ("fake", result.run_id, {"text": "y"})
    assert provenance["inputs"]["given"]["digest"] == given.digest


def test_run_ids_sort_by_time_and_differ(world: World) -> None:
    ids = {world.run().run_id for _ in range(3)}
    assert len(ids) == 3
    assert all(run_id[:8].isdigit() and run_id[8] == "-" for run_id in ids)
