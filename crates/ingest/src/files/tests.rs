//! Files in every shape: discovery, decoding, what does not fit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use catchment_core::Position;
use catchment_sql::{Argument, SessionOptions, Sessions, SqlText};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::sql::sqlparser::tokenizer::Span;
use futures::TryStreamExt;
use proptest::prelude::{any, prop, proptest};

use crate::files::{FileInfo, FileSource, FileStores, ReadFiles, SeenFile, SeenRun};
use crate::{BrokenFile, Limits, Rejects, Source, Standing};

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn source(folder: &Path, path: &str, options: &[(&str, &str)]) -> catchment_core::Result<FileSource> {
    let argument = |name: Option<&str>, value: &str| Argument {
        name: name.map(str::to_owned),
        value: value.to_owned(),
        span: Span::empty(),
    };
    let arguments: Vec<_> = std::iter::once(argument(None, path))
        .chain(options.iter().map(|(name, value)| argument(Some(name), value)))
        .collect();
    let text = SqlText::new("q.sql", "");
    let stores = Arc::new(FileStores::new(folder.to_path_buf(), folder.to_path_buf(), BTreeMap::new()));
    FileSource::open(ReadFiles::parse(&arguments, &stores, &text, Span::empty())?, None)
}

struct Read {
    rows: String,
    rejected: String,
    broken: Vec<BrokenFile>,
}

async fn read(source: &FileSource, columns: &str) -> Read {
    let folder = std::env::temp_dir();
    let sessions =
        Sessions::new(&SessionOptions { memory_bytes: 64 << 20, threads: 2, spill_folder: folder }).unwrap();
    let planner = sessions.planner(catchment_sql::Moment { micros: 0, seed: 0 }).unwrap();
    let (rejects, mut sink) = Rejects::channel();
    let range = source.everything().await.unwrap().unwrap();
    planner.bind("$0", source.read(&range, Arc::clone(&rejects), None).unwrap()).unwrap();
    let text = SqlText::new("q.sql", format!("SELECT {columns} FROM t ORDER BY 1"));
    let query = catchment_sql::parse_single_query(&text).unwrap().bind(&text, &|_| None).unwrap();
    // A logical plan that lives on would hold the sending end of the rejects.
    let plan = planner.physical(&planner.plan(&text, &query).await.unwrap()).await.unwrap();
    let collect = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(rows) = sink.recv().await {
            all.push(rows);
        }
        all
    });
    let rows: Vec<RecordBatch> = planner.run(plan).unwrap().try_collect().await.unwrap();
    let broken = rejects.broken();
    drop((planner, rejects));
    let rejected = collect.await.unwrap();
    Read { rows: table(&rows), rejected: table(&rejected), broken }
}

