"""Who may import whom: read from every source, and from what importing the light modules really loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

LAYERS = ("schemas", "models", "components", "pipeline")
"""Arrows run down: a layer imports itself and those before it."""

NEVER = ("kubeflow", "tests")
"""Nobody imports these."""

STDLIB = frozenset(sys.stdlib_module_names)

OUTSIDE = {
    "schemas": {"numpy", "pydantic", "yaml"},
    "models": {"numpy", "pydantic", "tensorflow", "tf_keras", "tensorflow_recommenders"},
    # Declarations, configurations and what everything light imports.
    "light components": {"pydantic"},
    "components": {
        *("numpy", "pydantic", "tensorflow", "tf_keras", "tensorflow_recommenders", "tensorflow_metadata", "google", "tensorflow_serving"),
        *("apache_beam", "google_crc32c", "pyarrow", "tensorflow_data_validation", "tfx_bsl"),
    },
    "pipeline": {"pydantic", "pydantic_core", "yaml", "typer", "rich", "jinja2"},
}

LIGHT_FILES = ("config.py", "component.py", "__init__.py")
LIGHT_MODULES = ("components.base", "components.registry", "components.artifacts")

# What light components may import of models: the registries that configurations are made of.
LIGHT_MODELS = {
    "config.py": (
        "models.algorithms.registry",
        "models.algorithms.base",
        "models.algorithms.cql",
        "models.algorithms.sqn",
        "models.baselines",
        "models.rewards.registry",
        "models.rewards.din",
        "models.simulators",
        "models.user_model.model",
        "models.user_model.imagination",
    ),
    "base.py": ("models.frameworks",),
}


class Source:
    """One Python file of the repository.

    Attributes:
        path: Below the root.
        module: Dotted name.
        at_import: Modules it imports when it is imported.
        later: Modules it imports inside functions, or for type checkers alone.
    """

    def __init__(self, root: Path, file: Path):
        self.path = PurePosixPath(file.relative_to(root).as_posix())
        parts = self.path.with_suffix("").parts
        self.module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.at_import: set[str] = set()
        self.later: set[str] = set()
        self._collect(ast.parse(file.read_text(encoding="utf-8")), self.at_import)

    @property
    def layer(self) -> str:
        return self.path.parts[0]

    @property
    def is_light(self) -> bool:
        """True for what describing a component needs."""
        if self.layer != "components":
            return False
        in_dataset = self.path.parts[1] == "datasets" and self.path.name not in ("reading.py", "normalising.py", "generate.py")
        return self.path.name in LIGHT_FILES or self.module in LIGHT_MODULES or in_dataset

    @property
    def imports(self) -> set[str]:
        return self.at_import | self.later

    def _collect(self, node: ast.AST, found: set[str]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{self.path}:{child.lineno}: relative import"
                assert child.module is not None
                found.add(child.module)
                # Of our own packages, `from package import module` names a module too.
                if child.module.split(".")[0] in (*LAYERS, *NEVER):
                    found.update(f"{child.module}.{alias.name}" for alias in child.names)
            deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _is_for_type_checkers(child)
            self._collect(child, self.later if deferred else found)


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def sources_below(root: Path, *folders: str) -> Iterator[Source]:
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            yield Source(root, file)


@pytest.fixture(scope="module")
def sources(repository: Path) -> list[Source]:
    found = list(sources_below(repository, *LAYERS))
    assert len(found) > 60
    return found


def own(imports: set[str]) -> dict[str, set[str]]:
    """Imports of our own packages by package."""
    return {layer: {name for name in imports if name.split(".")[0] == layer} for layer in (*LAYERS, *NEVER)}


def outside(imports: set[str]) -> set[str]:
    """Top packages that are neither ours nor of the standard library."""
    return {name.split(".")[0] for name in imports} - STDLIB - {*LAYERS, *NEVER, "__future__"}


def broken(violations: dict[str, object]) -> str:
    return "\n" + "\n".join(f"  {where}: {what}" for where, what in violations.items())


def test_a_layer_imports_only_itself_and_those_below(sources: list[Source]) -> None:
    violations: dict[str, object] = {}
    for source in sources:
        allowed = LAYERS[: LAYERS.index(source.layer) + 1]
        wrong = {name for layer, names in own(source.imports).items() if layer not in allowed for name in names}
        if wrong:
            violations[str(source.path)] = wrong
    assert not violations, broken(violations)


def test_nobody_imports_kubeflow_or_the_tests(sources: list[Source], repository: Path) -> None:
    everything = [*sources, *sources_below(repository, "kubeflow", "benchmarks")]
    violations = {str(s.path): s.imports & {n for n in s.imports if n.split(".")[0] in NEVER} for s in everything}
    assert not any(violations.values()), broken({where: what for where, what in violations.items() if what})


def test_kubeflow_is_no_package(repository: Path) -> None:
    # It would take the place of the SDK of that name.
    assert list((repository / "kubeflow").rglob("__init__.py")) == []
    assert list((repository / "tests").rglob("__init__.py")) == []


def test_a_layer_uses_only_the_packages_it_may(sources: list[Source]) -> None:
    violations: dict[str, object] = {}
    for source in sources:
        allowed = set(OUTSIDE["light components" if source.is_light else source.layer])
        if source.path == PurePosixPath("schemas/feature_schema.py"):
            allowed |= {"tensorflow_metadata", "google"}
        if source.path.parts[:2] in (("models", "agents"), ("models", "simulators")):
            allowed |= {"tf_agents", "tensorflow_probability"}
        if source.path == PurePosixPath("components/datasets/files.py"):
            allowed |= {"apache_beam"} if "apache_beam" not in outside(source.at_import) else set()
        if source.path == PurePosixPath("pipeline/kfp.py"):
            allowed |= {"kfp"} if "kfp" not in outside(source.at_import) else set()
        wrong = outside(source.imports) - allowed
        if wrong:
            violations[str(source.path)] = wrong
    assert not violations, broken(violations)


def test_light_components_import_of_models_only_what_configurations_are_made_of(sources: list[Source]) -> None:
    violations: dict[str, object] = {}
    for source in sources:
        if not source.is_light:
            continue
        allowed: tuple[str, ...] = LIGHT_MODELS.get(source.path.name, ()) if source.path.parts[1] != "datasets" else ("models.simulators",)
        wrong = {name for name in own(source.imports)["models"] if not any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)}
        wrong.discard("models")
        if wrong:
            violations[str(source.path)] = wrong
    assert not violations, broken(violations)


def test_light_components_import_only_light_components(sources: list[Source]) -> None:
    light = {source.module for source in sources if source.is_light}
    modules = {source.module for source in sources}
    violations = {}
    for source in sources:
        if source.is_light:
            wrong = {name for name in own(source.imports)["components"] if name in modules - light}
            if wrong:
                violations[str(source.path)] = wrong
    assert not violations, broken(dict(violations))


def step_of(module: str) -> str | None:
    """The component whose work a module belongs to; None for what components share."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 and parts[0] == "components" and parts[1] != "datasets" else None


