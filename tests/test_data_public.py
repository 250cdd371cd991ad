"""Public sets from elsewhere: any images or tables in the form of the dataset, and the sources made for it."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fl_distill.data import Federation, Source, federate
from fl_distill.data.foreign import adopt
from fl_distill.data.partitions import Natural, Scarce
from fl_distill.data.pixels import Pixels
from fl_distill.data.sources import Crops, Digits, ImageTable, Table, TensorFile
from fl_distill.data.types import Split
from fl_distill.errors import DataError

PLAIN: dict[str, Any] = {"sites": 3, "seed": 0, "validation": 0.1, "test": 0.1, "public": 0.1}
GREY, COLOUR = Pixels((0.5,), (0.5,)), Pixels((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_DISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Turns:
    """A partition of the user's own: rows to sites in turn."""

    def __call__(self, labels: np.ndarray, owners: tuple[str, ...] | None, sites: int, seed: int) -> list[np.ndarray]:
        return [np.arange(start, len(labels), sites) for start in range(sites)]


def images(x: Tensor, encoder: Pixels = GREY) -> Source:
    return Source(Split(x, torch.zeros(len(x), dtype=torch.int64)), None, ("one",), encoder)


def noise(count: int, *shape: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, *shape), dtype=np.uint8))


def saved(file: Path, **tensors: Tensor) -> str:
    save_file(tensors, file)
    return str(file)


def csv(file: Path, text: str, **settings: Any) -> Source:
    file.write_text(text)
    return Table(str(file), target="ill", threshold=0, **settings).load()


def held(federation: Federation) -> int:
    sites = [federation.site(index) for index in range(len(federation))]
    return sum(len(split) for site in sites for split in (site.train, site.validation, site.test))


def test_digits_learn_from_crops_of_photographs() -> None:
    federation = federate(Digits().load(), Turns(), **PLAIN, public_source=Crops(count=300).load())
    public = federation.public
    assert public.x.shape == (300, 1, 8, 8)
    assert public.x.dtype == torch.float32
    assert public.y.tolist() == [-1] * 300
    stored = federation.shared_public.rows.x
    assert stored.dtype == torch.uint8
    assert 12 <= int(stored.max()) <= 16
    shades = public.x * 0.3761 + 0.3053
    assert 0.2 < float(shades.mean()) < 0.7
    assert 0.15 < float(shades.std()) < 0.4
    assert 0 <= float(shades.min().round(decimals=5)) < 0.2
    assert 0.8 < float(shades.max()) <= 1.00001


def test_sites_keep_all_rows_and_the_test_set_stays() -> None:
    source, crops = Digits().load(), Crops(count=20).load()
    own = federate(source, Turns(), **PLAIN)
    other = federate(source, Turns(), **PLAIN, public_source=crops)
    assert torch.equal(own.test.x, other.test.x)
    assert held(other) + len(other.test) == 1797
    assert held(own) + len(own.test) + len(own.public) == 1797
    assert len(own.public) > 100


