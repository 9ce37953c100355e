"""A site written as a file is read back as it was."""

from InContextSegLib.training.site.datasets import DataSet, Site, read_site
from InContextSegLib.training.site.file import text_of, write_site


def test_a_site_that_is_written_is_read_back_as_it_was(tmp_path):
    site = Site(
        'Klinik "Süd"\\\n\x7f🫀',
        (
            DataSet("a", images=str(tmp_path / "Bilder ü"), labels=str(tmp_path / "l")),
            DataSet(
                "b",
                table=str(tmp_path / "t.csv"),
                names={"1": "organ", "2": "tumour, large"},
                axis="coronal",
                patient=r"^([^_]+)_\d",
                window=(-160.0, 240.0),
                colour=(0.2, 0.3, 0.5),
            ),
            DataSet("c", images="/x", labels="/y", names={"any": "nucleus"}, window="ct-soft", colour="luminance"),
        ),
        validation_share=0.25,
        seed=7,
    )
    write_site(tmp_path / "site.toml", site)
    assert read_site(tmp_path / "site.toml") == site


def test_only_what_is_not_as_usual_is_written_of_a_data_set():
    text = text_of(Site("s", (DataSet("a", images="/i", labels="/l"),)))
    assert text.split("[[datasets]]")[1].split() == ["name", "=", '"a"', "images", "=", '"/i"', "labels", "=", '"/l"']
