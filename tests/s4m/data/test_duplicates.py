from s4m.data.duplicates import find_copies


def write(folder, **contents):
    paths = {}
    for name, content in contents.items():
        paths[name] = str(folder / name)
        (folder / name).write_bytes(content)
    return paths


def test_nothing_makes_no_pair(tmp_path):
    paths = write(tmp_path, a=b"1")
    assert find_copies([], []) == find_copies(paths.values(), []) == find_copies([], paths.values()) == []


def test_same_bytes_make_a_pair_and_equal_sizes_do_not(tmp_path):
    paths = write(tmp_path, a=b"same", b=b"same", c=b"diff", d=b"longer")
    assert find_copies([paths["a"]], [paths["b"], paths["c"], paths["d"]]) == [(paths["a"], paths["b"])]


def test_many_pairs_are_ordered(tmp_path):
    paths = write(tmp_path, a=b"x", b=b"y", c=b"x", d=b"y", e=b"x")
    found = find_copies([paths["b"], paths["a"]], [paths["e"], paths["d"], paths["c"]])
    assert found == [(paths["a"], paths["c"]), (paths["a"], paths["e"]), (paths["b"], paths["d"])]


def test_a_path_in_both_sets_is_a_pair(tmp_path):
    path = write(tmp_path, a=b"x")["a"]
    assert find_copies([path], [path]) == [(path, path)]
