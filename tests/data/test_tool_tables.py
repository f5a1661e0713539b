"""Tables that programs write of faces and sound: OpenFace, py-feat, LibreFace, openSMILE, Praat, and what is broken."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conki_cli.data.preparation import Preparation, prepare
from conki_cli.data.raw import face_tables
from conki_cli.data.sources.clip_files import ClipFiles, look_into_folder
from conki_cli.data.sources.request import Options, no_progress
from conki_cli.data.store.reading import FeatureStore
from conki_cli.system.errors import SourceError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

OPENFACE = "frame, face_id, timestamp, confidence, success, gaze_0_x, AU01_r\n"
PYFEAT = "FaceRectX,FaceRectWidth,FaceScore,AU01,happiness,Identity_1,input,frame,approx_time,Identity\n"
LIBREFACE = "frame_idx,frame_time_in_ms,lm_mp_0_x,au_1,au_12_intensity,facial_expression\n"
ARFF = "@relation smile\n\n@attribute name string\n@attribute frameTime numeric\n@attribute F0 numeric\n"
ARFF += "@attribute 'shimmer local' numeric\n@attribute class numeric\n\n@data\n\n"


def looked(folder: Path, text: str, name: str = "v$_$1.csv") -> ClipFiles:
    (folder / name).write_text(text)
    return look_into_folder(folder, "vision", no_progress)


def values(folder: Path, text: str, name: str = "v$_$1.csv") -> npt.NDArray[Any]:
    file = looked(folder, text, name).frames["v$_$1"]
    found = np.asarray(file)
    assert found.shape == file.shape
    return found


def test_frames_in_which_openface_failed_are_zeros_and_the_last_column_says_so(tmp_path: Path) -> None:
    text = OPENFACE + "1, 0, 0.000, 0.98, 1, 0.5, 1.25\n2, 0, 0.033, 0.02, 0, 0.75, 2.5\n3, 0, 0.066, 0.9, 1, -1, 0\n"
    assert values(tmp_path, text).tolist() == [[0.5, 1.25, 1], [0, 0, 0], [-1, 0, 1]]
    found = looked(tmp_path, text)
    assert found.frames["v$_$1"].layout is not None
    assert found.frames["v$_$1"].layout.names == ("gaze_0_x", "AU01_r", "success")
    left_out, unseen = found.remarks
    assert left_out.endswith("not features: frame, face_id, timestamp, confidence")
    assert "tables of OpenFace: in 1 of 3 frames no face was found" in unseen


def test_of_several_faces_the_one_in_most_frames_is_read_and_keeps_its_time(tmp_path: Path) -> None:
    rows = ["1, 0, 0, 1, 1, 10, 1", "1, 1, 0, 1, 1, 20, 2", "2, 0, 0, 1, 0, 11, 1", "2, 1, 0, 1, 1, 21, 2"]
    text = OPENFACE + "\n".join([*rows, "3, 0, 0, 1, 1, 12, 1", "4, 1, 0, 1, 1, 23, 2"]) + "\n"
    assert values(tmp_path, text).tolist() == [[20, 2, 1], [21, 2, 1], [0, 0, 0], [23, 2, 1]]
    assert looked(tmp_path, text).notes == (
        f"1 tables in {tmp_path.name} have several faces: the one in most frames was read, the first of equal ones "
        "(such as '1', in 3 of 4 frames)",
    )


def test_of_faces_that_are_seen_equally_often_the_first_is_read(tmp_path: Path) -> None:
    text = OPENFACE + "1, 7, 0, 1, 1, 10, 1\n1, 3, 0, 1, 1, 20, 2\n"
    assert values(tmp_path, text).tolist() == [[10, 1, 1]]


def test_a_table_of_py_feat_is_read_with_the_frames_that_it_missed(tmp_path: Path) -> None:
    rows = ['5,40,0.99,0.5,0.1,9,"/a,b/c.mp4",0,00:00,Person_0', ",,,,,,/a/c.mp4,1,00:00,Person_0"]
    text = PYFEAT + "\n".join([*rows, "7,40,0.98,0.25,0.2,9,/a/c.mp4,2,00:01,Person_0"]) + "\n"
    assert values(tmp_path, text).tolist() == [[5, 40, 0.5, 0.1, 1], [0, 0, 0, 0, 0], [7, 40, 0.25, 0.2, 1]]


def test_an_old_table_of_py_feat_that_names_nobody_gives_the_first_row_of_each_frame(tmp_path: Path) -> None:
    text = "FaceRectX,FaceScore,AU01,frame\n5,0.9,1,0\n80,0.8,2,0\n6,0.9,3,1\n"
    assert values(tmp_path, text).tolist() == [[5, 1, 1], [6, 3, 1]]


def test_a_row_that_openface_would_have_written_is_a_frame_without_a_face_and_a_warning(tmp_path: Path) -> None:
    text = OPENFACE + "".join(f"{frame}, 0, 0, 0.9, 1, {frame}, 0\n" for frame in (3, 4, 6))
    assert values(tmp_path, text).tolist() == [[3, 0, 1], [4, 0, 1], [0, 0, 0], [6, 0, 1]]
    assert looked(tmp_path, text).notes == (
        f"rows are missing between the frames of 1 table in {tmp_path.name} (such as v$_$1.csv, 1 of 4 frames): these "
        "became frames without a face; if rows were lost, extract the clip again",
    )


def test_frames_that_libreface_leaves_out_and_that_py_feat_skips_are_no_warning(tmp_path: Path) -> None:
    libreface = "frame_idx,frame_time_in_ms,pitch,au_1,au_1_intensity,facial_expression,gaze_yaw\n"
    libreface += "".join(f"{frame},0,{frame},0,1,Neutral,0.5\n" for frame in (0, 1, 4))
    assert values(tmp_path, libreface)[:, 0].tolist() == [0, 1, 0, 0, 4]
    assert values(tmp_path, libreface)[:, -1].tolist() == [1, 1, 0, 0, 1]
    assert looked(tmp_path, libreface).notes == ()
    skipped = "FaceRectX,FaceScore,AU01,frame\n5,0.9,1,0\n6,0.9,3,10\n6,0.9,4,20\n"
    assert values(tmp_path, skipped)[:, 1].tolist() == [1, 3, 4]
    assert looked(tmp_path, skipped).notes == ()


def test_a_table_that_libreface_writes_of_a_picture_is_read_without_the_word_in_it(tmp_path: Path) -> None:
    text = "facial_expression,gaze_yaw,pitch,lm_mp_0_x,au_1,au_1_intensity\nNeutral,0.5,2,0.25,1,3\n"
    assert values(tmp_path, text).tolist() == [[0.5, 2, 0.25, 1, 3, 1]]


def test_py_feat_names_nobody_where_it_sees_nobody_and_this_is_no_second_face(tmp_path: Path) -> None:
    text = "FaceRectX,FaceScore,AU01,frame,Identity\n5,0.9,1,0,Person_0\n,0.0,,1,\n6,0.9,3,2,Person_0\n"
    assert values(tmp_path, text).tolist() == [[5, 1, 1], [0, 0, 0], [6, 3, 1]]
    assert looked(tmp_path, text).notes == ()
    nameless = "FaceRectX,FaceScore,AU01,frame,Identity\n5,0.9,1,0,\n80,0.8,2,0,\n6,0.9,3,1,\n"
    assert values(tmp_path, nameless).tolist() == [[5, 1, 1], [6, 3, 1]]


def test_a_table_of_libreface_is_read_without_the_words_in_it(tmp_path: Path) -> None:
    text = LIBREFACE + "0,0.0,0.5,1,2.5,Happiness\n1,33.3,,,,\n2,66.7,0.25,0,0,Neutral\n"
    assert values(tmp_path, text).tolist() == [[0.5, 1, 2.5, 1], [0, 0, 0, 0], [0.25, 0, 0, 1]]


def test_an_arff_file_of_opensmile_is_read_without_name_time_and_class(tmp_path: Path) -> None:
    text = ARFF + "'a,b',0.0,120.5,0.25,?\n'a,b',0.01,?,0.5,?\n"
    found = looked(tmp_path, text, "v$_$1.arff").frames["v$_$1"]
    np.testing.assert_array_equal(np.asarray(found), [[120.5, 0.25], [np.nan, 0.5]])
    assert found.layout is not None
    assert found.layout.names == ("F0", "shimmer local")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("time(s)\tF1(Hz)\tF2(Hz)\n0.025\t500\t--undefined--\n0.03\t510\t1500\n", [[500, np.nan], [510, 1500]]),
        ("Time_s   F0_Hz\n0.02   --undefined--\n0.03   117.5\n", [[np.nan], [117.5]]),
        ("Time (s)   Intensity (dB)\n0.02   61.5\n0.03   62\n", [[61.5], [62]]),
        ("rowLabel\ttmin\tF0\n1\t0.0\t99\n2\t0.01\t101\n", [[99], [101]]),
    ],
    ids=["formants", "pitch", "intensity", "table"],
)
def test_a_table_of_praat_is_read_without_its_times(tmp_path: Path, text: str, expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(values(tmp_path, text, "v$_$1.txt"), expected)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("v.csv", OPENFACE, ""),
        ("v.csv", OPENFACE + "1, 0, 0, 0.9, 1, 0.5\n", "line 2 must have 7 cells like the first line, found 6"),
        ("v.csv", OPENFACE + "1, 0, 0, 0.9, 1, 0.5, x\n", "line 2, column 7 must be a number, found 'x'"),
        ("v.csv", OPENFACE + "1, 0, 0, 0, 1, 1, 1\n1, 0, 0, 0, 1, 1, 1\n", "has two rows for frame 1: write one clip"),
        (
            "v.csv",
            OPENFACE + "1, 0, 0, 0, 2, 1, 1\n",
            "must have 0 or 1 in the column success, found '2' in row 1: extract it again",
        ),
        ("v.csv", OPENFACE + "1, 0, 0, 0, yes, 1, 1\n", "column success, found 'yes' in row 1"),
        ("v.csv", OPENFACE[:-1] + ", AU01_r\n", "every column of OpenFace once, found 'AU01_r' 2 times: extract the"),
        ("v.csv", OPENFACE[:-1] + ", success\n", "every column of OpenFace once, found 'success' 2 times"),
        (
            "v.csv",
            OPENFACE + "1,0,0,0,1,1,1\n2,0,0,0,1,1,1\n9000000,0,0,0,1,1,1\n",
            "found 1 to 9000000 in 3 rows: extract",
        ),
        ("v.csv", "frame,confidence,success\n1,1,1\n", "must have columns of features, found only frame, confidence"),
        ("v.arff", "@relation a\n@attribute x numeric\n", "must have a line @data, found none: it may be truncated"),
        ("v.arff", "@relation a\n@data\n1\n", "must have a line @attribute, found none"),
        ("v.arff", ARFF + "'a',0,1\n", "line 11 must have 5 cells like the first line, found 3"),
        (
            "v.arff",
            ARFF + "{0 1, 2 5}\n",
            "line 11 is a row of a sparse ARFF file, {...}, which is not read: save it with all",
        ),
        ("v.txt", 'File type = "ooTextFile"\nObject class = "Pitch 1"\n', "is a Praat object: it must be a table"),
    ],
)
def test_a_broken_table_of_a_tool_is_one_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    if not said:
        assert looked(tmp_path, text, name).frames == {}
        return
    with pytest.raises(SourceError) as error:
        np.asarray(looked(tmp_path, text, name).frames["v"])
    assert str(tmp_path / name) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_tables_with_faces_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_tables, "_MOST_FACES", 2)
    with pytest.raises(SourceError, match=r"v\$_\$1.csv has more than 2 faces: write one face per clip"):
        looked(tmp_path, OPENFACE + "".join(f"{n}, {n}, 0, 1, 1, 0, 0\n" for n in range(5)))


def test_tables_of_faces_and_sound_become_a_store_joined_by_file_name(tmp_path: Path) -> None:
    lines = ["video_id,clip_id,text,label,mode"]
    for folder in ("openface", "smile"):
        (tmp_path / folder).mkdir()
    for number, mode in enumerate(("train", "valid", "test")):
        lines.append(f"v{number},1,good film,{number},{mode}")
        rows = f"1, 0, 0, 0.9, 1, {number}, 2\n2, 0, 0, 0.1, 0, 9, 9\n"
        (tmp_path / "openface" / f"v{number}_1.csv").write_text(OPENFACE + rows)
        (tmp_path / "smile" / f"v{number}_1.arff").write_text(ARFF + f"'x',0.0,{100 + number},0.5,?\n")
    (tmp_path / "label.csv").write_text("\n".join(lines) + "\n")
    options = Options(overrides={"vision": tmp_path / "openface", "audio": tmp_path / "smile"})
    task = Preparation("talks", Workspace(tmp_path), tmp_path / "label.csv", score_range=(-3, 3), options=options)
    with FeatureStore(prepare(task, Observer())) as store:
        assert store.split("test").frames["vision"][0].tolist() == [[2, 2, 1], [0, 0, 0]]
        assert store.split("valid").frames["audio"][0].tolist() == [[101, 0.5]]


def test_a_folder_with_an_array_per_clip_as_merbench_has_is_joined_by_file_name(tmp_path: Path) -> None:
    folder = tmp_path / "features" / "clip-vit-base-FRA"
    folder.mkdir(parents=True)
    for number in range(3):
        np.save(folder / f"samplenew3_0000000{number}.npy", np.full((2 + number, 3), number, dtype=np.float32))
    found = look_into_folder(folder, "vision", no_progress)
    assert {name: file.shape for name, file in found.frames.items()} == {
        f"samplenew3_0000000{number}": (2 + number, 3) for number in range(3)
    }
