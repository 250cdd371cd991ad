"""The federation as one participant sees it: a site holds its own rows, the server none, both what all share."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from fl_distill.data.columns import Columns
from fl_distill.data.federate import check, divide
from fl_distill.data.shared import adopted_public, adopted_test
from fl_distill.data.types import Declares, Encoder, Federation, Shared, Source
from fl_distill.errors import DataError


def form_of(dataset: object) -> Source:
    """A source without rows, of the form that `dataset` has at every participant.

    Reads no file. DataError for each setting that is left to the rows, and for a dataset that cannot say.
    """
    if isinstance(dataset, Declares):
        return dataset.form()
    raise DataError(
        f"dataset {type(dataset).__name__}: expected a method form() that says what its rows look like without them, "
        "found none; choose csv, image_folder, hub or tensor_file, or write one"
    )


def alone(
    form: Source,
    own: tuple[str, Source] | None,
    *,
    seed: int,
    validation: float,
    test: float,
    public: float,
    public_source: Source | None = None,
    public_examples: int | None = None,
    public_labels: bool = False,
    test_source: Source | None = None,
) -> Federation:
    """The federation as one participant sees it: of the site `own`, its name and rows, or of the server without a site.

    `form` is what `form_of` makes of the dataset; its rows, if any, are not used. The other arguments are those of
    `federate`, and must be the same at every participant. With naturally named sites the result is then that of
    `federate` on everybody's rows, bit for bit: `site(0)` is the site of that name there, `test` and `public` are
    the same. Without a `test_source` an official test split of `own` (at the server: of `form`) is the shared test
    set; that all participants hold the same one is not checked. DataError with everything that needs others' rows.
    """
    check(public_examples, validation=validation, test=test, public=public)
    held = form if own is None else own[1]
    faults = [*_needs(form, held, public, public_source, test_source), *([] if own is None else _strange(form, *own))]
    if faults:
        raise DataError(faults)
    nothing = form.train.take(torch.empty(0, dtype=torch.int64))
    home = replace(form, train=nothing, encoder=_unflagged(form))
    shared_public = shared_test = Shared(nothing, nothing.y)
    if public_source is not None:
        shared_public = adopted_public(public_source, home, public_examples, seed, labels=public_labels)
    if test_source is not None:
        shared_test = adopted_test(test_source, home)
    elif held.test is not None:
        shared_test = Shared(held.test, torch.full((len(held.test),), -1))
    stored = nothing if own is None else own[1].train
    parts = () if own is None else (divide(np.arange(len(stored)), validation, test, seed, own[0]),)
    encode = home.encoder.fit(stored.x, [part.train for part in parts], shared_public.rows.x)
    return Federation(
        names=() if own is None else (own[0],),
        classes=form.classes,
        input_shape=tuple(encode(nothing.x, nothing.y).shape[1:]),
        image=form.image,
        augment=form.augment,
        stored=stored,
        parts=parts,
        shared_test=shared_test,
        shared_public=shared_public,
        encode=encode,
    )


def _needs(
    form: Source, held: Source, public: float, public_source: Source | None, test_source: Source | None
) -> Iterator[str]:
    """One sentence for each thing that takes the rows of more than one participant."""
    if public_source is None and public > 0:
        yield (
            f"public={public:g} holds public rows out of all sites' data, which no participant has: set "
            "public_dataset to examples that all have, or public=0"
        )
    if test_source is None and held.test is None:
        yield (
            "the shared test set would be held out of all sites' data, which no participant has: set test_dataset "
            "to examples that all have"
        )
    if not isinstance(form.encoder, Columns):
        return
    kind, found = form.encoder.standardise, held.encoder
    if kind in ("site", "federated"):
        yield (
            f"dataset.standardise={kind} needs statistics of several sites' rows, which no participant has: set "
            "dataset.standardise=public"
        )
    elif kind == "none" and isinstance(found, Columns) and found.flags and held is not form:
        names = [*found.numeric, *(f"categorical {number}" for number in range(1, len(found.levels) + 1))]
        yield (
            "dataset.standardise=none flags the columns that have gaps at any site, which no participant knows; "
            f"found gaps in {', '.join(names[flag] for flag in found.flags)}: set dataset.standardise=public"
        )


def _strange(form: Source, name: str, own: Source) -> Iterator[str]:
    """One sentence for each way in which a site's rows are not those of one site, of the form of all."""
    owners = sorted(set(own.owners or ()))
    if len(owners) > 1:
        yield f"site {name}: expected the rows of one site, found those of {', '.join(owners)}; set dataset.path to one"
    expected, found = _described(form), _described(own)
    if expected != found:
        yield (
            f"site {name}: expected {expected} as the settings declare, found {found}; correct the data or the settings"
        )


def _described(source: Source) -> str:
    rows = f"rows of shape {tuple(source.train.x.shape[1:])} with classes {', '.join(source.classes)}"
    if not isinstance(source.encoder, Columns):
        return rows
    levels = "; ".join(" ".join(names) for names in source.encoder.levels) or "none"
    return f"{rows}, columns {', '.join(source.encoder.numeric)} and categories {levels}"


def _unflagged(form: Source) -> Encoder:
    return replace(form.encoder, flags=()) if isinstance(form.encoder, Columns) else form.encoder
