"""A trajectory as a film: ẑ(x, y), ŵ(x, u) and the loss, one frame per snapshot."""

from __future__ import annotations

import importlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bbdfield.errors import InputError
from bbdfield.files import write_bytes
from bbdfield.model.run import Run
from bbdfield.plotting import style
from bbdfield.plotting.curves import TrainingCurve, draw_loss
from bbdfield.plotting.fields import Channel, draw_plane, plane, require_snapshots, trajectory_title
from bbdfield.plotting.records import as_argument, as_text, record_of

#: 1120 x 448 pixels, multiples of 16 as video codecs want them
SIZE, DPI = (11.2, 4.48), 100


@style.styled
def trajectory_frames(run: Run, *, channel: Channel = 0, sample: int = 0) -> tuple[Figure, Callable[[int], None]]:
    """The figure of a film and the function that shows a snapshot in it; scales stay fixed over the film."""
    require_snapshots(run)

    def planes(i: int) -> list[np.ndarray]:
        return [plane(run, quantity, i, sample=sample, channel=channel).values for quantity in ("z", "w")]

    limits = [0.0, 0.0]
    for i in range(run.t.size):
        limits = [max(limit, float(np.abs(values).max())) for limit, values in zip(limits, planes(i), strict=True)]
    figure = style.new_figure(*SIZE)
    meshes = []
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
    for ax, quantity, limit in zip(axes, ("z", "w"), limits, strict=False):
        content = plane(run, quantity, 0, sample=sample, channel=channel)
        meshes.append(draw_plane(ax, content, limit or 1.0))
        bar = figure.colorbar(meshes[-1], ax=ax, orientation="horizontal", aspect=30)
        bar.set_label(f"{content.symbol}, {content.component}")
    draw_loss(axes[2], [TrainingCurve.of(run, "training loss")])
    marker = axes[2].axvline(run.t[0], color=style.DARK, linewidth=1.2)
    clock = axes[2].set_title("")
    figure.suptitle(trajectory_title(run))

    def show(i: int) -> None:
        for mesh, values in zip(meshes, planes(i), strict=True):
            mesh.set_array(values.T)
        marker.set_xdata([run.t[i], run.t[i]])
        clock.set_text(f"$t$ = {run.t[i]:.4g}")

    show(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # or the panels would move between frames
    return figure, show


@style.styled
def animate_trajectory(
    run: Run, out: str | Path, *, channel: Channel = 0, sample: int = 0, frames_per_second: int = 8
) -> Path:
    """Write the film of a trajectory as .gif, or as .mp4 where imageio with ffmpeg is installed.

    Its comment is the record of the trajectory, see `bbdfield.plotting.records`.

    Raises
    ------
    InputError
        for another suffix, a missing imageio-ffmpeg, a path that cannot be written, or a run without snapshots.
    """
    out = Path(out)
    suffix = out.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise InputError(f"{out}: a film is written as .gif or .mp4; choose one of these suffixes")
    if suffix == ".mp4":
        _require_ffmpeg(out)
    figure, show = trajectory_frames(run, channel=channel, sample=sample)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DPI)

    def frames() -> Iterator[np.ndarray]:
        for i in range(run.t.size):
            show(i)
            canvas.draw()
            yield np.asarray(canvas.buffer_rgba())[..., :3].copy()

    record = record_of(run)
    if suffix == ".gif":
        write_bytes(out, _gif(frames(), frames_per_second, as_text(record)))
    else:
        write_bytes(out, _mp4(out, frames(), frames_per_second, as_argument(record)))
    return out


def _gif(frames: Iterator[np.ndarray], frames_per_second: int, comment: str) -> bytes:
    from PIL import Image

    images = [Image.fromarray(frame).quantize(256, kmeans=1, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=[*([round(1000 / frames_per_second)] * (len(images) - 1)), 1500],
        loop=0,
        comment=comment.encode("ascii"),
    )
    return buffer.getvalue()


def _require_ffmpeg(out: Path) -> None:
    try:
        importlib.import_module("imageio.v2")
        importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"{out}: mp4 needs imageio with ffmpeg: pip install 'bbdfield[video]', or write a .gif"
        ) from error


def _mp4(out: Path, frames: Iterator[np.ndarray], frames_per_second: int, comment: str) -> bytes:
    import imageio.v2

    # Without the encoder's own name and version, equal films are equal bytes.
    options = ["-metadata", f"comment={comment}", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            film = Path(folder) / "film.mp4"
            with imageio.v2.get_writer(
                film, format="FFMPEG", fps=frames_per_second, codec="libx264", output_params=options
            ) as writer:
                for frame in frames:
                    writer.append_data(frame)
            return film.read_bytes()
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({' '.join(str(error).split())[:120]})") from error
