"""What an image contains: a bill of materials (CycloneDX) of its Debian and Python packages, and their licences."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

STATUS = Path("var/lib/dpkg/status")
SITES = ("opt/*/lib/python3.*/site-packages", "opt/*/*/lib/python3.*/site-packages", "opt/torch")
COPYRIGHT = "usr/share/doc/{}/copyright"
LICENCE_FILE = re.compile(r"(^|/)(licen[cs]e|copying|notice)[^/]*$", re.IGNORECASE)
LINE = "=" * 80


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package: `kind` deb or pypi, and the files with its licences."""

    kind: str
    name: str
    version: str
    architecture: str
    licences: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def url(self) -> PackageURL:
        """The package's URL, by which scanners look for vulnerabilities."""
        if self.kind == "deb":
            return PackageURL("deb", "debian", self.name, self.version, {"arch": self.architecture})
        return PackageURL("pypi", None, self.name, self.version)


def packages(root: Path) -> list[Package]:
    """Return the packages under an image's root folder, ordered by kind, name and version."""
    found = {(one.kind, one.name, one.version): one for one in (*_debian(root), *_python(root))}
    return [found[key] for key in sorted(found)]


def bill_of_materials(image: str, digest: str, found: list[Package], epoch: int) -> str:
    """Return the CycloneDX document of an image as JSON; the same image has the same document."""
    components = [
        Component(
            type=ComponentType.LIBRARY,
            name=one.name,
            version=one.version,
            purl=one.url,
            bom_ref=one.url.to_string(),
            licenses=_declared(one),
        )
        for one in found
    ]
    name, _, version = image.partition(":")
    whole = Component(type=ComponentType.CONTAINER, name=name, version=version, bom_ref=digest)
    bom = Bom(
        components=components,
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, digest),
        metadata=BomMetaData(component=whole, timestamp=datetime.fromtimestamp(epoch, UTC)),
    )
    bom.register_dependency(whole, components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2) + "\n"


def licence_texts(image: str, found: list[Package]) -> Iterator[str]:
    """Yield the parts of the file with the licences of all packages of an image."""
    yield f"Licences of the {len(found)} packages in {image}\n"
    for one in found:
        yield f"\n{LINE}\n{one.name} {one.version} ({one.kind}): {', '.join(one.licences) or 'see below'}\n{LINE}\n\n"
        for file in one.files:
            yield file.read_text(encoding="utf-8", errors="replace").rstrip() + "\n\n"
        if not one.files:
            yield "The package has no licence file.\n"


def _declared(package: Package) -> list[License]:
    """Return a package's licences: a single one as an identifier or expression of SPDX where it is one."""
    licences = LicenseFactory()
    if len(package.licences) == 1:
        return [licences.make_from_string(package.licences[0])]
    return [licences.make_with_name(name) for name in package.licences]


def _debian(root: Path) -> Iterator[Package]:
    status = root / STATUS
    if not status.is_file():
        return
    for paragraph in status.read_text(encoding="utf-8").split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields.get("Status") != "install ok installed":
            continue
        name = fields["Package"]
        file = root / COPYRIGHT.format(name)
        texts = [file] if file.is_file() else []
        named = {found for text in texts for found in _named(text.read_text(encoding="utf-8", errors="replace"))}
        yield Package("deb", name, fields["Version"], fields["Architecture"], tuple(sorted(named)), tuple(texts))


def _named(text: str) -> Iterator[str]:
    """Yield the licences that a Debian copyright file names, if it has the format for machines."""
    if text.startswith("Format:"):
        yield from (found[1].strip() for found in re.finditer(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE))


def _python(root: Path) -> Iterator[Package]:
    sites = sorted({str(site) for pattern in SITES for site in root.glob(pattern)})
    for one in distributions(path=sites):
        files = sorted(
            Path(str(one.locate_file(file)))
            for file in one.files or ()
            if ".dist-info/" in str(file) and LICENCE_FILE.search(str(file))
        )
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        yield Package("pypi", name, one.version, "", _licences(one), tuple(file for file in files if file.is_file()))


def _licences(one: Distribution) -> tuple[str, ...]:
    """Return the licences that a distribution declares: expression, else classifiers, else the field's first line."""
    fields = one.metadata.json
    if expression := fields.get("license_expression"):
        return (str(expression),)
    classifiers = [text for text in fields.get("classifier", ()) if text.startswith("License ::")]
    if classifiers:
        return tuple(sorted({text.rpartition(" :: ")[2] for text in classifiers}))
    first = next(iter(str(fields.get("license", "")).strip().splitlines()), "")
    return (first,) if first and first != "UNKNOWN" else ()
