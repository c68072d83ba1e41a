"""What a release is made of agrees with itself: versions, lists of packages and licences, workflows, containers."""

import doctest
import re
import stat
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from release import dist, licences, lock

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read(workflow)["jobs"].values() for step in job["steps"]]


class TestOneVersion:
    def test_the_installed_gdist_says_what_pyproject_says(self) -> None:
        try:
            assert version("gdist") == dist.version()
        except PackageNotFoundError:
            pytest.skip("gdist is imported from a checkout here")

    def test_the_changelogs_newest_heading(self) -> None:
        text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        released = rf"\[{re.escape(dist.version())}\] - \d{{4}}-\d\d-\d\d"
        assert headings[0] == "[Unreleased]" or re.fullmatch(released, headings[0])
        assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
        kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
        assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

    def test_citation(self) -> None:
        citation = read(ROOT / "CITATION.cff")
        assert citation["cff-version"] == "1.2.0" and citation["version"] == dist.version()
        assert citation["references"][0]["url"].endswith("/2406.09444")

    def test_the_examples_image(self) -> None:
        text = (ROOT / "docs" / "examples" / "kubernetes.yaml").read_text(encoding="utf-8")
        assert set(re.findall(r"gdist:(\d\S*)", text)) == {dist.version()}

    def test_what_a_tag_has_to_agree_with(self) -> None:
        assert any("pyproject.toml says version" in line for line in dist.wrong_with_tag("v99.0.0"))
        assert not any("pyproject" in line for line in dist.wrong_with_tag(f"v{dist.version()}"))


class TestPackages:
    def test_every_pinned_package_is_read(self) -> None:
        text = lock.LOCK.read_text(encoding="utf-8")
        pinned = lock.read_lock()
        assert len(pinned) == len(re.findall(r"^[a-z0-9-]+==", text, re.MULTILINE))
        assert "".join(one.text for one in pinned.values()) == text
        assert all(one.asked_by for one in pinned.values()) and pinned["torch"].asked_by >= {"gdist", "peft"}
        assert {"pyyaml", "packaging", "setuptools"} <= pinned.keys(), "tests and builds use them"

    def test_the_users_part_of_the_lock_is_all_that_a_user_needs(self) -> None:
        """Followed a second time, by what the installed packages ask for on this machine."""
        pinned = lock.read_lock()
        for extra in (None, *lock.extras()):
            new, reached = lock.wanted(extra), set[str]()
            while new:
                reached |= new
                asked = [Requirement(line) for name in new for line in requires(name) or []]
                here = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
                new = {str(canonicalize_name(one.name)) for one in here} - reached
            users = set(re.findall(r"^([a-z0-9-]+)==", lock.part(pinned, [extra] if extra else []), re.MULTILINE))
            assert reached <= users, f"gdist[{extra}] lacks {reached - users}"

    def test_a_cpu_goes_without_cuda(self) -> None:
        pinned = lock.read_lock()
        everywhere, cpu = (lock.part(pinned, lock.extras(), cpu=cpu) for cpu in (False, True))
        left_out = set(re.findall(r"^(\S+)==", everywhere, re.MULTILINE)) - set(
            re.findall(r"^(\S+)==", cpu, re.MULTILINE)
        )
        assert {"torch", "torchaudio", "triton", "nvidia-cublas", "cuda-toolkit"} <= left_out
        assert all(name in lock.TORCH or name.startswith(lock.CUDA) for name in left_out)
        assert cpu.count("--hash") > 500 and "\nnetworkx==" in cpu, "torch's own packages stay"

    def test_the_page_of_licences_is_current(self) -> None:
        """`make licences` after `make lock`."""
        pinned = lock.read_lock()
        assert licences.listed() == {name: pinned[name].version for name in lock.brought_by(pinned)}
        page = licences.PAGE.read_text(encoding="utf-8")
        assert page.startswith(licences.HEAD) and "| not stated |" in page
        for extra in lock.extras():
            assert f"gdist[{extra}]" in page
        assert not {"pytest", "mypy", "moto", "ruff"} & licences.listed().keys()

    def test_what_releases_are_made_with_is_pinned_apart(self) -> None:
        group = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["release"]
        tools = lock.read_lock(ROOT / "requirements-release.lock")
        for line in group:
            one = Requirement(line)
            assert tools[canonicalize_name(one.name)].version in one.specifier, line
        assert "torch" not in tools


