"""``benchmarks/speech.py``: real packages, built here, from an archive that apt reads in a folder; no network."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from speech_archive import LUA, ROOT, Archive
from speech_steps import packages
from speech_steps.packages import PackageError
from speech_steps.phones import symbols
from speech_steps.sources import PROMPTS, SCRIPTS, package_names
from speech_steps.splits import COLUMNS, HELD_OUT, splits
from speech_steps.transcripts import dialogues, is_note, prompts, words

from gdist.pipeline.manifest.table import Manifest, check

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb"))), reason="this machine has no apt"
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    made = Archive(tmp_path_factory.mktemp("archive"))
    for name in package_names():
        made.build(name)
    made.index()
    return made


@pytest.fixture(scope="module")
def built(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("speech") / "out"
    done = archive.speech(out, "--no-phones")
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads(done.stdout)


def rows_of(out: Path) -> Mapping[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(out / "speech.parquet").to_pylist()}


# --- the whole command ----------------------------------------------------------------------------------------------


def test_the_manifest_is_sound_and_has_what_was_said_by_whom(built: tuple[Path, dict[str, Any]]) -> None:
    out, _ = built
    manifest = Manifest.read(out / "speech.parquet")
    assert check(manifest, audio=True) == []
    assert not any(Path(path).is_absolute() for path in manifest.table["path"].to_pylist())
    rows = rows_of(out)
    three = rows["core-en-digits_3"]
    assert (three["text"], three["digit"], three["speaker"], three["language"]) == ("three", 3, "allison", "en")
    assert rows["core-fr-digits_3"]["digit"] is None, "a digit is a class of English words"
    assert rows["core-en-letters_at"]["text"] == "at" and rows["core-en-untold"]["text"] is None
    # The packages of one voice have no transcripts: only single words are certain.
    assert (rows["july-digits_3"]["text"], rows["july-activated"]["text"]) == ("three", None)
    assert rows["july-digits_3"]["path"] == "audio/july/july-digits_3.flac"
    small, dog = rows["fillets-cs-airplane-let-m-divna"], rows["fillets-cs-airplane-let-hs-pes"]
    assert (small["speaker"], small["text"], small["split"]) == ("cs-small", "Co je to?", "test")
    assert (dog["speaker"], dog["split"]) == (None, "train")
    assert rows["fillets-cs-airplane-let-v-vrak0"]["text"] == 'To je "vrak".'
    assert rows["digit-george-0-05"]["text"] == "zero"


def test_what_is_left_out_is_counted_with_its_reason(built: tuple[Path, dict[str, Any]]) -> None:
    _, found = built
    prompts_left = {"a tone, silence or noise": 2, "shorter than 0.1 s": 1, "silent": 1}
    assert found["left_out"]["core-en"] == found["left_out"]["july"] == prompts_left
    assert found["left_out"]["fillets-ng-data-cs"] == {"without a transcript: perhaps no speech": 2}
    assert found["all"]["utterances"] == len(rows_of(built[0]))


def test_licences_and_the_digests_that_were_used_lie_beside_it(
    built: tuple[Path, dict[str, Any]], archive: Archive
) -> None:
    out, _ = built
    used = json.loads((out / "sources.json").read_text())["packages"]
    assert set(used) == set(package_names())
    for name, row in used.items():
        assert (out / "licences" / f"{name}.txt").read_text() == f"licence of {name}\n"
        assert row["sha256"] == packages.sha256_of(archive.debs / row["file"])


def test_twice_and_elsewhere_it_writes_the_same_bytes_and_fetches_nothing_again(
    built: tuple[Path, dict[str, Any]], archive: Archive, tmp_path: Path
) -> None:
    out, _ = built
    before = {path: path.stat().st_mtime_ns for path in (out / "packages").iterdir()}
    other = tmp_path / "other place"
    (other / "packages").mkdir(parents=True)
    (other / "packages" / next(iter(before)).name).write_bytes(b"cut short")  # an interrupted copy of a package
    for place in (out, other):
        done = archive.speech(place, "--no-phones")
        assert done.returncode == 0, done.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in (out / "packages").iterdir()} == before
    for name in ("speech.parquet", "sources.json"):
        assert (out / name).read_bytes() == (other / name).read_bytes()


def test_an_index_without_the_packages_is_explained(archive: Archive, tmp_path: Path) -> None:
    empty = Archive(tmp_path / "empty")
    empty.index()
    done = empty.speech(tmp_path / "out")
    assert done.returncode == 1 and not (tmp_path / "out/speech.parquet").exists()
    assert "asterisk-core-sounds-en-wav" in done.stderr and "apt-get update" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_without_apt_is_told_so(archive: Archive, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/speech.py"), str(tmp_path / "out")]
    environment = archive.environment | {"PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no apt-get" in done.stderr and "Debian" in done.stderr


def test_phones_that_are_demanded_need_espeak(archive: Archive, tmp_path: Path) -> None:
    if shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is installed here")
    done = archive.speech(tmp_path / "out", "--phones")
    assert done.returncode == 1 and "espeak-ng" in done.stderr


# --- its parts ------------------------------------------------------------------------------------------------------


def test_a_package_with_another_digest_is_refused_by_apt_and_by_us(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    name = PROMPTS[0].package
    archive.build(name)
    archive.index()
    deb = next(archive.debs.glob("*.deb"))
    row = packages.Package(name, "1.0", deb.name, deb.stat().st_size, packages.sha256_of(deb))
    packages.check(deb, row)
    deb.write_bytes(deb.read_bytes()[:-1] + b"x")
    with pytest.raises(PackageError, match="SHA-256"):
        packages.check(deb, row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APT_CONFIG", archive.environment["APT_CONFIG"])
        with pytest.raises(PackageError, match="failed"):
            packages.fetch(row, tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []


def test_unpacking_replaces_an_earlier_version_and_nothing_of_anybody_else(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    archive.build(SCRIPTS)
    deb = next(archive.debs.glob("*.deb"))
    row = packages.Package(SCRIPTS, "1.0", deb.name, deb.stat().st_size, packages.sha256_of(deb))
    place = packages.unpack(deb, row, tmp_path / "unpacked")
    (place / ".sha256").write_text("of an earlier version\n")
    (place / "stale").touch()
    assert packages.unpack(deb, row, tmp_path / "unpacked") == place and not (place / "stale").exists()
    mine = tmp_path / "mine" / SCRIPTS
    mine.mkdir(parents=True)
    with pytest.raises(PackageError, match="not made here"):
        packages.unpack(deb, row, tmp_path / "mine")


def test_transcripts_are_read_as_their_packages_write_them() -> None:
    listed = "\ufeff; Core\n\nvm-and: y\ndigits/0: cero\ndigits/0: diez\nmenu: menu: Нажмите 1: да\nno colon\n"
    assert prompts(listed) == {"vm-and": "y", "digits/0": "cero", "menu": "Нажмите 1: да"}
    assert dialogues(LUA) == {
        "let-m-divna": "Co je to?",
        "let-v-vrak0": 'To je "vrak".',
        "let-hs-pes": "Haf (ještě jednou).",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Activated.", "Activated."),
        ("space [ ]", "space"),
        ("[!] punto esclamativo", "punto esclamativo"),
        ("... has left the conference.", "has left the conference."),
        ("millenovecento... (data)", "millenovecento"),
        ("Spiacente, [quello] non è un interno valido.", None),
        ("[ tono de error ]", None),
        ("(beep)", None),
        ('затем нажмите решётку."', "затем нажмите решётку."),
        ('To je "vrak".', 'To je "vrak".'),
        ("Konkrétně %1 hodin!", None),
        ("...", None),
        ("", None),
    ],
)
def test_notes_are_not_words(text: str, said: str | None) -> None:
    assert words(text) == said
    assert is_note(text) == (text.startswith(("[ ", "(")))


def test_phones_are_one_inventory_without_stress_length_and_joined_sounds() -> None:
    assert symbols("(en)_l_ˈɒ_ɡ_ɪ_n_(fr) ɛ̃_tʃʲ_aɪ\naː_r̝̊") == "l ɒ ɡ ɪ n ɛ̃ t ʃʲ a ɪ a r̝̊"


def test_splits_keep_test_voices_and_test_utterances_out_of_training() -> None:
    for voice, held in HELD_OUT.items():
        found = [splits(voice, f"{voice}-{n}") for n in range(200)]
        assert {row["split"] for row in found} == {row["split_new_voices"] for row in found} == {held}
        assert {row["split_known_voices"] for row in found} == {"train", "valid", "test"}
    known = [splits("allison", f"allison-{n}") for n in range(2000)]
    counts = [sum(row["split"] == name for row in known) for name in ("train", "valid", "test")]
    assert counts == [1600, 195, 205] or abs(counts[0] - 1600) < 80, counts
    assert all(row["split"] == row["split_known_voices"] for row in known)
    assert {row["split_new_voices"] for row in known if row["split"] == "test"} == {None}
    assert splits(None, "x") == dict(zip(COLUMNS, ("train", "train", None), strict=True))
    assert splits("allison", "prompt/allison/en/vm-and") == splits("allison", "prompt/allison/en/vm-and")


def test_recordings_of_one_prompt_are_in_one_split(built: tuple[Path, dict[str, Any]]) -> None:
    rows = rows_of(built[0])
    both = [(rows[f"core-{i[7:9]}-{i[10:]}"], row) for i, row in rows.items() if f"core-{i[7:9]}-{i[10:]}" in rows]
    assert both
    for one, other in both:
        assert all(one[name] == other[name] for name in (*COLUMNS, "speaker", "language"))
