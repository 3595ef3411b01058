"""Tables of configuration keys, read from the code: the directive `config-keys` of the documentation.

Keys and defaults come from `add_s4m_config` and `add_istd_config` themselves, comments from their source, and the
values that a key may have from the tables of `s4m.ranges` and `istd.ranges`.
"""

import ast
import importlib
import inspect
import io
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

from detectron2.config import CfgNode, get_cfg
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from d2kit.ranges import DETECTRON2_VALUES


class Key(NamedTuple):
    """A configuration key.

    Attributes:
        name: full name such as "S4M.SD.WEIGHT".
        default: the expression of its default as the source has it; empty for a group of keys.
        comment: what the source says about it; "" for none.
        values: an interval, or the choices; "" for a key that may have any value of its type.
    """

    name: str
    default: str
    comment: str
    values: str


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """Line number -> (text of its comment, whether the line holds nothing else)."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [token for token in tokens if token.type == tokenize.COMMENT]
    return {t.start[0]: (t.string.lstrip("# "), not t.line[: t.start[1]].strip()) for t in found}


def _comment_of(node: ast.stmt, comments: dict[int, tuple[str, bool]]) -> str:
    """The comment above a statement and the one behind it, joined."""
    above: list[str] = []
    line = node.lineno - 1
    while line in comments and comments[line][1]:
        above.insert(0, comments[line][0])
        line -= 1
    behind = comments.get(node.end_lineno, ("", False))[0]
    return " ".join(filter(None, [*above, behind]))


def _chain(node: ast.expr, prefixes: dict[str, str]) -> str | None:
    """Full name of `cfg.S4M.SD` or of `node.SD`, where `prefixes` says what a variable stands for; else None."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in prefixes:
        return None
    return ".".join(filter(None, [prefixes[node.id], *names]))


def _walk(function: str, functions: dict[str, ast.FunctionDef], prefix: str) -> Iterator[tuple[str, ast.Assign]]:
    """The assignments of keys in a function and in those that it calls, with the key's full name."""
    node = functions[function]
    prefixes = {node.args.args[0].arg: prefix}
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            name = None
            for target in statement.targets:
                name = name or (_chain(target, prefixes) if isinstance(target, ast.Attribute) else None)
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    alias = name or _chain(statement.value, prefixes)
                    if alias is not None:
                        prefixes[target.id] = alias
            if name is not None:
                yield name, statement
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            if isinstance(call.func, ast.Name) and call.func.id in functions and call.args:
                inner = _chain(call.args[0], prefixes)
                if inner is not None:
                    yield from _walk(call.func.id, functions, inner)


def read_keys(package: str) -> list[Key]:
    """All keys and groups of keys that a package adds, in the order of its source.

    Args:
        package: "s4m" or "istd".
    """
    module = importlib.import_module(f"{package}.config")
    source = inspect.getsource(module)
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    comments = _comments(source)
    values = getattr(importlib.import_module(f"{package}.ranges"), f"{package.upper()}_VALUES")
    table = {**DETECTRON2_VALUES, **values}
    keys = []
    for name, statement in _walk(f"add_{package}_config", functions, ""):
        value = statement.value
        is_group = isinstance(value, ast.Call) and ast.unparse(value.func) in ("CN", "CfgNode")
        allowed = table.get(name, "")
        allowed = allowed if isinstance(allowed, str) else ", ".join(f'"{choice}"' for choice in allowed)
        keys.append(Key(name, "" if is_group else ast.unparse(value), _comment_of(statement, comments), allowed))
    return keys


def added_keys(package: str) -> set[str]:
    """Names of the keys, groups left out, by which the configuration grows when the package adds its keys."""
    cfg = get_cfg()
    before = set(_leaves(cfg))
    getattr(importlib.import_module(f"{package}.config"), f"add_{package}_config")(cfg)
    return set(_leaves(cfg)) - before


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def markdown_table(keys: list[Key]) -> list[str]:
    """Lines of a Markdown table: key, default, values, comment; a group is a line of its own in bold."""
    lines = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for key in keys:
        comment = key.comment.replace("|", r"\|").replace("<", r"\<").replace("*", r"\*")
        if key.default:
            values = f"`{key.values}`" if key.values else ""
            lines.append(f"| `{key.name}` | `{key.default}` | {values} | {comment} |".replace("``", "` `"))
        elif comment:
            lines.append(f"| **{key.name}** | | | {comment} |")
    return lines


class ConfigKeys(SphinxDirective):
    """`config-keys` with the name of a package puts the table of its keys there."""

    required_arguments = 1

    def run(self) -> list:
        """The nodes of the table."""
        package = self.arguments[0]
        table = nodes.container()
        lines = StringList(markdown_table(read_keys(package)), source=f"{package}/config.py")
        self.state.nested_parse(lines, self.content_offset, table)
        return table.children


def setup(app) -> dict:
    """Add the directive."""
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}
