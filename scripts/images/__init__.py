"""Container images of the charts, built with buildah and without a registry (`make images`).

`bases` makes the images that the Containerfile starts from out of Debian's packages; `buildah` builds and exports;
`contents` writes for each image what is inside: a bill of materials and the licences.
"""