class TestDistributions:
    def test_the_examples_of_the_scripts(self) -> None:
        for module in (dist, lock):
            result = doctest.testmod(module)
            assert result.attempted and not result.failed

    def test_links_of_the_readme_lead_somewhere_on_the_index(self) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
        assert len(targets) > 20 and all((ROOT / target).exists() for target in targets)
        for page in (dist.for_the_index(text, None), dist.for_the_index(text, "https://example.org/blob/v1")):
            assert not re.search(r"\]\((?!https?:|#)", page)
        assert "https://example.org/blob/v1/docs/release.md#containers" in dist.for_the_index(
            text, "https://example.org/blob/v1"
        )

    def test_licences_are_shipped(self) -> None:
        assert PROJECT["license-files"] == ["LICENSE", "data_manifests/demo/LICENSES.md"]
        speech = (ROOT / "data_manifests" / "demo" / "LICENSES.md").read_text(encoding="utf-8")
        named = {
            f"CC-{kind.replace(' ', '-')}-{number}"
            for kind, number in re.findall(r"\[CC (BY(?:-SA)?) ([34]\.0)\]", speech)
        }
        assert set(PROJECT["license"].split(" AND ")) == {"Apache-2.0"} | named
        assert 'licenses="' + PROJECT["license"] + '"' in (ROOT / "Dockerfile").read_text(encoding="utf-8")

    def test_an_archive_without_what_only_one_build_knows(self, tmp_path: Path) -> None:
        """Two archives of the same files, of other times, owners, modes and order, get the same bytes."""
        written = []
        for build, order in enumerate((("a", "b"), ("b", "a"))):
            folder = tmp_path / str(build) / "gdist-1"
            folder.mkdir(parents=True)
            archive = tmp_path / f"{build}.tar.gz"
            with tarfile.open(archive, "w:gz") as opened:
                for name in order:
                    (folder / name).write_text(name)
                    (folder / name).chmod(0o644 if build else 0o600)
                    member = opened.gettarinfo(folder / name, f"gdist-1/{name}")
                    member.uid, member.mtime = build + 7, build + 9
                    opened.addfile(member, (folder / name).open("rb"))
            dist.normalized(archive, 1_700_000_000)
            written.append(archive.read_bytes())
        assert written[0] == written[1]
        with tarfile.open(tmp_path / "0.tar.gz") as opened:
            assert {(one.mtime, one.uid, stat.filemode(one.mode)) for one in opened} == {
                (1_700_000_000, 0, "?rw-r--r--")
            }
            assert opened.getnames() == ["gdist-1/a", "gdist-1/b"]

    def test_what_is_missing_or_too_much_is_named(self, tmp_path: Path) -> None:
        names = ["LICENSE", "pipeline/errors.py"]
        wheel, sdist = tmp_path / "a.whl", tmp_path / "a.tar.gz"
        about = f"gdist-{dist.version()}.dist-info"
        with zipfile.ZipFile(wheel, "w") as opened:
            for name in (f"{about}/METADATA", f"{about}/licenses/LICENSE", "gdist/pipeline/left_over.py"):
                opened.writestr(name, "")
        assert dist.wrong_with_wheel(wheel, names) == [
            f"a.whl lacks {about}/licenses/data_manifests/demo/LICENSES.md",
            "a.whl lacks gdist/pipeline/errors.py",
            "a.whl has gdist/pipeline/left_over.py, which is no file of the packages",
        ]
        with tarfile.open(sdist, "w:gz") as opened:
            for name in ("LICENSE", "PKG-INFO", "gdist.egg-info/SOURCES.txt", "secret.key"):
                opened.addfile(tarfile.TarInfo(f"gdist-1/{name}"))
        assert dist.wrong_with_sdist(sdist, names) == [
            "a.tar.gz lacks pipeline/errors.py",
            "a.tar.gz has secret.key, which git does not know",
        ]


class TestMake:
    def targets(self) -> set[str]:
        """What `make` can be asked for, python3.12 and its like aside."""
        return set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))

    def test_every_target_is_phony_and_explained(self) -> None:
        (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)
        listed = set(phony.replace("\\\n", " ").replace("$(addprefix python,$(PYTHONS))", "").split())
        assert listed == self.targets()
        explained = set(re.findall(r"^([a-z0-9-]+):.*##", MAKEFILE, re.MULTILINE))
        assert self.targets() - explained <= {"check", "lint", "types", "tests"}, "parts of `make test`"

    @pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: str(path.name))
    def test_workflows_run_make_and_nothing_else(self, workflow: Path) -> None:
        ran = 0
        for step in steps(workflow):
            command = step.get("run", "make")
            if command.startswith("gh release create "):
                continue  # in a job that has no sources
            assert re.fullmatch(r"make( [a-zA-Z0-9.=-]+| PYTHONS=\$\{\{ matrix\.python \}\})*", command), command
            asked = {word for word in command.split()[1:] if "=" not in word and re.fullmatch("[a-z-]+", word)}
            ran += bool(asked)
            assert asked <= self.targets(), f"{workflow.name}: {command}"
        assert ran

    @pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: str(path.name))
    def test_workflows_may_do_little(self, workflow: Path) -> None:
        content = read(workflow)
        assert content["permissions"] == {"contents": "read"}
        allowed = {"publish": {"id-token"}, "attach": {"contents"}, "deploy": {"pages", "id-token"}}
        for name, job in content["jobs"].items():
            assert set(job.get("permissions", {})) <= allowed.get(name, set())
        for step in steps(workflow):
            if "uses" in step:  # a major version, or a commit
                assert re.search(r"@(v\d+|release/v\d+|[0-9a-f]{40})$", step["uses"]), step["uses"]
            assert "${{ github" not in step.get("run", ""), "text of others belongs into the environment"

    def test_ci_has_every_python_of_the_matrix(self) -> None:
        (pythons,) = re.findall(r"^PYTHONS := (.*)$", MAKEFILE, re.MULTILINE)
        jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
        tried = [step["with"]["python-version"] for step in jobs["test"]["steps"] if "with" in step]
        assert tried + jobs["python"]["strategy"]["matrix"]["python"] == pythons.split()
        assert all(f"{python}.0" in SpecifierSet(PROJECT["requires-python"]) for python in pythons.split())
        named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if " Python :: " in line]
        assert named == pythons.split()

    def test_a_python_that_is_not_there_is_skipped_in_words_and_fails_in_ci(self, tmp_path: Path) -> None:
        command = ["make", "-f", str(ROOT / "Makefile"), "matrix", "PYTHONS=3.99"]
        for ci, code in (("", 0), ("true", 2)):
            env = {"PATH": "/usr/bin:/bin", "CI": ci, "PYENV_ROOT": str(tmp_path)}
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
            assert done.returncode == code and "Python 3.99: none was found" in done.stderr, done.stderr


