//! Bad input gets a clear error, and nothing is lost.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::project::{Project, dataset};

const PIPELINE: &str = "CREATE STREAMING TABLE raw.t AS
  SELECT id, name FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT, name VARCHAR');
CREATE MATERIALIZED VIEW enriched.n AS SELECT count(*) AS n FROM raw.t;
CREATE MATERIALIZED VIEW enriched.other AS SELECT 1 AS one;";

fn gzip(text: &str) -> Vec<u8> {
    let mut child =
        Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}

#[test]
fn a_truncated_file_is_quarantined_whole_and_read_when_it_is_mended() {
    let project = Project::new(PIPELINE);
    let lines: String =
        (0..9_000).map(|id| format!("{{\"id\":{id},\"name\":\"n{}\"}}\n", id * 7919)).collect();
    let whole = gzip(&lines);
    project.write("in/a.jsonl", "{\"id\":-1}\n");
    project.write("in/b.jsonl.gz", &whole[..whole.len() / 2]);
    let done = project.call(&["run", "--json"]).exits(2);
    let report = done.json();
    assert_eq!(report["broken_files"][0]["path"], "in/b.jsonl.gz");
    assert_eq!(report["broken_files"][0]["reason"], "gzip: the file is truncated");
    assert_eq!(project.query("SELECT id FROM raw.t"), serde_json::json!([{ "id": -1 }]));
    let quarantine = project.query("SELECT file_path, reason FROM raw.t__quarantine");
    assert_eq!(quarantine[0]["file_path"], "in/b.jsonl.gz");
    assert_eq!(
        project.query("SELECT status FROM system.files WHERE path = 'in/b.jsonl.gz'")[0]["status"],
        "broken"
    );
    // As it is, it is not tried again; mended, it is.
    assert_eq!(dataset(&project.run(), "raw.t")["status"], "up to date");
    project.write("in/b.jsonl.gz", &whole);
    assert_eq!(dataset(&project.run(), "raw.t")["rows_out"], 9_000);
}

#[test]
fn a_second_process_on_the_same_lake_is_refused_and_readers_are_not() {
    let project = Project::new(PIPELINE);
    project.write("in/a.jsonl", "{\"id\":1}\n");
    project.run();
    // Another program holds the lock of the lease, as a running catchment would.
    let lock = project.path().join("lake/_catchment/lease.lock");
    let held = std::fs::File::options().write(true).open(lock).unwrap();
    held.lock().unwrap();
    let done = project.call(&["run"]).exits(1);
    assert!(done.err.contains("error[C4001]: another process owns lake"), "{}", done.err);
    assert_eq!(project.query("SELECT id FROM raw.t"), serde_json::json!([{ "id": 1 }]));
    drop(held);
    project.run();
}

#[test]
fn a_corrupt_log_fails_its_dataset_and_those_that_read_it_alone() {
    let project = Project::new(PIPELINE);
    project.write("in/a.jsonl", "{\"id\":1}\n");
    project.run();
    project.write("in/b.jsonl", "{\"id\":2}\n");
    let entry = "lake/raw/t/_delta_log/00000000000000000001.json";
    let whole = std::fs::read(project.path().join(entry)).unwrap();
    project.write(entry, &whole[..whole.len() / 2]);
    let done = project.call(&["run", "--json"]).exits(1);
    let report = done.json();
    let status = |name: &str| dataset(&report, name)["status"].as_str().unwrap().to_owned();
    assert_eq!(
        [status("raw.t"), status("enriched.n"), status("enriched.other")],
        ["failed", "skipped", "up to date"]
    );
    assert!(dataset(&report, "raw.t")["error"].as_str().unwrap().starts_with("C4003: "), "{report}");
    project.write(entry, &whole);
    project.run();
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t")[0]["n"], 2);
}

#[test]
fn an_unknown_key_and_a_syntax_error_on_the_last_line_have_their_places() {
    let project = Project::new(&format!("{PIPELINE}\nCREATE VIEW v AS SELECT 1 FROM"));
    let done = project.call(&["check"]).exits(1);
    assert!(done.err.contains("error[C2001]"), "{}", done.err);
    assert!(done.err.contains("--> pipelines/all.sql:5:"), "{}", done.err);
    assert!(done.err.contains("5 | CREATE VIEW v AS SELECT 1 FROM"), "{}", done.err);
    project.write("catchment.toml", "[engine]\nthread = 2\n");
    let done = project.call(&["check"]).exits(1);
    assert!(done.err.contains("error[C1002]: unknown field `thread`"), "{}", done.err);
    assert!(done.err.contains("--> catchment.toml:2:1"), "{}", done.err);
    assert!(!project.path().join("lake").exists());
}

/// Whether the test may do what an ordinary user may not.
fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout.starts_with(b"0")
}

#[test]
fn a_read_only_lake_and_a_full_disk_are_told_and_lose_nothing() {
    if !is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    let project = Project::new(PIPELINE);
    let lake = project.path().join("lake");
    std::fs::create_dir(&lake).unwrap();
    let mount = |options: &str| {
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&lake).output().unwrap();
        done.status.success()
    };
    if !mount("size=2m") {
        eprintln!("skipped: this machine does not let tests mount a small disk");
        return;
    }
    let _unmount = Unmount(lake.clone());
    project.write("in/a.jsonl", "{\"id\":1}\n");
    project.run();
    let noise = |id: u64| (0..40).fold(id, |x, _| x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99));
    let lines: String =
        (0..200_000_u64).map(|id| format!("{{\"id\":{},\"name\":\"{:x}\"}}\n", id, noise(id))).collect();
    project.write("in/b.jsonl", lines);
    let done = project.call(&["run"]).exits(1);
    assert!(done.err.contains("error[C5002]"), "{}", done.err);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t")[0]["n"], 1);
    assert!(mount("remount,size=64m"));
    project.run();
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t")[0]["n"], 200_001);
    assert!(mount("remount,ro"));
    project.write("in/c.jsonl", "{\"id\":5}\n");
    let done = project.call(&["run"]).exits(1);
    assert!(done.err.contains("error[C4005]"), "{}", done.err);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t")[0]["n"], 200_001);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn every_code_has_a_page_and_a_wrong_one_a_hint() {
    let project = Project::new(PIPELINE);
    for code in catchment_core::ALL_CODES {
        let page = project.call(&["explain", code.id]).exits(0).out;
        assert!(page.starts_with(&format!("# {}: {}", code.id, code.title)), "{page}");
    }
    let done = project.call(&["explain", "C203"]).exits(1);
    assert!(done.err.contains("did you mean C2"), "{}", done.err);
}
