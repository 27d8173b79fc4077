//! Avro and Protobuf in a topic, as fastavro and Google's own library write them.

use serde_json::{Value, json};

use super::kafka::Tansu;
use crate::project::{Project, dataset};

const AVRO: &str = r#"{"type": "record", "name": "Click", "namespace": "shop", "fields": [
  {"name": "id", "type": "long"},
  {"name": "user", "type": ["null", "string"], "default": null},
  {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["VIEW", "BUY"]}},
  {"name": "tags", "type": {"type": "array", "items": "string"}},
  {"name": "place", "type": {"type": "record", "name": "Place", "fields": [{"name": "x", "type": "double"}, {"name": "ok", "type": "boolean"}]}}]}"#;

const PROTOBUF: &str = r#"syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
message Click {
  enum Kind { VIEW = 0; BUY = 1; }
  message Place { double x = 1; bool ok = 2; }
  sint64 id = 1;
  optional string user = 2;
  uint64 amount = 3;
  google.protobuf.Timestamp at = 4;
  Kind kind = 5;
  repeated string tags = 6;
  Place place = 7;
  bytes raw = 8;
}
"#;

/// A table over each topic; returns what the tables hold after a run, and the project.
fn tables(broker: &Tansu, topics: &[(&str, &str)]) -> Project {
    let statement = |(topic, options): &(&str, &str)| {
        format!(
            "CREATE STREAMING TABLE t.{} AS SELECT *, _metadata.offset AS o FROM STREAM {};\n",
            topic.replace('-', "_"),
            broker.source(topic, options)
        )
    };
    let project = Project::new(&topics.iter().map(statement).collect::<String>());
    project.write("schemas/click.avsc", AVRO);
    project.write("schemas/click.proto", PROTOBUF);
    project
}

#[test]
fn messages_come_out_as_they_were_put_in() {
    let Some(broker) = Tansu::start() else { return };
    let avro = "format => 'avro', schemaFile => 'schemas/click.avsc'";
    let protobuf = "format => 'protobuf', schemaFile => 'schemas/click.proto', messageName => 'shop.Click'";
    let topics = [
        ("avro", avro.to_owned()),
        ("avro-confluent", format!("{avro}, framing => 'confluent'")),
        ("protobuf", protobuf.to_owned()),
        ("protobuf-confluent", format!("{protobuf}, framing => 'confluent'")),
        ("protobuf-set", protobuf.replace("click.proto", "click.desc")),
    ];
    let borrowed: Vec<(&str, &str)> =
        topics.iter().map(|(topic, options)| (*topic, options.as_str())).collect();
    let project = tables(&broker, &borrowed);
    let folder = project.path().join("schemas");
    let expected: Value = serde_json::from_str(&broker.ask(&["messages", folder.to_str().unwrap()])).unwrap();
    let report = project.call(&["run", "--json"]).exits(2).json();
    for (topic, _) in &topics {
        let table = topic.replace('-', "_");
        let raw = if topic.starts_with("avro") { "" } else { ", encode(raw, 'hex') AS raw" };
        let rows = project.query(&format!(
            "SELECT o, id, \"user\", CAST(amount AS VARCHAR) AS amount, CAST(at AS VARCHAR) AS at, kind, tags, place{raw} FROM t.{table} ORDER BY o"
        ));
        assert_eq!(rows, expected[topic], "{topic}");
        // Two are broken: one is cut, one has something else behind it or in it.
        assert_eq!(dataset(&report, &format!("t.{table}"))["quarantined"], 2, "{topic}");
    }
    let why = project.query("SELECT row_number AS o, reason FROM t.avro__quarantine ORDER BY o");
    assert_eq!((&why[0]["o"], &why[1]["o"]), (&json!(3), &json!(4)), "{why}");
}

#[test]
fn a_schema_that_cannot_be_used_says_why() {
    let told = |options: &str| {
        let project = Project::new(&format!(
            "CREATE STREAMING TABLE t.t AS SELECT * FROM STREAM read_kafka('t', bootstrapServers => 'localhost:9092', {options});"
        ));
        project.write("schemas/click.avsc", AVRO);
        project.write("schemas/click.proto", PROTOBUF);
        project.write("schemas/tree.proto", "syntax = \"proto3\"; message Tree { Tree left = 1; }");
        project.call(&["check"]).exits(1).err
    };
    for (options, why) in [
        ("format => 'avro'", "needs a file with its schema"),
        ("format => 'avro', schemaFile => 'schemas/none.avsc'", "No such file"),
        ("format => 'avro', schemaFile => 'schemas/click.proto'", "schemaFile"),
        ("format => 'protobuf', schemaFile => 'schemas/click.proto'", "messages: shop.Click"),
        (
            "format => 'protobuf', schemaFile => 'schemas/click.proto', messageName => 'shop.Clack'",
            "has no message",
        ),
        ("format => 'protobuf', schemaFile => 'schemas/tree.proto', messageName => 'Tree'", "holds itself"),
        (
            "format => 'avro', schemaFile => 'schemas/click.avsc', schema => 'nothing BIGINT'",
            "no field \"nothing\"",
        ),
        ("format => 'json', schema => 'n BIGINT', schemaFile => 'x'", "takes no schemaFile"),
        ("format => 'xml'", "no format"),
    ] {
        let err = told(options);
        assert!(err.contains("C2011") && err.contains(why), "{options}: {err}");
    }
}
