"""What `make images` writes beside the images, without building one."""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from pathlib import Path

import pytest

from mechanism.errors import InputError
from scripts.images import buildah, contents
from scripts.images.__main__ import build
from scripts.images.compare import differing
from tests.support.cluster import image

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13
"""
COPYRIGHT = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: Zlib\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root folder of an image with three Debian packages, one of them removed, and two of Python."""
    folder = tmp_path / "root"
    site = folder / "opt" / "llm-auction" / "lib" / "python3.11" / "site-packages"
    for name, fields in (("Nice_One-2.0", "License-Expression: MIT"), ("plain-1.0", "License: Apache 2\n  and more")):
        info = site / f"{name}.dist-info"
        (info / "licenses").mkdir(parents=True)
        title, _, version = name.partition("-")
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {title}\nVersion: {version}\n{fields}\n")
        (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/licenses/LICENSE,,\n")
    (site / "Nice_One-2.0.dist-info" / "licenses" / "LICENSE").write_text("Permission is granted")
    (folder / "var/lib/dpkg").mkdir(parents=True)
    (folder / "var/lib/dpkg/status").write_text(STATUS)
    for name, text in (("libc6", "This is the GNU C library.\nLicense: not a field here\n"), ("zlib1g", COPYRIGHT)):
        (folder / "usr/share/doc" / name).mkdir(parents=True)
        (folder / "usr/share/doc" / name / "copyright").write_text(text)
    return folder


def test_the_bill_of_materials_has_every_installed_package_and_its_licence(root: Path) -> None:
    found = contents.packages(root)
    text = contents.bill_of_materials("llm-auction-operator:0.1.0", "sha256:aa", found, 0)
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "llm-auction-operator"
    assert {one["purl"]: one.get("licenses", []) for one in bill["components"]} == {
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64": [],
        "pkg:deb/debian/zlib1g@1:1.2.13?arch=amd64": [{"license": {"id": "Zlib"}}],
        "pkg:pypi/nice-one@2.0": [{"license": {"id": "MIT"}}],
        "pkg:pypi/plain@1.0": [{"license": {"name": "Apache 2"}}],
    }
    assert contents.bill_of_materials("llm-auction-operator:0.1.0", "sha256:aa", found, 0) == text


def test_the_licences_hold_every_text_and_name_the_packages_without_one(root: Path) -> None:
    text = "".join(contents.licence_texts("llm-auction-operator:0.1.0", contents.packages(root)))
    assert "nice-one 2.0 (pypi): MIT" in text
    assert "Permission is granted" in text
    assert "This is the GNU C library." in text
    assert text.rstrip().endswith("The package has no licence file.")
    assert "gone" not in text


def test_files_that_differ_are_found_by_content_mode_and_target(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        for name in ("same", "text", "mode"):
            (folder / name).write_text(name)
        (folder / "link").symlink_to("same")
    (other / "text").write_text("else")
    (other / "mode").chmod(0o755)
    (other / "more").touch()
    (other / "link").unlink()
    (other / "link").symlink_to("text")
    assert list(differing(one, other)) == ["link", "mode", "more", "text"]


def layout(folder: Path, *names: str) -> dict[str, str]:
    """Write an OCI layout of images of one layer each, and a blob of none; return the manifests' digests by name."""
    folder.mkdir()
    digests = {}
    for name in names:
        tar = folder / "image.tar"
        image.write(tar, image.skeleton(), [name], environment={"NAME": name})
        with tarfile.open(tar) as archive:
            archive.extractall(folder, filter="data")
        [entry] = json.loads((folder / "index.json").read_text())["manifests"]
        digests[name] = entry["digest"]
        tar.unlink()
    (folder / "blobs" / "sha256" / ("0" * 64)).write_text("left by an earlier build")
    return digests


def test_the_layout_keeps_the_named_images_and_lists_them_for_containerd(tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    digests = layout(folder, "llm-auction-router:1", "llm-auction-operator:1", "llm-auction-old:0")
    del digests["llm-auction-old:0"]
    images = buildah.write_index(folder, digests)
    assert {name: len(layers) for name, layers in images.items()} == dict.fromkeys(digests, 1)
    index = json.loads((folder / "index.json").read_text())
    assert [one["annotations"] for one in index["manifests"]] == [{buildah.REFERENCE: name} for name in sorted(digests)]
    # two manifests, two configurations, and the layer that they share
    assert len(list((folder / "blobs" / "sha256").iterdir())) == 5

    image.select(folder, ["llm-auction-router:1"], tmp_path / "one")
    (archived,) = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert archived["RepoTags"] == ["llm-auction-router:1"]
    config = json.loads((tmp_path / "one" / archived["Config"]).read_text())
    assert config["config"]["Env"] == ["NAME=llm-auction-router:1"]
    (layer,) = archived["Layers"]
    assert config["rootfs"]["diff_ids"] == [
        f"sha256:{hashlib.sha256((tmp_path / 'one' / layer).read_bytes()).hexdigest()}"
    ]
    # its configuration and its layer, and no layout's mark, which containerd would read the images by
    assert len(list((tmp_path / "one" / "blobs" / "sha256").iterdir())) == 2
    assert not (tmp_path / "one" / "oci-layout").exists()


def test_builds_take_packages_from_where_this_machine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.touch()
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example/simple")
    monkeypatch.setenv("PIP_CERT", str(authorities))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    secrets = buildah.pip_secrets(tmp_path)
    assert secrets["authorities"] == authorities
    lines = secrets["pip"].read_text().splitlines()
    assert lines[0] == "[global]"
    assert {"index-url = https://packages.example/simple", f"cert = {buildah.AUTHORITIES}"} <= set(lines)
    assert not any(str(tmp_path) in line for line in lines)


def test_builds_read_the_sources_of_packages_as_pip_here_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "given.conf"
    given.write_text(
        "[global]\nindex-url = https://me:a%40b's@packages.example/simple\n"
        "extra-index-url =\n    https://one.example/simple\n    https://two.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(given))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(buildah.pip_secrets(tmp_path)["pip"]))
    listed = buildah.read([sys.executable, "-m", "pip", "config", "list"])
    assert "https://me:a%40b's@packages.example/simple" in listed
    assert r"https://one.example/simple\nhttps://two.example/simple" in listed


def test_a_password_for_an_index_does_not_come_into_an_image() -> None:
    with pytest.raises(InputError) as refused:
        build(torch_index="https://me:hidden@packages.example/cpu")
    assert refused.value.place == "--torch-index"
    assert "hidden" not in str(refused.value)