class TestForms:
    @pytest.mark.parametrize("form", FORMS, ids=lambda path: str(path.name))
    def test_issues(self, form: Path) -> None:
        content = read(form)
        if form.name == "config.yml":
            assert "blank_issues_enabled" in content
            return
        assert content["name"] and content["description"]
        ids = [field["id"] for field in content["body"] if field["type"] != "markdown"]
        assert len(set(ids)) == len(ids) >= 3
        if form.name == "bug.yml":
            assert ids[:3] == ["doctor", "command", "expected"]

    def test_all_forms_are_there(self) -> None:
        assert {path.name for path in FORMS} == {"bug.yml", "feature.yml", "config.yml"}
        assert (ROOT / ".github" / "pull_request_template.md").is_file() and (ROOT / "SECURITY.md").is_file()


class TestContainers:
    TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    def test_its_python_is_one_that_gdist_is_for(self) -> None:
        (python,) = re.findall(r"^ARG PYTHON=(\S+)$", self.TEXT, re.MULTILINE)
        assert f"{python}.0" in SpecifierSet(PROJECT["requires-python"]) and python in MAKEFILE
        assert re.findall(r"^FROM (\S+)", self.TEXT, re.MULTILINE) == ["python:${PYTHON}-slim"] * 2

    def test_it_installs_extras_that_exist_and_is_not_root(self) -> None:
        (named,) = re.findall(r'^ARG EXTRAS="(.*)"$', self.TEXT, re.MULTILINE)
        assert set(named.split()) <= set(lock.extras())
        assert re.search(r"^USER 1000$", self.TEXT, re.MULTILINE) and "--require-hashes" in self.TEXT

    def test_what_it_copies_is_sent_to_it(self) -> None:
        sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        kept = {line[1:] for line in sent if line.startswith("!")}
        folders = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
            "package-dir"
        ]
        assert kept >= {"LICENSE", "README.md", "pyproject.toml", "requirements.lock", *folders.values()}
        assert "*" in sent and all((ROOT / path).exists() for path in kept)
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", self.TEXT, re.MULTILINE):
            assert set(line.split()) <= kept | {"."}

    def test_what_prints_the_lists_runs_by_itself(self) -> None:
        """In the image there are neither tests nor packages of ours yet."""
        script = ROOT / "tests" / "release" / "lock.py"
        run = [sys.executable, "-I", str(script)]
        done = subprocess.run([*run, "--torch"], capture_output=True, text=True, check=True)
        pinned = lock.read_lock()
        assert done.stdout == f"torch=={pinned['torch'].version} torchaudio=={pinned['torchaudio'].version}\n"
        done = subprocess.run([*run, "--cpu", "media"], capture_output=True, text=True, check=True)
        assert done.stdout == lock.part(pinned, ["media"], cpu=True)
        done = subprocess.run([*run, "video"], capture_output=True, text=True)
        assert done.returncode == 1 and "gdist has no extra ['video']" in done.stderr

    def test_compose(self) -> None:
        services = read(ROOT / "compose.yaml")["services"]
        assert set(services) == {"minio", "bucket", "gdist", "gdist-gpu"}
        for name in ("minio", "bucket"):
            assert re.search(r":RELEASE\.\d{4}-\d\d-\d\dT", services[name]["image"]), "pinned"
        assert all(port.startswith("127.0.0.1:") for port in services["minio"]["ports"]), "keys that everybody knows"
        env, store = services["gdist"]["environment"], services["minio"]["environment"]
        assert env["AWS_ACCESS_KEY_ID"] == store["MINIO_ROOT_USER"]
        assert env["AWS_SECRET_ACCESS_KEY"] == store["MINIO_ROOT_PASSWORD"]
        login = f"{store['MINIO_ROOT_USER']}:{store['MINIO_ROOT_PASSWORD']}"
        assert services["bucket"]["environment"]["MC_HOST_minio"] == env["AWS_ENDPOINT_URL"].replace(
            "//", f"//{login}@"
        )
        for name, variant in (("gdist", "cpu"), ("gdist-gpu", "cuda")):
            assert services[name]["build"]["args"]["VARIANT"] == variant and f"{variant})" in self.TEXT