fn table(rows: &[RecordBatch]) -> String {
    pretty_format_batches(rows).unwrap().to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn json_lines_are_read_strictly_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let lines = [
        r#"{"id":1,"name":"a","at":"2013-01-01T10:00:00Z"}"#,
        r#"{"id":2,"name":7,"at":null}"#,
        r#"{"id":3.5,"name":"c"}"#,
        r#"{"id":4"#,
        r#","name":"d"}"#,
        r#"{"id":5}{"id":6}"#,
        r#"[1]"#,
        "",
        r#"{"name":"g","other":[1,2],"id":8.0}"#,
    ];
    let mut bytes = lines.join("\n").into_bytes();
    bytes.extend_from_slice(b"\n{\"id\":9,\"name\":\"\xff\"}\n");
    write(folder.path(), "in/a.jsonl", &bytes);
    let schema = "id BIGINT, name VARCHAR, at TIMESTAMPTZ";
    let found = read(&source(folder.path(), "in", &[("schema", schema)]).unwrap(), "id, name, at").await;
    assert_eq!(
        found.rows,
        "+----+------+----------------------+
| id | name | at                   |
+----+------+----------------------+
| 1  | a    | 2013-01-01T10:00:00Z |
| 8  | g    |                      |
+----+------+----------------------+"
    );
    for reason in [
        "| 48          |            | column \"name\": number 7 where VARCHAR should be ",
        "| 76          |            | column \"id\": number 3.5 where BIGINT should be ",
        "| 98          |            | invalid JSON: EOF while parsing an object at column 7",
        "| 106         |            | invalid JSON: expected value at column 1",
        "| 119         |            | invalid JSON: trailing characters at column 9 ",
        "| 136         |            | not a JSON object: invalid type: sequence, expected an object",
        "| 177         |            | invalid UTF-8 at byte 16 of the record ",
        r#"{"id":9,"name":"\xFF"}"#,
    ] {
        assert!(found.rejected.contains(reason), "{reason}\n{}", found.rejected);
    }
    let rescued = read(
        &source(folder.path(), "in", &[("schema", schema), ("rescuedDataColumn", "_rescued_data")]).unwrap(),
        "id, name, _rescued_data",
    )
    .await;
    assert!(rescued.rows.contains(r#"| 2  |      | {"name":7} "#), "{}", rescued.rows);
    assert!(rescued.rows.contains(r#"|    | c    | {"id":3.5} "#), "{}", rescued.rows);
    assert!(rescued.rows.contains(r#"| 8  | g    | {"other":[1,2]} "#), "{}", rescued.rows);
}

#[tokio::test]
async fn csv_fields_go_to_their_columns_and_rows_of_another_width_are_kept_apart() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.csv", b"name,id\n\"x, \"\"y\"\"\",1\nz,2,3\nq\nw,two\n\"a\nb\",4\n");
    let found = read(
        &source(folder.path(), "*.csv", &[("schema", "id INT, name VARCHAR, gone DATE")]).unwrap(),
        "id, name, gone",
    )
    .await;
    assert!(found.rows.contains("| 1  | x, \"y\" |      |"), "{}", found.rows);
    assert!(found.rows.contains("| 4  | a      |"), "{}", found.rows);
    for reason in
        ["3 fields where 2 should be", "1 fields where 2 should be", "column \"id\": \"two\" is not INTEGER"]
    {
        assert!(found.rejected.contains(reason), "{reason}\n{}", found.rejected);
    }
    assert!(found.rejected.contains("| a.csv     | 21 "), "{}", found.rejected);
}

#[tokio::test]
async fn schemas_are_inferred() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.csv", b"i,f,d,t,z,s,code,none\n1,2,2013-01-01,2013-01-01 10:00:00,2013-01-01T10:00:00Z,x,007,\n2,2.5,2013-01-02,2013-01-01T10:00:00,2013-01-01T10:00:00Z,1,008,\n");
    let types: Vec<String> = source(folder.path(), "a.csv", &[])
        .unwrap()
        .inferred()
        .unwrap()
        .fields()
        .iter()
        .map(|field| format!("{} {}", field.name(), crate::types::sql_name(field.data_type())))
        .collect();
    assert_eq!(
        types.join(", "),
        "i BIGINT, f DOUBLE, d DATE, t TIMESTAMP, z TIMESTAMPTZ, s VARCHAR, code VARCHAR, none VARCHAR"
    );
    write(
        folder.path(),
        "j/a.jsonl",
        b"{\"b\":{\"x\":1},\"a\":[1]}\n{\"b\":{\"y\":true},\"a\":[2.5],\"c\":null}\n",
    );
    let found = read(&source(folder.path(), "j", &[]).unwrap(), "a, b, _rescued_data").await;
    assert!(found.rows.contains("| [1.0] | {x: 1, y: }    |"), "{}", found.rows);
    assert!(found.rows.contains("| [2.5] | {x: , y: true} |"), "{}", found.rows);
}

#[tokio::test]
async fn compressed_files_are_read_and_broken_ones_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..20_000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    write(folder.path(), "a.jsonl.gz", &gzip(lines.as_bytes()));
    write(folder.path(), "b.jsonl.zst", &zstd::encode_all(lines.as_bytes(), 1).unwrap());
    let zipped = gzip(lines.as_bytes());
    write(folder.path(), "c.jsonl.gz", &zipped[..zipped.len() / 2]);
    let all = source(folder.path(), "*", &[("schema", "id BIGINT"), ("format", "json")]).unwrap();
    let found =
        read(&all, "count(*) AS n, _metadata.file_name AS f FROM t GROUP BY 2 HAVING count(*) = 20000 --")
            .await;
    assert_eq!(found.rows.matches("20000").count(), 2, "{}", found.rows);
    assert_eq!(found.broken.len(), 1);
    assert_eq!(found.broken[0].file.path, "c.jsonl.gz");
    assert_eq!(found.broken[0].reason, "gzip: the file is truncated");
    write(folder.path(), "p/x.parquet", b"this is not parquet at all");
    let found = read(&source(folder.path(), "p", &[("schema", "id BIGINT")]).unwrap(), "id").await;
    assert_eq!(found.broken.len(), 1, "{}", found.rows);
}

#[tokio::test]
async fn a_file_that_vanishes_between_listing_and_reading_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.jsonl", b"{\"id\":1}\n");
    let source = source(folder.path(), ".", &[("schema", "id BIGINT"), ("format", "json")]).unwrap();
    let range = source.everything().await.unwrap().unwrap();
    std::fs::remove_file(folder.path().join("a.jsonl")).unwrap();
    let (rejects, _sink) = Rejects::channel();
    let sessions = Sessions::new(&SessionOptions {
        memory_bytes: 64 << 20,
        threads: 1,
        spill_folder: std::env::temp_dir(),
    })
    .unwrap();
    let planner = sessions.planner(catchment_sql::Moment { micros: 0, seed: 0 }).unwrap();
    planner.bind("$0", source.read(&range, Arc::clone(&rejects), None).unwrap()).unwrap();
    let text = SqlText::new("q.sql", "SELECT * FROM t");
    let query = catchment_sql::parse_single_query(&text).unwrap().bind(&text, &|_| None).unwrap();
    let plan = planner.physical(&planner.plan(&text, &query).await.unwrap()).await.unwrap();
    let rows: Vec<RecordBatch> = planner.run(plan).unwrap().try_collect().await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    assert!(rejects.broken()[0].vanished);
}

#[tokio::test]
async fn a_late_file_with_an_old_time_is_found_and_a_changed_one_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "in/b.jsonl", b"{\"id\":1}\n");
    let files = source(folder.path(), "in/*.jsonl", &[("schema", "id BIGINT")]).unwrap();
    let mut standing = Standing::default();
    files.plan(&standing, Limits::NONE).await.unwrap().unwrap().advance(&mut standing);
    assert_eq!(files.plan(&standing, Limits::NONE).await.unwrap(), None);
    write(folder.path(), "in/a.jsonl", b"{\"id\":2}\n");
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    File::options().write(true).open(folder.path().join("in/a.jsonl")).unwrap().set_modified(old).unwrap();
    let range = files.plan(&standing, Limits::NONE).await.unwrap().unwrap();
    assert_eq!(range.files().iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["in/a.jsonl"]);
    range.advance(&mut standing);
    write(folder.path(), "in/b.jsonl", b"{\"id\":1}\n{\"id\":3}\n");
    assert_eq!(files.plan(&standing, Limits::NONE).await.unwrap(), None);
    assert_eq!(files.changed(&standing).unwrap().len(), 1);
    let again =
        source(folder.path(), "in/*.jsonl", &[("schema", "id BIGINT"), ("allowOverwrites", "true")]).unwrap();
    assert_eq!(again.plan(&standing, Limits::NONE).await.unwrap().unwrap().files().len(), 1);
}

