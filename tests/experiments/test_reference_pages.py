import re

import pytest

from tf4ctr.experiments.choices import CONF, choice_names, read_choice, read_groups
from tf4ctr.experiments.reference_pages import DOCS, PAGES, PARTS, _prose, write_pages

pytest.importorskip("griffe", reason="needs the extra docs")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages as they are made now, by name."""
    folder = tmp_path_factory.mktemp("docs")
    write_pages(folder)
    return {name: (folder / name).read_text() for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_current(name, pages):
    assert (DOCS / name).read_text() == pages[name], f"run make docs, and commit docs/{name}"


def test_every_choice_and_every_option_is_on_the_page_of_options(pages):
    text = pages["config-reference.md"]
    for group in read_groups("train"):
        section = text.partition(f"\n### {group.name}\n")[2].partition("\n### ")[0]
        for name in choice_names(group.name):
            assert re.search(rf"^\| \[?`{name}`(\]\(models.md#{group.name}-{name}\))?( \(default\))? \|", section, re.M)
            for value in read_choice(group.name, name).values:
                assert f"{value.key.rpartition('.')[2]}" in section
        defaults = re.findall(r"^\| \[?`(\S+)`\S* \(default\)", section, re.MULTILINE)
        assert defaults == ([group.default] if group.default else [])
    for path in CONF.glob("*.yaml"):
        assert re.search(rf"^#+ {path.stem}\.py$", text, re.MULTILINE)


def test_every_part_of_a_model_is_in_the_zoo(pages):
    text = pages["models.md"]
    for group in PARTS:
        for name in choice_names(group):
            assert f"\n### {name} {{#{group}-{name}}}\n" in text
    both, one = text.partition("## Backbones for plain only")[::2]
    for name in choice_names("backbone"):
        encoders = [part for part in read_choice("backbone", name).sets if part.startswith("encoder@")]
        assert f"| `{name}` |" in (both if len(encoders) == 2 else one.partition("## Letters")[0])
    assert not {link for link in re.findall(r"\]\(#([\w-]+)\)", text) if f"{{#{link}}}" not in text}


def test_equations_and_options_come_from_docstrings(pages):
    text = pages["models.md"]
    fm = text.partition("{#encoder-fm}")[2].partition("\n### ")[0]
    assert "(Rendle, ICDM 2010)" in fm
    assert r"y = b + sum_f w\[x_f\] + sum_(f &lt; g) &lt;e_f, e_g>." in fm
    # an option without a comment in the yaml, one whose text is in another module, and a layer
    assert "| `neurons` | `100` | J |" in text
    assert "| `hidden_units` | `[400,400,400]` | width of each layer |" in text.partition("{#encoder-mlp}")[2]
    assert "`FusionCrossLayer`:" in text
    assert (
        "| `callbacks.lr_plateau.factor` | `0.1` | the learning rate is multiplied by it |"
        in pages["config-reference.md"]
    )


def test_signs_of_markdown_are_escaped_outside_of_code():
    assert _prose("a * b_c <d|e> `f*g` (_h)") == r"a \* b_c &lt;d&#124;e> `f*g` (\_h)"
    assert _prose("see docs/days.md") == "see [docs/days.md](days.md)"
