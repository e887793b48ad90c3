"""`python -m scripts.images`: build the images, or check that two builds of one are equal."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from mechanism.errors import AuctionError, InputError
from scripts.images import bases, buildah, compare, contents

TARGETS = ("operator", "router", "worker", "trainer", "policy")
CHECKED = "operator"

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Images of the charts, without a registry.")


@app.command()
def build(
    only: Annotated[list[str] | None, typer.Argument(help=f"Targets. Default: {', '.join(TARGETS)}.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Take the newest packages of the distribution.")] = False,
    base: Annotated[str, typer.Option(help="Another base, by the name of an image here.")] = "",
    build_base: Annotated[str, typer.Option(help="Its counterpart with venv and ensurepip. Default: the same.")] = "",
    torch_index: Annotated[str, typer.Option(help="Index with another build of torch, such as that for CPUs.")] = "",
) -> None:
    """Build images into build/images: an OCI layout, and for each a bill of materials and the licences.

    Raises:
        InputError: if a target is unknown, or the index's address has a password.
    """
    targets = only or list(TARGETS)
    for target in targets:
        if target not in TARGETS:
            raise InputError("target", target, f"give some of {', '.join(TARGETS)}")
    if "@" in (address := urlsplit(torch_index)).netloc:
        remedy = "give it without name and password, because the image's history keeps this address"
        raise InputError("--torch-index", f"an index on {address.hostname}", remedy)
    buildah.check()
    arguments = _bases(base, build_base, refresh)
    if torch_index:
        arguments["TORCH_INDEX"] = torch_index
    with tempfile.TemporaryDirectory(prefix="llm-auction-") as folder:
        secrets = buildah.pip_secrets(Path(folder))
        for number, target in enumerate(targets, 1):
            typer.echo(f"[{number}/{len(targets)}] {buildah.image_name(target)}")
            buildah.build(target, _reference(target), arguments, secrets, cache=True)
    _publish([target for target in TARGETS if buildah.exists(_reference(target))])


@app.command()
def check() -> None:
    """Build the smallest image twice without a cache, and compare.

    Raises:
        BuildFailed: if the two differ.
    """
    buildah.check()
    arguments = _bases("", "", False)
    references = [f"localhost/llm-auction-check:{number}" for number in (1, 2)]
    with tempfile.TemporaryDirectory(prefix="llm-auction-") as folder:
        secrets = buildah.pip_secrets(Path(folder))
        for reference in references:
            typer.echo(f"Building {CHECKED} as {reference}")
            buildah.build(CHECKED, reference, arguments, secrets, cache=False)
    first, second = (buildah.image_id(reference) for reference in references)
    if first != second:
        with buildah.mounted(references[0]) as one, buildah.mounted(references[1]) as other:
            for path in compare.differing(one, other):
                typer.echo(f"differs: {path}")
        raise buildah.BuildFailed(f"two builds of {CHECKED} differ: {first} and {second}")
    buildah.run(["buildah", "rmi", *references])
    typer.echo(f"two builds of {CHECKED} are equal: {first}")


def _bases(base: str, build_base: str, refresh: bool) -> dict[str, str]:
    """Return the Containerfile's arguments for its bases; those from Debian's packages are made if none is given."""
    if base:
        return {"BASE": base, "BUILD_BASE": build_base or base}
    typer.echo(f"Bases from the packages of {bases.SUITE} (a few minutes, once)")
    return {"BASE": bases.prepare(bases.RUNTIME, refresh), "BUILD_BASE": bases.prepare(bases.BUILD, refresh)}


def _publish(targets: list[str]) -> None:
    """Write the layout, images.json, and what each image contains."""
    layout = buildah.FOLDER / "layout"
    digests: dict[str, str] = {}
    for target in targets:
        typer.echo(f"Exporting {buildah.image_name(target)}")
        digests[buildah.image_name(target)] = buildah.export(_reference(target), layout)
    images = buildah.write_index(layout, digests)
    report: dict[str, Any] = {}
    for target in targets:
        name = buildah.image_name(target)
        digest, layers = digests[name], images[name]
        with buildah.mounted(_reference(target)) as root:
            found = contents.packages(root)
            text = contents.bill_of_materials(name, digest, found, buildah.epoch())
            (buildah.FOLDER / f"{target}.cdx.json").write_text(text, encoding="utf-8")
            with (buildah.FOLDER / f"{target}.licences.txt").open("w", encoding="utf-8") as file:
                file.writelines(contents.licence_texts(name, found))
        report[target] = {
            "reference": name,
            "digest": digest,
            "bytes": sum(layer["size"] for layer in layers),
            "packages": {kind: sum(one.kind == kind for one in found) for kind in ("deb", "pypi")},
            "layers": [{"digest": layer["digest"], "bytes": layer["size"]} for layer in layers],
        }
        typer.echo(f"{name}: {report[target]['bytes'] / 1e6:,.0f} MB, {len(found)} packages, {digest}")
    (buildah.FOLDER / "images.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    typer.echo(f"The images are in {layout.relative_to(buildah.ROOT)}, their sizes in images.json beside it")


def _reference(target: str) -> str:
    return f"localhost/{buildah.image_name(target)}"


if __name__ == "__main__":
    try:
        app(prog_name="python -m scripts.images")
    except AuctionError as error:
        sys.exit(f"error: {error}")