#[tokio::test]
async fn avro_files_are_read_and_their_rows_are_found_again() {
    use crate::{Address, Source};
    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
    let folder = tempfile::tempdir().unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20_000));
    let names: ArrayRef =
        Arc::new(StringArray::from_iter((0..20_000).map(|id| (id % 3 > 0).then(|| format!("n{id}")))));
    let rows = RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, true)]).unwrap();
    let file = File::create(folder.path().join("a.avro")).unwrap();
    let mut writer = arrow_avro::writer::AvroWriter::new(file, rows.schema().as_ref().clone()).unwrap();
    writer.write(&rows).unwrap();
    writer.finish().unwrap();
    let avro = source(folder.path(), "*.avro", &[]).unwrap();
    let found = read(&avro, "count(*) AS n, count(name) AS names, sum(id) AS sum FROM t --").await;
    assert!(found.rows.contains("| 20000 | 13333 | 199990000 |"), "{}", found.rows);
    let range = avro.everything().await.unwrap().unwrap();
    let records = avro.records(&range, 3, &[Address::new(3, 7), Address::new(3, 12_345)]).unwrap();
    let said: Vec<_> = records.iter().map(|record| (record.row_number, record.record.as_str())).collect();
    assert_eq!(said, [(Some(7), r#"{"id":7,"name":"n7"}"#), (Some(12_345), r#"{"id":12345}"#)]);
    let whole = std::fs::read(folder.path().join("a.avro")).unwrap();
    write(folder.path(), "b.avro", &whole[..whole.len() / 2]);
    assert_eq!(
        read(&source(folder.path(), "b.avro", &[("schema", "id BIGINT")]).unwrap(), "id").await.broken.len(),
        1
    );
}

#[test]
fn options_that_are_wrong_are_all_named() {
    let folder = tempfile::tempdir().unwrap();
    let error =
        source(folder.path(), "x", &[("formt", "json"), ("header", "maybe"), ("cleanSource", "true")])
            .unwrap_err();
    let messages: Vec<_> = error.each().map(|error| (error.code().id, error.hint_text())).collect();
    let instead = "write 'OFF', 'DELETE' or 'MOVE'";
    let expected = [("C2011", Some("did you mean \"format\"?")), ("C2011", None), ("C2011", Some(instead))];
    assert_eq!(messages, expected);
}

proptest! {
    /// Whatever the limits, the union of all ranges is everything, in order, each file once.
    #[test]
    fn ranges_cover_every_file_once(sizes in prop::collection::vec(0_usize..50, 1..20), files in 1_usize..7, bytes in 1_u64..200) {
        let folder = tempfile::tempdir().unwrap();
        for (index, size) in sizes.iter().enumerate() {
            write(folder.path(), &format!("{index:03}.jsonl"), &vec![b' '; *size]);
        }
        let source = source(folder.path(), "*.jsonl", &[("schema", "id BIGINT")]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut standing = Standing::default();
        let mut seen = Vec::new();
        while let Some(range) = runtime.block_on(source.plan(&standing, Limits { files, bytes })).unwrap() {
            assert!(range.files().len() <= files);
            let total: u64 = range.files().iter().map(|file| file.size).sum();
            assert!(total <= bytes || range.files().len() == 1);
            seen.extend(range.files().iter().map(|file| file.path.clone()));
            range.advance(&mut standing);
        }
        let expected: Vec<_> = (0..sizes.len()).map(|index| format!("{index:03}.jsonl")).collect();
        assert_eq!(seen, expected);
    }

    /// A run of bookmarks comes back from disk as it was, and the later batch of a file counts.
    #[test]
    fn bookmark_runs_go_there_and_back(paths in prop::collection::vec("[a-z/é]{1,8}", 0..30), number in any::<u32>()) {
        let file = |path: &String| FileInfo { path: path.clone(), size: 1, modified: 2, etag: "e".into() };
        let run = |number: u64| SeenRun {
            files: paths
                .iter()
                .map(|path| SeenFile { file: file(path), taken_by: Position::new(0, number), broken: None, passed_over: path.contains('1'), taken_at: (number > 1).then_some(7) })
                .collect(),
        };
        let number = u64::from(number);
        let all = SeenRun::merge([run(number + 1), run(number)]);
        assert_eq!(SeenRun::from_parquet(all.to_parquet().unwrap()).unwrap(), all);
        let merged = all.clone().newest();
        assert_eq!(all.files.len(), 2 * merged.files.len());
        assert!(merged.files.windows(2).all(|pair| pair[0].file.path < pair[1].file.path));
        assert!(merged.files.iter().all(|seen| seen.taken_by.number == number + 1));
        assert_eq!(SeenRun::from_parquet(merged.to_parquet().unwrap()).unwrap(), merged);
    }
}

/// Lines as machines write them, and what is easy to get wrong in them.
fn line() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::{Strategy, prop_oneof};
    let value = prop_oneof![
        "-?[0-9]{1,20}(\\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?",
        "\"[a-zé \\\\\"/\u{1}0-9]{0,20}\"",
        "\"[0-9]{4}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{0,9})?(Z|\\+01:00)?)?\"",
        prop_oneof!["null", "true", "false", "\\[1\\]", "\\{\\}", "nul", "", "\"a\\\\n\""],
    ];
    let name = prop_oneof!["i", "n", "f", "t", "d", "s", "b", "x", "i\\\\u0031"];
    let space = || "[ \t]?";
    let field = (space(), name, space(), value, space())
        .prop_map(|(a, name, b, value, c)| format!("{a}\"{name}\"{b}:{value}{c}"));
    (prop::collection::vec(field, 0..8), "[ }a]?")
        .prop_map(|(fields, tail)| format!("{{{}}}{tail}", fields.join(",")))
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4_000))]

    /// The quick reader of JSON lines says what the general one says, or nothing.
    #[test]
    fn the_quick_reader_agrees_with_the_general_one(line in line()) {
        let schema = crate::parse_schema("i BIGINT, n SMALLINT, f DOUBLE, t TIMESTAMPTZ, d DATE, s VARCHAR, b BOOLEAN").unwrap();
        let (mut quick, mut general) = (Vec::new(), Vec::new());
        if crate::files::quick::QuickReader::new(&schema).read(&line, &mut quick) {
            let reader = crate::files::json::JsonReader::new(&schema, false);
            let said = reader.read_any(&line, &mut general);
            assert!(matches!(said, crate::files::json::Line::Row(None)), "{line}");
            assert_eq!(format!("{quick:?}"), format!("{general:?}"), "{line}");
        }
    }
}
