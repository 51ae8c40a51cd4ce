"""The families' members: their tags and licences in timm, and the page that lists them."""
import pytest
import timm

from benchmarks.networks import table
from config import BACKBONES
from modeling.licences import CLASSES, class_of, sentence
from tests.test_readme import read

LICENCES = {timm.get_pretrained_cfg(name).license or "" for name in timm.list_pretrained()}
MEMBERS = [name for names in BACKBONES.values() for name in names]


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_has_weights_in_timm_under_the_tag_that_it_names(name):
    cfg = timm.get_pretrained_cfg(name)      # RuntimeError for a tag that timm does not know
    assert cfg.hf_hub_id
    assert name in timm.list_pretrained() or "." not in name


def test_every_licence_of_timms_weights_falls_into_a_class_or_is_named_unknown():
    known = {name for names in CLASSES.values() for name in names}
    assert {name for name in LICENCES if class_of(name) == "unknown"} == {"", "unknown"}
    assert known <= LICENCES      # nothing is listed twice or in vain
    assert sum(map(len, CLASSES.values())) == len(known)


def test_members_are_permissive_but_for_the_one_that_the_page_names():
    loud = [name for name in MEMBERS
            if class_of(timm.get_pretrained_cfg(name).license or "") != "permissive"]
    assert loud == ["resnext101_32x32d"]


@pytest.mark.parametrize(("licence", "begins"), [
    ("mit", ""), ("cc-by-nc-sa-4.0", "NOT FOR COMMERCIAL USE"), ("apple-amlr", "NOT FOR"),
    ("fair-noncommercial-research-license", "NOT FOR"), ("dinov3-license", "TERMS TO READ"),
    ("", "LICENCE UNKNOWN: timm records no licence"), ("my-own", "LICENCE UNKNOWN")])
def test_each_class_of_licence_has_its_sentence(licence, begins):
    said = sentence("x", licence)
    assert said.startswith(begins)
    assert bool(said) == bool(begins)


def test_the_page_of_networks_has_the_table_that_the_code_makes():
    page = read("docs/networks.md")
    assert "\n".join(table()) in page