def test_mnist_with_cifar10_as_public_set(real_data: Path, tmp_path: Path) -> None:
    sources = []
    for name, mean, std in (("mnist", 0.1307, 0.3081), ("cifar10", 0.5, 0.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.parquet").symlink_to(real_data.resolve() / name / "test.parquet")
        sources.append(ImageTable(str(tmp_path / name), mean=mean, std=std).load())
    federation = federate(sources[0], Scarce(examples=500), **PLAIN, public_source=sources[1], public_examples=2000)
    assert federation.public.x.shape == (2000, 1, 28, 28)
    shades = federation.public.x * 0.3081 + 0.1307
    assert abs(float(shades.mean()) - 0.48) < 0.02
    assert abs(float(shades.std()) - 0.24) < 0.02
    assert held(federation) == 1500
    assert len(federation.test) == 2000


def test_grey_from_colour_and_size_are_what_pillow_makes_of_one_image() -> None:
    x = noise(300, 3, 9, 7)
    made = adopt(images(x), images(noise(1, 1, 5, 6)), torch.tensor([299, 0]))
    for row, found in zip((299, 0), made, strict=True):
        image = Image.fromarray(np.ascontiguousarray(x[row].permute(1, 2, 0).numpy())).convert("L")
        assert np.array_equal(found[0].numpy(), np.asarray(image.resize((6, 5), Image.Resampling.BILINEAR)))


@given(st.data())
def test_flat_images_keep_their_shade_in_any_form(data: st.DataObject) -> None:
    shape = st.tuples(st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20))
    scales = st.sampled_from([16.0, 100.0, 255.0])
    theirs, ours = data.draw(scales), data.draw(scales)
    value = data.draw(st.integers(0, int(theirs)))
    guest = images(torch.full((2, *data.draw(shape)), value, dtype=torch.uint8), Pixels((0.5,), (0.5,), theirs))
    home = images(torch.zeros((1, *data.draw(shape)), dtype=torch.uint8), Pixels((0.1,), (0.7,), ours))
    made = adopt(guest, home, torch.arange(2))
    assert made.shape == (2, *home.train.x.shape[1:])
    assert made.dtype == torch.uint8
    assert made.unique().numel() == 1
    assert abs(float(made.flatten()[0]) / ours - value / theirs) <= 0.5 / ours + 1e-6


def test_images_that_fit_are_taken_as_they_are_and_encoded_as_the_dataset_is() -> None:
    x = noise(50, 3, 4, 4)
    source = images(noise(40, 3, 4, 4, seed=1), COLOUR)
    federation = federate(source, Turns(), **PLAIN, public_source=images(x))
    assert torch.equal(federation.shared_public.rows.x, x)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(federation.public.x, (x / 255 - mean) / std)


def test_an_encoder_that_names_no_scale_stores_up_to_255() -> None:
    class Plain:
        def fit(self, x: Tensor, parts: Any, public: Tensor) -> Any:
            return lambda rows, who: rows.float()

    home = replace(images(noise(1, 1, 4, 4)), encoder=Plain())
    guest = images(torch.full((2, 1, 4, 4), 16, dtype=torch.uint8), Pixels((0.5,), (0.5,), 16.0))
    assert adopt(guest, home, torch.arange(2)).unique().tolist() == [255]


def numbered(count: int, first: int = 0) -> Source:
    x = torch.arange(first, first + count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return images(x, Pixels((0.0,), (1.0,), 1.0))


@given(count=st.integers(1, 120), most=st.none() | st.integers(1, 150), seed=st.integers(0, 99))
def test_a_limited_public_set_is_drawn_evenly(count: int, most: int | None, seed: int) -> None:
    settings = PLAIN | {"seed": seed, "public_source": numbered(count), "public_examples": most}
    federation = federate(numbered(100), Turns(), **settings)
    rows = federation.public.x.flatten().long().tolist()
    wanted = count if most is None else min(count, most)
    assert len(rows) == len(set(rows)) == wanted
    assert rows == sorted(rows)
    assert all(abs(row - place * count / wanted) <= count / wanted for place, row in enumerate(rows))
    assert rows == federate(numbered(100), Turns(), **settings).public.x.flatten().long().tolist()
    assert held(federation) + len(federation.test) == 100


def test_another_seed_draws_other_public_examples() -> None:
    def drawn(seed: int) -> list[float]:
        settings = PLAIN | {"seed": seed, "public_source": numbered(200), "public_examples": 50}
        return federate(numbered(100), Turns(), **settings).public.x.flatten().tolist()

    assert drawn(1) != drawn(2)


def test_the_limit_holds_for_a_part_held_out_too_and_the_rest_stays_with_the_sites() -> None:
    settings = PLAIN | {"public": 0.5}
    few = federate(numbered(100), Turns(), **settings, public_examples=7)
    assert len(few.public) == 7
    assert held(few) + len(few.test) + 7 == 100
    assert int(few.public.y.min()) >= 0
    with pytest.raises(DataError, match="public_examples must be a whole number >= 1, or null for all, got 0"):
        federate(numbered(100), Turns(), **settings, public_examples=0)


def test_tables_go_together_by_the_names_of_columns_and_categories(tmp_path: Path) -> None:
    rows = "".join(f"{age},{ward},{age / 10},{age % 2}\n" for age, ward in zip(range(30, 60), "ABC" * 10, strict=True))
    ours = csv(tmp_path / "ours.csv", "age,ward,dose,ill\n" + rows, categorical=["ward"])
    theirs = csv(
        tmp_path / "theirs.csv", "dose,ill,age,ward\n5.5,0,40,C\n3.5,1,?,B\n3.5,1,50,?\n", categorical=["ward"]
    )
    made = adopt(theirs, ours, torch.arange(3)).numpy()
    nan = np.nan
    np.testing.assert_array_equal(made, [[40, 5.5, 2], [nan, 3.5, 1], [50, 3.5, nan]])
    federation = federate(ours, Turns(), **PLAIN, public_source=theirs)
    assert federation.public.x.shape == (3, *federation.input_shape)
    assert federation.public.x[:, 2:].tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    same = federate(ours, Turns(), **PLAIN, public_source=ours)
    train = torch.cat([federation.site(index).train.x for index in range(3)])
    assert torch.isin(train[:, 0], same.public.x[:, 0]).all(), "scaled by the dataset's statistics"


def test_natural_sites_take_a_foreign_table(tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    for name in "ab":
        (tmp_path / "sites" / f"{name}.csv").write_text("age,ill\n" + "".join(f"{n},{n % 2}\n" for n in range(20)))
    home = Table(str(tmp_path / "sites"), target="ill", standardise="site").load()
    guest = csv(tmp_path / "guest.csv", "age,ill\n5,0\n7,1\n")
    federation = federate(home, Natural(), **PLAIN, public_source=guest)
    assert federation.names == ("a", "b")
    assert federation.public.x.shape == (2, 1)


def test_tables_of_tensors_serve_each_other(tmp_path: Path) -> None:
    home = TensorFile(saved(tmp_path / "a", x=torch.randn(60, 4), y=torch.arange(60) % 2)).load()
    guest = TensorFile(saved(tmp_path / "b", x=torch.randn(10, 4))).load()
    assert federate(home, Turns(), **PLAIN, public_source=guest).public.x.shape == (10, 4)


def test_what_does_not_go_together_says_what_to_choose(tmp_path: Path) -> None:
    ward = {"categorical": ["ward"]}
    ours = csv(tmp_path / "ours.csv", "age,ward,ill\n30,A,0\n40,B,1\n", **ward)
    fewer = csv(tmp_path / "fewer.csv", "size,ill\n30,0\n40,1\n")
    others = csv(tmp_path / "others.csv", "age,ward,ill\n30,A,0\n40,Z,1\n", **ward)
    photos, one = images(noise(2, 3, 4, 4)), torch.arange(1)
    with pytest.raises(DataError, match=r"expected images like the dataset, found a table; choose images of any kind"):
        adopt(ours, photos, one)
    with pytest.raises(DataError, match=r"expected a table like the dataset, found images; choose a table with the"):
        adopt(photos, ours, one)
    with pytest.raises(DataError, match=r"numeric age and 1 categorical, found numeric size and 0 categorical"):
        adopt(fewer, ours, one)
    with pytest.raises(DataError, match=r"of categorical column 1 one of A, B, found Z;"):
        adopt(others, ours, one)
    with pytest.raises(DataError, match=r"expected rows of shape \(2,\), found \(1,\)"):
        adopt(fewer, replace(ours, encoder=GREY), one)
    with pytest.raises(DataError, match=r"1 or 3 channels, or of shape \(3, 4, 4\) .*, found \(2, 4, 4\)"):
        adopt(images(noise(2, 2, 4, 4)), photos, one)


def photograph(file: Path, width: int, height: int) -> str:
    """Red grows to the right and green downwards, so that a crop tells where it was cut."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    Image.fromarray(np.stack([red, green, red * 0], axis=2).astype(np.uint8)).save(file)
    return str(file)


def test_crops_lie_all_over_the_image_at_many_scales_and_mirrored_or_not(tmp_path: Path) -> None:
    x = Crops(paths=[photograph(tmp_path / "one.png", 200, 160)], count=400, size=16).load().train.x.float()
    assert x.shape == (400, 3, 16, 16)
    rise = x[:, 0, :, -1].mean(dim=1) - x[:, 0, :, 0].mean(dim=1)
    assert 0.4 < float((rise > 0).float().mean()) < 0.6
    assert bool((x[:, 1, -1].mean(dim=1) > x[:, 1, 0].mean(dim=1)).all()), "never upside down"
    side = rise.abs() * 200 / 255 * 16 / 15
    assert 14 < float(side.min()) < 20
    assert 130 < float(side.max()) < 165
    assert abs(float((side < (16 * 160) ** 0.5).float().mean()) - 0.5) < 0.1, "the median of a log-uniform scale"
    assert float(x[:, 0].min()) < 10
    assert float(x[:, 0].max()) > 245
    assert float(x[:, 1].max()) > 245


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    size=st.integers(1, 30) | st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_crops_of_any_image_have_the_size_asked_for(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, size: int | tuple[int, int]
) -> None:
    file = tmp_path_factory.mktemp("image") / "x.png"
    Image.new("L", (width, height), 77).save(file)
    x = Crops(paths=[str(file)], count=3, size=size).load().train.x
    assert x.shape == (3, 3, *((size, size) if isinstance(size, int) else size))
    assert x.unique().tolist() == [77]


def test_crops_of_the_bundled_photographs_depend_on_the_seed_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = Crops(count=40).load()
    assert source.classes == ("unlabelled",)
    assert source.train.y.tolist() == [0] * 40
    assert source.test is None
    assert source.train.x.shape == (40, 3, 32, 32)
    assert not torch.equal(source.train.x, Crops(count=40, seed=1).load().train.x)
    monkeypatch.setenv("FL_DISTILL_CACHE", str(tmp_path / "elsewhere"))
    code = (
        "import hashlib, sys\nfrom fl_distill.data.sources import Crops\nx = Crops(count=40).load().train.x\n"
        "print(hashlib.sha256(x.numpy().tobytes()).hexdigest(), 'sklearn' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == [hashlib.sha256(source.train.x.numpy().tobytes()).hexdigest(), "False"]


def test_crops_follow_their_files(tmp_path: Path) -> None:
    dark, light = tmp_path / "dark.png", tmp_path / "light.png"
    Image.new("RGB", (50, 50), (10, 10, 10)).save(dark)
    Image.new("RGB", (90, 60), (200, 200, 200)).save(light)
    both = Crops(paths=[str(dark), str(light)], count=100, size=8).load().train.x
    assert both.unique().tolist() == [10, 200]
    assert 25 < int((both[:, 0, 0, 0] == 10).sum()) < 75
    Image.new("RGB", (50, 50), (20, 20, 20)).save(dark)
    assert Crops(paths=[str(dark)], count=100, size=8).load().train.x.unique().tolist() == [20]


def test_photographs_that_cannot_be_used_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"gone.png: expected an image file, found none .*; set dataset.paths"):
        Crops(paths=[str(tmp_path / "gone.png")]).load()
    good = Path(photograph(tmp_path / "good.png", 60, 60)).read_bytes()
    for spoilt in (b"", b"text", good[: len(good) // 2]):
        (tmp_path / "bad.png").write_bytes(spoilt)
        with pytest.raises(DataError, match=r"bad.png: expected a complete image, but it cannot be decoded"):
            Crops(paths=[str(tmp_path / "bad.png")]).load()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"expected china.jpg and flower.jpg in the installed scikit-learn"):
        Crops().load()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Crops(paths="one.png"),
        lambda: Crops(paths=[]),
        lambda: Crops(count=0),
        lambda: Crops(count=True),
        lambda: Crops(size=0),
        lambda: Crops(size=None),
        lambda: Crops(size=[1, 2, 3]),
        lambda: Crops(seed=-1),
        lambda: Crops(augment={"zoom": 1}),
        lambda: TensorFile(""),
        lambda: TensorFile("x", classes="cat"),
        lambda: TensorFile("x", mean=[1, 2]),
        lambda: TensorFile("x", std=0.0),
        lambda: TensorFile("x", standardise="never"),
        lambda: TensorFile("x", augment={"crop": -1}),
    ],
)
def test_impossible_settings_are_refused_at_once(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|must name|has no setting"):
        make()


def test_tensors_of_images_arrive_as_written(tmp_path: Path) -> None:
    x, y = noise(60, 3, 5, 4), torch.arange(60) % 3
    path = saved(tmp_path / "images.safetensors", x=x, y=y, more=torch.zeros(1))
    source = TensorFile(path, mean=[0.4, 0.5, 0.6], augment={"crop": 1}).load()
    assert torch.equal(source.train.x, x)
    assert torch.equal(source.train.y, y)
    assert source.classes == ("0", "1", "2")
    assert source.image
    assert source.test is None
    assert TensorFile(path, classes=["a", "b", "c", "d"]).load().classes == ("a", "b", "c", "d")
    federation = federate(source, Turns(), **PLAIN)
    assert federation.input_shape == (3, 5, 4)
    assert federation.augment.crop == 1


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_tables_are_columns(tmp_path: Path, kind: torch.dtype) -> None:
    x = torch.randn(60, 3).to(kind)
    x[3, 1] = torch.nan
    source = TensorFile(saved(tmp_path / "table.safetensors", x=x)).load()
    assert torch.equal(source.train.x.nan_to_num(9), x.double().nan_to_num(9))
    assert source.classes == ("unlabelled",)
    assert source.train.y.tolist() == [0] * 60
    assert not source.image
    federation = federate(source, Turns(), **PLAIN)
    assert federation.input_shape == (4,)
    assert not federation.site(0).train.x.isnan().any()


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"z": torch.zeros(2, 3)}, r"expected a tensor 'x' \(uint8 .*\), found z; rename it"),
        ({"x": torch.zeros(2, 3, 4)}, r"expected 'x' as uint8 images .* found float32 of shape \(2, 3, 4\)"),
        ({"x": torch.zeros(2, 1, 4, 4)}, r"found float32 of shape \(2, 1, 4, 4\); write it again"),
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, r"found int64 of shape \(2, 3\)"),
        ({"x": torch.zeros(0, 3)}, r"at least one row, found float32 of shape \(0, 3\)"),
        ({"x": torch.tensor([[1.0, torch.inf]])}, r"expected finite numbers in 'x', or NaN .*, found infinity"),
        ({"x": torch.zeros(2, 3), "y": torch.zeros(2)}, r"expected 'y' as int64 of shape \(2,\).* found float32"),
        ({"x": torch.zeros(2, 3), "y": torch.arange(3)}, r"one class for each row of 'x', found int64 of shape \(3,\)"),
        ({"x": torch.zeros(2, 3), "y": torch.tensor([-1, 0])}, r"in 'y' from 0 to 1, found -1; correct"),
        ({"x": torch.zeros(2, 3), "y": torch.tensor([0, 2])}, r"in 'y' from 0 to 1, found 2; correct"),
    ],
)
def test_tensors_that_cannot_be_used_are_named(tmp_path: Path, tensors: dict[str, Tensor], sentence: str) -> None:
    path = saved(tmp_path / "x.safetensors", **tensors)
    with pytest.raises(DataError, match=sentence) as caught:
        TensorFile(path, classes=["a", "b"]).load()
    assert str(caught.value).startswith(path)


def test_settings_that_do_not_fit_the_tensors_are_named(tmp_path: Path) -> None:
    grey = saved(tmp_path / "grey", x=noise(2, 1, 4, 4))
    with pytest.raises(DataError, match=r"one number in dataset.std, or one for each of 1 channels, found 3"):
        TensorFile(grey, std=[0.1, 0.2, 0.3]).load()
    table = saved(tmp_path / "table", x=torch.zeros(2, 3))
    with pytest.raises(DataError, match=r"holds a table, which has no images: dataset.augment must be off"):
        TensorFile(table, augment={"flip": True}).load()


def test_a_damaged_or_missing_file_of_tensors_is_named(tmp_path: Path) -> None:
    whole = Path(saved(tmp_path / "whole", x=torch.zeros(20, 3))).read_bytes()
    for spoilt in (b"", b"{}", whole[: len(whole) // 2], whole[::-1], os.urandom(200)):
        (tmp_path / "bad").write_bytes(spoilt)
        with pytest.raises(DataError, match=r"bad: expected a safetensors file, but it cannot be read"):
            TensorFile(str(tmp_path / "bad")).load()
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(DataError, match=r"expected a safetensors file, but it cannot be read .*set dataset.path"):
            TensorFile(str(path)).load()