def test_no_component_imports_the_work_of_another(sources: list[Source]) -> None:
    violations = {}
    for source in sources:
        wrong = {
            name
            for name in source.imports
            if ".executor" in name and name.startswith("components.") and step_of(name) != step_of(source.module)
        }
        if wrong:
            violations[str(source.path)] = wrong
    assert not violations, broken(dict(violations))


def test_the_pipeline_imports_only_light_components_when_it_is_imported(sources: list[Source]) -> None:
    heavy = {source.module for source in sources if source.layer == "components" and not source.is_light}
    violations = {}
    for source in sources:
        if source.layer == "pipeline":
            wrong = {name for name in source.at_import if name in heavy and name != "components.evaluator.blessing"}
            if wrong:
                violations[str(source.path)] = wrong
    assert not violations, broken(dict(violations))


def test_keras_3_is_never_imported(sources: list[Source]) -> None:
    assert [str(source.path) for source in sources if "keras" in outside(source.imports)] == []


def test_the_layer_tests_see_imports_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "x.py").write_text(
        "import os\nfrom components import base\nclass A:\n    import kfp\n    def f(self):\n        from pipeline.cache import cache_key\n"
        "if TYPE_CHECKING:\n    import tests.y\ntry:\n    import apache_beam.io\nexcept ImportError:\n    pass\n"
    )
    (source,) = sources_below(tmp_path, "models")
    assert (source.module, source.layer) == ("models.x", "models")
    assert source.at_import == {"os", "components", "components.base", "kfp", "apache_beam.io"}
    assert source.later == {"pipeline.cache", "pipeline.cache.cache_key", "tests.y"}
    assert outside(source.imports) == {"kfp", "apache_beam"}


# === What is really loaded ===

HEAVY = ("tensorflow", "tf_keras", "keras", "apache_beam", "pyarrow", "tensorflow_data_validation", "tfx_bsl", "tf_agents", "kfp")


def loaded_by(repository: Path, code: str) -> set[str]:
    """Heavy packages that are loaded after some code has run in a new process."""
    report = f"\nimport sys; print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code + report], cwd=repository, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.cli",
        "pipeline.config",
        "pipeline.graph",
        "pipeline.local",
        "pipeline.cache",
        "components.registry",
        "components.datasets.registry",
        "models.simulators.registry",
        "models.agents",
    ],
)
def test_importing_a_description_loads_no_framework(repository: Path, module: str) -> None:
    assert loaded_by(repository, f"import {module}") == set()


def test_what_is_heavy_is_noticed(repository: Path) -> None:
    assert "pyarrow" in loaded_by(repository, "import components.datasets.normalising")


HELP = """
import sys
sys.argv = ["longplay", *{arguments!r}]
from pipeline.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["graph"], ["schema", "--datasets"], ["schema"]], ids=" ".join)
def test_describing_loads_no_framework(repository: Path, arguments: list[str]) -> None:
    assert loaded_by(repository, HELP.format(arguments=arguments)) == set()


def test_checking_a_configuration_loads_no_framework(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\na,x,1\n")
    (tmp_path / "run.yaml").write_text(
        f"trajectory_gen: {{dataset: {{name: delimited, path: {tmp_path}/log.csv, columns: {{user: user, item: item, timestamp: time}}, "
        "feedback: {click: {role: click, reward: 1}}}}\n"
    )
    assert loaded_by(repository, HELP.format(arguments=["check", str(tmp_path / "run.yaml")])) == set()


def test_the_module_answers_to_help(repository: Path) -> None:
    run = subprocess.run([sys.executable, "-m", "pipeline.cli", "--help"], cwd=repository, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0
    for command in ("run", "check", "graph", "schema", "doctor", "generate-logs", "predict"):
        assert f" {command} " in run.stdout
