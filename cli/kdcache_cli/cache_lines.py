"""What a cache holds, in lines of a name and a text each."""

from typing import Any

from kdcache.runtime.wording import counted, human_bytes, percent_done
from kdcache_cli.output import codec_error_text, coverage_lines


def cache_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what `info` prints of what `kdcache.tools.info.describe` tells."""
    manifest = result["manifest"]
    made_by = manifest["made_by"]
    recipe = manifest["recipe"]
    teacher = manifest["teacher"]
    return [
        ("task", _task_text(manifest)),
        ("source", _source_text(manifest)),
        *_subset_lines(manifest),
        *_stored_views_lines(manifest),
        ("recipe", f"{recipe['name']} ({recipe['fingerprint'][:12]})"),
        ("teacher", f"{teacher['spec']} ({teacher['sha256'][:12]})"),
        ("codec", _codec_text(result["codec"], made_by)),
        ("store", _store_text(manifest)),
        *coverage_lines(result),
        ("units", _units_text(result)),
        ("bytes", _bytes_text(result)),
        *_absent_lines(result),
        ("made", _made_text(made_by)),
        *_origin_lines(made_by),
    ]


def _task_text(manifest: dict[str, Any]) -> str:
    classes = counted(manifest["classes"], "class")
    return f"{manifest['task']}, {classes}{_maps_text(manifest)}"


def _maps_text(manifest: dict[str, Any]) -> str:
    """Return what maps or other positions a view has; nothing for classification."""
    if manifest.get("positions"):
        return f", {_positions_text(manifest['positions'])}"
    if not manifest.get("sites"):
        return ""
    heads, height, width = manifest["sites"]
    maps = f"a {height}x{width} map"
    if heads > 1:
        maps = f"{height}x{width} maps of {heads} heads"
    return f", {maps} at stride {manifest['teacher']['stride']}"


def _positions_text(positions: dict[str, Any]) -> str:
    parts: list[str] = []
    for name, value in positions.items():
        if name != "kind" and value != "":
            parts.append(f"{name} {value}")
    return f"{positions['kind']} of {', '.join(parts)}"


def _source_text(manifest: dict[str, Any]) -> str:
    source = manifest["source"]
    text = f"{source['spec']}, {manifest['rows']} samples"
    if "contents" in source:
        text += ", with content digests"
    return text


def _subset_lines(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    part = manifest.get("samples")
    if not part:
        return []
    return [("samples", f"{part['count']:,} of {manifest['rows']:,}")]


def _stored_views_lines(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    views = manifest.get("views")
    if not views:
        return []
    return [("views", f"stored, of {counted(views['seeds'], 'seed')}")]


def _codec_text(codec: str, made_by: dict[str, Any]) -> str:
    """Return the spec of a codec, and what it does to DIST's gradient, if that was measured."""
    return codec + codec_error_text(made_by.get("gradient_error", {}))


def _store_text(manifest: dict[str, Any]) -> str:
    """Return how units are stored."""
    text = str(manifest.get("store", "zarr"))
    if text != "webdataset":
        return text
    if manifest.get("has_images"):
        text += ", with images"
    seeds = counted(manifest.get("seeds_per_unit", 1), "seed")
    return f"{text}, {seeds} to a tar"


def _units_text(result: dict[str, Any]) -> str:
    done = result["units_done"]
    total = result["units_asked"]
    share = str(done)
    if done != total:
        share = f"{done} of {total} ({percent_done(done, total)})"
    rows = counted(result["manifest"]["unit_rows"], "row")
    return f"{share}, of {rows} each"


def _bytes_text(result: dict[str, Any]) -> str:
    size = human_bytes(result["bytes"])
    if result["units"]:
        size += f", {result['bytes_per_view']:.1f} per view"
    return size


def _absent_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    is_partial = result["absent_of"] < result["units"]
    if not result["absent"] and not is_partial:
        return []
    views = counted(result["absent"], "view")
    text = f"{views} whose sample cannot be read"
    if result["manifest"].get("views"):
        text = f"{views} that have no labels"
    if is_partial:
        units = counted(result["absent_of"], "unit")
        text += f" in {units} that were looked at"
    return [("absent", f"{text}; --absent lists them")]


def _made_text(made_by: dict[str, Any]) -> str:
    version = made_by.get("versions", {}).get("kdcache", "of an unknown version")
    return f"{made_by.get('created', 'at an unknown time')} with kdcache {version}"


def _origin_lines(made_by: dict[str, Any]) -> list[tuple[str, str]]:
    if imported := made_by.get("imported_from"):
        return [("imported", f"from labels of format {imported['format']}")]
    origin = made_by.get("recoded_from")
    if origin is None:
        return []
    return [("recoded", f"from {_codec_text(origin['codec'], origin['made_by'])}")]
