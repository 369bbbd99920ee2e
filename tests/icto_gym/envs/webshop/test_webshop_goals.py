"""Loading: recorded prices, ceilings, goals and their order; raw fields as the original reads them."""

import json
from pathlib import Path

import pytest

from icto_gym.envs.webshop.catalog import build_catalog
from icto_gym.envs.webshop.raw import iter_array, load_catalog, raw_files
from icto_gym.errors import ConfigError, DataError

pytestmark = pytest.mark.webshop


def item(**fields):
    return {
        "asin": "B000000001", "name": "Oak Desk", "full_description": "A desk.", "small_description": ["oak"],
        "pricing": "$10.00", "category": "garden", "query": "desks", "product_category": "Home › Desks",
        "customization_options": None, "images": ["u"], **fields,
    }  # fmt: skip


def one(**fields):
    return next(iter(build_catalog([item(**fields)], {}, {}).products.values()))


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("kind", ["human", "synthetic"])
def test_goals_prices_and_order_are_the_recorded_ones(webshop_recordings, kind):
    folder = str(webshop_recordings / "catalogue")
    for case in read(webshop_recordings, "goals.json")[kind]:
        catalog = load_catalog(folder, kind, case["num_products"], case["seed"])
        assert len(catalog.goals) == case["n_goals"]
        if "product_prices" in case:
            assert catalog.prices == case["product_prices"]
        order = case.get("order_after_shuffle") or case["order_after_shuffle_first_200"]
        if "goals" in case:
            assert [goal.record() for goal in catalog.goals] == [case["goals"][i] for i in order]
        if "price_uppers" in case:
            assert [goal.price_upper for goal in catalog.goals] == [case["price_uppers"][i] for i in order]
        for asin, upper in case.get("price_upper_per_asin", {}).items():
            assert {goal.price_upper for goal in catalog.goals if goal.asin == asin} <= {upper}


def test_raw_prices_are_read_as_recorded(webshop_recordings):
    for case in read(webshop_recordings, "functions.json")["pricing"]:
        if "error" in case:
            with pytest.raises(DataError, match=r"record 0 \(B000000001\).*pricing"):
                one(pricing=case["in"])
        else:
            product, expected = one(pricing=case["in"]), case["result"]
            assert (list(product.pricing), product.price_text) == (expected["pricing"], expected["Price"])


def test_raw_options_are_read_as_recorded(webshop_recordings):
    for case in read(webshop_recordings, "functions.json")["customization_options"]:
        if "error" in case:
            with pytest.raises(DataError, match=r"record 0 \(B000000001\), option 's'.*value"):
                one(customization_options=case["in"])
        else:
            found = one(customization_options=case["in"]).options
            assert {name: list(values) for name, values in found.items()} == case["result"]["options"]


def test_other_fields_are_read_as_recorded(webshop_recordings):
    recorded = read(webshop_recordings, "functions.json")
    for case in recorded["small_description"]:
        assert list(one(small_description=case["in"]).bullets) == case["result"]
    for case in recorded["query_norm"]:
        assert one(query=case["in"]).query == case["result"]
    for case in recorded["kept_products"]:
        assert len(build_catalog([item(asin=case["asin"])], {}, {}).products) == case["result"]
    assert list(one().attributes) == recorded["default_attributes"]["result"]


def test_equal_arguments_share_one_catalogue(webshop_recordings):
    folder = str(webshop_recordings / "catalogue")
    assert load_catalog(folder, "human", None, 3) is load_catalog(folder, "human", None, 3)
    assert load_catalog(folder, "human", None, 3) is not load_catalog(folder, "human", None, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": None}, r"record 1 \(B000000002\): field 'name' should be a text; found NoneType"),
        ({"name": 5}, "field 'name' should be a text; found int 5"),
        ({"full_description": ["x"]}, "field 'full_description' should be a text"),
        ({"small_description": [1]}, "an entry of the field 'small_description'"),
        ({"pricing": 9.5}, "field 'pricing' should be a text; found float"),
        ({"customization_options": {"size": "8"}}, "option 'size': content should be a list"),
        ({"query": 1}, "field 'query'"),
        ({"category": 1}, "field 'category'"),
    ],
)
def test_a_wrong_type_names_file_record_and_field(fields, message):
    with pytest.raises(DataError, match=message) as caught:
        build_catalog([item(), item(asin="B000000002", **fields)], {}, {})
    assert "items_shuffle.json" in str(caught.value)


def test_missing_fields_and_foreign_records_are_named():
    for name in ("asin", "name", "full_description", "small_description", "category", "query", "product_category"):
        broken = item()
        del broken[name]
        with pytest.raises(DataError, match=f"record 0.*'{name}' is missing"):
            build_catalog([broken], {}, {})
    with pytest.raises(DataError, match="record 0: content should be an object"):
        build_catalog(["text"], {}, {})
    with pytest.raises(DataError, match=r"items_ins_v2.json: record 'B000000001'.*'attributes' should be a list"):
        build_catalog([item()], {"B000000001": {"attributes": "oak"}}, {})
    with pytest.raises(
        DataError, match=r"items_human_ins.json: record 'B000000001', instruction 0.*'instruction_options'"
    ):
        build_catalog([item()], {}, {"B000000001": [{"instruction": "x", "instruction_attributes": ["oak"]}]})
    with pytest.raises(DataError, match=r"items_ins_v2.json: record 'B000000001' is missing; synthetic"):
        build_catalog([item()], {}, {}, goals="synthetic")


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="No folder"):
        load_catalog(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="there is no items_shuffle"):
        load_catalog(str(tmp_path))
    (tmp_path / "items_shuffle_1000.json").write_text('[{"asin": "x"}, {"asin": ')
    with pytest.raises(DataError, match="items_ins_v2"):
        load_catalog(str(tmp_path))
    (tmp_path / "items_ins_v2_1000.json").write_text("{}")
    (tmp_path / "items_human_ins.json").write_text("[]")
    assert [file.name for file in raw_files(tmp_path)][1] == "items_ins_v2_1000.json"
    with pytest.raises(DataError, match=r"items_human_ins.json.*an object"):
        load_catalog(str(tmp_path))
    (tmp_path / "items_human_ins.json").write_text("{}")
    with pytest.raises(DataError, match=r"record 0 \(x\): the field 'name' is missing"):
        load_catalog(str(tmp_path))
    with pytest.raises(DataError, match="record 1 is not valid JSON"):
        list(iter_array(tmp_path / "items_shuffle_1000.json"))


def test_arrays_are_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("icto_gym.files._CHUNK", 7)
    records = [{"a": "x" * n, "b": [n, None, "]"]} for n in range(30)] + [12345678901234, "text, with ] and é", -1.5]
    for indent in (None, 2):
        path = tmp_path / "array.json"
        path.write_text(json.dumps(records, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert list(iter_array(path)) == records
    path.write_text("[]\n ")
    assert list(iter_array(path)) == []
    for more in ('{"b": 2}', "[]", "x" * 50):
        path.write_text('[{"a": 1}]\n' + more)
        with pytest.raises(DataError, match="after the array of 1 products stands more"):
            list(iter_array(path))
    path.write_text('[{"a": 1}, ' + "[" * 200_000)
    with pytest.raises(DataError, match="record 1 is nested too deeply"):
        list(iter_array(path))
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="expected a JSON array"):
        list(iter_array(path))
